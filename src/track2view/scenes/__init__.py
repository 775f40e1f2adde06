"""Procedural worlds seen by any camera, with exact ground truth: a scene is data, the renderer a view of it."""

from track2view.scenes.content import Content, make_training_world
from track2view.scenes.lifelike import KINDS, make_lifelike_world
from track2view.scenes.make import CAMERA_KINDS, make_camera, make_world
from track2view.scenes.render import RenderedViews, render_clip, render_path, render_view, render_views, views_along
from track2view.scenes.rig import focal_of, make_rig, split_seed
from track2view.scenes.stream import StreamedPair, stream_pairs
from track2view.scenes.takes import STYLES, Style, Take, film
from track2view.scenes.tracks import see_points, shown_by, track_points
from track2view.scenes.vary import make_varied_world
from track2view.scenes.world import Light, Solid, Texture, World

__all__ = [
    "CAMERA_KINDS",
    "KINDS",
    "STYLES",
    "Content",
    "Light",
    "RenderedViews",
    "Solid",
    "StreamedPair",
    "Style",
    "Take",
    "Texture",
    "World",
    "film",
    "focal_of",
    "make_camera",
    "make_lifelike_world",
    "make_rig",
    "make_training_world",
    "make_varied_world",
    "make_world",
    "render_clip",
    "render_path",
    "render_view",
    "render_views",
    "see_points",
    "shown_by",
    "split_seed",
    "stream_pairs",
    "track_points",
    "views_along",
]
