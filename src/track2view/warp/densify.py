"""Depth for every pixel of every frame, from flow tracks, the cameras and the tracker's 3D tracks."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from scipy.spatial import KDTree
from torch import Tensor

from track2view.geometry import project
from track2view.records import CameraPath, Clip, Size, TrackSet
from track2view.trackers.bundle import BundleState, Observations, residuals, triangulate
from track2view.trackers.flow import NeighbourFlow, follow
from track2view.video import progress

KEY_INTERVAL = 8
REACH = 18
SPACING = 5
STILL_PIXELS = 1.5
MOVING_PIXELS = 2.5
PRIOR_PIXELS = 10.0
SMOOTHING = 60.0
COLOUR_SIGMA = 12.0
SNAP_WINDOW = 7
SNAP_RATIO = 1.06


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseDepth:
    """Depth of every pixel, as inverse depth along the camera's z.

    Attributes:
        disparity: > 0, at any size of the clip's aspect (half the working size, where densify made it).
        moving: pixels that belong to things that move on their own.
    """

    disparity: Float32[Tensor, "T h w"]
    moving: Bool[Tensor, "T h w"]

    def at(self, frame: int, size: Size) -> Float32[np.ndarray, "H W"]:
        """Disparity of one frame at ``size``, with depth edges kept sharp: a pixel is on one side or the other."""
        small = self.disparity[frame].numpy()
        if small.shape == size:
            return small
        large = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        window = np.ones((SNAP_WINDOW, SNAP_WINDOW), np.uint8)
        far, near = cv2.erode(large, window), cv2.dilate(large, window)
        snapped = np.where(large - far > near - large, near, far)
        return np.where(near > far * SNAP_RATIO, snapped, large)

    def moving_at(self, frame: int, size: Size) -> Bool[np.ndarray, "H W"]:
        """Moving pixels of one frame at ``size``."""
        small = self.moving[frame].numpy().astype(np.uint8)
        return cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Points:
    """What one keyframe's dense tracks tell: where they are in each frame of ``frames``, and how far, if still."""

    frames: range
    points: Float32[np.ndarray, "F N 2"]
    visible: Bool[np.ndarray, "F N"]
    disparity: Float32[np.ndarray, "F N"]
    still: Bool[np.ndarray, "N"]
    moving: Bool[np.ndarray, "N"]
    weight: Float32[np.ndarray, "N"]


def densify(clip: Clip, flow: NeighbourFlow, tracks: TrackSet, camera: CameraPath) -> DenseDepth:
    """Depth maps that agree with the tracks where these are, and follow image edges between.

    Every few frames a fine grid of points is followed both ways and triangulated with the known cameras; points that no
    still position explains take the depth of the nearest moving tracks. An edge-aware smoother spreads both.
    """
    count, size = len(clip), flow.size
    height, width = size[0] // 2, size[1] // 2
    total = np.zeros((count, height, width), np.float32)
    weight = np.zeros((count, height, width), np.float32)
    moving = np.zeros((count, height, width), np.float32)
    anchors = _Anchors(tracks, camera, size)
    keyframes = sorted({*range(0, count, KEY_INTERVAL), count - 1})
    for key in progress(keyframes, "dense depth", len(keyframes)):
        dense = _triangulated(flow, camera, key, anchors)
        for row, frame in enumerate(dense.frames):
            chosen = dense.visible[row] & (dense.still | dense.moving)
            disparity = dense.disparity[row].copy()
            lively = chosen & dense.moving
            disparity[lively], known = anchors.moving_disparity(frame, dense.points[row, lively])
            chosen[np.flatnonzero(lively)[~known]] = False
            cell = (dense.points[row, chosen] / 2).astype(int)
            index = np.clip(cell[:, 1], 0, height - 1) * width + np.clip(cell[:, 0], 0, width - 1)
            nearby = np.float32(np.exp(-abs(frame - key) / REACH))
            strength = dense.weight[chosen] * nearby
            total[frame] += np.bincount(index, strength * disparity[chosen], height * width).reshape(height, width)
            weight[frame] += np.bincount(index, strength, height * width).reshape(height, width)
            moving[frame] += np.bincount(index, strength * dense.moving[chosen], height * width).reshape(height, width)
    disparity = torch.empty(count, height, width)
    lively = torch.zeros(count, height, width, dtype=torch.bool)
    for frame in range(count):
        anchors.add(frame, total[frame], weight[frame], moving[frame])
        guide = cv2.resize(clip.image(frame), (width, height), interpolation=cv2.INTER_AREA)
        depth, share = _spread(guide, total[frame], weight[frame], moving[frame])
        disparity[frame], lively[frame] = torch.from_numpy(depth), torch.from_numpy(share > 0.5)
    return DenseDepth(disparity=disparity, moving=lively)


class _Anchors:
    """The tracker's own tracks, as the image sees them."""

    def __init__(self, tracks: TrackSet, camera: CameraPath, size: Size) -> None:
        working = camera.resized(size)
        pixels, depth = project(tracks.xyz_world.double(), working.camera_from_world, working.intrinsics)
        self.points = pixels.numpy().astype(np.float32)
        self.disparity = (1 / depth.clamp(min=1e-6)).numpy().astype(np.float32)
        within = (self.points > 0).all(-1) & (self.points[..., 0] < size[1]) & (self.points[..., 1] < size[0])
        self.usable = tracks.visible.numpy() & within & (depth > 1e-6).numpy()
        count = tracks.xyz_world.shape[1]
        self.moving = tracks.moving.numpy() if tracks.moving is not None else np.zeros(count, bool)
        self.weight = tracks.confidence.numpy()
        self.reach = 0.05 * max(size)
        self.typical = float(np.median(self.disparity[self.usable])) if self.usable.any() else 1.0

    def moving_disparity(
        self, frame: int, points: Float32[np.ndarray, "n 2"]
    ) -> tuple[Float32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Disparity of the moving tracks nearest to points, and whether one is near."""
        mine = np.flatnonzero(self.usable[frame] & self.moving)
        if not len(mine) or not len(points):
            return np.ones(len(points), np.float32), np.zeros(len(points), bool)
        distance, near = KDTree(self.points[frame, mine]).query(points)
        return self.disparity[frame, mine][near], distance < self.reach

    def still_disparity(self, frame: int, points: Float32[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n"]:
        """What the nearest still tracks say of points."""
        mine = np.flatnonzero(self.usable[frame] & ~self.moving)
        if not len(mine):
            return np.full(len(points), self.typical)
        _, near = KDTree(self.points[frame, mine]).query(points, k=min(3, len(mine)))
        return np.median(self.disparity[frame, mine][near.reshape(len(points), -1)], axis=1).astype(np.float64)

    def add(self, frame: int, total: np.ndarray, weight: np.ndarray, moving: np.ndarray) -> None:
        """Enter the tracks of one frame into its accumulators."""
        mine = np.flatnonzero(self.usable[frame])
        height, width = total.shape
        cell = (self.points[frame, mine] / 2).astype(int)
        row, column = np.clip(cell[:, 1], 0, height - 1), np.clip(cell[:, 0], 0, width - 1)
        strength = self.weight[frame, mine]
        np.add.at(total, (row, column), strength * self.disparity[frame, mine])
        np.add.at(weight, (row, column), strength)
        np.add.at(moving, (row, column), strength * self.moving[mine])


def _triangulated(flow: NeighbourFlow, camera: CameraPath, key: int, anchors: _Anchors) -> _Points:
    frames = range(max(0, key - REACH), min(len(camera), key + REACH + 1))
    height, width = flow.size
    spacing = max(2, SPACING * min(height, width) // 480)
    v, u = np.meshgrid(np.arange(spacing / 2, height, spacing), np.arange(spacing / 2, width, spacing), indexing="ij")
    start = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float32)
    points, visible = follow(flow, key, start, frames)
    window = slice(frames.start, frames.stop)
    part = replace(
        camera.resized(flow.size),
        world_from_camera=camera.world_from_camera[window],
        intrinsics=camera.resized(flow.size).intrinsics[window],
    )
    intrinsics = part.intrinsics.numpy()
    focal = float(intrinsics[0, 0, 0])
    canonical = (points - intrinsics[:, None, :2, 2]) * (focal / intrinsics[:, [0, 1], [0, 1]])[:, None]
    anchor = np.full(len(start), key - frames.start)
    state = BundleState(
        rotation=part.camera_from_world[:, :3, :3].numpy(),
        centre=part.world_from_camera[:, :3, 3].numpy(),
        inverse_depth=anchors.still_disparity(key, start),
        focal=focal,
    )
    sampled = visible.copy()
    sampled[(np.arange(len(frames)) - anchor[0]) % 3 != 0] = False
    seen = Observations.of(canonical.astype(np.float64), sampled, anchor)
    inverse_depth, information = triangulate(state, seen, state.inverse_depth, 1.0, prior=(PRIOR_PIXELS / anchors.typical) ** 2)
    state = replace(state, inverse_depth=inverse_depth)
    error, in_front = residuals(state, seen)
    size = np.where(in_front, np.linalg.norm(error, axis=-1), 99.0)
    worst = np.zeros(len(start))
    np.maximum.at(worst, seen.track, size)
    observed = np.bincount(seen.track, minlength=len(start)) > 0
    rays = np.concatenate([canonical[anchor[0]] / focal, np.ones((len(start), 1))], axis=1)
    xyz = state.centre[anchor[0]] + (rays @ state.rotation[anchor[0]]) / inverse_depth[:, None]
    _, depth = project(torch.from_numpy(xyz).expand(len(frames), -1, -1), part.camera_from_world, part.intrinsics)
    sure = information * inverse_depth**2
    return _Points(
        frames=frames,
        points=points,
        visible=visible & (depth.numpy() > 1e-6),
        disparity=(1 / np.maximum(depth.numpy(), 1e-6)).astype(np.float32),
        still=observed & (worst < STILL_PIXELS),
        moving=observed & (worst > MOVING_PIXELS),
        weight=(sure / (sure + PRIOR_PIXELS**2)).astype(np.float32) + np.float32(1e-3),
    )


def _spread(
    guide: UInt8[np.ndarray, "h w 3"], total: Float32[np.ndarray, "h w"], weight: Float32[np.ndarray, "h w"], moving: Float32[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Edge-aware normalised smoothing: a fine pass where points are dense, a broad one where they are not."""

    def smooth(image: np.ndarray, strength: float) -> np.ndarray:
        return cv2.ximgproc.fastGlobalSmootherFilter(guide, image.astype(np.float32), strength, COLOUR_SIGMA)

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), guide.shape[0] / 12)

    fine_weight, broad_weight = smooth(weight, SMOOTHING), smooth(weight, 50 * SMOOTHING) * 1e-2
    flat = blur(weight) * 1e-4 + 1e-12
    norm = fine_weight + broad_weight + flat
    filled = smooth(total, SMOOTHING) + smooth(total, 50 * SMOOTHING) * 1e-2 + (blur(total) * 1e-4 + 1e-12)
    share = (smooth(moving, SMOOTHING) + smooth(moving, 50 * SMOOTHING) * 1e-2) / norm
    return np.maximum(filled / norm, 1e-4).astype(np.float32), share.astype(np.float32)
