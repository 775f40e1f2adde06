"""Which clips are re-filmed from where: benchmarks as data, defined by seeds (design section 10)."""

from dataclasses import dataclass

import numpy as np

from track2view.errors import UserError, check_positive
from track2view.evaluate.procedural import Pair
from track2view.records import Size
from track2view.scenes import Content
from track2view.scenes.rig import CAMERAS, split_seed

WORLDS = 200
"""Of each kind in the whole benchmark: as many static as dynamic ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One clip to re-film.

    Attributes:
        name: in its benchmark, and of a file.
        pair: the world, the source camera and the one that is asked for.
    """

    name: str
    pair: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Procedural worlds with exact truth: the first so many of each kind, of the split that no training sees.

    Attributes:
        static, dynamic: how many worlds in which nothing moves, and in which things do.
        frames, size: of every clip.
        content: what is in the worlds.
    """

    static: int = WORLDS
    dynamic: int = WORLDS
    frames: int = 17
    size: Size = (64, 112)
    content: Content = "solids"

    def __post_init__(self) -> None:
        check_positive(frames=self.frames, height=self.size[0], width=self.size[1])
        for name in ("static", "dynamic"):
            if not 0 <= getattr(self, name) <= WORLDS:
                raise UserError(f"{name}: the benchmark has {WORLDS} such worlds, got {getattr(self, name)!r:.60}")
        if not self.static + self.dynamic:
            raise UserError("static, dynamic: expected one world at least, got none of either")

    @property
    def cases(self) -> tuple[Case, ...]:
        """In order; those of a smaller benchmark are among those of a larger one, whatever their size."""
        numbered = [(False, index) for index in range(self.static)] + [(True, WORLDS + index) for index in range(self.dynamic)]
        return tuple(_case(split_seed("test", index), dynamic, index, self.content) for dynamic, index in numbered)


def _case(seed: int, dynamic: bool, index: int, content: Content) -> Case:
    source, target = (f"cam{number + 1:02d}" for number in np.random.default_rng(seed).choice(CAMERAS, 2, replace=False))
    pair = Pair(seed=seed, source=source, target=target, dynamic=dynamic, content=content)
    return Case(name=f"{'dynamic' if dynamic else 'static'}-{index:03d}-{source}-{target}", pair=pair)
