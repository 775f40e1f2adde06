"""Pure functions on rigid motions and pinhole cameras.

Axes are OpenCV's (x right, y down, z forward). ``a_from_b`` is the matrix that takes coordinates in ``b`` to ``a``.
Image coordinates are continuous pixels: the centre of the top-left pixel is (0.5, 0.5).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Assemble a 4×4 rigid motion from a rotation and a translation."""
    top = torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1.0
    return torch.cat([top, bottom], dim=-2)


def invert(a_from_b: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Invert rigid motions (exactly orthonormal rotations are assumed)."""
    rotation_inverse = a_from_b[..., :3, :3].mT
    return rigid(rotation_inverse, -(rotation_inverse @ a_from_b[..., :3, 3:]).squeeze(-1))


def transform(a_from_b: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Apply rigid motions to points."""
    return points @ a_from_b[..., :3, :3].mT + a_from_b[..., None, :3, 3]


def rotation_about(axis: str, degrees: Float64[Tensor, "*b"]) -> Float64[Tensor, "*b 3 3"]:
    """Rotation by ``degrees`` about a coordinate axis ``"x" | "y" | "z"``, right-handed."""
    rotation = Rotation.from_euler(axis, degrees.reshape(-1, 1).numpy(), degrees=True)
    return torch.from_numpy(rotation.as_matrix()).reshape(*degrees.shape, 3, 3)


def rotation_angle(rotation: Float64[Tensor, "*b 3 3"]) -> Float64[Tensor, "*b"]:
    """Angle of rotations in degrees, in atan2 form: exact for small angles, where ``acos`` of the trace is not."""
    sine_axis = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    cosine = rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1.0
    return torch.rad2deg(torch.atan2(torch.linalg.vector_norm(sine_axis, dim=-1), cosine))


def nearest_rotation(matrix: Float64[Tensor, "*b 3 3"]) -> Float64[Tensor, "*b 3 3"]:
    """The rotation nearest to each matrix in the Frobenius norm."""
    left, _, right = torch.linalg.svd(matrix)
    sign = torch.linalg.det(left @ right).sign()
    left = torch.cat([left[..., :2], left[..., 2:] * sign[..., None, None]], dim=-1)
    return left @ right


def look_at(eye: Float64[Tensor, "*b 3"], target: Float64[Tensor, "*b 3"], down: Float64[Tensor, "3"]) -> Float64[Tensor, "*b 4 4"]:
    """``world_from_camera`` of cameras at ``eye`` that look at ``target`` with the image's down towards ``down``."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(down.expand_as(forward), forward), dim=-1)
    return rigid(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), eye)


def project(
    points: Float[Tensor, "*b n 3"],
    camera_from_world: Float[Tensor, "*b 4 4"],
    intrinsics: Float[Tensor, "*b 3 3"],
) -> tuple[Float[Tensor, "*b n 2"], Float[Tensor, "*b n"]]:
    """Project world points: pixel coordinates, and depth along the camera's z (pixels are meaningless where ≤ 0)."""
    in_camera = transform(camera_from_world, points)
    depth = in_camera[..., 2]
    homogeneous = in_camera @ intrinsics.mT
    safe = torch.where(depth.abs() < 1e-12, torch.full_like(depth, 1e-12), depth)
    return homogeneous[..., :2] / safe.unsqueeze(-1), depth


def unproject(
    pixels: Float[Tensor, "*b n 2"],
    depth: Float[Tensor, "*b n"],
    world_from_camera: Float[Tensor, "*b 4 4"],
    intrinsics: Float[Tensor, "*b 3 3"],
) -> Float[Tensor, "*b n 3"]:
    """World points seen at ``pixels`` at ``depth``; the inverse of :func:`project`."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = homogeneous @ torch.linalg.inv(intrinsics).mT
    return transform(world_from_camera, rays * depth.unsqueeze(-1))


def inside(pixels: Float[Tensor, "*b 2"], size: tuple[int, int]) -> Bool[Tensor, "*b"]:
    """Whether pixel coordinates lie in an image of ``size = (height, width)``."""
    height, width = size
    u, v = pixels[..., 0], pixels[..., 1]
    return (u >= 0) & (u <= width) & (v >= 0) & (v <= height)


def pixel_centres(height: int, width: int) -> Float[Tensor, "height width 2"]:
    """Coordinates (u, v) of all pixel centres, as float32."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([u, v], dim=-1).float()


def interpolate_poses(
    key_times: Float64[Tensor, "K"], poses: Float64[Tensor, "K 4 4"], times: Float64[Tensor, "T"]
) -> Float64[Tensor, "T 4 4"]:
    """Interpolate rigid motions along SE(3) geodesics between neighbouring keys; held before the first and after the last."""
    if len(key_times) == 1:
        return poses.expand(len(times), 4, 4).clone()
    clamped = times.clamp(key_times[0], key_times[-1])
    left = torch.searchsorted(key_times, clamped, right=True).clamp(1, len(key_times) - 1) - 1
    span = key_times[left + 1] - key_times[left]
    fraction = ((clamped - key_times[left]) / span).numpy()
    start = RigidTransform.from_matrix(poses[left].numpy())
    step = (start.inv() * RigidTransform.from_matrix(poses[left + 1].numpy())).as_exp_coords()
    moved = start * RigidTransform.from_exp_coords(step * fraction[:, None])
    return torch.from_numpy(np.ascontiguousarray(moved.as_matrix()))


def smooth_poses(poses: Float64[Tensor, "T 4 4"], sigma_frames: float) -> Float64[Tensor, "T 4 4"]:
    """Low-pass a path with a Gaussian of ``sigma_frames``; its ends are extended by mirroring through their end points."""
    pad = min(len(poses) - 1, int(np.ceil(3 * sigma_frames)))
    if pad < 1:
        return poses.clone()
    flat = poses[:, :3].reshape(len(poses), 12).numpy()
    before = 2 * flat[:1] - flat[1 : pad + 1][::-1]
    after = 2 * flat[-1:] - flat[-pad - 1 : -1][::-1]
    smoothed = gaussian_filter1d(np.concatenate([before, flat, after]), sigma_frames, axis=0, truncate=3.0)[pad:-pad]
    blocks = torch.from_numpy(np.ascontiguousarray(smoothed)).reshape(-1, 3, 4)
    return rigid(nearest_rotation(blocks[..., :3]), blocks[..., 3])
