"""Errors of an estimated camera path."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import invert, rotation_angle
from track2view.records import CameraPath


@dataclass(frozen=True, kw_only=True, slots=True)
class PathErrors:
    """How far an estimated path is from the true one.

    Attributes:
        rotation_mean, rotation_max: geodesic distance of rotations relative to frame 0, degrees, frame 0 included.
        ate: root mean square distance of positions after the best similarity transform, in the true path's unit.
        ate_percent: the same as a percentage of the true path's length; NaN for a path without length.
        rpe_rotation: mean rotation error of steps between neighbouring frames, degrees.
        rpe_translation: mean position error of these steps after the same scaling, in the true path's unit.
        focal_percent: mean relative error of the focal length (fx), signed.
    """

    rotation_mean: float
    rotation_max: float
    ate: float
    ate_percent: float
    rpe_rotation: float
    rpe_translation: float
    focal_percent: float


def path_errors(estimate: CameraPath, truth: CameraPath) -> PathErrors:
    """Compare two paths frame by frame.

    Raises:
        UserError: their lengths differ.
    """
    if len(estimate) != len(truth):
        raise UserError(f"paths have {len(estimate)} and {len(truth)} frames")
    relative, wanted = _from_first(estimate), _from_first(truth)
    rotation = rotation_angle(relative[:, :3, :3].mT @ wanted[:, :3, :3])
    own, true = estimate.world_from_camera[:, :3, 3], truth.world_from_camera[:, :3, 3]
    aligned, scale = _similarity(own, true)
    ate = float((aligned - true).square().sum(-1).mean().sqrt())
    length = path_length(truth)
    steps = invert(estimate.world_from_camera[:-1]) @ estimate.world_from_camera[1:]
    true_steps = invert(truth.world_from_camera[:-1]) @ truth.world_from_camera[1:]
    step_rotation = rotation_angle(steps[:, :3, :3].mT @ true_steps[:, :3, :3])
    step_translation = torch.linalg.vector_norm(scale * steps[:, :3, 3] - true_steps[:, :3, 3], dim=-1)
    focal = estimate.resized(truth.size).intrinsics[:, 0, 0] / truth.intrinsics[:, 0, 0] - 1
    return PathErrors(
        rotation_mean=float(rotation.mean()),
        rotation_max=float(rotation.max()),
        ate=ate,
        ate_percent=100 * ate / length if length > 1e-9 else float("nan"),
        rpe_rotation=float(step_rotation.mean()) if len(steps) else 0.0,
        rpe_translation=float(step_translation.mean()) if len(steps) else 0.0,
        focal_percent=100 * float(focal.mean()),
    )


def pose_errors(
    estimate: Float64[Tensor, "*b 4 4"], truth: Float64[Tensor, "*b 4 4"]
) -> tuple[Float64[Tensor, "*b"], Float64[Tensor, "*b"]]:
    """Geodesic distance in degrees and distance of poses given in one world: nothing is aligned or scaled."""
    rotation = rotation_angle(estimate[..., :3, :3].mT @ truth[..., :3, :3])
    return rotation, torch.linalg.vector_norm(estimate[..., :3, 3] - truth[..., :3, 3], dim=-1)


def path_length(camera: CameraPath) -> float:
    """How far a camera travels, in its unit."""
    return float(torch.linalg.vector_norm(camera.world_from_camera[:, :3, 3].diff(dim=0), dim=-1).sum())


def _from_first(camera: CameraPath) -> Float64[Tensor, "T 4 4"]:
    return invert(camera.world_from_camera[:1]) @ camera.world_from_camera


def _similarity(points: Float64[Tensor, "T 3"], target: Float64[Tensor, "T 3"]) -> tuple[Float64[Tensor, "T 3"], float]:
    """Least-squares similarity of ``points`` onto ``target`` (Umeyama 1991): the moved points, and the scale."""
    centred, wanted = points - points.mean(0), target - target.mean(0)
    spread = float(centred.square().sum())
    if spread < 1e-18:
        return target.mean(0).expand_as(target), 1.0
    left, singular, right = torch.linalg.svd(wanted.T @ centred)
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.linalg.det(left @ right).sign()
    rotation = left @ torch.diag(sign) @ right
    scale = float((singular * sign).sum()) / spread
    return scale * centred @ rotation.T + target.mean(0), scale
