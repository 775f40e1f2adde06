"""Camera errors as papers on camera control print them: of poses found in a video against those that were asked for.

All of poses relative to each path's first, ``A_i = P_0^-1 P_i`` (world_from_camera, design section 10), over all frames, the first
included, where errors are 0. A path that was found from pictures has a scale of its own; papers part by how they take it away.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import invert, rotation_angle

TRAVELS = 1e-6
"""Share of a path's own size of numbers below which it does not travel: its translations are rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RedirectErrors:
    """How far a video's camera is from the one that was asked for.

    Translations are None where the path that was asked for does not travel: no scale is to be had from it, and whatever scale is
    chosen would decide the number. ``first_two`` is None, too, where the found path has not moved by its second frame.

    Attributes:
        rotation: RotErr, mean geodesic distance in degrees.
        translation: mean distance after the scale that fits best (least squares), in the asked path's unit; the headline.
        first_two: TransErr of the paper (section 4.2): mean distance after the scale by the second frame; a small error there scales all.
        by_furthest: mean distance, each path in terms of its own furthest frame (CamI2V, arXiv 2410.15957).
        camera_motion: CamMC of the same paper: summed distance of the 3 × 4 matrices, each path in terms of its own furthest frame.
        rotation_sum: CameraCtrl's (arXiv 2404.02101): summed geodesic distance in radians.
        translation_sum: CameraCtrl's: summed squared distance after the scale by the second frame.
    """

    rotation: float
    translation: float | None
    first_two: float | None
    by_furthest: float | None
    camera_motion: float | None
    rotation_sum: float
    translation_sum: float | None


def redirect_errors(found: Float64[Tensor, "N 4 4"], asked: Float64[Tensor, "T 4 4"]) -> RedirectErrors:
    """Errors of world_from_camera poses.

    Raises:
        UserError: paths of different lengths, or of a single frame.
    """
    if len(found) != len(asked) or len(asked) < 2:
        raise UserError(f"paths of {len(found)} and {len(asked)} frames cannot be compared: both need the same, two at least")
    own, wanted = (invert(each[:1]) @ each for each in (found, asked))
    angle = rotation_angle(own[:, :3, :3].mT @ wanted[:, :3, :3])
    rotation = {"rotation": float(angle.mean()), "rotation_sum": float(torch.deg2rad(angle).sum())}
    if not _travels(asked):
        return RedirectErrors(**rotation, translation=None, first_two=None, by_furthest=None, camera_motion=None, translation_sum=None)
    way, true = own[:, :3, 3] * _travels(found), wanted[:, :3, 3]
    scale = ((way * true).sum() / way.square().sum().clamp(min=torch.finfo(way.dtype).tiny)).clamp(min=0)
    first = way[1].norm() > TRAVELS * (1 + way.norm(dim=1).max())
    by_first = (true[1].norm() / way[1].norm() * way - true).norm(dim=1) if first else None
    apart = torch.cat([own[:, :3, :3] - wanted[:, :3, :3], (_by_furthest(way) - _by_furthest(true))[..., None]], dim=-1)
    return RedirectErrors(
        **rotation,
        translation=float((scale * way - true).norm(dim=1).mean()),
        first_two=None if by_first is None else float(by_first.mean()),
        by_furthest=float(apart[..., 3].norm(dim=1).mean()),
        camera_motion=float(apart.flatten(1).norm(dim=1).sum()),
        translation_sum=None if by_first is None else float(by_first.square().sum()),
    )


def _travels(poses: Float64[Tensor, "T 4 4"]) -> bool:
    way = poses[:, :3, 3] - poses[:1, :3, 3]
    return bool(way.norm(dim=1).max() > TRAVELS * (1 + poses[:, :3, 3].abs().max()))


def _by_furthest(way: Float64[Tensor, "T 3"]) -> Float64[Tensor, "T 3"]:
    furthest = way.norm(dim=1).max()
    return way / furthest if furthest > 0 else way
