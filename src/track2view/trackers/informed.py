"""Tracks whose depth is what parallax, the ground and a depth prior say, each by its weight."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.ndimage import gaussian_filter1d

from track2view.records import CameraPath, TrackSet, scale_of
from track2view.trackers.certainty import CALIBRATED, CONFIDENT, LEAST_CONFIDENCE, MOVING_CONFIDENCE
from track2view.trackers.protocol import Tracking, guessed_depth
from track2view.trackers.relative_depth import LEAST_DEVIATION, AlignedDepth, RelativeDepth, align, plausible, where_seen

MOVERS_FRAMES = 8.0
"""Over how many frames what a prior says of how far a moving point is, is averaged: it flickers."""


def inform(tracking: Tracking, relative: RelativeDepth, name: str) -> tuple[Tracking, AlignedDepth]:
    """A tracker's result with depth from a prior where it is surer, and the prior in the unit of its camera.

    Args:
        name: of the prior, for the report.
    """
    tracks, camera = tracking.tracks, tracking.camera
    moving = np.zeros(len(tracks.query_frame), bool) if tracks.moving is None else tracks.moving.numpy()
    confidence = tracks.confidence.double().numpy()
    by_confidence = CONFIDENT * np.sqrt(1 / confidence.max(0).clip(LEAST_CONFIDENCE, 1.0) - 1)
    alone = by_confidence if tracking.depth_deviation is None else CALIBRATED * tracking.depth_deviation
    aligned = align(relative, tracks, camera, np.maximum(alone, 1e-6), tracking.path_deviation)
    deviation = np.hypot(alone, tracking.path_deviation)
    nearer, share, left = _weighed(tracks, camera, aligned, deviation, moving)
    centre = np.where(moving[None, :, None], camera.world_from_camera[:, None, :3, 3], camera.world_from_camera[tracks.query_frame, :3, 3])
    xyz = torch.from_numpy((centre + (tracks.xyz_world.numpy() - centre) / nearer[..., None]).astype(np.float32))
    best = confidence.max(0)
    firm = np.where(moving, np.minimum(best / MOVING_CONFIDENCE, 1.0), 1.0)
    surer = best + share * (firm / (1 + (left / CONFIDENT) ** 2) - best)
    seen_so = np.divide(confidence, best, out=np.ones_like(confidence), where=best > 0) * surer
    tracks = replace(tracks, xyz_world=xyz, confidence=torch.from_numpy(seen_so.astype(np.float32)))
    if camera.unit == "scene":
        scale = scale_of(tracks, camera)
        tracks, camera = replace(tracks, xyz_world=tracks.xyz_world / scale), camera.scaled(1 / scale, "scene")
        aligned = aligned.scaled(1 / scale)
    report = replace(
        tracking.report,
        depth_prior=name,
        prior_share=float(share[~moving].mean()) if (~moving).any() else 1.0,
        relief_deviation=aligned.relief_deviation,
    )
    warnings = tuple(each for each in report.warnings if each != guessed_depth(report.parallax_degrees))
    if len(warnings) < len(report.warnings):
        warnings = (_what_was_done(name, report.parallax_degrees, aligned.relief_deviation), *warnings)
    return replace(tracking, tracks=tracks, camera=camera, report=replace(report, warnings=warnings)), aligned


def _weighed(
    tracks: TrackSet, camera: CameraPath, aligned: AlignedDepth, deviation: Float64[np.ndarray, "N"], moving: Bool[np.ndarray, "N"]
) -> tuple[Float64[np.ndarray, "T N"], Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """By how much each track's disparity grows in each frame, how much of it is the prior's, and its deviation then, in terms of it."""
    uv, disparity, usable = where_seen(tracks, camera)
    ratio, said = np.full(disparity.shape, np.nan), np.full(disparity.shape, np.nan)
    for frame in range(len(disparity)):
        here = usable[frame]
        said[frame, here] = aligned.at(frame, uv[frame, here])
        ratio[frame, here] = np.log(said[frame, here] / disparity[frame, here])
    seen = usable.sum(0) > 0
    typical, level = np.zeros(len(deviation)), np.full(len(deviation), aligned.typical)
    typical[seen], level[seen] = np.nanmedian(ratio[:, seen], axis=0), np.nanmedian(said[:, seen], axis=0)
    over_time = np.broadcast_to(typical, ratio.shape).copy()
    amount = gaussian_filter1d(usable[:, moving].astype(np.float64), MOVERS_FRAMES, axis=0, mode="nearest")
    total = gaussian_filter1d(np.where(usable, ratio, 0.0)[:, moving], MOVERS_FRAMES, axis=0, mode="nearest")
    over_time[:, moving] = np.where(amount > 1e-3, total / np.maximum(amount, 1e-3), typical[moving])
    variance = aligned.variance(level.astype(np.float32)).astype(np.float64)
    own = np.maximum(deviation, LEAST_DEVIATION) ** 2 / plausible(typical)
    share = np.where(seen, own / (own + variance), 0.0)
    return 1 + share * np.expm1(over_time), share, np.sqrt(np.where(seen, share * variance, own))


def _what_was_done(name: str, parallax: float, relief_deviation: float) -> str:
    said = f"parallax too low ({parallax:.2f}°) to see depth: it is the depth prior's ({name}), in a scale of its own"
    if relief_deviation:
        said += (
            "; its zero is not known, so that the farthest is assumed to be about three times as far as most: moves that travel may "
            f"look {100 * relief_deviation:.0f} % longer or shorter than asked for"
        )
    return said
