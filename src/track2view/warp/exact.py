"""The weight-free renderer where a world's exact depth is known."""

from fractions import Fraction

import torch

from track2view.records import CameraPath, Clip
from track2view.scenes import RenderedViews, World
from track2view.scenes.rig import FPS
from track2view.warp.densify import DenseDepth
from track2view.warp.render import WarpRenderer


def exact_renderer(world: World, camera: CameraPath, views: RenderedViews) -> WarpRenderer:
    """Of a world's views along a path, with their exact depth, and with what truly moves."""
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])[views.solid]
    depth = DenseDepth.exact(disparity=1 / views.depth, moving=moving)
    return WarpRenderer(Clip(frames=views.colour, fps=Fraction(FPS)), depth, camera)
