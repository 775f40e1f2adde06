"""Exact tracks of procedural worlds, with exact visibility."""

import torch
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor

from track2view.geometry import inside, invert, pixel_centres, project, transform, unproject
from track2view.records import CameraPath, TrackSet
from track2view.scenes.cast import Shots, cast
from track2view.scenes.world import World

SURFACE_TOLERANCE = 2e-3


def track_points(world: World, camera: CameraPath, query_frame: Int[Tensor, "N"], query_pixels: Float64[Tensor, "N 2"]) -> TrackSet:
    """Exact tracks of the surface points seen at ``query_pixels`` of ``query_frame``; on the world's device."""
    frames, count = len(camera), len(query_frame)
    query_frame, query_pixels = query_frame.cpu(), query_pixels.cpu()
    shots = Shots.of(world, list(range(frames)), camera.world_from_camera, camera.intrinsics)
    u, v = query_pixels.to(world.device, torch.float32).T
    depth, solid = (each.cpu() for each in cast(shots, query_frame.long().to(world.device), u, v))
    points = unproject(
        query_pixels[:, None], depth.double()[:, None], camera.world_from_camera[query_frame], camera.intrinsics[query_frame]
    )
    poses = torch.stack([each.world_from_solid for each in world.solids])
    on_solid = transform(invert(poses[solid, query_frame]), points)[:, 0]
    xyz = transform(poses[solid, :frames].transpose(0, 1), on_solid.expand(frames, count, 3)[:, :, None])[:, :, 0]
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])[solid]
    return TrackSet(
        xyz_world=xyz.float().to(world.device),
        visible=see_points(world, camera, list(range(frames)), xyz),
        confidence=torch.ones(frames, count, device=world.device),
        query_frame=query_frame.to(world.device),
        moving=moving.to(world.device),
    )


def see_points(world: World, camera: CameraPath, frames: list[int], points: Float64[Tensor, "B N 3"]) -> Bool[Tensor, "B N"]:
    """Whether surface points, given at each of ``frames``, are inside the image and nothing stands before them."""
    shots = Shots.of(world, frames, camera.world_from_camera[frames], camera.intrinsics[frames])
    pixels, depth = project(points, camera.camera_from_world[frames], camera.intrinsics[frames])
    picture = torch.arange(len(frames), device=world.device).repeat_interleave(points.shape[1])
    u, v = pixels.to(world.device, torch.float32).reshape(-1, 2).T
    nearest, _ = cast(shots, picture, u, v)
    depth = depth.to(world.device)
    unblocked = nearest.reshape(depth.shape).double() > depth * (1 - SURFACE_TOLERANCE)
    return (depth > 1e-6) & inside(pixels, camera.size).to(world.device) & unblocked


def shown_by(world: World, camera: CameraPath, frame: int, target: CameraPath, target_depth: Float32[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Which pixels of a target view show what ``camera`` sees at the same time: where re-filming can be compared with truth."""
    pixels = pixel_centres(*target.size).double().reshape(-1, 2)
    points = unproject(pixels, target_depth.double().reshape(-1), target.world_from_camera[frame], target.intrinsics[frame])
    return see_points(world, camera, [frame], points[None])[0].reshape(target.size)
