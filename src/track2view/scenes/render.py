"""A ray caster for procedural worlds: colour, exact depth, object ids, and exact tracks with exact visibility."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float32, Float64, Int, Int64, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from track2view.geometry import inside, invert, pixel_centres, project, transform, unproject
from track2view.progress import progress
from track2view.records import CameraPath, Clip, TrackSet
from track2view.scenes.world import World

SURFACE_TOLERANCE = 2e-3
AMBIENT = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedView:
    """One view of a world.

    Attributes:
        colour: RGB, antialiased.
        depth: along the camera's z, of the surface at the pixel's centre.
        solid: index into ``world.solids`` of that surface.
    """

    colour: UInt8[Tensor, "3 H W"]
    depth: Float32[Tensor, "H W"]
    solid: Int64[Tensor, "H W"]


def render_view(world: World, camera: CameraPath, frame: int, *, camera_frame: int | None = None) -> RenderedView:
    """Render the world at time ``frame`` from the camera's pose at ``camera_frame`` (the same by default)."""
    pose_index = frame if camera_frame is None else camera_frame
    pose, intrinsics = camera.world_from_camera[pose_index], camera.intrinsics[pose_index]
    height, width = camera.size
    fine = pixel_centres(2 * height, 2 * width) / 2
    depth, solid = _cast_image(world, frame, pose, intrinsics, fine)
    colour = _shade(world, frame, pose, intrinsics, fine.reshape(-1, 2), depth.reshape(-1), solid.reshape(-1))
    image = avg_pool2d(colour.T.reshape(1, 3, 2 * height, 2 * width), 2)[0]
    exact_depth, exact_solid = _cast_image(world, frame, pose, intrinsics, pixel_centres(height, width))
    return RenderedView(colour=(image * 255).round().to(torch.uint8), depth=exact_depth, solid=exact_solid)


def render_clip(
    world: World, camera: CameraPath, fps: Fraction = Fraction(30)
) -> tuple[Clip, Float32[Tensor, "T H W"], Int64[Tensor, "T H W"]]:
    """Render all frames: the clip, depth, and solid index."""
    views = [render_view(world, camera, frame) for frame in progress(range(len(camera)), "rendering the world", len(camera))]
    clip = Clip(frames=torch.stack([view.colour for view in views]), fps=fps)
    return clip, torch.stack([view.depth for view in views]), torch.stack([view.solid for view in views])


def track_points(world: World, camera: CameraPath, query_frame: Int[Tensor, "N"], query_pixels: Float64[Tensor, "N 2"]) -> TrackSet:
    """Exact tracks of the surface points seen at ``query_pixels`` of ``query_frame``."""
    frames, count = len(camera), len(query_frame)
    xyz = torch.empty(frames, count, 3, dtype=torch.float64)
    solid = torch.empty(count, dtype=torch.int64)
    on_solid = torch.empty(count, 3, dtype=torch.float64)
    for frame in query_frame.unique().tolist():
        chosen = (query_frame == frame).nonzero()[:, 0]
        pose = camera.world_from_camera[frame]
        rays = _rays(pose, camera.intrinsics[frame], query_pixels[chosen])
        depth, hit = _cast(world, frame, pose[:3, 3], rays.float())
        points = pose[:3, 3] + depth.double()[:, None] * rays
        solid[chosen] = hit
        poses = torch.stack([each.world_from_solid[frame] for each in world.solids])[hit]
        on_solid[chosen] = transform(invert(poses), points[:, None])[:, 0]
    for index in solid.unique().tolist():
        chosen = (solid == index).nonzero()[:, 0]
        poses = world.solids[index].world_from_solid
        xyz[:, chosen] = transform(poses, on_solid[chosen].expand(frames, -1, 3))
    visible = torch.stack([see_points(world, camera, frame, xyz[frame]) for frame in range(frames)])
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])[solid]
    return TrackSet(
        xyz_world=xyz.float(),
        visible=visible,
        confidence=torch.ones(frames, count),
        query_frame=query_frame.clone(),
        moving=moving,
    )


def see_points(world: World, camera: CameraPath, frame: int, points: Float64[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
    """Whether surface points are inside the image and nothing stands before them."""
    pixels, depth = project(points, camera.camera_from_world[frame], camera.intrinsics[frame])
    pose = camera.world_from_camera[frame]
    ray = (points - pose[:3, 3]) / depth.clamp(min=1e-6)[:, None]
    nearest, _ = _cast(world, frame, pose[:3, 3], ray.float())
    return (depth > 1e-6) & inside(pixels, camera.size) & (nearest.double() > depth * (1 - SURFACE_TOLERANCE))


def shown_by(world: World, camera: CameraPath, frame: int, target: CameraPath, target_depth: Float32[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Which pixels of a target view show what ``camera`` sees at the same time: where re-filming can be compared with truth."""
    pixels = pixel_centres(*target.size).double().reshape(-1, 2)
    points = unproject(pixels, target_depth.double().reshape(-1), target.world_from_camera[frame], target.intrinsics[frame])
    return see_points(world, camera, frame, points).reshape(target.size)


def _rays(pose: Float64[Tensor, "4 4"], intrinsics: Float64[Tensor, "3 3"], pixels: Tensor) -> Tensor:
    """World directions through pixels, of unit length along the camera's z, so that ray parameters are depths."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    matrix = pose[:3, :3] @ torch.linalg.inv(intrinsics)
    return homogeneous @ matrix.to(pixels.dtype).T


def _cast(
    world: World, frame: int, origin: Float64[Tensor, "3"], directions: Float32[Tensor, "*n 3"]
) -> tuple[Float32[Tensor, "*n"], Int64[Tensor, "*n"]]:
    _, depth = world.solids[0].span(frame, origin, directions)
    hit = torch.zeros(depth.shape, dtype=torch.int64)
    for index in range(1, len(world.solids)):
        _nearer(world, frame, index, origin, directions, depth, hit)
    return depth, hit


def _cast_image(
    world: World, frame: int, pose: Float64[Tensor, "4 4"], intrinsics: Float64[Tensor, "3 3"], pixels: Float32[Tensor, "h w 2"]
) -> tuple[Float32[Tensor, "h w"], Int64[Tensor, "h w"]]:
    """As :func:`_cast` on a grid of pixels, each solid tried only in the rectangle that can show it."""
    directions = _rays(pose, intrinsics, pixels)
    _, depth = world.solids[0].span(frame, pose[:3, 3], directions)
    hit = torch.zeros(depth.shape, dtype=torch.int64)
    for index, solid in enumerate(world.solids[1:], start=1):
        corners = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)) * solid.half_extent
        uv, z = project(transform(solid.world_from_solid[frame], corners), invert(pose), intrinsics)
        rows, columns = slice(None), slice(None)
        if bool((z > 1e-3).all()):
            columns = _range(pixels[0, :, 0], uv[:, 0])
            rows = _range(pixels[:, 0, 1], uv[:, 1])
        _nearer(world, frame, index, pose[:3, 3], directions[rows, columns], depth[rows, columns], hit[rows, columns])
    return depth, hit


def _range(coordinates: Float32[Tensor, "n"], values: Float64[Tensor, "8"]) -> slice:
    first, last = torch.searchsorted(coordinates.contiguous(), torch.stack([values.min(), values.max()]).float()).tolist()
    return slice(first, last)


def _nearer(world: World, frame: int, index: int, origin: Tensor, directions: Tensor, depth: Tensor, hit: Tensor) -> None:
    enter, leave = world.solids[index].span(frame, origin, directions)
    closer = (enter < leave) & (enter > 1e-3) & (enter < depth)
    depth[closer] = enter[closer]
    hit[closer] = index


def _shade(
    world: World, frame: int, pose: Tensor, intrinsics: Tensor, pixels: Tensor, depth: Tensor, solid: Tensor
) -> Float32[Tensor, "n 3"]:
    points = pose[:3, 3].float() + depth[:, None] * _rays(pose, intrinsics, pixels)
    footprint = depth / float(intrinsics[0, 0])
    colour = torch.empty(len(pixels), 3)
    for index in solid.unique().tolist():
        chosen = (solid == index).nonzero()[:, 0]
        each = world.solids[index]
        local = transform(invert(each.world_from_solid[frame]).float(), points[chosen])
        lambert = (each.normals(frame, local) @ world.to_light).mul(-1.0 if index == 0 else 1.0).clamp(min=0.0)
        colour[chosen] = each.texture.colour(local, footprint[chosen]) * (AMBIENT + (1 - AMBIENT) * lambert)[:, None]
    return colour
