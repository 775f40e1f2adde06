"""Ten synchronised cameras that share their first frame, with trajectories like MultiCamVideo's; seeds split by use."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import look_at, rigid, rotation_about
from track2view.records import CameraPath, Size

Split = Literal["train", "validation", "test"]
Trajectory = Literal["arc", "dolly", "pan", "handheld", "wander"]

CAMERAS = 10
FPS = 15.0
SENSOR_MILLIMETRES = 23.76
FOCAL_MILLIMETRES = (18, 24, 35, 50)
TRAJECTORIES: tuple[Trajectory, ...] = ("arc", "dolly", "pan", "handheld", "wander")
FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 1_000_000_000, "test": 2_000_000_000}
SEEDS_PER_SPLIT = 1_000_000_000
DOWN = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
PIVOT = torch.tensor([0.0, -0.7, 0.0], dtype=torch.float64)


def split_seed(split: Split, index: int) -> int:
    """Seed of a split's scene; scenes and trajectories of one split never occur in another, for both are drawn from it.

    Raises:
        UserError: an index outside the split.
    """
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise UserError(f"scene {index}: expected 0 … {SEEDS_PER_SPLIT - 1}")
    return FIRST_SEED[split] + index


def focal_of(seed: int) -> int:
    """The focal length that all cameras of a rig share, in millimetres on MultiCamVideo's sensor."""
    return FOCAL_MILLIMETRES[int(np.random.default_rng([seed, 3]).integers(len(FOCAL_MILLIMETRES)))]


def make_rig(seed: int, *, frames: int, size: Size) -> dict[str, CameraPath]:
    """cam01 … cam10: one pose at frame 0, then each its own way, in metres; two of each kind of trajectory, in random order."""
    random = np.random.default_rng([seed, 4])
    millimetres = focal_of(seed)
    distance = min(max(5.4 * millimetres / FOCAL_MILLIMETRES[1], 4.2), 6.6)
    eye = torch.tensor([random.uniform(-0.8, 0.8), random.uniform(-2.1, -1.3), -distance], dtype=torch.float64)
    start = look_at(eye, PIVOT, DOWN)
    focal = millimetres / SENSOR_MILLIMETRES * max(size)
    intrinsics = torch.tensor([[focal, 0.0, size[1] / 2], [0.0, focal, size[0] / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    kinds = [*TRAJECTORIES, *TRAJECTORIES]
    random.shuffle(kinds)
    return {
        f"cam{number:02d}": CameraPath(
            world_from_camera=start @ _motion(random, kind, frames, float((eye - PIVOT).norm())),
            intrinsics=intrinsics.repeat(frames, 1, 1),
            size=size,
            unit="metre",
            fps=FPS,
        )
        for number, kind in enumerate(kinds, start=1)
    }


def _motion(random: np.random.Generator, kind: Trajectory, frames: int, distance: float) -> Float64[Tensor, "T 4 4"]:
    """start-from-camera of every frame; the identity at frame 0."""
    progress = torch.linspace(0.0, 1.0, frames, dtype=torch.float64)
    progress = progress if random.random() < 0.5 else progress * progress * (3 - 2 * progress)
    sign = float(random.choice([-1.0, 1.0]))
    still = torch.zeros(frames, 3, dtype=torch.float64)
    if kind == "pan":
        axis, most = ("y", 20.0) if random.random() < 0.5 else ("x", 10.0)
        return rigid(rotation_about(axis, sign * random.uniform(0.4, 1.0) * most * progress), still)
    if kind == "dolly":
        direction = torch.from_numpy(np.array([(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.35, 0.0)])[int(random.integers(3))])
        way = sign * random.uniform(0.15, 0.35) * distance * progress[:, None] * direction
        return rigid(torch.eye(3, dtype=torch.float64).expand(frames, 3, 3), way)
    if kind == "arc":
        turn = rotation_about("y", sign * random.uniform(12.0, 30.0) * progress)
        pivot = torch.tensor([0.0, 0.0, distance], dtype=torch.float64)
        return rigid(turn, pivot - (turn @ pivot))
    smoothness, reach = (5.0, 0.05) if kind == "handheld" else (18.0, 0.16)
    way = _wander(random, frames, smoothness) * reach * distance
    angles = _wander(random, frames, smoothness) * (2.5 if kind == "handheld" else 9.0)
    return rigid(rotation_about("y", angles[:, 0]) @ rotation_about("x", angles[:, 1]), way)


def _wander(random: np.random.Generator, frames: int, smoothness: float) -> Float64[Tensor, "T 3"]:
    """A smooth random path from 0 that goes as far as 1."""
    steps = gaussian_filter1d(random.normal(size=(frames + 8 * math.ceil(smoothness), 3)), smoothness, axis=0)[-frames:]
    steps = steps - steps[0]
    return torch.from_numpy(steps / max(float(np.linalg.norm(steps, axis=-1).max()), 1e-9))
