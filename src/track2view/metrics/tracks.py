"""TAPVid-3D's scores of 3D tracks (Koppula et al. 2024)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import transform
from track2view.records import CameraPath, TrackSet

THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)
REFERENCE_SHORT_SIDE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackScores:
    """Percentages: average share of points within distance, average Jaccard, occlusion accuracy."""

    apd3d: float
    aj3d: float
    occlusion_accuracy: float


def track_scores(
    estimate: TrackSet, camera: CameraPath, truth: TrackSet, true_camera: CameraPath, chosen: Bool[Tensor, "N"] | None = None
) -> TrackScores:
    """Score tracks in the camera's coordinates, after scaling all estimates by the median ratio of true to estimated length.

    A point is within δ ∈ {1, 2, 4, 8, 16} pixels if its 3D error is below ``δ Z / √(fx fy)``, with the focal length that the
    camera would have at a short side of 256 pixels. Query frames are left out.

    Args:
        chosen: which tracks to score (all by default).
    """
    if estimate.xyz_world.shape != truth.xyz_world.shape:
        raise UserError(f"tracks differ in shape: {list(estimate.xyz_world.shape)} and {list(truth.xyz_world.shape)}")
    own = transform(camera.camera_from_world.float(), estimate.xyz_world)
    true = transform(true_camera.camera_from_world.float(), truth.xyz_world)
    scored = torch.arange(len(truth.visible))[:, None] != truth.query_frame[None]
    if chosen is not None:
        scored = scored & chosen[None]
    visible, claimed = truth.visible & scored, estimate.visible & scored
    ratio = (true.norm(dim=-1) / own.norm(dim=-1).clamp(min=1e-9))[visible]
    own = own * (ratio.median() if len(ratio) else 1.0)
    focal = true_camera.intrinsics[:, [0, 1], [0, 1]].prod(-1).sqrt() * REFERENCE_SHORT_SIDE / min(true_camera.size)
    distance = (own - true).norm(dim=-1)
    allowed = (true[..., 2] / focal[:, None]).float()
    within, jaccard = [], []
    for threshold in THRESHOLDS:
        close = distance < threshold * allowed
        within.append(_share(close & visible, visible))
        hits = close & visible & claimed
        wrong = claimed & ~(close & visible)
        jaccard.append(_share(hits, visible | wrong))
    agree = _share((estimate.visible == truth.visible) & scored, scored)
    return TrackScores(apd3d=_mean(within), aj3d=_mean(jaccard), occlusion_accuracy=100 * agree)


def _share(part: Bool[Tensor, "T N"], whole: Bool[Tensor, "T N"]) -> float:
    return float(part.sum() / whole.sum().clamp(min=1))


def _mean(values: list[float]) -> float:
    return 100 * sum(values) / len(values)
