"""Worlds for training, by seed: as many looks, lights and motions as there are seeds."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.geometry import rigid, rotation_about
from track2view.scenes.build import COLOURS, SHAPE_NAMES, SHAPES, noise_lattice, open_ground, painted, room
from track2view.scenes.rig import FPS
from track2view.scenes.world import Light, Pattern, Solid, Texture, World

MOTIONS = ("sliding", "crossing", "bouncing", "spinning", "circling")
PATTERNS: tuple[Pattern, ...] = ("plain", "plain", "stripes", "checks")
PATTERN_WORDS: dict[Pattern, str] = {"plain": "", "stripes": "striped ", "checks": "chequered "}
WALLS = {"brown": (0.52, 0.47, 0.42), "green": (0.40, 0.50, 0.42), "blue": (0.40, 0.46, 0.56), "pale": (0.64, 0.62, 0.58)}
GROUNDS = {"earth": (0.42, 0.42, 0.32), "grass": (0.30, 0.42, 0.22), "sand": (0.66, 0.58, 0.42), "asphalt": (0.36, 0.36, 0.38)}
SKIES = {"clear": (0.50, 0.64, 0.82), "grey": (0.62, 0.64, 0.68), "evening": (0.72, 0.58, 0.50)}
TINTS = {"warm": (1.0, 0.93, 0.84), "white": (1.0, 1.0, 1.0), "cool": (0.87, 0.94, 1.0)}
FEWEST, MOST = 3, 12
TRIES = 60
GAP = 0.1


def make_varied_world(seed: int, *, frames: int, dynamic: bool) -> World:
    """A room or open ground with 3 to 12 solids, still or moving, in light of any direction and tint, with shadows.

    Solids never run into each other; one for which no free place is found is left out.

    Args:
        frames: how long it is alive, at the dataset's rate.
        dynamic: whether up to half of the solids, and at least one, move.
    """
    random = np.random.default_rng([seed, 5])
    noise = noise_lattice(random)
    around, where = _surroundings(random, noise, frames)
    count = int(random.integers(FEWEST, MOST + 1))
    moving = int(random.integers(1, count // 2 + 1)) if dynamic else 0
    standing: list[Solid] = []
    phrases: list[str] = []
    for index in range(count):
        for _ in range(TRIES):
            motion = str(random.choice(MOTIONS)) if index < moving else "still"
            solid, words = _solid(random, noise, motion, frames)
            if all(_clear(solid, other) for other in standing):
                standing.append(solid)
                phrases.append(words)
                break
    light, tint = light_of(random)
    caption = f"{where} in {tint} light, with {', '.join(phrases)}"
    return World(solids=(*around, *standing), light=light, caption=caption)


def _surroundings(random: np.random.Generator, noise: Tensor, frames: int) -> tuple[list[Solid], str]:
    if random.random() < 0.5:
        walls = str(random.choice(list(WALLS)))
        half = (random.uniform(5.5, 8.0), random.uniform(2.2, 2.8), random.uniform(9.3, 11.0))
        texture = _finished(random, painted(random, noise, WALLS[walls], random.uniform(1.6, 2.8)), 1.0)
        return room(half, texture, frames), f"a room with {walls} walls"
    sky, ground = str(random.choice(list(SKIES))), str(random.choice(list(GROUNDS)))
    textures = painted(random, noise, SKIES[sky], 0.25), painted(random, noise, GROUNDS[ground], random.uniform(1.6, 2.8))
    return open_ground(*textures, frames), f"{ground} under a {sky} sky"


def _solid(random: np.random.Generator, noise: Tensor, motion: str, frames: int) -> tuple[Solid, str]:
    colour, shape = str(random.choice(list(COLOURS))), SHAPES[int(random.integers(len(SHAPES)))]
    depths = (-1.9, 0.6) if motion != "still" and random.random() < 0.7 else (-1.0, 4.5)
    x, z, radius = random.uniform(-3.2, 3.2), random.uniform(*depths), random.uniform(0.28, 0.6)
    half = (radius, random.uniform(0.3, 1.15), radius * random.uniform(0.7, 1.0))
    texture = _finished(random, painted(random, noise, COLOURS[colour], random.uniform(2.5, 6.0)), radius)
    words = f"a {PATTERN_WORDS[texture.pattern]}{colour} {SHAPE_NAMES[shape]}" + ("" if motion == "still" else f" {motion}")
    poses = _poses(random, motion, frames, (x, -half[1], z))
    extent = torch.tensor(half, dtype=torch.float64)
    return Solid(name=f"{colour} {SHAPE_NAMES[shape]}", shape=shape, half_extent=extent, world_from_solid=poses, texture=texture), words


def _clear(one: Solid, other: Solid) -> bool:
    """Whether two solids stay apart at all times, seen from above."""
    reach = sum(float(each.half_extent[[0, 2]].norm()) for each in (one, other)) + GAP
    between = one.world_from_solid[:, [0, 2], 3] - other.world_from_solid[:, [0, 2], 3]
    return bool((between.norm(dim=-1) > reach).all())


def _finished(random: np.random.Generator, texture: Texture, radius: float) -> Texture:
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))]
    return replace(texture, pattern=pattern, repeats_per_metre=float(random.uniform(0.6, 1.4)) / radius)


def light_of(random: np.random.Generator) -> tuple[Light, str]:
    tint = str(random.choice(list(TINTS)))
    azimuth, elevation = math.radians(random.uniform(-180.0, 180.0)), math.radians(random.uniform(35.0, 75.0))
    direction = (math.cos(elevation) * math.sin(azimuth), -math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    light = Light(
        direction=torch.tensor(direction, dtype=torch.float64),
        ambient=float(random.uniform(0.45, 0.7)),
        colour=TINTS[tint],
        casts_shadows=True,
    )
    return light, tint


def _poses(random: np.random.Generator, motion: str, frames: int, start: tuple[float, float, float]) -> Float64[Tensor, "T 4 4"]:
    seconds = torch.arange(frames, dtype=torch.float64) / FPS
    centre = torch.tensor(start, dtype=torch.float64).repeat(frames, 1)
    yaw = torch.full((frames,), float(random.uniform(0.0, 90.0)), dtype=torch.float64)
    towards = -1.0 if start[0] > 0 else 1.0
    speed = float(random.uniform(0.5, 1.0))
    if motion == "sliding":
        centre[:, 0] += towards * 0.8 * speed * seconds
    elif motion == "crossing":
        centre[:, 0] += towards * 0.6 * speed * seconds
        centre[:, 2] += 0.25 * speed * seconds
    elif motion == "bouncing":
        centre[:, 1] -= 0.45 * speed * torch.sin(math.pi * 0.7 * seconds).abs()
    elif motion == "spinning":
        yaw = yaw + float(random.choice([-1.0, 1.0])) * 40.0 * speed * seconds
    elif motion == "circling":
        turn = torch.deg2rad(float(random.choice([-1.0, 1.0])) * 60.0 * speed * seconds)
        centre[:, 0] += 0.7 * torch.sin(turn)
        centre[:, 2] += 0.7 * (1 - torch.cos(turn))
    return rigid(rotation_about("y", yaw), centre)
