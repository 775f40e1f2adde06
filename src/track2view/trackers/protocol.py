"""What every tracker takes and returns."""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

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

    @property
    def focal_deviation(self) -> float:
        """Standard deviation of the logarithm of the focal length; 0 where it was given."""
        return math.radians(self.fov_deviation) / max(math.sin(math.radians(self.horizontal_fov)), 1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """A tracker's result; ``flow`` is kept, where a tracker had it, so that a renderer need not compute it again."""

    tracks: TrackSet
    camera: CameraPath
    report: TrackingReport
    flow: NeighbourFlow | None = field(default=None, repr=False, compare=False)


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
