"""Shape and motion of one rigid thing, up to its size, from its tracks alone.

A thing that moves before a camera looks like a still world before a camera that moves: the solver of the camera's own path
(:mod:`track2view.trackers.growth`) finds both. What it leaves open is one length, the thing's size.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from track2view.trackers.bundle import BundleState, Observations, solve, triangulate, world_directions
from track2view.trackers.growth import MIN_TRACKS, all_frames, at_identity, grow, keyframes_of, static_tracks

SOLVED_TRACKS = 300
MIN_FRAMES = 8
MIN_SEEN = 12
MIN_USABLE = 60
MIN_AGREEING = 0.2
MAX_LOG_DEPTH_SPREAD = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RigidThing:
    """Where the points of a thing are, in the axes of the camera and in a unit of the thing's own.

    Attributes:
        begin: the first frame that is known; L frames follow each other.
        in_camera: positions, in front of the camera where they agree.
        agrees: which tracks move as one rigid thing.
    """

    begin: int
    in_camera: Float64[np.ndarray, "L N 3"]
    agrees: Bool[np.ndarray, "N"]


def rigid_thing(points: Float32[np.ndarray, "T N 2"], visible: Bool[np.ndarray, "T N"], focal: float) -> RigidThing | None:
    """Solve a group of tracks (pixels from the principal point) as one rigid thing; None where they do not move as one.

    The pixel is the unit of the solver's error bounds: give points of a picture about 480 rows high.
    """
    alive = np.flatnonzero(visible.sum(1) >= MIN_TRACKS)
    if len(alive) < MIN_FRAMES:
        return None
    begin, count = int(alive[0]), int(alive[-1] - alive[0]) + 1
    points, visible = points[begin : begin + count], visible[begin : begin + count]
    keyframes = keyframes_of(count)
    on_key = visible[keyframes]
    usable = np.flatnonzero(_long_enough(on_key, keyframes))
    if len(usable) < MIN_USABLE:
        return None
    anchor = on_key.argmax(0)
    chosen = usable[np.linspace(0, len(usable) - 1, min(SOLVED_TRACKS, len(usable))).astype(int)]
    seen = Observations.of(points[keyframes][:, chosen], on_key[:, chosen], anchor[chosen])
    state = at_identity(len(keyframes), len(chosen), focal)
    state = grow(state, seen, keyframes, 1.0, (1.0,), belief=None)
    agreeing = static_tracks(state, seen)
    if agreeing.sum() < MIN_TRACKS:
        return None
    state = solve(state, seen.where(agreeing[seen.track]), free=range(1, len(keyframes)), focal=None, scale=1.0, iterations=20)
    return _placed(state, points, visible, keyframes, anchor, typical=float(np.median(state.inverse_depth[agreeing])), begin=begin)


def _placed(
    state: BundleState,
    points: Float32[np.ndarray, "L N 2"],
    visible: Bool[np.ndarray, "L N"],
    keyframes: Int64[np.ndarray, "K"],
    anchor: np.ndarray,
    *,
    typical: float,
    begin: int,
) -> RigidThing | None:
    """All tracks in all frames, from the poses of the solved ones."""
    seen = Observations.of(points[keyframes], visible[keyframes], anchor)
    inverse_depth, _ = triangulate(state, seen, np.full(len(anchor), typical), 1.0)
    state = replace(state, inverse_depth=inverse_depth)
    agrees = static_tracks(state, seen) & _long_enough(visible[keyframes], keyframes)
    if agrees.sum() < MIN_TRACKS:
        return None
    rotation, centre = all_frames(state, seen, keyframes, points, visible, agrees)
    world = state.centre[anchor] + world_directions(state, seen) / inverse_depth[:, None]
    in_camera = np.einsum("tij,tnj->tni", rotation, world[None] - centre[:, None])
    depth = in_camera[..., 2]
    agrees &= (depth > 0).all(0)
    if agrees.sum() < max(MIN_TRACKS, MIN_AGREEING * len(agrees)):
        return None
    spread = np.percentile(np.log(depth[0, agrees]), [5, 95])
    if spread[1] - spread[0] > MAX_LOG_DEPTH_SPREAD:
        return None
    return RigidThing(begin=begin, in_camera=in_camera, agrees=agrees)


def _long_enough(on_key: Bool[np.ndarray, "K N"], keyframes: Int64[np.ndarray, "K"]) -> Bool[np.ndarray, "N"]:
    """Tracks that are seen for so many frames that they tell of a thing's shape."""
    interval = int(keyframes[1] - keyframes[0])
    return on_key.sum(0) * interval >= MIN_SEEN
