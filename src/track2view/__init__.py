"""Re-film a video you already have: a clip and a camera path in, the clip seen from that path out."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from track2view.cameras import read_camera as read_camera
    from track2view.errors import UserError as UserError
    from track2view.pipeline import Shot as Shot
    from track2view.pipeline import prepare as prepare
    from track2view.pipeline import refilm as refilm
    from track2view.pipeline import target_camera as target_camera
    from track2view.pipeline import write_run as write_run
    from track2view.records import CameraPath as CameraPath
    from track2view.records import Clip as Clip
    from track2view.video import read_clip as read_clip

    __version__: str

_HOMES = {
    "read_camera": "cameras",
    "UserError": "errors",
    "Shot": "pipeline",
    "prepare": "pipeline",
    "refilm": "pipeline",
    "target_camera": "pipeline",
    "write_run": "pipeline",
    "CameraPath": "records",
    "Clip": "records",
    "read_clip": "video",
}
__all__ = [
    "CameraPath",
    "Clip",
    "Shot",
    "UserError",
    "__version__",
    "prepare",
    "read_camera",
    "read_clip",
    "refilm",
    "target_camera",
    "write_run",
]


def __getattr__(name: str) -> object:
    """Load the main names on first use, so that parts of the package import without the libraries of the others."""
    if name == "__version__":
        from importlib.metadata import version  # a fifth of the decoder's start

        return version("track2view")
    if name not in _HOMES:
        raise AttributeError(f"module 'track2view' has no attribute {name!r}")
    return getattr(import_module(f"track2view.{_HOMES[name]}"), name)
