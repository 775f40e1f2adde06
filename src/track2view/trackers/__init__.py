"""From a clip to 3D tracks and the camera's own path: one protocol, and the default tracker that needs no weights."""

from collections.abc import Callable

from track2view.errors import UserError
from track2view.trackers.external import ExternalTracker, adapter, program
from track2view.trackers.protocol import Tracker, Tracking, TrackingReport
from track2view.trackers.sfm import SfmTracker

TRACKERS: dict[str, Callable[[], Tracker]] = {
    "sfm": SfmTracker,
    "spatialtracker-v2": lambda: adapter("spatialtracker-v2", "spatialtracker_v2.py"),
    "tapnext-da3": lambda: adapter("tapnext-da3", "tapnext_da3.py"),
}
COMMAND = "command:"


def open_tracker(name: str) -> Tracker:
    """A tracker by name, or ``command:PROGRAM ARGUMENTS``: any program that keeps the contract of docs/trackers.md.

    Raises:
        UserError: an unknown name, or an environment that is not set up.
    """
    if name.startswith(COMMAND):
        return program(name.removeprefix(COMMAND))
    if name not in TRACKERS:
        raise UserError(f"--tracker: {name!r} is unknown; one of {', '.join(TRACKERS)}, or command:PROGRAM")
    return TRACKERS[name]()


__all__ = ["TRACKERS", "ExternalTracker", "SfmTracker", "Tracker", "Tracking", "TrackingReport", "open_tracker"]
