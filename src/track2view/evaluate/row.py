"""What is known of one clip: a line of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method's clip of one case.

    Attributes:
        case, method: names.
        dynamic: whether things move in the world.
        source, target: cameras of the rig.
        parallax: mean angle by which what both views show is seen apart, degrees.
        seconds: that the method took.
        reason: why there is no clip; empty where there is one.
        note: what had to be done to the clip to compare it; empty if nothing.
        measures: names of the further measures that were taken.
        values: numbers by name; None where there is no such number (no camera converged, no pixel of the kind, no clip).
    """

    case: str
    method: str
    dynamic: bool
    source: str
    target: str
    parallax: float
    seconds: float
    reason: str = ""
    note: str = ""
    measures: tuple[str, ...] = ()
    values: Mapping[str, float | None] = field(default_factory=dict)
