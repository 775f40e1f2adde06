"""What an evaluation is of: cases, what a method is given of each, and how its clip is scored (design section 10).

Two kinds: procedural worlds with exact truth (:mod:`track2view.evaluate.worlds`), and anybody's clips
(:mod:`track2view.evaluate.footage`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

Frames = UInt8[Tensor, "T 3 H W"]
Known = TypeVar("Known")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One clip to re-film along one camera path.

    Attributes:
        name: in its benchmark, and of a file.
        group: of cases that tables show by themselves, such as "static".
        source: what is re-filmed, in the report's words.
        target: the camera that is asked for, in the report's words.
    """

    name: str
    group: str
    source: str
    target: str


AnyCase = TypeVar("AnyCase", bound=Case)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given(Generic[Known]):
    """What is known of a case once its clip is there.

    Attributes:
        source: the clip.
        exact: what the camera that is asked for truly sees; None where nobody knows.
        fps: frames a second of both.
        caption: what the clip shows, in words; empty where nobody said.
        parallax: mean angle by which what the clip shows is seen apart from both cameras, degrees.
        known: what its benchmark's own methods and scores take.
    """

    source: Frames
    exact: Frames | None
    fps: Fraction
    caption: str
    parallax: float
    known: Known


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A method's clip.

    Attributes:
        frames: of the case's size and length.
        note: what had to be done to make it so; empty if nothing.
    """

    frames: Frames
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Numbers of a clip by name; NaN where there is no such number.

    Attributes:
        by_frame: of each frame.
    """

    values: Mapping[str, float]
    by_frame: Mapping[str, Sequence[float]]


Method = Callable[[AnyCase, Given[Known]], Made]
"""A way to make a case's clip; what it cannot make it says by :class:`UserError`, in one line."""
Measure = Callable[[Frames, Given[Known]], dict[str, float]]
"""Numbers by name of a clip, beside its benchmark's own scores; NaN where there is no such number."""


@runtime_checkable
class Benchmark(Protocol[AnyCase, Known]):
    """Cases by name, each with what is given and how a clip is scored."""

    @property
    def identity(self) -> Mapping[str, object]:
        """What must be the same for rows to stand in one table, of what JSON holds."""
        ...

    @property
    def title(self) -> str:
        """Of a report."""
        ...

    @property
    def explained(self) -> str:
        """How to read its tables, in sentences."""
        ...

    @property
    def cases(self) -> Sequence[AnyCase]:
        """In order."""
        ...

    def given(self, case: AnyCase) -> Given[Known]:
        """What a method is given.

        Raises:
            UserError: a clip that cannot be read or tracked, a camera that cannot be followed there.
        """
        ...

    def score(self, given: Given[Known], made: Frames) -> Scores:
        """Of cameras and pictures."""
        ...
