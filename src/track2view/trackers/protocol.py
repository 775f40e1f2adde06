"""What every tracker takes and returns."""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from track2view.records import CameraPath, Clip, Queries, TrackSet
from track2view.trackers.flow import NeighbourFlow


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingReport:
    """What a person must know before trusting a result.

    Attributes:
        tracker: its name.
        focal_estimated: whether the clip told the focal length, rather than what is believed of lenses.
        horizontal_fov: degrees.
        fov_deviation: standard deviation of that, in degrees; 0 where it was given.
        parallax_degrees: median over tracks of the largest angle between the rays that saw one point.
        reprojection_pixels: median error of the static tracks.
        share_lost: of (track, frame) entries, not seen.
        share_moving: of tracks.
        warnings: sentences for the user.
        depth_prior: name of the network whose depth was weighed with the tracks'; none where empty.
        prior_share: how much of the still tracks' depth is that network's, in [0, 1].
        relief_deviation: how unsure the network's relief as a whole is, in terms of it, where parallax does not tell its zero.
    """

    tracker: str
    focal_estimated: bool
    horizontal_fov: float
    parallax_degrees: float
    reprojection_pixels: float
    share_lost: float
    share_moving: float
    warnings: tuple[str, ...] = ()
    fov_deviation: float = 0.0
    depth_prior: str = ""
    prior_share: float = 0.0
    relief_deviation: float = 0.0

    @property
    def focal_deviation(self) -> float:
        """Standard deviation of the logarithm of the focal length; 0 where it was given."""
        return math.radians(self.fov_deviation) / max(math.sin(math.radians(self.horizontal_fov)), 1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """A tracker's result.

    Attributes:
        flow: kept, where a tracker had it, so that a renderer need not compute it again.
        depth_deviation: of each track's depth, in terms of it, where a tracker knows it apart from its confidence: a depth prior is
            weighed by it.
        path_deviation: what all of these may be off by together, for the camera's path was found and not given.
    """

    tracks: TrackSet
    camera: CameraPath
    report: TrackingReport
    flow: NeighbourFlow | None = field(default=None, repr=False, compare=False)
    depth_deviation: Float64[np.ndarray, "N"] | None = field(default=None, repr=False, compare=False)
    path_deviation: float = 0.0


def guessed_depth(parallax_degrees: float) -> str:
    """The warning where the camera hardly travels, and nothing else tells depth."""
    return (
        f"parallax too low ({parallax_degrees:.2f}°): the camera turns or stands still, so depth cannot be seen and is a guess; "
        "moves that only turn or zoom come out right, moves that travel do not (--depth-prior helps)"
    )


@runtime_checkable
class Tracker(Protocol):
    """Follows points through a clip in 3D, and finds the camera's path where none is given."""

    @property
    def name(self) -> str:
        """For records and messages."""
        ...

    def track(self, clip: Clip, queries: Queries, camera: CameraPath | None = None) -> Tracking:
        """Track; a given ``camera`` is used as it is, not estimated."""
        ...
