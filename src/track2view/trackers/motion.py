"""The camera's path and focal length from flow tracks, by growing a bundle adjustment (design section 9)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.spatial.transform import Rotation

from track2view.geometry import interpolate_poses
from track2view.trackers.bundle import (
    ANNEALING,
    BundleState,
    Observations,
    focal_deviation,
    resect,
    residuals,
    robust_cost,
    solve,
    triangulate,
    world_directions,
)
from track2view.trackers.flow import NeighbourFlow, follow

GROWTH = 12
MAX_KEYFRAMES = 120
FOCAL_FROM_FRAMES = 36
FOCAL_DEVIATION = 0.01
FOCAL_VIEW_DEGREES = 1.0
STATIC_PERCENTILE = 90
STATIC_PIXELS = 3.0
MIN_TRACKS = 24
IDENTITY_SCALES = (32.0, 8.0, 2.0, 1.0)
TWO_VIEW_SCALES = (2.0, 1.0)
GROWTH_SCALE = 1.0
FOCAL_GUESSES = (1.0, 0.8, 1.25)
TRIED_STARTS = 3
CLOSE_ANNEALING = (8.0, 4.0, 2.0, 1.0)
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
        focal: in working pixels.
        focal_estimated: whether the clip told it.
        static: which of the tracks it was found from agree with a still scene.
        error: median reprojection error of these, in working pixels.
    """

    rotation: Float64[np.ndarray, "T 3 3"]
    centre: Float64[np.ndarray, "T 3"]
    focal: float
    focal_estimated: bool
    static: Bool[np.ndarray, "N"]
    error: float


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


def estimate(flow: NeighbourFlow, focal: float, *, focal_known: bool) -> CameraMotion:
    """Find poses and, where the clip tells it, the focal length; ``focal`` (working pixels) starts it, or is kept."""
    count = len(flow.grey)
    stride = -(-count // MAX_KEYFRAMES)
    keyframes = np.unique(np.append(np.arange(0, count, stride), count - 1))
    tracks = sow(flow, keyframes)
    centred = tracks.points - np.array([flow.size[1] / 2, flow.size[0] / 2], np.float32)
    on_key = np.searchsorted(keyframes, tracks.query_frame)
    usable = tracks.visible[keyframes].sum(0) >= min(3, len(keyframes))
    seen = Observations.of(centred[keyframes], tracks.visible[keyframes] & usable, on_key)
    scale = GROWTH_SCALE * min(flow.size) / 480
    state = BundleState(
        rotation=np.tile(np.eye(3), (len(keyframes), 1, 1)),
        centre=np.zeros((len(keyframes), 3)),
        inverse_depth=np.ones(len(on_key)),
        focal=focal,
    )
    guesses = (1.0,) if focal_known else FOCAL_GUESSES
    state = grow(state, seen, keyframes, scale, guesses, free_focal_from=None if focal_known else FOCAL_FROM_FRAMES)
    static = static_tracks(state, seen) & usable
    if static.sum() >= MIN_TRACKS:
        seen = seen.where(static[seen.track])
    free = range(1, len(keyframes))
    telling = count >= FOCAL_FROM_FRAMES and not focal_known and _turns_or_travels(state, seen)
    estimated = telling and focal_deviation(state, seen, free, 1.0) < FOCAL_DEVIATION
    if not estimated:
        state = replace(state, focal=focal)
    state = solve(state, seen, free=free, free_focal=estimated, scale=1.0, iterations=30)
    error, in_front = residuals(state, seen)
    rotation, centre = all_frames(state, seen, keyframes, centred, tracks.visible, static)
    return CameraMotion(
        rotation=rotation,
        centre=centre,
        focal=state.focal,
        focal_estimated=estimated,
        static=static,
        error=float(np.median(np.linalg.norm(error[in_front], axis=-1))) if in_front.any() else 0.0,
    )


def grow(
    state: BundleState,
    seen: Observations,
    keyframes: Int64[np.ndarray, "K"],
    scale: float,
    guesses: tuple[float, ...],
    free_focal_from: int | None,
) -> BundleState:
    """Solve the first frames from identity, then add frames at constant velocity, each resected before all are solved."""
    count = len(keyframes)
    solved = min(GROWTH, count)
    first = seen.where((seen.frame < solved) & (seen.anchor[seen.track] < solved))
    state = _solve_first(state, first, solved, scale, guesses)
    known = _agreeing(state, first)
    while solved < count:
        until = min(solved + GROWTH, count)
        for frame in range(solved, until):
            state = _append(state, seen, frame, known, scale)
        typical = float(np.median(state.inverse_depth[known])) if known.any() else 1.0
        window = seen.where((seen.frame < until) & (seen.anchor[seen.track] < until))
        triangulated, _ = triangulate(state, window, np.full(len(known), typical), scale)
        placed = known | (seen.anchor < solved)
        state = replace(state, inverse_depth=np.where(placed, state.inverse_depth, triangulated))
        free = range(1, until)
        state = solve(state, window, free=free, free_focal=False, scale=scale, iterations=8)
        due = free_focal_from is not None and until * (keyframes[1] - keyframes[0]) >= free_focal_from
        if due and _turns_or_travels(state, window) and focal_deviation(state, window, free, scale) < FOCAL_DEVIATION:
            state = solve(state, window, free=free, free_focal=True, scale=scale, iterations=12)
        known = _agreeing(state, window)
        solved = until
    return state


def _agreeing(state: BundleState, window: Observations) -> Bool[np.ndarray, "N"]:
    """Tracks that a still scene explains so far: new frames are placed by these."""
    observed = np.isin(np.arange(len(window.anchor)), window.track)
    agreeing = observed & static_tracks(state, window)
    return agreeing if agreeing.sum() >= MIN_TRACKS else observed


def _solve_first(state: BundleState, first: Observations, solved: int, scale: float, guesses: tuple[float, ...]) -> BundleState:
    """The first window, from identity poses and from two-view geometry; the solution that explains most wins.

    Identity is right where the camera hardly moves or only turns; two-view geometry where moving things mislead identity.
    A focal length that is off by a sixth can be enough to miss the right two views, so a few are tried.
    """
    starts = [start for guess in guesses for start in _two_view(replace(state, focal=state.focal * guess), first, solved, scale)]
    starts.sort(key=lambda start: robust_cost(start, first, scale))
    candidates = []
    for start, widths in ((state, IDENTITY_SCALES), *((start, TWO_VIEW_SCALES) for start in starts[:TRIED_STARTS])):
        candidate = start
        for width in widths:
            candidate = solve(candidate, first, free=range(1, solved), free_focal=False, scale=width * scale, iterations=20)
        candidates.append(candidate)
    return min(candidates, key=lambda candidate: robust_cost(candidate, first, scale))


def _two_view(state: BundleState, first: Observations, solved: int, scale: float) -> Iterator[BundleState]:
    """Poses of the first window from the essential matrix between frame 0 and a later one."""
    for other in sorted({solved - 1, 2 * solved // 3, solved // 2}):
        chosen = (first.frame == other) & (first.anchor[first.track] == 0)
        if chosen.sum() < MIN_TRACKS:
            continue
        here, there = first.anchor_pixels[first.track[chosen]] / state.focal, first.pixels[chosen] / state.focal
        essential, inlier = cv2.findEssentialMat(
            here, there, np.eye(3), method=cv2.USAC_MAGSAC, prob=0.9999, threshold=0.5 / state.focal, maxIters=5000
        )
        if essential is None or essential.shape != (3, 3):
            continue
        _, rotation, translation, _ = cv2.recoverPose(essential, here, there, np.eye(3), mask=inlier)
        rotations, centres = state.rotation.copy(), state.centre.copy()
        turn, centre = Rotation.from_matrix(rotation).as_rotvec(), -rotation.T @ translation[:, 0] * 0.1
        for frame in range(solved):
            rotations[frame] = Rotation.from_rotvec(turn * frame / other).as_matrix()
            centres[frame] = centre * frame / other
        posed = replace(state, rotation=rotations, centre=centres)
        pair = first.where(chosen)
        inverse_depth, _ = triangulate(posed, pair, state.inverse_depth, scale)
        typical = float(np.median(inverse_depth[pair.track]))
        posed = replace(posed, centre=centres * typical, inverse_depth=inverse_depth / typical)
        known = np.isin(np.arange(len(first.anchor)), pair.track[inlier[:, 0] > 0])
        for frame in range(1, solved):
            posed = _resected(posed, first, frame, known, scale, ANNEALING)
        yield posed


def _append(state: BundleState, seen: Observations, frame: int, known: Bool[np.ndarray, "N"], scale: float) -> BundleState:
    rotation, centre = state.rotation.copy(), state.centre.copy()
    last, before = Rotation.from_matrix(rotation[frame - 1]), Rotation.from_matrix(rotation[frame - 2])
    rotation[frame] = (last * before.inv() * last).as_matrix()
    centre[frame] = 2 * centre[frame - 1] - centre[frame - 2]
    return _resected(replace(state, rotation=rotation, centre=centre), seen, frame, known, scale, CLOSE_ANNEALING)


def _resected(
    state: BundleState, seen: Observations, frame: int, known: Bool[np.ndarray, "N"], scale: float, annealing: tuple[float, ...]
) -> BundleState:
    chosen = (seen.frame == frame) & known[seen.track]
    if chosen.sum() < MIN_TRACKS:
        return state
    directions, inverse_depth = _homogeneous(state, seen)
    track = seen.track[chosen]
    rotation, centre = state.rotation.copy(), state.centre.copy()
    rotation[frame], centre[frame] = resect(
        rotation[frame],
        centre[frame],
        directions[track],
        inverse_depth[track],
        seen.pixels[chosen],
        state.focal,
        scale,
        annealing,
    )
    return replace(state, rotation=rotation, centre=centre)


def _homogeneous(state: BundleState, seen: Observations) -> tuple[Float64[np.ndarray, "N 3"], Float64[np.ndarray, "N"]]:
    directions = world_directions(state, seen) + state.inverse_depth[:, None] * state.centre[seen.anchor]
    return directions, state.inverse_depth


def _turns_or_travels(state: BundleState, seen: Observations) -> bool:
    """Whether the views differ enough to tell a focal length: deviations from residuals alone miss what drifts together."""
    turned = Rotation.from_matrix(state.rotation[seen.frame] @ state.rotation[seen.anchor[seen.track]].transpose(0, 2, 1))
    baseline = state.centre[seen.frame] - state.centre[seen.anchor[seen.track]]
    parallax = np.linalg.norm(baseline, axis=-1) * state.inverse_depth[seen.track]
    return bool(max(np.percentile(turned.magnitude(), 95), np.percentile(parallax, 95)) > np.radians(FOCAL_VIEW_DEGREES))


def static_tracks(state: BundleState, seen: Observations) -> Bool[np.ndarray, "N"]:
    """Tracks whose 90th-percentile error is small."""
    error, in_front = residuals(state, seen)
    size = np.where(in_front, np.linalg.norm(error, axis=-1), np.inf)
    order = np.lexsort((size, seen.track))
    track, size = seen.track[order], size[order]
    first = np.searchsorted(track, np.arange(len(seen.anchor)))
    count = np.searchsorted(track, np.arange(len(seen.anchor)), side="right") - first
    position = np.minimum(first + (count * STATIC_PERCENTILE) // 100, len(size) - 1)
    return (count > 0) & (size[position] <= STATIC_PIXELS)


def all_frames(
    state: BundleState,
    seen: Observations,
    keyframes: Int64[np.ndarray, "K"],
    centred: Float32[np.ndarray, "T N 2"],
    visible: Bool[np.ndarray, "T N"],
    static: Bool[np.ndarray, "N"],
) -> tuple[Float64[np.ndarray, "T 3 3"], Float64[np.ndarray, "T 3"]]:
    """Poses of the frames between keyframes: interpolated, then resected from the static points."""
    count = len(centred)
    if len(keyframes) == count:
        return state.rotation, state.centre
    poses = np.tile(np.eye(4), (len(keyframes), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = state.rotation.transpose(0, 2, 1), state.centre
    times = torch.arange(count, dtype=torch.float64)
    between = interpolate_poses(torch.from_numpy(keyframes).double(), torch.from_numpy(poses), times).numpy()
    rotation, centre = between[:, :3, :3].transpose(0, 2, 1).copy(), between[:, :3, 3].copy()
    directions, inverse_depth = _homogeneous(state, seen)
    for frame in np.setdiff1d(np.arange(count), keyframes):
        chosen = visible[frame] & static
        if chosen.sum() >= MIN_TRACKS:
            rotation[frame], centre[frame] = resect(
                rotation[frame],
                centre[frame],
                directions[chosen],
                inverse_depth[chosen],
                centred[frame, chosen].astype(np.float64),
                state.focal,
                1.0,
            )
    return rotation, centre


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
