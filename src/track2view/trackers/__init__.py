"""From a clip to 3D tracks and the camera's own path: one protocol, and the default tracker that needs no weights."""

from track2view.trackers.protocol import Queries, Tracker, Tracking, TrackingReport
from track2view.trackers.sfm import SfmTracker

TRACKERS = {"sfm": SfmTracker}

__all__ = ["TRACKERS", "Queries", "SfmTracker", "Tracker", "Tracking", "TrackingReport"]
