"""Anchored inverse-depth bundle adjustment (design section 9).

Every track is one inverse depth along the ray of the frame it starts from; beside these there are the poses and one focal
length. With camera centres c and rotations R (camera from world), a track anchored in frame a with ray r and inverse depth ρ
is seen by frame f along ``R_f (R_aᵀ r + ρ (c_a − c_f))``, which stays finite for points at infinity. Inverse depths are
eliminated by a scalar Schur complement, so one step costs a dense solve in the cameras alone.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.transform import Rotation

PRIOR_WEIGHT = 0.05**2
MAX_DEPTH_STEP = 1.0
MAX_DAMPING = 1e6
ANNEALING = (32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 1.0)
BLOCK = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Observations:
    """Where tracks were seen, relative to the principal point, as a flat list sorted by (anchor, frame).

    Attributes:
        frame, track: indices of each observation; a track's own anchor frame is left out.
        pixels: relative to the principal point.
        anchor: per track, the frame its ray is given in.
        anchor_pixels: per track, relative to the principal point.
    """

    frame: Int64[np.ndarray, "M"]
    track: Int64[np.ndarray, "M"]
    pixels: Float64[np.ndarray, "M 2"]
    anchor: Int64[np.ndarray, "N"]
    anchor_pixels: Float64[np.ndarray, "N 2"]

    @staticmethod
    def of(points: Float32[np.ndarray, "T N 2"], visible: Bool[np.ndarray, "T N"], anchor: Int64[np.ndarray, "N"]) -> "Observations":
        """Flatten dense arrays of positions relative to the principal point."""
        seen = visible.copy()
        seen[anchor, np.arange(len(anchor))] = False
        frame, track = np.nonzero(seen)
        order = np.lexsort((track, frame, anchor[track]))
        frame, track = frame[order], track[order]
        return Observations(
            frame=frame,
            track=track,
            pixels=points[frame, track].astype(np.float64),
            anchor=anchor,
            anchor_pixels=points[anchor, np.arange(len(anchor))].astype(np.float64),
        )

    def where(self, keep: Bool[np.ndarray, "M"]) -> "Observations":
        """Only some observations."""
        return replace(self, frame=self.frame[keep], track=self.track[keep], pixels=self.pixels[keep])


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleState:
    """What is solved for: ``rotation`` is camera from world, ``centre`` the cameras' positions, depths along anchor rays."""

    rotation: Float64[np.ndarray, "K 3 3"]
    centre: Float64[np.ndarray, "K 3"]
    inverse_depth: Float64[np.ndarray, "N"]
    focal: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalPull:
    """What draws the log focal length to a value, in squared pixels: the weight of a prior beside residuals."""

    log_focal: float
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Linearised:
    residual: Float64[np.ndarray, "M 2"]
    in_front: Bool[np.ndarray, "M"]
    by_frame: Float64[np.ndarray, "M 2 6"]
    by_anchor: Float64[np.ndarray, "M 2 6"]
    by_log_focal: Float64[np.ndarray, "M 2"]
    by_log_depth: Float64[np.ndarray, "M 2"]


def canonical_pixels(
    points: Float32[np.ndarray, "T N 2"], intrinsics: Float64[np.ndarray, "T 3 3"]
) -> tuple[Float32[np.ndarray, "T N 2"], float]:
    """Pixels as a camera would see them that has frame 0's focal length throughout and its principal point at 0; that focal."""
    focal = intrinsics[0, 0, 0]
    scale = focal / intrinsics[:, [0, 1], [0, 1]]
    return ((points - intrinsics[:, None, :2, 2]) * scale[:, None]).astype(np.float32), float(focal)


def residuals(state: BundleState, seen: Observations) -> tuple[Float64[np.ndarray, "M 2"], Bool[np.ndarray, "M"]]:
    """Reprojection errors in pixels, and which points are in front of the camera."""
    in_camera = _in_camera(state, seen)[0]
    depth = np.maximum(in_camera[:, 2], 1e-6)
    return state.focal * in_camera[:, :2] / depth[:, None] - seen.pixels, in_camera[:, 2] > 1e-3


def solve(state: BundleState, seen: Observations, *, free: range, focal: FocalPull | None, scale: float, iterations: int) -> BundleState:
    """Levenberg-Marquardt under a Geman-McClure loss of ``scale`` pixels; poses outside ``free``, and a focal length that nothing
    pulls, are held."""
    damping = 1e-3
    cost = _cost(state, seen, scale, focal)
    for _ in range(iterations):
        hessian, gradient, coupling, depth_hessian, depth_gradient = _normal_equations(state, seen, scale, focal)
        moving = _moving(state, free, focal=focal is not None)
        coupling, gradient = coupling[:, moving], gradient[moving]
        hessian = hessian[np.ix_(moving, moving)]
        candidate, new_cost = state, cost
        while damping < MAX_DAMPING and not new_cost < cost:
            depth_damped = depth_hessian * (1 + damping)
            reduced = hessian - coupling.T @ (coupling / depth_damped[:, None])
            reduced[np.diag_indices_from(reduced)] += damping * np.diag(hessian) + 1e-9
            step = _solve_spd(reduced, -(gradient - coupling.T @ (depth_gradient / depth_damped)))
            depth_step = (-depth_gradient - coupling @ step) / depth_damped
            candidate = _moved(state, free, focal is not None, step, depth_step)
            new_cost = _cost(candidate, seen, scale, focal)
            damping = max(damping / 5, 1e-9) if new_cost < cost else damping * 6
        if not new_cost < cost:
            break
        gain, state, cost = (cost - new_cost) / max(cost, 1e-12), candidate, new_cost
        if gain < 1e-5:
            break
    return state


def focal_step(state: BundleState, seen: Observations, free: range, scale: float) -> tuple[float, float]:
    """Where one step of Newton's would take the log focal length if nothing pulled it, all else re-solved; and how much a pull of
    one squared pixel would."""
    hessian, gradient, coupling, depth_hessian, depth_gradient = _normal_equations(state, seen, scale, None)
    moving = _moving(state, free, focal=True)
    coupling, gradient = coupling[:, moving], gradient[moving]
    reduced = hessian[np.ix_(moving, moving)] - coupling.T @ (coupling / depth_hessian[:, None])
    reduced[np.diag_indices_from(reduced)] += 1e-6
    unit = np.zeros(len(moving))
    unit[-1] = 1.0
    answer = _solve_spd(reduced, unit)
    return -float(answer @ (gradient - coupling.T @ (depth_gradient / depth_hessian))), float(answer[-1])


def resect(
    rotation: Float64[np.ndarray, "3 3"],
    centre: Float64[np.ndarray, "3"],
    directions: Float64[np.ndarray, "n 3"],
    inverse_depth: Float64[np.ndarray, "n"],
    pixels: Float64[np.ndarray, "n 2"],
    focal: float,
    scale: float,
    annealing: tuple[float, ...] = ANNEALING,
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    """Pose of one camera from homogeneous world points ``(directions, inverse_depth)``: robust Levenberg-Marquardt, the loss ever tighter.

    A point is at ``directions / inverse_depth``; the camera sees it along ``R (directions − inverse_depth · centre)``.
    """

    for looser in annealing:
        rotation, centre = _resect_at(rotation, centre, directions, inverse_depth, pixels, focal, looser * scale)
    return rotation, centre


def _resect_at(
    rotation: Float64[np.ndarray, "3 3"],
    centre: Float64[np.ndarray, "3"],
    directions: Float64[np.ndarray, "n 3"],
    inverse_depth: Float64[np.ndarray, "n"],
    pixels: Float64[np.ndarray, "n 2"],
    focal: float,
    scale: float,
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    def look(rotation: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        in_camera = (directions - inverse_depth[:, None] * centre) @ rotation.T
        error = focal * in_camera[:, :2] / np.maximum(in_camera[:, 2:], 1e-6) - pixels
        error = np.clip(error, -1e4, 1e4)
        return in_camera, error, float(_loss(error, scale).sum())

    in_camera, error, cost = look(rotation, centre)
    damping = 1e-4
    for _ in range(8):
        weight = (in_camera[:, 2] > 1e-3) * _weight(error, scale)
        slope = _projection_slope(in_camera, focal)
        jacobian = np.concatenate([-slope @ _cross(in_camera), -(slope @ rotation) * inverse_depth[:, None, None]], axis=2)
        weighted = jacobian * weight[:, None, None]
        hessian = np.einsum("mij,mik->jk", weighted, jacobian)
        hessian[np.diag_indices(BLOCK)] *= 1 + damping
        hessian[np.diag_indices(BLOCK)] += 1e-6
        step = _solve_spd(hessian, -np.einsum("mij,mi->j", weighted, error))
        trial = Rotation.from_rotvec(step[:3]).as_matrix() @ rotation, centre + step[3:]
        seen = look(*trial)
        if seen[2] < cost:
            gain = cost - seen[2]
            (rotation, centre), (in_camera, error, cost) = trial, seen
            damping = max(damping / 5, 1e-9)
            if gain < 1e-4 * cost:
                break
        else:
            damping *= 10
            if damping > 1e4:
                break
    return rotation, centre


def triangulate(
    state: BundleState,
    seen: Observations,
    start: Float64[np.ndarray, "N"],
    scale: float,
    prior: float | Float64[np.ndarray, "N"] = PRIOR_WEIGHT,
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Inverse depth of every track from given cameras, and its information (squared pixels per squared inverse depth).

    The projection equations are linear in inverse depth once divided by depth, so a few reweighted solves suffice; ``prior``
    (squared pixels per squared inverse depth) keeps tracks that cameras say nothing of at ``start``.
    """
    directions = world_directions(state, seen)
    rotation = state.rotation[seen.frame]
    straight = (rotation @ directions[seen.track][..., None])[..., 0]
    by_depth = (rotation @ (state.centre[seen.anchor[seen.track]] - state.centre[seen.frame])[..., None])[..., 0]
    bearing = seen.pixels / state.focal
    constant = straight[:, :2] - bearing * straight[:, 2:]
    slope = by_depth[:, :2] - bearing * by_depth[:, 2:]
    inverse_depth, count = start, len(start)
    information = np.zeros(count)
    for looser in ANNEALING:
        current = inverse_depth[seen.track][:, None]
        depth = np.maximum(straight[:, 2:] + current * by_depth[:, 2:], 1e-3)
        error = state.focal * (constant + current * slope) / depth
        weight = (state.focal / depth[:, 0]) ** 2 * _weight(error, looser * scale)
        information = np.bincount(seen.track, weight * _dot(slope, slope), count).astype(np.float64)
        pull = np.bincount(seen.track, weight * _dot(slope, constant), count)
        inverse_depth = np.maximum((prior * start - pull) / (prior + information), 1e-3)
    return inverse_depth, information


def world_directions(state: BundleState, seen: Observations) -> Float64[np.ndarray, "N 3"]:
    """Anchor rays in the world, of unit length along the anchor camera's z."""
    rays = np.concatenate([seen.anchor_pixels / state.focal, np.ones((len(seen.anchor), 1))], axis=1)
    return np.einsum("nji,nj->ni", state.rotation[seen.anchor], rays)


def _in_camera(state: BundleState, seen: Observations) -> tuple[Float64[np.ndarray, "M 3"], Float64[np.ndarray, "M 3"]]:
    """Homogeneous points in the observing cameras, and their derivative by inverse depth."""
    directions = world_directions(state, seen)
    rotation = state.rotation[seen.frame]
    baseline = state.centre[seen.anchor[seen.track]] - state.centre[seen.frame]
    by_depth = (rotation @ baseline[..., None])[..., 0]
    straight = (rotation @ directions[seen.track][..., None])[..., 0]
    return straight + state.inverse_depth[seen.track][:, None] * by_depth, by_depth


def _projection_slope(in_camera: Float64[np.ndarray, "M 3"], focal: float) -> Float64[np.ndarray, "M 2 3"]:
    depth = np.maximum(in_camera[:, 2], 1e-6)
    slope = np.zeros((len(in_camera), 2, 3))
    slope[:, 0, 0] = slope[:, 1, 1] = focal / depth
    slope[:, :, 2] = -focal * in_camera[:, :2] / (depth**2)[:, None]
    return slope


def _cross(vectors: Float64[np.ndarray, "M 3"]) -> Float64[np.ndarray, "M 3 3"]:
    out = np.zeros((len(vectors), 3, 3))
    out[:, 2, 1], out[:, 0, 2], out[:, 1, 0] = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return out - out.transpose(0, 2, 1)


def _linearise(state: BundleState, seen: Observations) -> _Linearised:
    in_camera, by_depth = _in_camera(state, seen)
    slope = _projection_slope(in_camera, state.focal)
    rotation, anchor = state.rotation[seen.frame], seen.anchor[seen.track]
    depth = state.inverse_depth[seen.track][:, None, None]
    slope_rotation = slope @ rotation
    rays = np.concatenate([seen.anchor_pixels / state.focal, np.ones((len(seen.anchor), 1))], axis=1)[seen.track]
    slope_anchor = slope_rotation @ state.rotation[anchor].transpose(0, 2, 1)
    ray_by_log_focal = rays * np.array([-1.0, -1.0, 0.0])
    projected = state.focal * in_camera[:, :2] / np.maximum(in_camera[:, 2:], 1e-6)
    return _Linearised(
        residual=projected - seen.pixels,
        in_front=in_camera[:, 2] > 1e-3,
        by_frame=np.concatenate([-slope @ _cross(in_camera), -depth * slope_rotation], axis=2),
        by_anchor=np.concatenate([slope_anchor @ _cross(rays), depth * slope_rotation], axis=2),
        by_log_focal=projected + (slope_anchor @ ray_by_log_focal[..., None])[..., 0],
        by_log_depth=(slope @ by_depth[..., None])[..., 0] * state.inverse_depth[seen.track][:, None],
    )


def _normal_equations(
    state: BundleState, seen: Observations, scale: float, focal: FocalPull | None
) -> tuple[
    Float64[np.ndarray, "C C"], Float64[np.ndarray, "C"], Float64[np.ndarray, "N C"], Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]
]:
    """Hessian and gradient of poses and log focal, their coupling with inverse depths, and these depths' own."""
    linear = _linearise(state, seen)
    root = np.sqrt(linear.in_front * _weight(linear.residual, scale))
    residual = linear.residual * root[:, None]
    by_frame, by_anchor = linear.by_frame * root[:, None, None], linear.by_anchor * root[:, None, None]
    by_focal, by_depth = linear.by_log_focal * root[:, None], linear.by_log_depth * root[:, None]
    cameras, tracks = len(state.centre), len(state.inverse_depth)
    size = cameras * BLOCK + 1
    hessian, gradient = np.zeros((size, size)), np.zeros(size)
    stacked = np.concatenate([by_frame, by_anchor, by_focal[..., None], residual[..., None]], axis=2)
    anchor = seen.anchor[seen.track]
    starts = np.flatnonzero(np.diff(anchor * cameras + seen.frame, prepend=-1))
    for begin, stop in zip(starts, np.append(starts[1:], len(anchor)), strict=True):
        rows = stacked[begin:stop].reshape(-1, 2 * BLOCK + 2)
        product = rows.T @ rows
        where = np.concatenate([np.arange(BLOCK) + seen.frame[begin] * BLOCK, np.arange(BLOCK) + anchor[begin] * BLOCK, [size - 1]])
        hessian[where[:, None], where] += product[:-1, :-1]
        gradient[where] += product[:-1, -1]
    coupling = np.zeros((tracks, size))
    by_frame_depth = np.einsum("mij,mi->mj", by_frame, by_depth)
    by_anchor_depth = np.einsum("mij,mi->mj", by_anchor, by_depth)
    blocks = coupling[:, :-1].reshape(tracks, cameras, BLOCK)
    blocks[seen.track, seen.frame] = by_frame_depth
    summed = np.stack([np.bincount(seen.track, column, tracks) for column in by_anchor_depth.T], axis=1)
    blocks[np.arange(tracks), seen.anchor] += summed
    coupling[:, :-1] = blocks.reshape(tracks, -1)
    coupling[:, -1] = np.bincount(seen.track, _dot(by_focal, by_depth), tracks)
    depth_hessian = np.bincount(seen.track, _dot(by_depth, by_depth), tracks) + PRIOR_WEIGHT
    depth_gradient = np.bincount(seen.track, _dot(by_depth, residual), tracks) + PRIOR_WEIGHT * np.log(state.inverse_depth)
    if focal is not None:
        hessian[-1, -1] += focal.weight
        gradient[-1] += focal.weight * (np.log(state.focal) - focal.log_focal)
    return hessian, gradient, coupling, depth_hessian, depth_gradient


def _moving(state: BundleState, free: range, *, focal: bool) -> Int64[np.ndarray, "C"]:
    """Places in the normal equations of what is solved for."""
    poses = np.arange(free.start * BLOCK, free.stop * BLOCK)
    return np.append(poses, len(state.centre) * BLOCK) if focal else poses


def _cost(state: BundleState, seen: Observations, scale: float, focal: FocalPull | None) -> float:
    error, in_front = residuals(state, seen)
    robust = scale**2 * np.where(in_front, _loss(error, scale), 1.0)
    pulled = 0.0 if focal is None else focal.weight * (np.log(state.focal) - focal.log_focal) ** 2
    return float(robust.sum() + PRIOR_WEIGHT * (np.log(state.inverse_depth) ** 2).sum() + pulled)


def robust_cost(state: BundleState, seen: Observations, scale: float, zoom: Float64[np.ndarray, "K"] | None = None) -> float:
    """Mean Geman-McClure loss, in [0, 1]: the share of observations that a solution leaves unexplained.

    Args:
        zoom: of each frame, that ``seen`` has been freed of; errors are of the pixels as they were.
    """
    error, in_front = residuals(state, seen)
    error = error if zoom is None else error * zoom[seen.frame][:, None]
    return float(np.where(in_front, _loss(error, scale), 1.0).mean())


def _loss(error: Float64[np.ndarray, "M 2"], scale: float) -> Float64[np.ndarray, "M"]:
    """Geman-McClure. It saturates, so that a few large errors (things that move) cannot outvote many small ones."""
    squared = _squared(error, scale)
    return squared / (1 + squared)


def _weight(error: Float64[np.ndarray, "M 2"], scale: float) -> Float64[np.ndarray, "M"]:
    return 1 / (1 + _squared(error, scale)) ** 2


def _squared(error: Float64[np.ndarray, "M 2"], scale: float) -> Float64[np.ndarray, "M"]:
    return np.minimum(_dot(error, error) / scale**2, 1e12)


def _dot(one: Float64[np.ndarray, "M 2"], other: Float64[np.ndarray, "M 2"]) -> Float64[np.ndarray, "M"]:
    return np.einsum("mi,mi->m", one, other)


def _moved(
    state: BundleState, free: range, free_focal: bool, step: Float64[np.ndarray, "P"], depth_step: Float64[np.ndarray, "N"]
) -> BundleState:
    rotation, centre = state.rotation.copy(), state.centre.copy()
    poses = step[: len(free) * BLOCK].reshape(-1, BLOCK)
    rotation[free.start : free.stop] = Rotation.from_rotvec(poses[:, :3]).as_matrix() @ rotation[free.start : free.stop]
    centre[free.start : free.stop] += poses[:, 3:]
    return BundleState(
        rotation=rotation,
        centre=centre,
        inverse_depth=state.inverse_depth * np.exp(np.clip(depth_step, -MAX_DEPTH_STEP, MAX_DEPTH_STEP)),
        focal=state.focal * float(np.exp(np.clip(step[-1], -0.2, 0.2))) if free_focal else state.focal,
    )


def _solve_spd(matrix: Float64[np.ndarray, "n n"], vector: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    try:
        return np.asarray(cho_solve(cho_factor(matrix, check_finite=False), vector, check_finite=False))
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, vector, rcond=1e-12)[0]
