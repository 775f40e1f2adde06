"""Procedural worlds seen by any camera, with exact ground truth: a scene is data, the renderer a view of it."""

from track2view.scenes.make import CAMERA_KINDS, make_camera, make_world
from track2view.scenes.render import RenderedView, render_clip, render_view, shown_by, track_points
from track2view.scenes.rig import focal_of, make_rig, split_seed
from track2view.scenes.world import Solid, Texture, World

__all__ = [
    "CAMERA_KINDS",
    "RenderedView",
    "Solid",
    "Texture",
    "World",
    "focal_of",
    "make_camera",
    "make_rig",
    "make_world",
    "render_clip",
    "render_view",
    "shown_by",
    "split_seed",
    "track_points",
]
