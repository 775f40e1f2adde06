"""What a network says of depth, brought to the scale of tracks: a scale and a shift of its disparity for every frame.

A monocular network tells the shape of a picture and not its size: many tell inverse depth up to a scale and a shift that differ from
frame to frame (R. Ranftl et al., Towards robust monocular depth estimation, TPAMI 2022). Points that stand still tie the frames to each
other, for they are where they were; parallax, where there is any, ties all frames to the world. Where there is none the scale is free,
and the shift follows an assumption: what is farthest in the clip lies at :data:`FARTHEST_SHARE` of the typical disparity.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import inside, project
from track2view.records import CameraPath, Clip, TrackSet
from track2view.trackers.certainty import INDEPENDENT, MEDIAN_OF_SQUARE, WORLDS_RELIEF
from track2view.trackers.flow import sample

FARTHEST_SHARE, FARTHEST_DEVIATION = 0.3, 0.15
"""Disparity of the farthest in terms of the typical one, and its deviation: 0.46 in the rooms of ``scenes/``, 0.17 on their open ground."""
UNKNOWN_DEVIATION, DEVIATION_TRACKS, LEAST_DEVIATION = 0.1, 50.0, 0.02
"""Deviation of a network's disparity, in terms of it, before any track has told; how many sure tracks that is worth; and its least."""
SURE = 0.05
"""Deviation of a track's depth, in terms of it, at which it tells half of what a sure one does of the network's own."""
SCALE_DEVIATION = 0.02
"""How firmly the typical disparity stays what it was, before parallax is asked."""
PULL_TRACKS, PULL_FRAMES = 5.0, 4.0
"""How many tracks it takes to outweigh what the frames around say of one frame's scale and shift, and how many frames that is."""
PLAUSIBLE = 0.7
"""Logarithm of how far a network is off at most, about: what parallax puts elsewhere moves, or slips from one surface to another."""
ROBUST = 3.0
"""Deviations from which on a track that disagrees with the network counts for less: one of them is on another surface."""
MOST_TRACKS, ROUNDS, LEAST_SHARE = 4000, 12, 0.02
FAR, LOW, HIGH, FARTHEST_FRAMES = 1, 20, 80, 10
"""Percentiles of a frame's disparities: what is farthest, and what neighbouring frames are compared by; and, of the farthest of all
frames, which is the clip's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeDepth:
    """What a network says of every frame.

    Attributes:
        disparity: inverse depth along the camera's z, in any unit, at any size of the clip's aspect; 0 is infinitely far.
        shifted: whether a constant, other in every frame, may have been added to it; else a scale alone is unknown.
    """

    disparity: Float32[Tensor, "T h w"]
    shifted: bool

    def __post_init__(self) -> None:
        if self.disparity.ndim != 3 or min(self.disparity.shape) < 1:
            raise UserError(f"RelativeDepth.disparity: expected [T, h, w], got {list(self.disparity.shape)}")
        if not bool(self.disparity.isfinite().all()) or float(self.disparity.min()) < 0:
            raise UserError("RelativeDepth.disparity: has values that are negative or not finite")


@runtime_checkable
class DepthPrior(Protocol):
    """Tells the shape of every frame from the picture alone."""

    @property
    def name(self) -> str:
        """For records and messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs where what :meth:`look` says may: results are kept under it."""
        ...

    def look(self, clip: Clip) -> RelativeDepth:
        """Disparity of every frame.

        Raises:
            UserError: a prior that cannot be used, before anything is tracked.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedDepth:
    """A network's disparity in the unit of a camera path: ``scale`` × what it said + ``shift``, no less than a far distance.

    Attributes:
        typical: disparity of the scene's tracks (their median), about which the relief is drawn out or flattened where it is unsure.
        deviation: of the disparity, in terms of it, pixel by pixel.
        relief_deviation: of the whole relief, in terms of it.
        path_deviation: of depth from parallax beside it, in terms of that: see :class:`track2view.trackers.Tracking`.
    """

    relative: Float32[Tensor, "T h w"]
    scale: Float64[np.ndarray, "T"]
    shift: Float64[np.ndarray, "T"]
    typical: float
    deviation: float
    relief_deviation: float
    path_deviation: float

    def at(self, frame: int, uv: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n"]:
        """Disparity of one frame at places in [0, 1] image units."""
        said = _sampled(self.relative[frame], uv)
        return np.maximum(self.scale[frame] * said + self.shift[frame], LEAST_SHARE * self.typical).astype(np.float32)

    def variance(self, disparity: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
        """How unsure that is, in terms of it, squared; at most what one would take for the depth of any scene."""
        beside = self.relief_deviation * (1 - self.typical / disparity)
        variance = self.deviation**2 + beside**2
        return (WORLDS_RELIEF**2 * variance / (WORLDS_RELIEF**2 + variance)).astype(np.float32)

    def scaled(self, factor: float) -> "AlignedDepth":
        """The same in a world whose lengths are multiplied by ``factor``."""
        return replace(self, scale=self.scale / factor, shift=self.shift / factor, typical=self.typical / factor)


def align(
    relative: RelativeDepth, tracks: TrackSet, camera: CameraPath, deviation: Float64[np.ndarray, "N"], path_deviation: float = 0.0
) -> AlignedDepth:
    """Find every frame's scale and shift.

    In turn, until they agree: the tracks' disparities, each what its parallax and the network say by weight; each frame's scale and
    shift, by what its still tracks then are; and one scale and shift for all frames, by what parallax and the assumption say.

    Args:
        deviation: of the depth of each still track, in terms of it, as parallax tells it.
        path_deviation: of all of them together, beside that.

    Raises:
        UserError: disparities of another number of frames.
    """
    if len(relative.disparity) != len(camera):
        raise UserError(f"the depth prior has {len(relative.disparity)} frames, the clip has {len(camera)}; they must match")
    seen = _Seen.of(relative, tracks, camera, np.hypot(deviation, path_deviation))
    found = _Found.at_first(relative, seen)
    for _ in range(ROUNDS):
        found = _adjusted(found, seen, shifted=relative.shifted)
    return AlignedDepth(
        relative=relative.disparity,
        scale=found.scale * seen.typical,
        shift=found.shift * seen.typical,
        typical=seen.typical,
        deviation=found.deviation,
        relief_deviation=found.relief_deviation if relative.shifted else 0.0,
        path_deviation=path_deviation,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """Still tracks as the network and as parallax tell them, in terms of their typical disparity.

    Attributes:
        said: by the network, where a track is; NaN where it is not seen.
        ratio: of a track's disparity in each frame to that at its query.
        told: disparity at its query, by parallax.
        variance: of that, in terms of it, once freed of the guess that it is drawn to as far as parallax says little.
        levels: the network's disparities at the percentiles ``FAR``, ``LOW`` and ``HIGH`` of each frame.
    """

    said: Float64[np.ndarray, "T N"]
    ratio: Float64[np.ndarray, "T N"]
    told: Float64[np.ndarray, "N"]
    variance: Float64[np.ndarray, "N"]
    levels: Float64[np.ndarray, "3 T"]
    typical: float

    @staticmethod
    def of(relative: RelativeDepth, tracks: TrackSet, camera: CameraPath, deviation: Float64[np.ndarray, "N"]) -> "_Seen":
        uv, disparity, usable = where_seen(tracks, camera)
        query = tracks.query_frame.numpy(), np.arange(len(deviation))
        still = np.flatnonzero(usable[query] & (usable.sum(0) > 1) & ~_moving(tracks))
        still = still[:: max(1, -(-len(still) // MOST_TRACKS))]
        said = np.full((len(camera), len(still)), np.nan)
        for frame in range(len(camera)):
            here = usable[frame, still]
            said[frame, here] = _sampled(relative.disparity[frame], uv[frame, still[here]])
        own = disparity[query][still].astype(np.float64)
        typical = float(np.median(own)) if len(still) else 1.0
        shrunk = WORLDS_RELIEF**2 / (WORLDS_RELIEF**2 + deviation[still] ** 2)
        levels = np.percentile(relative.disparity.flatten(1).numpy(), [FAR, LOW, HIGH], axis=1)
        return _Seen(
            said=said,
            ratio=disparity[:, still] / own,
            told=own / typical,
            variance=(deviation[still] / shrunk) ** 2,
            levels=levels.astype(np.float64),
            typical=typical,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """An alignment so far."""

    scale: Float64[np.ndarray, "T"]
    shift: Float64[np.ndarray, "T"]
    deviation: float
    relief_deviation: float

    @staticmethod
    def at_first(relative: RelativeDepth, seen: _Seen) -> "_Found":
        """Every frame at the typical disparity and, where it may be shifted, as deep as worlds are."""
        _, low, high = seen.levels
        middle = np.maximum(0.5 * (low + high), 1e-6)
        scale = 2 * WORLDS_RELIEF / np.maximum(high - low, 1e-3 * middle) if relative.shifted else 1 / middle
        shift = 1 - scale * middle if relative.shifted else np.zeros_like(middle)
        return _Found(scale=scale, shift=shift, deviation=UNKNOWN_DEVIATION, relief_deviation=FARTHEST_DEVIATION)


def _adjusted(found: _Found, seen: _Seen, *, shifted: bool) -> _Found:
    """One round of :func:`align`."""
    say = np.maximum((found.scale[:, None] * seen.said + found.shift[:, None]) / seen.ratio, LEAST_SHARE)
    said = np.nanmedian(say, axis=0) if len(seen.told) else seen.told
    believable = replace(seen, variance=seen.variance / plausible(np.log(seen.told / np.maximum(said, LEAST_SHARE))))
    scale, shift, relief = _tied(found, believable, said, shifted=shifted)
    said = np.maximum(scale * said + shift, LEAST_SHARE)
    seen = replace(seen, variance=seen.variance / plausible(np.log(seen.told / said)))
    deviation = _own_deviation(said, seen)
    trust = deviation**2 / (deviation**2 + seen.variance)
    place = said + trust * (seen.told - said)
    all_alike = replace(found, scale=scale * found.scale, shift=scale * found.shift + shift, deviation=deviation, relief_deviation=relief)
    return _frame_by_frame(all_alike, seen, place, shifted=shifted)


def _tied(found: _Found, seen: _Seen, said: Float64[np.ndarray, "N"], *, shifted: bool) -> tuple[float, float, float]:
    """Scale and shift of all frames together, and the deviation of the scale: weighted least squares of what parallax tells of the
    tracks, whose errors are the camera's and so few, beside the assumption on the farthest and a typical disparity that stays."""
    farthest = float(np.percentile(found.scale * seen.levels[0] + found.shift, FARTHEST_FRAMES))
    middle = float(np.median(said)) if len(said) else 1.0
    shared = max(1.0, len(said) / INDEPENDENT)
    variance = (shared * seen.variance + found.deviation**2) * np.maximum(seen.told, LEAST_SHARE) ** 2
    weight = _robust(seen.told - said, variance) / variance
    inputs = np.append(said, [middle, farthest])
    outputs = np.append(seen.told, [1.0, FARTHEST_SHARE])
    weights = np.append(weight, [1 / SCALE_DEVIATION**2, 1 / FARTHEST_DEVIATION**2 if shifted else 0.0])
    if not shifted:
        return float((weights * inputs * outputs).sum() / (weights * inputs**2).sum()), 0.0, 0.0
    columns = np.stack([inputs, np.ones_like(inputs)])
    information = (weights * columns) @ columns.T + 1e-9 * np.eye(2)
    scale, shift = np.linalg.solve(information, columns @ (weights * outputs))
    if scale <= 0:
        return 1.0, 1.0 - middle, WORLDS_RELIEF
    return float(scale), float(shift), float(np.sqrt(np.linalg.inv(information)[0, 0]) / scale)


def _own_deviation(said: Float64[np.ndarray, "N"], seen: _Seen) -> float:
    """How far the network is off, in terms of disparity: by sure tracks, as far as there are any."""
    sure = SURE**2 / (SURE**2 + seen.variance)
    apart = np.log(said / seen.told) ** 2
    order = np.argsort(apart)
    if not len(order):
        return UNKNOWN_DEVIATION
    middle = np.searchsorted(np.cumsum(sure[order]), 0.5 * sure.sum())
    found = max(float(apart[order[min(middle, len(order) - 1)]]) / MEDIAN_OF_SQUARE, LEAST_DEVIATION**2)
    return float(np.sqrt((DEVIATION_TRACKS * UNKNOWN_DEVIATION**2 + sure.sum() * found) / (DEVIATION_TRACKS + sure.sum())))


def _frame_by_frame(found: _Found, seen: _Seen, place: Float64[np.ndarray, "N"], *, shifted: bool) -> _Found:
    """Each frame's scale and shift, by where its tracks are and, for a few tracks' worth, by what the frames around it say."""
    wanted = place * seen.ratio
    variance = (found.deviation * np.maximum(wanted, LEAST_SHARE)) ** 2
    said = found.scale[:, None] * seen.said + found.shift[:, None]
    weight = np.where(np.isfinite(said), _robust(wanted - said, variance) / variance, 0.0)
    levels = seen.levels[1:]
    around = gaussian_filter1d(found.scale * levels + found.shift, PULL_FRAMES, axis=1, mode="nearest")
    inputs = np.concatenate([np.nan_to_num(seen.said), levels.T], axis=1)
    outputs = np.concatenate([np.where(weight > 0, wanted, 0.0), around.T], axis=1)
    weights = np.concatenate([weight, np.full(levels.T.shape, PULL_TRACKS / found.deviation**2)], axis=1)
    if not shifted:
        scale = (weights * inputs * outputs).sum(1) / np.maximum((weights * inputs**2).sum(1), 1e-12)
        return replace(found, scale=scale)
    total = weights.sum(1)
    mean_in, mean_out = (weights * inputs).sum(1) / total, (weights * outputs).sum(1) / total
    apart = inputs - mean_in[:, None]
    scale = (weights * apart * outputs).sum(1) / np.maximum((weights * apart**2).sum(1), 1e-12)
    scale = np.maximum(scale, 0.0)
    return replace(found, scale=scale, shift=mean_out - scale * mean_in)


def _robust(error: Float64[np.ndarray, "*n"], variance: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Geman-McClure weights."""
    return 1 / (1 + error**2 / (ROBUST**2 * variance)) ** 2


def plausible(apart: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """What is left of a track's say whose disparity is ``apart`` from a network's (a logarithm)."""
    return _robust(apart, np.full(apart.shape, (PLAUSIBLE / ROBUST) ** 2))


def where_seen(
    tracks: TrackSet, camera: CameraPath
) -> tuple[Float32[np.ndarray, "T N 2"], Float32[np.ndarray, "T N"], Bool[np.ndarray, "T N"]]:
    """Where tracks are in [0, 1] image units, their disparity, and whether they are seen there."""
    frames, count, _ = tracks.xyz_world.shape
    uv, disparity, usable = np.empty((frames, count, 2), np.float32), np.empty((frames, count), np.float32), np.empty((frames, count), bool)
    for frame in range(frames):
        pixels, depth = project(tracks.xyz_world[frame].double(), camera.camera_from_world[frame], camera.intrinsics[frame])
        uv[frame] = (pixels / torch.tensor(camera.size[::-1])).nan_to_num().numpy()
        disparity[frame] = (1 / depth.nan_to_num().clamp(min=1e-6)).numpy()
        usable[frame] = (tracks.visible[frame] & inside(pixels, camera.size) & (depth > 1e-6)).numpy()
    return uv, disparity, usable


def _moving(tracks: TrackSet) -> Bool[np.ndarray, "N"]:
    return np.zeros(len(tracks.query_frame), bool) if tracks.moving is None else tracks.moving.numpy()


def _sampled(disparity: Float32[Tensor, "h w"], uv: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n"]:
    height, width = disparity.shape
    return sample(disparity.numpy(), uv * np.array([width, height], np.float32))
