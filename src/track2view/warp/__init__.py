"""The weight-free renderer: dense depth from tracks and flow, splatting, and filling from other times."""

from track2view.warp.densify import DenseDepth, densify
from track2view.warp.exact import exact_renderer
from track2view.warp.render import RenderedFrame, WarpRenderer

__all__ = ["DenseDepth", "RenderedFrame", "WarpRenderer", "densify", "exact_renderer"]
