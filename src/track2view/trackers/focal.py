"""How long the lens is: what lenses people have, weighed with what the clip tells (design section 9).

Tracks that err together (a walking person's, an arm's) are no independent witnesses, so how surely a clip tells the focal length is
not read from the size of residuals, but from how much the answer changes when a region of the picture is left out: the jackknife over
groups (M. H. Quenouille, Notes on bias in estimation, Biometrika 43, 1956), each answer one step of Newton's from the common one;
and never surer than if all tracks erred alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from track2view.trackers.bundle import BundleState, FocalPull, Observations, focal_step, residuals

REGIONS = (2, 3)
"""Rows and columns of regions whose tracks may err together."""
SPREAD = 1.4826
"""Standard deviation of a normal error in terms of its median size."""
CAUTION = 2.0
"""Of a clip's deviation: regions err together too."""
LEAST_SPREAD = 0.3
"""No clip places tracks better, in working pixels; where nothing moves residuals vanish whatever the lens, and would say all is known."""
FARTHEST = 2.45
"""Deviations from what is believed, beyond which a clip must tell the lens: it sees 20° to 109° of the longer side where it does not."""
TOGETHER = 10.0
"""How many tracks may be taken to err as one while a solution grows, before that is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalBelief:
    """A log-normal belief about the focal length.

    Attributes:
        focal: its median, in working pixels.
        deviation: of its logarithm.
    """

    focal: float
    deviation: float

    @staticmethod
    def of_lenses(longer_side: int) -> "FocalBelief":
        """Before a clip is seen: 19 of 20 lenses see between 25° and 98° of the longer side."""
        return FocalBelief(focal=float(longer_side), deviation=0.42)

    def pull(self, noise: float) -> FocalPull:
        """How it weighs beside residuals that are worth so many squared pixels."""
        return FocalPull(log_focal=math.log(self.focal), weight=noise / self.deviation**2)

    def within(self, focal: float) -> float:
        """A focal length that a clip hardly tells, no farther from the median than :data:`FARTHEST` deviations."""
        most = math.exp(FARTHEST * self.deviation)
        return min(max(focal, self.focal / most), self.focal * most)

    def first_pull(self, state: BundleState, seen: Observations) -> FocalPull:
        """The same before it is known how tracks err together."""
        return self.pull(CAUTION**2 * TOGETHER * _squared_spread(state, seen))


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalEvidence:
    """What a clip alone tells of the focal length.

    Attributes:
        deviation: of its logarithm.
        noise: what a squared pixel of residuals is worth, in squared pixels.
    """

    deviation: float
    noise: float

    @staticmethod
    def of(state: BundleState, seen: Observations, free: range, scale: float) -> "FocalEvidence":
        """At a solution of all but perhaps the focal length, under a loss of ``scale`` pixels."""
        regions, place = REGIONS[0] * REGIONS[1], seen.anchor_pixels
        used = place[np.unique(seen.track)]
        low, high = used.min(0), used.max(0)
        cell = ((place - low) / np.maximum(high - low, 1e-9) * REGIONS[::-1]).astype(int).clip(0, np.array(REGIONS[::-1]) - 1)
        region = (cell[:, 1] * REGIONS[1] + cell[:, 0])[seen.track]
        without = [focal_step(state, seen.where(region != each), free, scale)[0] for each in range(regions)]
        _, softness = focal_step(state, seen, free, scale)
        noise = CAUTION**2 * max(_squared_spread(state, seen), (regions - 1) * float(np.var(without)) / softness)
        return FocalEvidence(deviation=math.sqrt(noise * softness), noise=noise)

    def left_open(self, belief: FocalBelief) -> float:
        """Deviation of the logarithm once both are weighed."""
        return 1 / math.sqrt(1 / belief.deviation**2 + 1 / max(self.deviation, 1e-6) ** 2)

    def decides(self, belief: FocalBelief) -> bool:
        """Whether the clip outweighs what was believed before, ten to one."""
        return 9 * self.deviation**2 <= belief.deviation**2


def _squared_spread(state: BundleState, seen: Observations) -> float:
    error, in_front = residuals(state, seen)
    return max(LEAST_SPREAD, SPREAD * float(np.median(np.abs(error[in_front])))) ** 2 if in_front.any() else 1.0
