"""Whether things move in a clip as they truly do: points of the first frame, followed by optical flow, against exact tracks."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch.nn.functional import interpolate

from track2view.evaluate.benchmark import Frames
from track2view.geometry import pixel_centres, project
from track2view.metrics.tracks import REFERENCE_SHORT_SIDE, THRESHOLDS
from track2view.records import CameraPath, Clip
from track2view.scenes import World, track_points
from track2view.trackers.flow import follow, neighbour_flow

EVERY = 8
"""Points are this far apart, in pixels at the reference size."""


def follow_errors(world: World, made: Frames, camera: CameraPath) -> dict[str, float]:
    """Of points that the camera truly sees, in all frames but the first, at a short side of 256 pixels.

    ``track_error`` is the mean distance, in pixels, of those that could be followed. ``tracks_kept`` is TAP-Vid's average (Doersch et
    al. 2022): the mean share, in percent, of those within 1, 2, 4, 8 and 16 pixels, of all; one that was lost is within none;
    ``moving_tracks_kept`` is of things that move. NaN where there are none.
    """
    scale = REFERENCE_SHORT_SIDE / min(camera.size)
    size = round(scale * camera.size[0]), round(scale * camera.size[1])
    larger = interpolate(made.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
    camera = camera.resized(size)
    start = pixel_centres(*size)[EVERY // 2 :: EVERY, EVERY // 2 :: EVERY].flatten(0, 1)
    tracks = track_points(world, camera, torch.zeros(len(start), dtype=torch.long), start.double())
    true, _ = project(tracks.xyz_world.double(), camera.camera_from_world, camera.intrinsics)
    flow = neighbour_flow(Clip(frames=larger, fps=Fraction(1)))
    points, followed = follow(flow, 0, start.numpy(), range(len(made)))
    assert tracks.moving is not None, "exact tracks know"
    asked = tracks.visible[1:].numpy()
    apart = np.where(followed, np.linalg.norm(points - true.numpy(), axis=-1), math.inf)[1:]
    kept = np.mean([apart < each for each in THRESHOLDS], axis=0)
    moving = asked & tracks.moving.numpy()
    return {
        "track_error": _mean(apart[asked & np.isfinite(apart)]),
        "tracks_kept": 100 * _mean(kept[asked]),
        "moving_tracks_kept": 100 * _mean(kept[moving]),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
