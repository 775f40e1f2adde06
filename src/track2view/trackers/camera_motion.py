"""The camera's path and focal length from flow tracks, by growing a bundle adjustment (design section 9)."""

from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from track2view.records import Size
from track2view.trackers.bundle import Observations, residuals, robust_cost, solve
from track2view.trackers.flow import NeighbourFlow, follow
from track2view.trackers.focal import FocalBelief, FocalEvidence
from track2view.trackers.growth import (
    GROWTH,
    MIN_TRACKS,
    all_frames,
    at_identity,
    grow,
    keyframes_of,
    static_tracks,
)

GROWTH_SCALE = 1.0
FOCAL_GUESSES = (1.0, 0.8, 1.25)
LEAST_ZOOM, AS_WELL, BETTER = 1.08, 0.01, 0.05
"""How much a picture grows for a zoom to be thought of; how many more of the observations it may leave unexplained than an approach
does, and how many fewer it must for the clip to tell the two apart."""
PARALLAX_SHARE = 0.1
"""Of the tracks, that must need depth for an approach to be beyond doubt."""
STANDING = 0.02
"""Typical depths that a camera may travel and still be said to stand."""
SOWING_ROWS = 20
MIN_TEXTURE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowTracks:
    """2D tracks in working pixels."""

    points: Float32[np.ndarray, "T N 2"]
    visible: Bool[np.ndarray, "T N"]
    query_frame: Int64[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraMotion:
    """Poses of all frames, in a world where the first camera is the identity.

    Attributes:
        focal: of the first frame, in working pixels.
        focal_estimated: whether the clip told it, rather than what is believed of lenses.
        focal_deviation: of its logarithm; 0 where it was given.
        zoom: focal length of each frame in terms of the first; 1 throughout for a lens that does not zoom.
        zoom_told: whether the clip told zoom from approach; else an approach to a flat scene would look the same.
        static: which of the tracks it was found from agree with a still scene.
        error: median reprojection error of these, in working pixels.
        travel: how far the camera comes from where it began, in typical depths.
        unexplained: share of all observations that the still scene leaves unexplained.
    """

    rotation: Float64[np.ndarray, "T 3 3"]
    centre: Float64[np.ndarray, "T 3"]
    focal: float
    focal_estimated: bool
    focal_deviation: float
    zoom: Float64[np.ndarray, "T"]
    zoom_told: bool
    static: Bool[np.ndarray, "N"]
    error: float
    travel: float
    unexplained: float

    @property
    def zooms(self) -> bool:
        """Whether the lens does."""
        return bool(np.ptp(self.zoom) > 0)


def sow(flow: NeighbourFlow, keyframes: Int64[np.ndarray, "K"]) -> FlowTracks:
    """Tracks for camera estimation: wherever a cell of the image holds no living track, its most textured point starts one."""
    frames = range(len(flow.grey))
    height, width = flow.size
    cell = max(8, min(height, width) // SOWING_ROWS)
    rows, columns = height // cell, width // cell
    batches: list[FlowTracks] = []
    interval = max(1, min(GROWTH, -(-24 // max(1, int(keyframes[1] - keyframes[0])))))
    for frame in sorted({*keyframes[::interval].tolist(), int(keyframes[-1])}):
        taken = np.zeros((rows, columns), bool)
        for batch in batches:
            alive = batch.points[frame][batch.visible[frame]]
            row = np.clip((alive[:, 1] * rows / height).astype(int), 0, rows - 1)
            column = np.clip((alive[:, 0] * columns / width).astype(int), 0, columns - 1)
            taken[row, column] = True
        points = _corners(flow.grey[frame], rows, columns, taken)
        query_frame = np.full(len(points), frame, np.int64)
        followed, visible = follow(flow, frame, points, frames)
        batches.append(FlowTracks(points=followed, visible=visible, query_frame=query_frame))
    return FlowTracks(
        points=np.concatenate([batch.points for batch in batches], axis=1),
        visible=np.concatenate([batch.visible for batch in batches], axis=1),
        query_frame=np.concatenate([batch.query_frame for batch in batches]),
    )


def estimate(flow: NeighbourFlow, focal: float | None) -> CameraMotion:
    """Find poses and, where it is not given in working pixels, the focal length of the first frame.

    A picture that grows comes of a camera that approaches or of a lens that zooms. Approach moves what is near more than what is
    far; so where a zoom before a camera that stands explains the tracks as well, a zoom it was: approach would need a flat world.
    """
    keyframes = keyframes_of(len(flow.grey))
    tracks = sow(flow, keyframes)
    centred = tracks.points - np.array([flow.size[1] / 2, flow.size[0] / 2], np.float32)
    growth = growth_of(centred, tracks.visible)
    still = _solved(tracks, centred, np.ones(len(centred)), keyframes, flow.size, focal)
    if growth.max() < LEAST_ZOOM * growth.min() or _plane_share(centred, tracks.visible) < 1 - still.unexplained - PARALLAX_SHARE:
        return still
    zoomed = _solved(tracks, centred, growth, keyframes, flow.size, focal)
    told = zoomed.unexplained + BETTER < still.unexplained
    stands = zoomed.travel < STANDING and zoomed.unexplained <= still.unexplained + AS_WELL
    return replace(zoomed, zoom_told=told) if told or stands else still


def growth_of(centred: Float32[np.ndarray, "T N 2"], visible: Bool[np.ndarray, "T N"]) -> Float64[np.ndarray, "T"]:
    """Size of the picture's content in each frame in terms of the first, by similarities between neighbouring frames."""
    step = np.zeros(len(centred))
    for frame in range(1, len(centred)):
        both = np.flatnonzero(visible[frame] & visible[frame - 1])
        if len(both) < MIN_TRACKS:
            continue
        similarity, _ = cv2.estimateAffinePartial2D(centred[frame - 1, both], centred[frame, both], ransacReprojThreshold=0.5)
        if similarity is not None:
            step[frame] = np.log(np.linalg.norm(similarity[:, 0]))
    return np.exp(np.cumsum(step))


def _plane_share(centred: Float32[np.ndarray, "T N 2"], visible: Bool[np.ndarray, "T N"]) -> float:
    """Share of the tracks that homographies explain over quarters of the clip: all, before a lens that turns and zooms."""
    shares = []
    quarters = np.linspace(0, len(centred) - 1, 5).round().astype(int)
    for first, last in pairwise(quarters.tolist()):
        both = visible[first] & visible[last]
        if both.sum() >= MIN_TRACKS:
            _, explained = cv2.findHomography(centred[first, both], centred[last, both], cv2.USAC_MAGSAC, 1.5)
            shares.append(0.0 if explained is None else float(explained.mean()))
    return float(np.mean(shares)) if shares else 0.0


def _solved(
    tracks: FlowTracks,
    centred: Float32[np.ndarray, "T N 2"],
    zoom: Float64[np.ndarray, "T"],
    keyframes: Int64[np.ndarray, "K"],
    size: Size,
    focal: float | None,
) -> CameraMotion:
    """Poses and focal length, if the lens zooms so."""
    points = (centred / zoom[:, None, None]).astype(np.float32)
    on_key = np.searchsorted(keyframes, tracks.query_frame)
    usable = tracks.visible[keyframes].sum(0) >= min(3, len(keyframes))
    seen = Observations.of(points[keyframes], tracks.visible[keyframes] & usable, on_key)
    scale = GROWTH_SCALE * min(size) / 480
    lenses = FocalBelief.of_lenses(max(size))
    state = at_identity(len(keyframes), len(on_key), lenses.focal if focal is None else focal)
    belief = lenses if focal is None else None
    state = grow(state, seen, keyframes, scale, (1.0,) if belief is None else FOCAL_GUESSES, belief)
    static = static_tracks(state, seen) & usable
    everything = seen
    if static.sum() >= MIN_TRACKS:
        seen = seen.where(static[seen.track])
    free = range(1, len(keyframes))
    estimated, deviation = False, 0.0
    if belief is None:
        state = solve(state, seen, free=free, focal=None, scale=1.0, iterations=30)
    else:
        state = solve(state, seen, free=free, focal=belief.first_pull(state, seen), scale=1.0, iterations=30)
        evidence = FocalEvidence.of(state, seen, free, 1.0)
        state = solve(state, seen, free=free, focal=belief.pull(evidence.noise), scale=1.0, iterations=30)
        estimated, deviation = evidence.decides(belief), evidence.left_open(belief)
        if not estimated and (held := belief.within(state.focal)) != state.focal:
            state = solve(replace(state, focal=held), seen, free=free, focal=None, scale=1.0, iterations=30)
    error, in_front = residuals(state, seen)
    rotation, centre = all_frames(state, seen, keyframes, points, tracks.visible, static)
    return CameraMotion(
        rotation=rotation,
        centre=centre,
        focal=state.focal,
        focal_estimated=estimated,
        focal_deviation=deviation,
        zoom=zoom,
        zoom_told=True,
        static=static,
        error=float(np.median(np.linalg.norm(error[in_front], axis=-1))) if in_front.any() else 0.0,
        travel=float(np.linalg.norm(centre - centre[0], axis=-1).max() * np.median(state.inverse_depth)),
        unexplained=robust_cost(state, everything, 1.0, zoom[keyframes]),
    )


def _corners(grey: np.ndarray, rows: int, columns: int, taken: Bool[np.ndarray, "r c"]) -> Float32[np.ndarray, "n 2"]:
    """The point of largest minimal gradient eigenvalue in each cell that is not taken; flat cells give none."""
    height, width = grey.shape
    strength = cv2.cornerMinEigenVal(cv2.GaussianBlur(grey, (0, 0), 1.0), 5).astype(np.float32)
    cell_height, cell_width = height // rows, width // columns
    cells = strength[: rows * cell_height, : columns * cell_width].reshape(rows, cell_height, columns, cell_width)
    flat = cells.transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    best = flat.argmax(-1)
    row, column = np.nonzero(~taken & (flat.max(-1) > MIN_TEXTURE))
    v, u = np.divmod(best[row, column], cell_width)
    return np.stack([column * cell_width + u + 0.5, row * cell_height + v + 0.5], axis=-1).astype(np.float32)
