"""Re-film a video you already have: a clip and a camera path in, the clip seen from that path out."""

from importlib.metadata import version

__version__ = version("track2view")
