"""What stands about where people film: cloth that waves, trees, fences and poles, water that drifts, mirrors. All of it solids.

Cloth is a chain of narrow strips, each turned a little further than the one it hangs on, cut from one texture.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.geometry import rigid, rotation_about
from track2view.scenes.build import COLOURS, cloth_of, painted, with_article
from track2view.scenes.world import Shape, Solid, Texture

STRIPS = 20
WOOD, STEEL, WATER = (0.42, 0.31, 0.22), (0.55, 0.56, 0.58), (0.24, 0.36, 0.40)
LEAVES = ((0.25, 0.42, 0.18), (0.42, 0.46, 0.16), (0.62, 0.36, 0.14))
Spot = tuple[float, float]


def flag(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int, fps: float) -> tuple[list[Solid], str]:
    """A cloth on a pole at (x, z), in a wind that turns it slowly: waves run along it and grow towards its free end."""
    colour, height, length, tall = str(random.choice(list(COLOURS))), float(random.uniform(2.2, 3.0)), 1.5, 0.9
    cloth = cloth_of(random, noise, COLOURS[colour], (2.0, 5.0))
    pole = painted(random, noise, STEEL, 4.0)
    seconds = torch.arange(frames, dtype=torch.float64) / fps
    towards = float(random.uniform(-25.0, 25.0)) + (0.0 if spot[0] < 0 else 180.0)
    phase, wind = float(random.uniform(0.0, 2 * math.pi)), towards + 12.0 * torch.sin(2 * math.pi * 0.2 * seconds)
    hinge = torch.tensor([spot[0], -height + 0.5 * tall, spot[1]], dtype=torch.float64).repeat(frames, 1)
    solids = [_still("pole", "cylinder", (0.03, 0.5 * height, 0.03), (spot[0], -0.5 * height, spot[1]), pole, frames)]
    for strip in range(STRIPS):
        share = (strip + 0.5) / STRIPS
        wave = torch.sin(2 * math.pi * (1.1 * seconds - 1.3 * share) + phase)
        solids.append(_strip("flag", strip, length / STRIPS, tall, hinge, wind + (8.0 + 40.0 * share) * wave, cloth))
        hinge = _end(solids[-1])
    return solids, f"{with_article(colour)} flag waving"


def curtain(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int, fps: float) -> tuple[list[Solid], str]:
    """Cloth that hangs from a rail before (x, z) and billows."""
    colour, tall, length = str(random.choice(list(COLOURS))), 2.1, 1.8
    cloth = cloth_of(random, noise, COLOURS[colour], (2.0, 5.0))
    seconds, phase = torch.arange(frames, dtype=torch.float64) / fps, float(random.uniform(0.0, 2 * math.pi))
    hinge = torch.tensor([spot[0] - 0.5 * length, -0.5 * tall, spot[1]], dtype=torch.float64).repeat(frames, 1)
    solids: list[Solid] = []
    for strip in range(STRIPS):
        share = strip / STRIPS
        folds = 38.0 * math.sin(2 * math.pi * 3 * share + phase) + 12.0 * torch.sin(2 * math.pi * (0.5 * seconds - share) + phase)
        solids.append(_strip("curtain", strip, length / STRIPS, tall, hinge, folds, cloth))
        hinge = _end(solids[-1])
    return solids, f"{with_article(colour)} curtain billowing"


def tree(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int, fps: float) -> tuple[list[Solid], str]:
    """A young tree: a trunk, bare branches, and single leaves that turn in the wind."""
    bark = painted(random, noise, WOOD, 8.0)
    leaf = painted(random, noise, LEAVES[int(random.integers(len(LEAVES)))], 10.0)
    height = float(random.uniform(1.8, 2.5))
    solids = [_still("trunk", "cylinder", (0.05, 0.5 * height, 0.05), (spot[0], -0.5 * height, spot[1]), bark, frames)]
    seconds = torch.arange(frames, dtype=torch.float64) / fps
    for branch in range(7):
        yaw, raised = 360.0 * branch / 7 + float(random.uniform(-20.0, 20.0)), float(random.uniform(20.0, 55.0))
        long, root = float(random.uniform(0.5, 0.9)), -height * float(random.uniform(0.6, 1.0))
        phase = float(random.uniform(0.0, 2 * math.pi))
        swaying = raised + 2.0 * torch.sin(2 * math.pi * 0.4 * seconds + phase)
        turned = rotation_about("y", torch.full((frames,), yaw, dtype=torch.float64)) @ rotation_about("x", 90.0 - swaying)
        base = torch.tensor([spot[0], root, spot[1]], dtype=torch.float64)
        along = (turned @ torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)).contiguous()
        radii = torch.tensor([0.015, 0.5 * long, 0.015], dtype=torch.float64)
        solids.append(
            Solid(
                name="branch", shape="cylinder", half_extent=radii, world_from_solid=rigid(turned, base + 0.5 * long * along), texture=bark
            )
        )
        for _ in range(6):
            reach, flutter = long * float(random.uniform(0.45, 1.05)), float(random.uniform(0.0, 360.0))
            spin = flutter + 25.0 * torch.sin(2 * math.pi * 1.3 * seconds + flutter)
            beside = torch.from_numpy(random.uniform(-0.1, 0.1, 3))
            pose = rigid(turned @ rotation_about("y", spin) @ rotation_about("x", 0.5 * spin), base + reach * along + beside)
            half = torch.tensor([0.045, 0.008, 0.075], dtype=torch.float64)
            solids.append(Solid(name="leaf", shape="ellipsoid", half_extent=half, world_from_solid=pose, texture=leaf))
    return solids, "a young tree in the wind"


def fence(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int) -> tuple[list[Solid], str]:
    """Two rails and thin bars in front of what is behind them, 3 m across, its middle at (x, z)."""
    wood, tall, gap = painted(random, noise, WOOD, 5.0), float(random.uniform(0.8, 1.1)), float(random.uniform(0.16, 0.3))
    places = np.arange(-1.5, 1.5 + 1e-9, gap)
    bars = [_still("bar", "box", (0.02, 0.5 * tall, 0.012), (spot[0] + x, -0.5 * tall, spot[1]), wood, frames) for x in places]
    rails = [_still("rail", "box", (1.55, 0.025, 0.015), (spot[0], -y * tall, spot[1] + 0.02), wood, frames) for y in (0.25, 0.85)]
    return [*bars, *rails], "a wooden fence"


def pond(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int, fps: float) -> tuple[list[Solid], str]:
    """Water between two banks: a mirror whose pattern drifts past them, so that the picture moves and no shape does."""
    seconds = torch.arange(frames, dtype=torch.float64) / fps
    speed = float(random.choice([-1.0, 1.0])) * float(random.uniform(0.25, 0.5))
    water = painted(random, noise, WATER, 3.0)
    centre = torch.tensor([spot[0], 0.0, spot[1]], dtype=torch.float64).repeat(frames, 1)
    centre[:, 0] += speed * seconds
    still = torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)
    half = torch.tensor([30.0, 0.02, 1.6], dtype=torch.float64)
    surface = Solid(name="water", shape="box", half_extent=half, world_from_solid=rigid(still, centre), texture=water, reflects=0.45)
    earth = painted(random, noise, (0.36, 0.33, 0.25), 3.0)
    banks = [_still("bank", "box", (30.0, 0.09, 0.2), (0.0, 0.0, spot[1] + side * 1.75), earth, frames) for side in (-1.0, 1.0)]
    return [surface, *banks], "water drifting by"


def mirror(random: np.random.Generator, noise: Tensor, spot: Spot, frames: int) -> tuple[list[Solid], str]:
    """A standing mirror in a frame, turned a little; it shows the room behind whoever films."""
    wood, glass = painted(random, noise, WOOD, 5.0), replace(painted(random, noise, STEEL, 1.0), palette=torch.full((4, 3), 0.1))
    wide, tall = float(random.uniform(0.45, 0.7)), 0.85
    yaw = torch.full((frames,), float(random.uniform(-15.0, 15.0)), dtype=torch.float64)
    upright = rotation_about("y", yaw) @ rotation_about("x", torch.full((frames,), 90.0, dtype=torch.float64))
    centre = torch.tensor([spot[0], -tall - 0.1, spot[1]], dtype=torch.float64).expand(frames, 3)
    behind = centre + 0.03 * (upright @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))

    def board(name: str, grown: float, middle: Float64[Tensor, "T 3"], texture: Texture, reflects: float) -> Solid:
        half = torch.tensor([wide + grown, 0.02, tall + grown], dtype=torch.float64)
        return Solid(name=name, shape="box", half_extent=half, world_from_solid=rigid(upright, middle), texture=texture, reflects=reflects)

    return [board("mirror's frame", 0.06, behind, wood, 0.0), board("mirror", 0.0, centre, glass, 0.9)], "a tall mirror"


def _still(
    name: str, shape: Shape, half: tuple[float, float, float], centre: tuple[float, float, float], texture: Texture, frames: int
) -> Solid:
    pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    pose[:, :3, 3] = torch.tensor(centre, dtype=torch.float64)
    return Solid(name=name, shape=shape, half_extent=torch.tensor(half, dtype=torch.float64), world_from_solid=pose, texture=texture)


def _strip(
    name: str, number: int, wide: float, tall: float, hinge: Float64[Tensor, "T 3"], yaw: Float64[Tensor, "T"], cloth: Texture
) -> Solid:
    """One strip of a chain; its x axis leads from its hinge to the next one's."""
    turned = rotation_about("y", yaw)
    half = torch.tensor([0.5 * wide, 0.5 * tall, 0.004], dtype=torch.float64)
    return Solid(
        name=name,
        shape="box",
        half_extent=half,
        world_from_solid=rigid(turned, hinge + turned[..., 0] * 0.5 * wide),
        texture=replace(cloth, origin=((number + 0.5) * wide, 0.0, 0.0)),
    )


def _end(strip: Solid) -> Float64[Tensor, "T 3"]:
    pose = strip.world_from_solid
    return pose[:, :3, 3] + pose[:, :3, 0] * strip.half_extent[0]
