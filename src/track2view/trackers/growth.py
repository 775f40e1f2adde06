"""A bundle adjustment that grows frame by frame (design section 9): of a still world before a camera that moves, or of a moving thing."""

from collections.abc import Iterator
from dataclasses import replace

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
    resect,
    residuals,
    robust_cost,
    solve,
    triangulate,
    world_directions,
)
from track2view.trackers.focal import FocalBelief

GROWTH = 12
EVERY_FRAME, MAX_KEYFRAMES = 60, 120
"""How long a clip may be for each of its frames to be solved for: of longer ones every second frame tells as much; and how many at most."""
FOCAL_FROM_FRAMES = 36
FOCAL_VIEW_DEGREES = 1.0
STATIC_PERCENTILE = 90
STATIC_PIXELS = 3.0
MIN_TRACKS = 24
IDENTITY_SCALES = (32.0, 8.0, 2.0, 1.0)
TWO_VIEW_SCALES = (2.0, 1.0)
TRIED_STARTS = 3
CLOSE_ANNEALING = (8.0, 4.0, 2.0, 1.0)


def keyframes_of(count: int) -> Int64[np.ndarray, "K"]:
    """The frames that are solved for: all, or as many as tell as much and are bearable, the first and the last among them."""
    interval = max(1 if count <= EVERY_FRAME else 2, -(-count // MAX_KEYFRAMES))
    return np.unique(np.append(np.arange(0, count, interval), count - 1))


def at_identity(keyframes: int, tracks: int, focal: float) -> BundleState:
    """Where :func:`grow` begins: cameras that stand still before points at depth 1."""
    return BundleState(
        rotation=np.tile(np.eye(3), (keyframes, 1, 1)), centre=np.zeros((keyframes, 3)), inverse_depth=np.ones(tracks), focal=focal
    )


def grow(
    state: BundleState,
    seen: Observations,
    keyframes: Int64[np.ndarray, "K"],
    scale: float,
    guesses: tuple[float, ...],
    belief: FocalBelief | None,
) -> BundleState:
    """Solve the first frames from identity, then add frames at constant velocity, each resected before all are solved.

    Args:
        guesses: factors of the focal length to try first.
        belief: about the focal length, which is solved for too as soon as the clip may tell it; None keeps it.
    """
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
        state = solve(state, window, free=free, focal=None, scale=scale, iterations=8)
        due = until * (keyframes[1] - keyframes[0]) >= FOCAL_FROM_FRAMES
        if belief is not None and due and turns_or_travels(state, window):
            state = solve(state, window, free=free, focal=belief.first_pull(state, window), scale=scale, iterations=12)
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
            candidate = solve(candidate, first, free=range(1, solved), focal=None, scale=width * scale, iterations=20)
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


def turns_or_travels(state: BundleState, seen: Observations) -> bool:
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
