"""Pieces that random worlds are put together from."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from track2view.scenes.world import Pattern, Shape, Solid, Texture

COLOURS = {
    "red": (0.72, 0.22, 0.18),
    "orange": (0.80, 0.48, 0.16),
    "yellow": (0.78, 0.70, 0.25),
    "green": (0.25, 0.55, 0.28),
    "blue": (0.22, 0.36, 0.70),
    "violet": (0.48, 0.28, 0.60),
    "white": (0.78, 0.78, 0.76),
    "grey": (0.45, 0.46, 0.48),
}
SHAPE_NAMES: dict[Shape, str] = {"box": "box", "ellipsoid": "ball", "cylinder": "column"}
SHAPES: tuple[Shape, ...] = ("box", "ellipsoid", "cylinder")
CLOTHS: tuple[Pattern, ...] = ("plain", "stripes", "checks")
LATTICE = 48
GAP = 0.15
Range = tuple[float, float]


def with_article(word: str) -> str:
    """ "an orange" of "orange"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def noise_lattice(random: np.random.Generator) -> Tensor:
    """What all textures of a world are cut from."""
    lattice = torch.from_numpy(random.uniform(-1.0, 1.0, (3, LATTICE, LATTICE, LATTICE)).astype(np.float32))
    return torch.nn.functional.pad(lattice[None], (0, 1, 0, 1, 0, 1), mode="circular")[0]


def painted(random: np.random.Generator, noise: Tensor, colour: tuple[float, ...], cells_per_metre: float) -> Texture:
    """A texture around a colour."""
    deviation = random.uniform(-1.0, 1.0, (3, 3)) * 0.09 + np.ones((3, 1)) * random.uniform(0.15, 0.3, (3, 1))
    palette = np.concatenate([[colour], deviation]).astype(np.float32)
    offset = torch.from_numpy(random.uniform(0.0, LATTICE, 3).astype(np.float32))
    return Texture(noise=noise, palette=torch.from_numpy(palette), cells_per_metre=cells_per_metre, offset=offset)


def cloth_of(random: np.random.Generator, noise: Tensor, colour: tuple[float, ...], repeats_per_metre: Range) -> Texture:
    """A texture around a colour, plain, striped or chequered."""
    texture = painted(random, noise, colour, float(random.uniform(4.0, 8.0)))
    pattern = CLOTHS[int(random.integers(len(CLOTHS)))]
    return replace(texture, pattern=pattern, repeats_per_metre=float(random.uniform(*repeats_per_metre)))


def room(half: tuple[float, float, float], texture: Texture, frames: int) -> list[Solid]:
    """A room with its floor at y = 0; ``half`` its half extents."""
    pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    pose[:, 1, 3] = -half[1]
    extent = torch.tensor(half, dtype=torch.float64)
    return [Solid(name="room", shape="box", half_extent=extent, world_from_solid=pose, texture=texture)]


def open_ground(sky: Texture, ground: Texture, frames: int) -> list[Solid]:
    """A sky, and level ground at y = 0."""
    still = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    below = still.clone()
    below[:, 1, 3] = 0.5
    radius, half = torch.full((3,), 30.0, dtype=torch.float64), torch.tensor([40.0, 0.5, 40.0], dtype=torch.float64)
    return [
        Solid(name="sky", shape="ellipsoid", half_extent=radius, world_from_solid=still, texture=sky),
        Solid(name="ground", shape="box", half_extent=half, world_from_solid=below, texture=ground),
    ]


def free_spot(
    random: np.random.Generator, placed: list[tuple[float, float, float]], x: Range, z: Range, radius: Range
) -> tuple[float, float, float]:
    """(x, z, radius) drawn until it touches nothing that is placed, 200 times at most; it is placed then."""
    for _ in range(200):
        spot = random.uniform(*x), random.uniform(*z), random.uniform(*radius)
        if all(math.hypot(spot[0] - a, spot[1] - b) > spot[2] + r + GAP for a, b, r in placed):
            break
    placed.append(spot)
    return spot
