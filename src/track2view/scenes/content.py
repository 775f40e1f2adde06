"""What training's worlds hold, by name: one door to all of them."""

from dataclasses import replace
from typing import Literal

import numpy as np

from track2view.scenes.lifelike import KINDS, make_lifelike_world
from track2view.scenes.rig import FPS
from track2view.scenes.vary import make_varied_world
from track2view.scenes.world import World

Content = Literal["solids", "lifelike"]
"""Boxes, balls and columns in any light (``vary.py``); or what people film, a kind of it drawn by the seed (``lifelike.py``)."""


def make_training_world(content: Content, seed: int, *, frames: int, dynamic: bool) -> World:
    """The world of a seed, as the rig of that seed films it.

    Args:
        frames: how long it is alive, at the dataset's rate.
        dynamic: whether things move; what people film stands still else, as it was at first.
    """
    if content == "solids":
        return make_varied_world(seed, frames=frames, dynamic=dynamic)
    kinds = list(KINDS)
    kind = kinds[int(np.random.default_rng([seed, 8]).integers(len(kinds)))]
    world = make_lifelike_world(kind, seed, frames=frames, fps=FPS)
    if dynamic:
        return world
    return replace(
        world, solids=tuple(replace(each, world_from_solid=each.world_from_solid[:1].repeat(frames, 1, 1)) for each in world.solids)
    )
