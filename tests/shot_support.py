"""A shot of a procedural world, with exact tracks and the exact camera."""

from fractions import Fraction

import torch

from track2view.pipeline import Shot, prepare
from track2view.records import Clip, Size
from track2view.scenes import World, make_rig, make_training_world, render_path, track_points


def exact_shot(size: Size, frames: int, fps: int) -> tuple[World, Shot]:
    """Of a world that stands still; tracks start in the first frame and in the last."""
    world = make_training_world("solids", 5, frames=frames, dynamic=False)
    camera = make_rig(5, frames=frames, size=size)["cam01"]
    step = size[0] // 16
    y, x = torch.meshgrid(torch.arange(step / 2, size[0], step), torch.arange(step / 2, size[1], step), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).double().repeat(2, 1)
    start = torch.tensor([0, frames - 1]).repeat_interleave(len(pixels) // 2)
    clip = Clip(frames=render_path(world, camera).colour, fps=Fraction(fps))
    return world, prepare(clip, source_camera=camera, tracks=track_points(world, camera, start, pixels), use_cache=False)
