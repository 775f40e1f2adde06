"""How sure depth from parallax is: whether two halves of the views tell the same, and whether the picture has anything to hold on to.

What sways, bends or walks along with the camera fits a still point about as well as what is still does; but another one in the second
half of its views than in the first. So the two halves say how far depth is wrong, and how much of its relief is real: depth is drawn to
what its neighbours say, and all of it to one distance, as far as the halves disagree (an empirical Bayes estimate).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from scipy.spatial import KDTree

from track2view.trackers.bundle import BundleState, Observations, triangulate

NEIGHBOURS, INDEPENDENT = 24, 16
"""Tracks around one that speak for it, and as how many that err independently: neighbours err together."""
FLOOR_PIXELS, SHARED_PIXELS = 0.3, 2.0
"""Least deviation of a track in working pixels; by how many times the two halves' own difference understates their error, for they share
the cameras (measured on takes of ``scenes/``, seeds 0 to 3)."""
SYSTEMATIC_PIXELS, ZOOM_SHARE, HELD_SHARE = 0.08, 1e-3, 0.2
"""What both halves may agree on and is still wrong, at a track's widest swing, for flow and cameras err slowly and together; how much
more a lens adds that zooms, in terms of how far the picture's rim moves; and the least share of the picture that has to hold the camera:
where less of it has any texture, a turn and a step look alike, and both err by more."""
CONFIDENT, LEAST_CONFIDENCE = 0.1, 0.01
"""Deviation of depth, in terms of it, at which a track's confidence is one half (design section 3), and the least that is believed."""
MOVING_CONFIDENCE = 0.3
"""Of what moves and is firm, however well its foot is seen."""
FEIGNED_DEGREES = 0.2
"""Parallax that a camera which only turns can seem to have before a flat scene: its path and its lens err together."""
CALIBRATED = 0.75
"""Deviations of depth in terms of what triangulation says (docs/benchmarks.md)."""
FIRM = 0.02
"""Share of a corner's hold on a track from which on one has any: below, flow is its neighbours'."""
BENT = 4.0
"""How much more than ``SYSTEMATIC_PIXELS`` what lies at twice the usual inverse depth errs with the cameras (19 takes of ``scenes/``)."""
WORLDS_RELIEF = 0.4
"""How far from flat scenes are: deviation of log inverse depth in the worlds of ``scenes/`` and in the clips that people film."""
MEDIAN_OF_SQUARE = 0.455
"""Median of the square of a normal deviate."""
OUTLYING = 2
TEXTURE_WINDOW, HELD_TEXTURE = 7, 1e-3
"""Over which pixels, and from which smallest gradient eigenvalue on, the picture holds a track as firmly as the usual corner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """Inverse depths of the same tracks, by the first half of the views that show each, by the second, and by all.

    Attributes:
        information: of each, in squared pixels per squared inverse depth.
        systematic: part of what tracks miss a still point by that more views do not lessen, in squared pixels per view.
    """

    inverse_depth: Float64[np.ndarray, "3 N"]
    information: Float64[np.ndarray, "3 N"]
    systematic: Float64[np.ndarray, "N"]

    @staticmethod
    def of(
        state: BundleState, seen: Observations, start: Float64[np.ndarray, "N"], scale: float, *, rim: float = 0.0, held: float = 1.0
    ) -> "Halves":
        """Triangulate thrice.

        Args:
            start: what tracks without parallax keep.
            rim: by how many pixels the lens's zoom moves the picture's rim.
            held: share of the picture that has texture.
        """
        count = np.bincount(seen.track, minlength=len(start))
        order = np.lexsort((seen.frame, seen.track))
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        first = 2 * rank < count[seen.track]
        told = [triangulate(state, part, start, scale) for part in (seen.where(first), seen.where(~first), seen)]
        return Halves(
            inverse_depth=np.stack([each[0] for each in told]),
            information=np.stack([each[1] for each in told]),
            systematic=((SYSTEMATIC_PIXELS + ZOOM_SHARE * rim) * max(1.0, HELD_SHARE / max(held, 1e-3)) ** 3) ** 2 / 3 * count,
        )

    def variance(self, points: Float32[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N"]:
        """Squared pixels by which tracks around each of ``points`` miss a still point, by how far the halves disagree there."""
        apart = np.diff(self.inverse_depth[:2], axis=0)[0] ** 2 / (1 / np.maximum(self.information[:2], 1e-9)).sum(0)
        _, near = KDTree(points).query(points, k=min(NEIGHBOURS, len(points)))
        around = np.median(apart[near.reshape(len(points), -1)], axis=1) / MEDIAN_OF_SQUARE
        return FLOOR_PIXELS**2 + SHARED_PIXELS**2 * around + self.systematic

    def believed(
        self, points: Float32[np.ndarray, "N 2"], variance: Float64[np.ndarray, "N"]
    ) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
        """What to take for the inverse depth of tracks at ``points`` before their own views are asked, and the variance of that.

        The weighted mean of what is around, drawn to the mean of all as far as the halves disagree on these means, or agree on no more
        than what errs for both.
        """
        usual = np.stack([np.clip(each, *np.percentile(each, [OUTLYING, 100 - OUTLYING])) for each in self.inverse_depth])
        weight = 1 / (float(np.var(usual[2])) + variance / np.maximum(self.information[2], 1e-9) + 1e-12)
        distance, near = KDTree(points).query(points, k=min(NEIGHBOURS, len(points)))
        distance, near = distance.reshape(len(points), -1), near.reshape(len(points), -1)
        closeness = 1 / (1 + (distance / np.maximum(distance[:, -1:], 1e-9)) ** 2)
        by_weight = closeness * weight[near]
        around = (by_weight * usual[:, near]).sum(2) / by_weight.sum(1)
        told, middle = _shared(around[0], around[1], weight), np.average(around[2], weights=weight)
        relief = _shared(usual[0] - around[0], usual[1] - around[1], weight)
        information = np.maximum((closeness * self.information[2][near]).sum(1) / closeness.sum(1), 1e-12)
        systematic = self.systematic / information
        told = max(told - float(np.average(systematic, weights=weight)), 0.0)
        error = systematic + np.maximum(variance / information - systematic, 0) / INDEPENDENT
        return middle + (around[2] - middle) * told / (told + error), relief + told * error / (told + error)

    def shared_error(self, variance: Float64[np.ndarray, "N"], told: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
        """Variance of inverse depth that ``told``, a mean over tracks around each, still has.

        Theirs in part, and all that errs for both halves: with the cameras, the scene's relief as a whole is drawn out or flattened.
        """
        bent = 1 + (BENT * (told / np.median(told) - 1)) ** 2
        error = self.systematic * bent + np.maximum(variance - self.systematic, 0) / INDEPENDENT
        return error / np.maximum(self.information[2], 1e-12)

    def relief(self, told: Float64[np.ndarray, "N"], variance: Float64[np.ndarray, "N"]) -> float:
        """Variance of what the views tell beyond what is ``told``: as much of it as both halves say."""
        beyond = np.stack([np.clip(each, *np.percentile(each, [OUTLYING, 100 - OUTLYING])) for each in self.inverse_depth - told])
        weight = 1 / (float(np.var(beyond[2])) + variance / np.maximum(self.information[2], 1e-9) + 1e-12)
        return _shared(beyond[0], beyond[1], weight)


def _shared(first: Float64[np.ndarray, "N"], second: Float64[np.ndarray, "N"], weight: Float64[np.ndarray, "N"]) -> float:
    """Covariance of two measurements of the same things: what they have in common; not below 0."""
    first, second = (each - np.average(each, weights=weight) for each in (first, second))
    return max(float(np.average(first * second, weights=weight)), 0.0)


def path_deviation(parallax_degrees: float) -> float:
    """Of depth from parallax, in terms of it, for the path that it was found with is found too: of all tracks alike.

    It falls steeply: at 0.23° of parallax a pan shows none of its relief, at 1.2° a walk all but a hundredth of it.
    """
    return (FEIGNED_DEGREES / max(parallax_degrees, 1e-2)) ** 3


def rim_of(focal: Float64[np.ndarray, "T"], size: tuple[int, int]) -> float:
    """By how many pixels a zoom with these focal lengths moves the rim of a picture of ``size``."""
    return 0.5 * max(size) * float(focal.max() / focal.min() - 1)


def looseness(grey: UInt8[np.ndarray, "H W"], points: Float32[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N"]:
    """Variance that a lack of texture adds to points of a picture, in terms of a corner's, from 1: there flow is its neighbours'."""
    strength = cv2.cornerMinEigenVal(cv2.GaussianBlur(grey, (0, 0), 1.0), TEXTURE_WINDOW)
    column, row = np.clip(points.astype(int), 0, np.array(grey.shape[::-1]) - 1).T
    return 1 + HELD_TEXTURE / np.maximum(strength[row, column].astype(np.float64), 1e-6)


def held_share(loose: Float64[np.ndarray, "N"]) -> float:
    """Share of the picture that has texture, by the looseness of points all over it."""
    return float((1 / loose > FIRM).mean())
