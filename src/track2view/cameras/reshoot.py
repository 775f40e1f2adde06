"""Reshoot-Anything's ``cam_info.json``: one source camera and a path, as its renderer reads them."""

from pathlib import Path

import torch

from track2view.cameras.raw import image_size, poses, tensor
from track2view.errors import UserError, notice
from track2view.geometry import invert
from track2view.records import CameraPath

ELSEWHERE = 1e-6


def read_cam_info(document: dict, file: Path) -> CameraPath:
    """The path, in the axes of its source camera; the middles of pixels are whole numbers in the file.

    Raises:
        UserError: matrices of other shapes, or no path beside the source camera.
    """
    if missing := [name for name in ("height", "width") if name not in document]:
        raise UserError(f"lacks {', '.join(missing)}")
    source, *path = invert(poses(document["extrinsic"], "extrinsic")).unbind()
    if not path:
        raise UserError("extrinsic: holds the source camera alone; the path's cameras follow it")
    world_from_camera = invert(source) @ torch.stack(path)
    if float((world_from_camera[0] - torch.eye(4)).abs().max()) > ELSEWHERE:
        notice(f"{file}: its path begins elsewhere than its source camera; --relative-to world keeps it there")
    intrinsics = tensor(document["intrinsic"], (3, 3), "intrinsic").clone()
    intrinsics[:2, 2] += 0.5
    return CameraPath(
        world_from_camera=world_from_camera,
        intrinsics=intrinsics.repeat(len(path), 1, 1),
        size=image_size(document["height"], document["width"]),
    )
