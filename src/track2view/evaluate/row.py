"""What is known of one clip: a line of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method's clip of one case.

    Attributes:
        case, method: names.
        group: of cases that tables show by themselves.
        source, target: what was re-filmed and the camera that was asked for, in words.
        parallax: mean angle by which what both views show is seen apart, degrees; 0 where the clip is not there.
        seconds: that the method took.
        reason: why there is no clip; empty where there is one.
        note: what had to be done to the clip to compare it; empty if nothing.
        measures: names of the further measures that were taken.
        by_frame: numbers of each frame by name ("rotation", "psnr"), None where there is none.
        values: numbers by name; None where there is no such number (no camera found, no pixel of the kind, no clip).
    """

    case: str
    method: str
    group: str
    source: str
    target: str
    parallax: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    note: str = ""
    measures: tuple[str, ...] = ()
    by_frame: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    values: Mapping[str, float | None] = field(default_factory=dict)
