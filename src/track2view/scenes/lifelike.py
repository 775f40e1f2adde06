"""Worlds like what people film, each by its kind and a seed: people, animals, cloth, leaves, water, mirrors, bare walls.

The subject is within a metre of the world's middle; who films stands some metres before it, at negative z.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from track2view.errors import UserError
from track2view.scenes.build import noise_lattice, open_ground, painted, room, with_article
from track2view.scenes.figures import Doing, Place, animal, person
from track2view.scenes.props import Spot, curtain, fence, flag, mirror, pond, tree
from track2view.scenes.vary import GROUNDS, SKIES, WALLS, light_of
from track2view.scenes.world import Solid, Texture, World

Said = tuple[list[Solid], str]
ROOM = (5.5, 2.4, 9.6)
"""Half extents in metres: every camera of a rig of training (``rig.py``) stays inside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the parts of a world are drawn from.

    Attributes:
        random: drawn from in a fixed order, never more of it for more frames.
        noise: what textures are cut from.
    """

    random: np.random.Generator
    noise: Tensor
    frames: int
    fps: float

    def someone(self, doing: Doing, start: tuple[float, float], heading: float, speed: float = 0.0, turning: float = 0.0) -> Said:
        """A person; headings are in degrees, 0 away from the camera, 90 to its right."""
        place = Place.along(start, heading, speed=speed, turning=turning, frames=self.frames, fps=self.fps)
        return person(self.random, self.noise, doing, place, self.fps)

    def dog(self, start: tuple[float, float], heading: float, speed: float) -> Said:
        """An animal that trots."""
        return animal(
            self.random, self.noise, Place.along(start, heading, speed=speed, turning=0.0, frames=self.frames, fps=self.fps), self.fps
        )

    def waving(self, what: Callable[..., Said], spot: Spot) -> Said:
        """A prop at (x, z) that moves in the wind."""
        return what(self.random, self.noise, spot, self.frames, self.fps)

    def standing(self, what: Callable[..., Said], spot: Spot) -> Said:
        """A prop at (x, z) that stands still."""
        return what(self.random, self.noise, spot, self.frames)

    def side(self) -> float:
        """Left, -1, or right, 1."""
        return float(self.random.choice([-1.0, 1.0]))

    def outside(self) -> Said:
        """Ground under a sky."""
        sky, ground = str(self.random.choice(list(SKIES))), str(self.random.choice(list(GROUNDS)))
        textures = painted(self.random, self.noise, SKIES[sky], 0.25), painted(self.random, self.noise, GROUNDS[ground], 2.2)
        return open_ground(*textures, self.frames), f"{ground} under {with_article(sky)} sky"

    def inside(self, *, bare: bool = False) -> Said:
        """A room; bare walls have no texture to hold on to."""
        walls = str(self.random.choice(list(WALLS)))
        texture = painted(self.random, self.noise, WALLS[walls], 2.2)
        words = f"a room with {'bare ' if bare else ''}{walls} walls"
        return room(ROOM, _bare(texture) if bare else texture, self.frames), words


def _walking(setting: Setting) -> list[Said]:
    side = setting.side()
    return [setting.outside(), setting.someone("walking", (-1.6 * side, 0.3), 90.0 * side, 1.1), setting.waving(tree, (1.8, 2.6))]


def _turning(setting: Setting) -> list[Said]:
    return [setting.inside(), setting.someone("turning", (0.0, 0.0), 180.0, turning=45.0 * setting.side())]


def _talking(setting: Setting) -> list[Said]:
    return [setting.inside(), setting.someone("gesturing", (-0.2, 0.0), 180.0 + 15.0 * setting.side())]


def _sitting(setting: Setting) -> list[Said]:
    return [setting.inside(), setting.someone("sitting", (0.3 * setting.side(), 0.2), 180.0)]


def _crowd(setting: Setting) -> list[Said]:
    ways = (((-1.9, 1.4), 90.0, 1.0), ((1.7, 0.2), -90.0, 1.2), ((0.6, 3.0), 180.0, 0.9))
    return [setting.outside(), *(setting.someone("walking", start, heading, speed) for start, heading, speed in ways)]


def _dog(setting: Setting) -> list[Said]:
    side = setting.side()
    return [setting.outside(), setting.dog((-1.3 * side, 0.0), 90.0 * side, 0.9), setting.standing(fence, (0.0, 2.2))]


def _flag(setting: Setting) -> list[Said]:
    return [setting.outside(), setting.waving(flag, (-0.7, 0.0))]


def _curtain(setting: Setting) -> list[Said]:
    return [setting.inside(), setting.waving(curtain, (0.5, 1.0)), setting.someone("turning", (-1.0, 0.2), 150.0)]


def _leaves(setting: Setting) -> list[Said]:
    trees = [setting.waving(tree, spot) for spot in ((-0.6, 0.4), (1.2, 2.0))]
    return [setting.outside(), *trees, setting.standing(fence, (0.0, 1.2))]


def _water(setting: Setting) -> list[Said]:
    return [setting.outside(), setting.waving(pond, (0.0, 0.6)), setting.someone("gesturing", (0.4, 3.0), 180.0)]


def _mirror(setting: Setting) -> list[Said]:
    return [setting.inside(), setting.standing(mirror, (0.9, 1.6)), setting.someone("walking", (-0.9, 1.4), 180.0, 0.5)]


def _bare_wall(setting: Setting) -> list[Said]:
    return [setting.inside(bare=True), setting.someone("gesturing", (0.0, 1.0), 180.0)]


KINDS: dict[str, Callable[[Setting], list[Said]]] = {
    "walking": _walking,
    "turning": _turning,
    "talking": _talking,
    "sitting": _sitting,
    "crowd": _crowd,
    "dog": _dog,
    "flag": _flag,
    "curtain": _curtain,
    "leaves": _leaves,
    "water": _water,
    "mirror": _mirror,
    "bare-wall": _bare_wall,
}


def make_lifelike_world(kind: str, seed: int, *, frames: int, fps: float) -> World:
    """A world of one of :data:`KINDS`. More frames at as much higher a rate are the same world, seen at more times.

    Raises:
        UserError: unknown kind.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of world {kind!r}; one of {', '.join(KINDS)}")
    random = np.random.default_rng([seed, 6])
    setting = Setting(random=random, noise=noise_lattice(random), frames=frames, fps=fps)
    light, tint = light_of(random)
    (around, where), *things = KINDS[kind](setting)
    solids = [solid for parts, _ in things for solid in parts]
    return World(solids=(*around, *solids), light=light, caption=f"{where} in {tint} light, with {', '.join(words for _, words in things)}")


def _bare(texture: Texture) -> Texture:
    palette = torch.cat([texture.palette[:1], 0.02 * texture.palette[1:]])
    return replace(texture, palette=palette)
