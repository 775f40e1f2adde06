"""Camera files of plain text or bare lists: RealEstate10K, TrajectoryCrafter, Diffusion-as-Shader, MotionCtrl."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.cameras.order import timed
from track2view.cameras.raw import DEFAULT_SIZE, KNOWN, listed, matrices_of, orthonormal, path_of_guessed_focal, poses, tensor
from track2view.errors import UserError
from track2view.geometry import invert, rigid, rotation_about
from track2view.records import CameraPath, Size

DAS_FRAMES = 49
CRAFTER_FRAMES = 49
"""The length of TrajectoryCrafter's videos: its numbers are points that the camera passes, not frames."""
MOST_MOTIONS = 1000


def read_text_format(text: str, size: Size | None, file: Path) -> CameraPath:
    """A path from a text file, told apart by its lines.

    Raises:
        UserError: no format of these, or a line that does not fit.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if re.search(r"\b(trans|rot|spiral)\b", text):
        return _das(text, size)
    rows = [line for line in lines if len(line) == 19]
    if rows and len(rows) >= len(lines) - 1 and not (len(lines) == 3 and _all_points(lines)):
        return _realestate([_floats(row, "a row") for row in rows], size, file)
    if len(lines) == 3:
        return _trajectory_crafter([_floats(line, f"line {index}") for index, line in enumerate(lines, start=1)], size)
    found = listed(sorted({len(line) for line in lines}))
    raise UserError(f"unknown text format: {len(lines)} lines of {found} words; known: {KNOWN}")


def read_motionctrl(values: list, size: Size | None) -> CameraPath:
    """A JSON list of twelve numbers a frame: world-to-camera 3×4, row by row, without a focal length.

    Raises:
        UserError: other numbers.
    """
    matrices = tensor(values, (None, 12), "a list of frames").unflatten(1, (3, 4))
    return path_of_guessed_focal(invert(poses(matrices, "a list of frames")), size)


def _floats(words: list[str], what: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def _all_points(lines: list[list[str]]) -> bool:
    """Whether three rows of nineteen are TrajectoryCrafter's: no RealEstate10K row is without a rotation."""
    rotation = tensor([_floats(line, "a row") for line in lines if len(line) == 19], (None, 19), "a row")[:, 7:].reshape(-1, 3, 4)[..., :3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    return not bool((off < 1e-2).any())


def _realestate(rows: list[list[float]], size: Size | None, file: Path) -> CameraPath:
    """timestamp in microseconds, fx fy cx cy in image units, 0 0, world-to-camera 3×4."""
    values = tensor(rows, (None, 19), "rows")
    height, width = size = size or DEFAULT_SIZE
    pixels = values[:, 1:5] * torch.tensor([width, height, width, height], dtype=torch.float64)
    pixels[:, 2:] = torch.where(pixels[:, 2:] == 0, torch.tensor([width / 2, height / 2], dtype=torch.float64), pixels[:, 2:])
    camera_from_world = values[:, 7:].reshape(-1, 3, 4)
    world_from_camera = invert(rigid(orthonormal(camera_from_world[..., :3]), camera_from_world[..., 3]))
    path = CameraPath(world_from_camera=world_from_camera, intrinsics=matrices_of(pixels), size=size)
    return timed(path, values[:, 0].tolist(), file)


def _trajectory_crafter(lines: list[list[float]], size: Size | None) -> CameraPath:
    """theta (degrees, positive up), phi (degrees, positive right), travel in shares of the centre depth, negative outwards.

    Each line holds points of its own, as many as it likes, that the path passes at even times; one alone is held.
    """
    frames = max(CRAFTER_FRAMES, *map(len, lines))
    even = np.linspace(0, 1, frames)
    theta, phi, travel = (_passing(even, line) for line in lines)
    turn = rotation_about("y", -phi) @ rotation_about("x", -theta)
    pivot = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    distance = (1 - travel)[:, None]
    return path_of_guessed_focal(rigid(turn, pivot - (turn @ pivot) * distance), size)


def _passing(times: np.ndarray, points: list[float]) -> Float64[Tensor, "T"]:
    return torch.from_numpy(np.interp(times, np.linspace(0, 1, len(points)), points))


def _das(text: str, size: Size | None) -> CameraPath:
    """Diffusion-as-Shader: ``trans dx dy dz [f0 f1]``, ``rot x|y|z degrees [f0 f1]``, ``spiral r``, joined by ``;``."""
    world_from_camera = torch.eye(4, dtype=torch.float64).repeat(DAS_FRAMES, 1, 1)
    parts = [piece.split() for piece in re.split(r"[;\n]", text) if piece.strip()]
    if len(parts) > MOST_MOTIONS:
        raise UserError(f"{len(parts)} motions; {MOST_MOTIONS} at most are read")
    for part in parts:
        world_from_camera = world_from_camera @ _das_step(part)
    return path_of_guessed_focal(world_from_camera, size)


def _das_step(part: list[str]) -> Float64[Tensor, "T 4 4"]:
    kind, values = part[0], part[1:]
    taken = {"trans": 3, "rot": 2, "spiral": 1}.get(kind)
    if taken is None or len(values) not in (taken, taken + 2) or (kind == "rot" and values[0] not in ("x", "y", "z")):
        shown = " ".join(part)[:60]
        raise UserError(f"{shown!r} cannot be read; expected trans dx dy dz [f0 f1], rot x|y|z degrees [f0 f1] or spiral r")
    numbers = _floats(values[1:] if kind == "rot" else values, kind)
    first, last = numbers[-2:] if len(values) > taken else (0.0, DAS_FRAMES - 1.0)
    progress = ((torch.arange(DAS_FRAMES, dtype=torch.float64) - first) / max(last - first, 1.0)).clamp(0, 1)
    turn, place = torch.eye(3, dtype=torch.float64).repeat(DAS_FRAMES, 1, 1), torch.zeros(DAS_FRAMES, 3, dtype=torch.float64)
    if kind == "trans":
        place = progress[:, None] * tensor(numbers[:3], (3,), kind)
    elif kind == "rot":
        turn = rotation_about(values[0], progress * numbers[0])
    else:
        angle, radius = 2 * math.pi * progress, numbers[0]
        place = torch.stack([radius * torch.sin(angle), radius * (torch.cos(angle) - 1), torch.zeros_like(angle)], dim=-1)
    return rigid(turn, place)
