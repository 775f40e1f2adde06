"""Nuke's ``.chan``: a line a frame of its number, place, angles in degrees and vertical field of view; Blender and Houdini have it too.

Cameras look along -z with y up. Angles turn about z, then x, then y (Nuke's order ZXY, its cameras' default); the world is ours with
y and z turned round, so that a camera at rest is at rest there.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from track2view.cameras.order import filled
from track2view.cameras.raw import DEFAULT_SIZE, OPENCV_FROM_OPENGL, lens_in_the_middle, matrices_of, path_of_guessed_focal, tensor
from track2view.errors import UserError, notice
from track2view.files import atomic_path, read_text
from track2view.geometry import rigid
from track2view.records import CameraPath, Size

ORDER = "zxy"
WITHOUT_LENS, WITH_LENS = 7, 8


def read_chan(file: Path, size: Size | None) -> CameraPath:
    """A path; without fields of view, its focal length is said to be unknown.

    Raises:
        UserError: a line of other words, frames that do not follow each other, or no field of view.
    """
    lines = [line.split() for line in read_text(file).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or len({*map(len, lines)}) > 1 or len(lines[0]) not in (WITHOUT_LENS, WITH_LENS):
        found = ", ".join(map(str, sorted({*map(len, lines)}))) or "none"
        raise UserError(f"a .chan line has a frame, three places, three angles and, at most, a field of view; words here: {found}")
    try:
        rows = np.array(lines, np.float64)
    except ValueError as error:
        raise UserError(f"lines: {error}") from None
    rows = tensor(rows, (None, len(lines[0])), "lines")
    numbers = rows[:, 0].round()
    if not torch.equal(numbers, rows[:, 0]) or not bool((numbers.diff() > 0).all()) or not bool((numbers.abs() < 2**31).all()):
        raise UserError("frames: expected whole numbers that increase in the first column")
    if not bool(torch.isfinite(rows).all()):
        raise UserError("has numbers that are not finite")
    turned = torch.from_numpy(Rotation.from_euler(ORDER, rows[:, [6, 4, 5]].numpy(), degrees=True).as_matrix())
    poses = OPENCV_FROM_OPENGL @ rigid(turned, rows[:, 1:4]) @ OPENCV_FROM_OPENGL
    if rows.shape[1] == WITHOUT_LENS:
        return filled(path_of_guessed_focal(poses, size), numbers.int().tolist(), file)
    if not bool(((rows[:, 7] > 0) & (rows[:, 7] < 180)).all()):
        raise UserError("fields of view: expected degrees between 0 and 180 in the last column")
    height, width = size = size or DEFAULT_SIZE
    focal = height / 2 / torch.deg2rad(rows[:, 7] / 2).tan()
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64).expand(len(rows), 2)
    intrinsics = matrices_of(torch.cat([focal[:, None].expand(-1, 2), middle], dim=1))
    return filled(CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=size), numbers.int().tolist(), file)


def write_chan(camera: CameraPath, path: Path) -> None:
    """Frames are numbered from 1. What the format does not hold, a lens beside the middle, is left out and said to be."""
    if problem := lens_in_the_middle(camera):
        notice(f"{path}: {problem}, which a .chan does not hold: left out")
    poses = OPENCV_FROM_OPENGL @ camera.world_from_camera @ OPENCV_FROM_OPENGL
    about_z, about_x, about_y = Rotation.from_matrix(poses[:, :3, :3].numpy()).as_euler(ORDER).T
    angles = np.rad2deg(np.unwrap(np.stack([about_x, about_y, about_z], axis=-1), axis=0))
    view = np.rad2deg(2 * np.arctan(camera.size[0] / 2 / camera.intrinsics[:, 1, 1].numpy()))
    columns = np.concatenate([poses[:, :3, 3].numpy(), angles, view[:, None]], axis=1)
    with atomic_path(path) as partial:
        partial.write_text("".join(f"{index} {' '.join(map(repr, row.tolist()))}\n" for index, row in enumerate(columns, start=1)))
