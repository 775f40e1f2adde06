"""The plain worlds and camera paths of tests and benchmarks, by seed; training's own are in ``vary.py``."""

import math

import numpy as np
import torch
from jaxtyping import Float64
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import look_at, rigid, rotation_about
from track2view.records import CameraPath, Size
from track2view.scenes.build import COLOURS, SHAPE_NAMES, SHAPES, free_spot, noise_lattice, open_ground, painted, room
from track2view.scenes.world import Light, Solid, World

CAMERA_KINDS = ("arc", "dolly", "handheld", "pan", "tripod")
DOWN = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


def make_world(seed: int, *, frames: int, dynamic: bool, solids: int = 7) -> World:
    """A world by seed, in light without shadows: even seeds are rooms, odd ones are open ground under a sky.

    What a seed gives stays as it is, so that measurements stay comparable.

    Args:
        frames: how long it is alive.
        dynamic: whether a third of the solids (at least two) slide, bounce or spin.
        solids: how many stand on the ground.
    """
    random = np.random.default_rng([seed, 1])
    noise = noise_lattice(random)
    indoor = seed % 2 == 0
    if indoor:
        half = (random.uniform(5.0, 7.0), 2.2, random.uniform(7.0, 9.0))
        around = room(half, painted(random, noise, (0.52, 0.47, 0.42), 2.2), frames)
    else:
        sky = painted(random, noise, (0.55, 0.66, 0.80), 0.25)
        around = open_ground(sky, painted(random, noise, (0.42, 0.42, 0.32), 2.2), frames)
    moving = max(2, solids // 3) if dynamic else 0
    placed: list[tuple[float, float, float]] = []
    standing: list[Solid] = []
    phrases: list[str] = []
    for index in range(solids):
        colour = str(random.choice(list(COLOURS)))
        shape = SHAPES[int(random.integers(3))]
        depths = (-2.0, -0.6) if index < moving else (-0.8, 4.0)  # what moves passes before the rest
        x, z, radius = free_spot(random, placed, (-2.8, 2.8), depths, (0.35, 0.6))
        half = np.array([radius, random.uniform(0.45, 1.1), radius * random.uniform(0.7, 1.0)])
        motion = ("sliding", "bouncing", "crossing")[index % 3] if index < moving else "still"
        poses = _poses(random, motion, frames, x, z, float(half[1]))
        texture = painted(random, noise, COLOURS[colour], float(random.uniform(3.0, 5.0)))
        standing.append(
            Solid(
                name=f"{colour} {SHAPE_NAMES[shape]}",
                shape=shape,
                half_extent=torch.from_numpy(half),
                world_from_solid=poses,
                texture=texture,
            )
        )
        phrases.append(f"a {colour} {SHAPE_NAMES[shape]}" + ("" if motion == "still" else f" {motion}"))
    light = torch.nn.functional.normalize(torch.tensor([random.uniform(-0.7, 0.7), -1.0, random.uniform(-0.9, -0.3)]), dim=0)
    caption = f"{'a room' if indoor else 'open ground under the sky'} with {', '.join(phrases)}"
    return World(solids=(*around, *standing), light=Light(direction=light.double()), caption=caption)


def make_camera(kind: str, seed: int, *, frames: int, size: Size, fps: float = 30.0) -> CameraPath:
    """A camera path of one of :data:`CAMERA_KINDS` towards the middle of the world, 48° to 64° wide, in metres.

    Raises:
        UserError: unknown kind.
    """
    if kind not in CAMERA_KINDS:
        raise UserError(f"unknown camera kind {kind!r}; one of {', '.join(CAMERA_KINDS)}")
    random = np.random.default_rng([seed, 2])
    progress = torch.linspace(0.0, 1.0, frames, dtype=torch.float64)
    eased = progress * progress * (3 - 2 * progress)
    sign = float(random.choice([-1.0, 1.0]))
    eye = torch.tensor([random.uniform(-0.5, 0.5), -1.7, -5.4], dtype=torch.float64).expand(frames, 3)
    aim = torch.tensor([0.0, -0.7, 0.0], dtype=torch.float64).expand(frames, 3)
    if kind == "arc":
        turn = rotation_about("y", sign * 28.0 * eased)
        eye = (turn @ eye[..., None])[..., 0]
    elif kind == "dolly":
        eye = eye + eased[:, None] * torch.tensor([0.4 * sign, 0.1, 1.9], dtype=torch.float64)
    elif kind == "handheld":
        eye = eye + _wander(random, frames, 0.45)
        aim = aim + _wander(random, frames, 0.25)
    poses = look_at(eye, aim, DOWN)
    if kind == "pan":
        poses = poses @ rigid(rotation_about("y", sign * 22.0 * (eased - 0.5)), torch.zeros(frames, 3, dtype=torch.float64))
    focal = 0.5 * size[1] / math.tan(math.radians(random.uniform(48.0, 64.0)) / 2)
    intrinsics = torch.tensor([[focal, 0.0, size[1] / 2], [0.0, focal, size[0] / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return CameraPath(world_from_camera=poses, intrinsics=intrinsics.repeat(frames, 1, 1), size=size, unit="metre", fps=fps)


def _poses(random: np.random.Generator, motion: str, frames: int, x: float, z: float, half_height: float) -> Float64[Tensor, "T 4 4"]:
    seconds = torch.arange(frames, dtype=torch.float64) / 30.0
    centre = torch.tensor([x, -half_height, z], dtype=torch.float64).repeat(frames, 1)
    yaw = torch.full((frames,), float(random.uniform(0.0, 90.0)), dtype=torch.float64)
    towards = -1.0 if x > 0 else 1.0
    if motion == "sliding":
        centre[:, 0] += towards * 0.75 * seconds
    elif motion == "bouncing":
        centre[:, 1] -= 0.35 * torch.sin(math.pi * 1.1 * seconds).abs()
        yaw = yaw + 50.0 * seconds
    elif motion == "crossing":
        centre[:, 0] += towards * 0.5 * seconds
        centre[:, 2] -= 0.2 * seconds
    return rigid(rotation_about("y", yaw), centre)


def _wander(random: np.random.Generator, frames: int, amplitude: float) -> Float64[Tensor, "T 3"]:
    steps = gaussian_filter1d(random.normal(size=(frames, 3)), 9.0, axis=0, mode="nearest")
    steps = (steps - steps[0]) / (np.abs(steps - steps[0]).max() + 1e-9)
    return torch.from_numpy(steps * amplitude)
