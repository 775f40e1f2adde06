"""Cameras that an estimator found for a clip's frames, and how far they are from those that were asked for."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.metrics.paths import path_length, pose_errors
from track2view.records import CameraPath
from track2view.scenes import World

FAR_DEGREES = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundCameras:
    """Cameras of some frames of a clip.

    Attributes:
        frames: which.
        world_from_camera: where not ``converged``, of no meaning.
        converged: whether the estimator found the camera.
    """

    frames: tuple[int, ...]
    world_from_camera: Float64[Tensor, "K 4 4"]
    converged: Bool[Tensor, "K"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraErrors:
    """How far a clip's cameras are from the commanded ones. Means are over frames that converged, NaN where none did.

    Attributes:
        converged: share of the frames.
        rotation: mean geodesic distance, degrees.
        translation: mean distance, in the path's unit.
        translation_percent: the same as a percentage of the commanded path's length; NaN for a path without length.
        auc: area under the share of frames within a rotation error, 0 … 5°, in [0, 1]; what did not converge is never within.
    """

    converged: float
    rotation: float
    translation: float
    translation_percent: float
    auc: float


def camera_errors(found: FoundCameras, commanded: CameraPath) -> CameraErrors:
    """Compare found cameras with the commanded ones, in the world's own coordinates: nothing is aligned or scaled."""
    rotation, translation = pose_errors(found.world_from_camera, commanded.world_from_camera[list(found.frames)])
    length = path_length(commanded)
    missed = float(translation[found.converged].mean())
    return CameraErrors(
        converged=float(found.converged.float().mean()),
        rotation=float(rotation[found.converged].mean()),
        translation=missed,
        translation_percent=100 * missed / length if length > 1e-9 else math.nan,
        auc=float(torch.where(found.converged, 1 - rotation / FAR_DEGREES, 0.0).clamp(min=0).mean()),
    )


def check_clip(world: World, frames: UInt8[Tensor, "T 3 H W"], commanded: CameraPath, source: CameraPath | None, at: list[int]) -> None:
    """Whether a clip, its cameras and the world fit together.

    Raises:
        UserError: they do not, or ``at`` names frames that are not there.
    """
    for name, camera in (("commanded", commanded), *((("source", source),) if source else ())):
        if camera.size != tuple(frames.shape[-2:]):
            raise UserError(f"{name}: a camera for pictures of {list(camera.size)}, the clip is {list(frames.shape[-2:])}; resize one")
        if not len(frames) == len(camera) <= world.frames:
            raise UserError(f"{name}: {len(camera)} frames, the clip has {len(frames)}, the world {world.frames}; they must agree")
    if not at or min(at) < 0 or max(at) >= len(frames):
        raise UserError(f"at: expected frames in 0 … {len(frames) - 1}, got {at}")
