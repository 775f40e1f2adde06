"""NeoVerse's trajectories (its ``docs/trajectory_format.md``): operations at keyframes, or sparse camera-to-world matrices."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from track2view.cameras.order import MOST_FRAMES
from track2view.cameras.raw import described, listed, number, path_of_guessed_focal, poses
from track2view.errors import UserError, notice
from track2view.files import read_arrays
from track2view.geometry import rigid, rotation_about
from track2view.records import CameraPath, Size

DEFAULTS = {"angle": 30.0, "distance": 0.1, "orbit_radius": 0.5}
"""What NeoVerse's code takes for a parameter that an operation leaves out (not what its documentation says)."""
TURNS = {"pan_left": ("y", -1), "pan_right": ("y", 1), "tilt_up": ("x", 1), "tilt_down": ("x", -1)}
STEPS = {"move_left": (0, -1), "move_right": (0, 1), "push_in": (2, 1), "pull_out": (2, -1), "boom_up": (1, -1), "boom_down": (1, 1)}
ORBITS = {"orbit_left": -1, "orbit_right": 1}


def read_neoverse(document: dict, size: Size | None, file: Path) -> CameraPath:
    """A trajectory, OpenCV axes: rotations between keyframes along great circles, places along straight lines.

    Raises:
        UserError: neither keyframes nor matrices, or malformed ones.
    """
    count = number(document.get("num_frames", 81), "num_frames")
    if not (count == round(count) and 1 <= count <= MOST_FRAMES):
        raise UserError(f"num_frames: expected a whole number from 1 to {MOST_FRAMES}, got {count:g}")
    frames = round(count)
    if "keyframes" in document:
        indices, matrices = _composed(document["keyframes"])
        last = max(frames - 1, 1)
    else:
        indices, matrices = _sparse(document["trajectory"], file)
        last = indices[-1] or frames - 1
    path = _between(indices, matrices, torch.linspace(0, last, frames, dtype=torch.float64), size)
    zoom = torch.linspace(1, number(document.get("zoom_ratio", 1.0), "zoom_ratio"), frames, dtype=torch.float64)
    path.intrinsics[:, [0, 1], [0, 1]] *= zoom[:, None]
    if document.get("mode", "relative") == "relative":
        notice(f"{file}: NeoVerse adds this path to the clip's own motion (mode relative); here it is a camera's whole path")
    return path


def read_neoverse_arrays(indices: np.ndarray, matrices: np.ndarray, size: Size | None) -> CameraPath:
    """The ``.npz`` file that a trajectory refers to, by itself: as many frames as its last index tells.

    Raises:
        UserError: malformed arrays.
    """
    known = _indices(indices.tolist(), "frame_indices")
    return _between(known, poses(matrices, "frame_matrices"), torch.arange(known[-1] + 1, dtype=torch.float64), size)


def _between(indices: Sequence[int], matrices: Float64[Tensor, "K 4 4"], times: Float64[Tensor, "T"], size: Size | None) -> CameraPath:
    keys = path_of_guessed_focal(matrices, size)
    if len(keys) != len(indices):
        raise UserError(f"frame_indices and frame_matrices differ in length: {len(indices)} and {len(keys)}")
    if len(keys) == 1:
        return path_of_guessed_focal(matrices.expand(len(times), 4, 4).clone(), size)
    moments = times.clamp(max=indices[-1]).numpy()
    rotation = Slerp(indices, Rotation.from_matrix(matrices[:, :3, :3].numpy()))(moments).as_matrix()
    centre = np.stack([np.interp(moments, indices, matrices[:, axis, 3].numpy()) for axis in range(3)], axis=-1)
    return path_of_guessed_focal(rigid(torch.from_numpy(rotation), torch.from_numpy(centre)), size)


def _composed(keyframes: object) -> tuple[list[int], Float64[Tensor, "K 4 4"]]:
    """Each keyframe's operations, laid onto the pose of the one before."""
    if not isinstance(keyframes, list) or not all(isinstance(each, dict) and len(each) == 1 for each in keyframes):
        raise UserError(f'keyframes: expected a list of {{"FRAME": [operations]}}, got {described(keyframes)}')
    pose, matrices, indices = torch.eye(4, dtype=torch.float64), [], []
    for key, operations in (item for each in keyframes for item in each.items()):
        if not isinstance(operations, list) or not all(isinstance(each, dict) and len(each) == 1 for each in operations):
            raise UserError(f'keyframes: {key[:20]}: expected a list of {{"OPERATION": parameters}}, got {described(operations)}')
        for name, parameters in (item for each in operations for item in each.items()):
            pose = pose @ _operation(name, parameters)
        indices.append(int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else None)
        matrices.append(pose)
    return _indices(indices, "keyframes"), torch.stack(matrices)


def _sparse(trajectory: object, file: Path) -> tuple[list[int], Float64[Tensor, "K 4 4"]]:
    """Matrices in the file, or in another one beside it."""
    if not isinstance(trajectory, dict):
        raise UserError(f"trajectory: expected an object, got {described(trajectory)}")
    if "file" in trajectory:
        named = Path(str(trajectory["file"])).name
        trajectory = read_arrays(file.parent / named, {"frame_indices", "frame_matrices"})
        trajectory = {name: values.tolist() for name, values in trajectory.items()}
    if missing := {"frame_indices", "frame_matrices"} - trajectory.keys():
        raise UserError(f"trajectory: lacks {listed(sorted(missing))}; it has {listed(trajectory)}")
    return _indices(trajectory["frame_indices"], "frame_indices"), poses(trajectory["frame_matrices"], "frame_matrices")


def _indices(values: object, what: str) -> list[int]:
    indices = values if isinstance(values, list) else [values]
    if not indices or not all(isinstance(each, int) and 0 <= each < MOST_FRAMES for each in indices):
        raise UserError(f"{what}: expected frames from 0 to {MOST_FRAMES - 1}, got {described(values)}")
    if indices[0] != 0 or any(later <= earlier for earlier, later in pairwise(indices)):
        raise UserError(f"{what}: expected frames that start at 0 and increase, got {listed(indices)}")
    return indices


def _operation(name: str, parameters: object) -> Float64[Tensor, "4 4"]:
    if not isinstance(parameters, dict):
        raise UserError(f"{name[:40]}: expected an object of parameters, got {described(parameters)}")
    angle, distance, radius = (number(parameters.get(key, default), key) for key, default in DEFAULTS.items())
    place = torch.zeros(3, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    if name in TURNS:
        axis, sign = TURNS[name]
        turn = rotation_about(axis, torch.tensor(sign * angle, dtype=torch.float64))
    elif name in STEPS:
        axis, sign = STEPS[name]
        place[axis] = sign * distance
    elif name in ORBITS:
        theta = ORBITS[name] * angle
        turn = rotation_about("y", torch.tensor(-theta, dtype=torch.float64))
        place[0] = radius * math.sin(math.radians(theta))
        place[2] = radius * (1 - math.cos(math.radians(theta)))
    elif name != "static":
        raise UserError(f"unknown operation {name[:40]!r}; known: static, {listed([*TURNS, *STEPS, *ORBITS], 20)}")
    return rigid(turn, place)
