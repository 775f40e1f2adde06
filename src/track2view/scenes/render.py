"""Pictures of procedural worlds: colour, exact depth and object ids, many pictures at once, on the CPU or a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from track2view.progress import progress
from track2view.records import CameraPath, Clip
from track2view.scenes.cast import Shots, cast, cast_grid
from track2view.scenes.shade import SUBPIXELS, shade
from track2view.scenes.world import World

RAYS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 23}


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedViews:
    """Pictures of a world.

    Attributes:
        colour: RGB, antialiased.
        depth: along the camera's z, of the surface at the pixel's centre.
        solid: index into ``world.solids`` of that surface.
    """

    colour: UInt8[Tensor, "*B 3 H W"]
    depth: Float32[Tensor, "*B H W"]
    solid: Int64[Tensor, "*B H W"]


def render_view(world: World, camera: CameraPath, frame: int, *, camera_frame: int | None = None) -> RenderedViews:
    """One picture: the world at time ``frame`` from the camera's pose at ``camera_frame`` (the same by default)."""
    views = render_views(world, camera, [frame], camera_frames=None if camera_frame is None else [camera_frame])
    return RenderedViews(colour=views.colour[0], depth=views.depth[0], solid=views.solid[0])


def render_views(world: World, camera: CameraPath, frames: list[int], *, camera_frames: list[int] | None = None) -> RenderedViews:
    """The world at times ``frames``, each from the camera's pose at ``camera_frames`` (the same by default).

    One ray a pixel, whose colour is filtered to the pixel; where neighbouring pixels show different pieces of surface, four.
    """
    chosen = frames if camera_frames is None else camera_frames
    intrinsics = camera.intrinsics[chosen]
    shots = Shots.of(world, frames, camera.world_from_camera[chosen], intrinsics)
    width_at_one = (1 / intrinsics[:, 0, 0]).to(world.device, torch.float32)
    depth, solid = cast_grid(shots, camera.size)
    picture, row, column = torch.meshgrid(*(torch.arange(side, device=world.device) for side in depth.shape), indexing="ij")
    flat = picture.reshape(-1), column.reshape(-1) + 0.5, row.reshape(-1) + 0.5
    colour, piece = shade(world, shots, *flat, depth.reshape(-1), solid.reshape(-1), width_at_one[flat[0]], 1.0)
    edge = _edges(piece.reshape(depth.shape)).reshape(-1).nonzero()[:, 0]
    offsets = torch.tensor(SUBPIXELS, device=world.device)
    around, u, v = flat[0][edge].repeat_interleave(4), *((flat[axis + 1][edge, None] + offsets[:, axis]).reshape(-1) for axis in range(2))
    sampled, _ = shade(world, shots, around, u, v, *cast(shots, around, u, v), width_at_one[around], 0.0)
    colour[edge] = sampled.reshape(-1, 4, 3).mean(1)
    image = (colour * 255).round().to(torch.uint8).reshape(*depth.shape, 3).permute(0, 3, 1, 2).contiguous()
    return RenderedViews(colour=image, depth=depth, solid=solid)


def views_along(world: World, camera: CameraPath) -> Iterator[RenderedViews]:
    """All frames of a camera's path in turn, as many at once as the device likes."""
    at_once = max(1, RAYS_AT_ONCE[world.device.type] // (camera.size[0] * camera.size[1]))
    starts = range(0, len(camera), at_once)
    for start in progress(starts, "rendering the world", len(starts)):
        yield render_views(world, camera, list(range(start, min(start + at_once, len(camera)))))


def render_path(world: World, camera: CameraPath) -> RenderedViews:
    """All frames of a camera's path."""
    parts = list(views_along(world, camera))
    return RenderedViews(
        colour=torch.cat([each.colour for each in parts]),
        depth=torch.cat([each.depth for each in parts]),
        solid=torch.cat([each.solid for each in parts]),
    )


def render_clip(
    world: World, camera: CameraPath, fps: Fraction = Fraction(30)
) -> tuple[Clip, Float32[Tensor, "T H W"], Int64[Tensor, "T H W"]]:
    """All frames: the clip, depth, and solid index."""
    views = render_path(world, camera)
    return Clip(frames=views.colour, fps=fps), views.depth, views.solid


def _edges(piece: Int64[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels whose neighbours above, below, left or right show another piece of surface."""
    edge = torch.zeros_like(piece, dtype=torch.bool)
    down, across = piece[:, 1:] != piece[:, :-1], piece[:, :, 1:] != piece[:, :, :-1]
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    return edge
