"""The camera of a picture of a known world by matching: pixels matched with an exact rendering, lifted by its depth, and PnP.

For pictures of 128 lines and more; below, :mod:`track2view.evaluate.render_compare`. The rendering is made anew at the camera that
was found, so that what is matched in the end hardly moves: dense flow falls short of large motions. Shapes: K frames, P points.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from track2view.evaluate.found import FoundCameras, check_clip
from track2view.evaluate.photometric import NEAREST_METRES, Shown
from track2view.geometry import inside, invert, rigid, unproject
from track2view.metrics.paths import pose_errors
from track2view.records import CameraPath
from track2view.scenes import RenderedViews, World, render_views
from track2view.trackers.flow import sample

ROUNDS = 4
POINTS, LEAST_APART = 4000, 2
LEAST_TEXTURE = 0.003
"""Of the strongest corner's: with less, flow is what its neighbourhood suggests."""
ROUND_TRIP_PIXELS = 0.5
INLIER_PIXELS = 1.5
LEAST_INLIERS = 40
RANSAC_DRAWS, CONFIDENCE = 2000, 0.9999
REST_DEGREES = 0.1
"""Chosen on worlds of the train split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedCameras(FoundCameras):
    """Cameras found by PnP.

    Attributes:
        inliers: how many points agree with the camera.
    """

    inliers: Int64[Tensor, "K"]


def match_cameras(
    world: World, frames: UInt8[Tensor, "T 3 H W"], commanded: CameraPath, at: list[int], *, source: CameraPath | None = None
) -> MatchedCameras:
    """The camera of a clip's frames ``at``, found by PnP on what stands still.

    Args:
        world, commanded, source: as :func:`track2view.evaluate.render_compare.estimate_cameras` has them.

    Raises:
        UserError: the clip, the path and the world do not fit together, or ``at`` names frames that are not there.
    """
    check_clip(world, frames, commanded, source, at)
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])
    shown = None if source is None else Shown.of(world, source, at)
    intrinsics = commanded.intrinsics[at]
    pictures = [_grey(frames[frame]) for frame in at]
    poses, turned = commanded.world_from_camera[at].clone(), torch.zeros(len(at), dtype=torch.float64)
    inliers = torch.zeros(len(at), dtype=torch.int64)
    for _ in range(ROUNDS):
        camera = CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=commanded.size, unit=commanded.unit)
        views = render_views(world, camera, at, camera_frames=list(range(len(at))))
        before, poses = poses, poses.clone()
        for index, picture in enumerate(pictures):
            view = RenderedViews(colour=views.colour[index].cpu(), depth=views.depth[index].cpu(), solid=views.solid[index].cpu())
            pixels, points = _lifted(picture, view, moving, before[index], intrinsics[index])
            if shown is not None:
                chosen = shown.at(index).shows(points[None])[0]
                pixels, points = pixels[chosen], points[chosen]
            found = _posed(pixels, points, intrinsics[index])
            inliers[index] = 0 if found is None else found[1]
            if found is not None:
                poses[index] = found[0]
        turned, _ = pose_errors(poses, before)
    return MatchedCameras(frames=tuple(at), world_from_camera=poses, converged=(inliers > 0) & (turned < REST_DEGREES), inliers=inliers)


def _lifted(
    picture: UInt8[np.ndarray, "H W"],
    view: RenderedViews,
    moving: Bool[Tensor, "S"],
    world_from_camera: Float64[Tensor, "4 4"],
    intrinsics: Float64[Tensor, "3 3"],
) -> tuple[Float64[Tensor, "P 2"], Float64[Tensor, "P 3"]]:
    """Pixels of the picture, and where the world's still surfaces are that the rendering shows at what they match."""
    rendering = _grey(view.colour)
    corners = cv2.goodFeaturesToTrack(picture, POINTS, LEAST_TEXTURE, LEAST_APART)
    if corners is None:
        return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)
    places = corners[:, 0] + np.float32(0.5)
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = places + sample(solver.calc(picture, rendering, None), places)  # pyrefly: ignore
    again = there + sample(solver.calc(rendering, picture, None), there)  # pyrefly: ignore
    depth = view.depth.numpy()
    known = np.isfinite(depth) & (depth > NEAREST_METRES)
    inverse = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
    still = cv2.erode((known & ~moving[view.solid].numpy()).astype(np.float32), np.ones((3, 3)))
    agreeing = np.linalg.norm(again - places, axis=1) < ROUND_TRIP_PIXELS
    matched = torch.from_numpy(there).double()
    kept = inside(matched, depth.shape) & torch.from_numpy(agreeing & (sample(still, there) > 1 - 1e-3))
    lifted = unproject(matched[kept], 1 / torch.from_numpy(sample(inverse, there)).double()[kept], world_from_camera, intrinsics)
    return torch.from_numpy(places).double()[kept], lifted


def _posed(
    pixels: Float64[Tensor, "P 2"], points: Float64[Tensor, "P 3"], intrinsics: Float64[Tensor, "3 3"]
) -> tuple[Float64[Tensor, "4 4"], int] | None:
    """World from camera, and how many points agree with it; None where too few do."""
    if len(points) < LEAST_INLIERS:
        return None
    found, rotation, translation, agreeing = cv2.solvePnPRansac(
        points.numpy(),
        pixels.numpy(),
        intrinsics.numpy(),
        None,
        iterationsCount=RANSAC_DRAWS,
        reprojectionError=INLIER_PIXELS,
        confidence=CONFIDENCE,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not found or len(agreeing) < LEAST_INLIERS:
        return None
    chosen = agreeing[:, 0]
    rotation, translation = cv2.solvePnPRefineLM(
        points.numpy()[chosen], pixels.numpy()[chosen], intrinsics.numpy(), None, rotation, translation
    )
    camera_from_world = rigid(torch.from_numpy(cv2.Rodrigues(rotation)[0]), torch.from_numpy(translation[:, 0]))
    return invert(camera_from_world), len(chosen)


def _grey(image: UInt8[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W"]:
    return cv2.cvtColor(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
