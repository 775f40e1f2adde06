"""Depth for every pixel of every frame, from flow tracks, the cameras and the tracker's 3D tracks."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from scipy.spatial import KDTree
from torch import Tensor

from track2view.geometry import inside, project
from track2view.progress import progress
from track2view.records import CameraPath, Clip, Size, TrackSet
from track2view.trackers.bundle import BundleState, Observations, canonical_pixels, residuals, triangulate
from track2view.trackers.certainty import CONFIDENT, LEAST_CONFIDENCE, WORLDS_RELIEF, Halves, held_share, looseness, rim_of
from track2view.trackers.flow import NeighbourFlow, follow
from track2view.trackers.passing import LASTING_FRAMES, things_move_about
from track2view.trackers.relative_depth import PLAUSIBLE, AlignedDepth
from track2view.warp.spread import deviation_of, far_and_near, spread

KEY_INTERVAL = 8
REACH = 18
SPACING = 5
STILL_PIXELS = 1.5
MOVING_PIXELS = 2.5
PASSING = 0.05
"""What those that are followed for moments only say of what is still, where things move, in terms of the others."""
TRUSTED = 0.2
NEAREST, FARTHEST = 1.25, 0.5
MOVERS_DEVIATION = 0.85
"""Deviation of how far what moves is, in terms of it: for where it stands is a guess."""
SNAP_WINDOW = 7
SNAP_RATIO = 1.06
SNAP_STEEPNESS = 0.7
BESIDE_TRACKS, PRIOR_WEIGHT = 5, 0.05
"""Tracks around a point by which a depth prior is raised or lowered there, and what it then counts for beside a point that views tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseDepth:
    """Depth of every pixel, as inverse depth along the camera's z.

    Attributes:
        disparity: > 0, at any size of the clip's aspect (half the working size, where densify made it).
        deviation: of the disparity, in terms of it: how unsure it is.
        moving: pixels that belong to things that move on their own.
    """

    disparity: Float32[Tensor, "T h w"]
    deviation: Float32[Tensor, "T h w"]
    moving: Bool[Tensor, "T h w"]

    @staticmethod
    def exact(disparity: Float32[Tensor, "T h w"], moving: Bool[Tensor, "T h w"]) -> "DenseDepth":
        """Depth that is known, not found."""
        return DenseDepth(disparity=disparity, deviation=torch.zeros_like(disparity), moving=moving)

    def at(self, frame: int, size: Size) -> Float32[np.ndarray, "H W"]:
        """Disparity of one frame at ``size``, with depth edges kept sharp: a pixel is on one side or the other."""
        small = self.disparity[frame].numpy()
        if small.shape == size:
            return small
        large = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        (far, near), (farther, nearer) = far_and_near(large, SNAP_WINDOW), far_and_near(large, 2 * SNAP_WINDOW + 1)
        step = (near > far * SNAP_RATIO) & (near - far > SNAP_STEEPNESS * (nearer - farther))
        return np.where(step, np.where(large - far > near - large, near, far), large)

    def deviation_at(self, frame: int, size: Size) -> Float32[np.ndarray, "H W"]:
        """Deviation of one frame's disparity at ``size``, in terms of it."""
        return cv2.resize(self.deviation[frame].numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)

    def moving_at(self, frame: int, size: Size) -> Bool[np.ndarray, "H W"]:
        """Moving pixels of one frame at ``size``."""
        small = self.moving[frame].numpy().astype(np.uint8)
        return cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Points:
    """What one keyframe's dense tracks tell: where they are in each frame of ``frames``, and how far, if still.

    Attributes:
        weight: of the depth; of moving ones, of which they are.
        variance: of the disparity in terms of it, where still.
        firm: how much each says of what is still and what moves: little where the picture holds nothing to follow, unless it tells
            depth all the same.
    """

    frames: range
    points: Float32[np.ndarray, "F N 2"]
    visible: Bool[np.ndarray, "F N"]
    disparity: Float32[np.ndarray, "F N"]
    still: Bool[np.ndarray, "N"]
    moving: Bool[np.ndarray, "N"]
    weight: Float32[np.ndarray, "N"]
    variance: Float32[np.ndarray, "N"]
    firm: Float32[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Guess:
    """What points are drawn to where views say little.

    Attributes:
        variance: of it, in terms of it.
        weight: what a point that is wholly a guess counts for beside one that is wholly seen.
        factor: by how many times what is seen may be nearer or farther, and still be still.
        views_deviation: of what views tell, in terms of it, beside what their halves disagree on.
    """

    disparity: Float64[np.ndarray, "n"]
    variance: Float64[np.ndarray, "n"]
    weight: float = 0.0
    factor: float = math.inf
    views_deviation: float = 0.0

    def bounded(self, halves: Halves) -> Halves:
        """What views tell of inverse depth, no farther from the guess than it can be: beyond lies what moves."""
        nearest, farthest = self.disparity * self.factor, self.disparity / self.factor
        return replace(halves, inverse_depth=np.clip(halves.inverse_depth, farthest, nearest))

    def asked(self, halves: Halves, variance: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """The inverse depth at which points are asked whether they move: their own, as far as views can tell it at all.

        Args:
            variance: squared pixels by which views miss a still point.
        """
        weight = variance / (math.log(self.factor) * self.disparity) ** 2
        own = halves.inverse_depth[2]
        return own + weight / np.maximum(halves.information[2] + weight, 1e-12) * (self.disparity - own)


def densify(clip: Clip, flow: NeighbourFlow, tracks: TrackSet, camera: CameraPath, prior: AlignedDepth | None = None) -> DenseDepth:
    """Depth maps that agree with the tracks where these are, and follow image edges between.

    Every few frames a fine grid of points is followed both ways and triangulated with the known cameras; points that no
    still position explains take the depth of the nearest moving tracks. An edge-aware smoother spreads both.

    Args:
        prior: a network's depth, of which the tracks have had their share: what dense tracks are drawn to as far as views say little.
    """
    count, size = len(clip), flow.size
    height, width = size[0] // 2, size[1] // 2
    anchors = _Anchors(tracks, camera, size) if prior is None else _InformedAnchors(tracks, camera, size, prior)
    disparity, deviation = torch.empty(count, height, width), torch.empty(count, height, width)
    lively = torch.zeros(count, height, width, dtype=torch.bool)
    gathered: dict[int, Float32[np.ndarray, "4 2 h w"]] = {}
    keyframes = sorted({*range(0, count, KEY_INTERVAL), count - 1})
    for key, after in zip(progress(keyframes, "dense depth", len(keyframes)), [*keyframes[1:], count + REACH], strict=True):
        dense = _triangulated(flow, camera, key, anchors)
        for row, frame in enumerate(dense.frames):
            _gather(gathered.setdefault(frame, np.zeros((4, 2, height, width), np.float32)), dense, row, anchors, abs(frame - key))
        for frame in [each for each in gathered if each < after - REACH]:
            into = gathered.pop(frame)
            anchors.add(frame, into)
            guide = cv2.resize(clip.image(frame), (width, height), interpolation=cv2.INTER_AREA)
            depth, moving = spread(guide, *into[:3], told=anchors.told)
            disparity[frame], lively[frame] = torch.from_numpy(depth), torch.from_numpy(moving)
            deviation[frame] = torch.from_numpy(deviation_of(guide, into[3], into[1], moving))
    return DenseDepth(disparity=disparity, deviation=deviation, moving=lively)


def _gather(into: Float32[np.ndarray, "4 2 h w"], dense: _Points, row: int, anchors: "_Anchors", distance: int) -> None:
    """Enter what dense tracks tell of one frame, ``distance`` frames from their own: (total, weight, evidence, doubt) × (still, moving)."""
    height, width = into.shape[2:]
    chosen = dense.visible[row] & (dense.still | dense.moving)
    disparity, variance = dense.disparity[row].copy(), dense.variance.copy()
    lively = chosen & dense.moving
    disparity[lively], variance[lively], known = anchors.moving_disparity(dense.frames[row], dense.points[row, lively])
    chosen[np.flatnonzero(lively)[~known]] = False
    chosen &= dense.moving | ((disparity > anchors.farthest) & (disparity < anchors.nearest))
    cell = (dense.points[row, chosen] / 2).astype(int)
    index = np.clip(cell[:, 1], 0, height - 1) * width + np.clip(cell[:, 0], 0, width - 1)
    fresh = np.float32(np.exp(-distance / REACH))
    strength, evidence = dense.weight[chosen] * fresh, dense.firm[chosen] * fresh
    for layer, mine in enumerate((~dense.moving[chosen], dense.moving[chosen])):
        for part, amount in enumerate((strength * disparity[chosen], strength, evidence, strength * variance[chosen])):
            into[part, layer] += np.bincount(index[mine], amount[mine], height * width).reshape(height, width)


class _Anchors:
    """The tracker's own tracks, as the image sees them."""

    def __init__(self, tracks: TrackSet, camera: CameraPath, size: Size) -> None:
        working = camera.resized(size)
        frames, count, _ = tracks.xyz_world.shape
        self.points = np.empty((frames, count, 2), np.float32)
        self.disparity, self.usable = np.empty((frames, count), np.float32), np.empty((frames, count), bool)
        for frame in range(frames):
            pixels, depth = project(tracks.xyz_world[frame].double(), working.camera_from_world[frame], working.intrinsics[frame])
            self.points[frame], self.disparity[frame] = pixels.numpy(), (1 / depth.clamp(min=1e-6)).numpy()
            self.usable[frame] = (tracks.visible[frame] & inside(pixels, size) & (depth > 1e-6)).numpy()
        self.moving = tracks.moving.numpy() if tracks.moving is not None else np.zeros(count, bool)
        self.lasting = tracks.visible.sum(0).numpy() >= LASTING_FRAMES
        self.weight = tracks.confidence.numpy()
        self.variance = self.unsure()
        self.reach = 0.05 * max(size)
        trusted = self.disparity[self.usable & ~self.moving & (self.weight > TRUSTED)]
        self.told = len(trusted) > 0
        trusted = next((each for each in (trusted, self.disparity[self.usable]) if len(each)), np.ones(1))
        self.typical = float(np.median(trusted))
        self.nearest = NEAREST * float(np.percentile(trusted, 98))
        self.farthest = FARTHEST * float(np.percentile(trusted, 2))
        self.usable &= self.moving | ((self.disparity > self.farthest) & (self.disparity < self.nearest))

    def unsure(self) -> Float32[np.ndarray, "T N"]:
        """Variance of the tracks' disparity, in terms of it."""
        told = CONFIDENT**2 * (1 / np.maximum(self.weight, LEAST_CONFIDENCE) - 1)
        return np.where(self.moving, np.float32(MOVERS_DEVIATION**2), told)

    def moving_disparity(
        self, frame: int, points: Float32[np.ndarray, "n 2"]
    ) -> tuple[Float32[np.ndarray, "n"], Float32[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Disparity of the moving tracks nearest to points, its variance in terms of it, and whether one is near."""
        mine = np.flatnonzero(self.usable[frame] & self.moving)
        if not len(mine) or not len(points):
            return np.ones(len(points), np.float32), np.ones(len(points), np.float32), np.zeros(len(points), bool)
        distance, near = KDTree(self.points[frame, mine]).query(points)
        return self.disparity[frame, mine][near], self.variance[frame, mine][near], distance < self.reach

    def still_disparity(self, frame: int, points: Float32[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n"]:
        """What the nearest still tracks say of points."""
        mine = np.flatnonzero(self.usable[frame] & ~self.moving)
        if not len(mine):
            return np.full(len(points), self.typical)
        _, near = KDTree(self.points[frame, mine]).query(points, k=min(3, len(mine)))
        return np.median(self.disparity[frame, mine][near.reshape(len(points), -1)], axis=1).astype(np.float64)

    def doubted(self, frame: int, points: Float32[np.ndarray, "n 2"], passing: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Which points that look still have little to say: those that last for moments where things move."""
        mine = np.flatnonzero(self.usable[frame] & self.lasting)
        return passing & things_move_about(points, self.points[frame, mine], self.moving[mine])

    def guess(self, frame: int, points: Float32[np.ndarray, "n 2"]) -> "_Guess":
        """What dense tracks at points are drawn to."""
        return _Guess(disparity=self.still_disparity(frame, points), variance=np.full(len(points), WORLDS_RELIEF**2))

    def add(self, frame: int, into: Float32[np.ndarray, "4 2 h w"]) -> None:
        """Enter the tracks of one frame beside its dense ones, as :func:`_gather` does."""
        mine = np.flatnonzero(self.usable[frame])
        height, width = into.shape[2:]
        cell = (self.points[frame, mine] / 2).astype(int)
        where = self.moving[mine].astype(int), np.clip(cell[:, 1], 0, height - 1), np.clip(cell[:, 0], 0, width - 1)
        weight = self.weight[frame, mine]
        amounts = (weight * self.disparity[frame, mine], weight, weight, weight * self.variance[frame, mine])
        for part, amount in enumerate(amounts):
            np.add.at(into[part], where, amount)


class _InformedAnchors(_Anchors):
    """Tracks that had their share of a depth prior, and the prior between them."""

    def __init__(self, tracks: TrackSet, camera: CameraPath, size: Size, prior: AlignedDepth) -> None:
        super().__init__(tracks, camera, size)
        self.prior, self.size = prior, np.array(size[::-1], np.float32)

    def unsure(self) -> Float32[np.ndarray, "T N"]:
        """As tracks say themselves, moving ones too: they were told."""
        return CONFIDENT**2 * (1 / np.maximum(self.weight, LEAST_CONFIDENCE) - 1)

    def guess(self, frame: int, points: Float32[np.ndarray, "n 2"]) -> _Guess:
        """The prior, raised or lowered as the still tracks around are beside it."""
        said = self.prior.at(frame, points / self.size).astype(np.float64)
        mine = np.flatnonzero(self.usable[frame] & ~self.moving)
        if len(mine):
            beside = np.log(self.disparity[frame, mine] / self.prior.at(frame, self.points[frame, mine] / self.size))
            _, near = KDTree(self.points[frame, mine]).query(points, k=min(BESIDE_TRACKS, len(mine)))
            said *= np.exp(np.median(beside[near.reshape(len(points), -1)], axis=1))
        variance = self.prior.variance(said.astype(np.float32)).astype(np.float64)
        return _Guess(
            disparity=said, variance=variance, weight=PRIOR_WEIGHT, factor=math.exp(PLAUSIBLE), views_deviation=self.prior.path_deviation
        )


def _triangulated(flow: NeighbourFlow, camera: CameraPath, key: int, anchors: _Anchors) -> _Points:
    frames = range(max(0, key - REACH), min(len(camera), key + REACH + 1))
    height, width = flow.size
    spacing = max(2, SPACING * min(height, width) // 480)
    v, u = np.meshgrid(np.arange(spacing / 2, height, spacing), np.arange(spacing / 2, width, spacing), indexing="ij")
    start = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float32)
    points, visible = follow(flow, key, start, frames)
    part = camera[frames.start : frames.stop].resized(flow.size)
    canonical, focal = canonical_pixels(points, part.intrinsics.numpy())
    anchor = np.full(len(start), key - frames.start)
    guess = anchors.guess(key, start)
    told = guess.disparity
    state = BundleState(
        rotation=part.camera_from_world[:, :3, :3].numpy(),
        centre=part.world_from_camera[:, :3, 3].numpy(),
        inverse_depth=told,
        focal=focal,
    )
    sampled = visible.copy()
    sampled[(np.arange(len(frames)) - anchor[0]) % 3 != 0] = False
    seen = Observations.of(canonical, sampled, anchor)
    loose = looseness(flow.grey[key], start)
    halves = Halves.of(state, seen, told, 1.0, rim=rim_of(part.intrinsics[:, 0, 0].numpy(), flow.size), held=held_share(loose))
    left = np.where(anchors.doubted(key, start, visible.sum(0) < LASTING_FRAMES), PASSING, 1.0)
    variance = halves.variance(start) / left
    halves = guess.bounded(halves)
    feigned = (guess.views_deviation * told) ** 2
    variance = variance + halves.information[2] * feigned
    relief = max(halves.relief(told, variance) - float(np.mean(feigned)), 1e-12)
    prior, doubt = variance / relief, loose * variance
    inverse_depth, information = triangulate(state, seen, told, 1.0, prior=prior)
    unsure = (doubt / (information + doubt / relief) + halves.shared_error(doubt, told)) / inverse_depth**2
    error, in_front = residuals(replace(state, inverse_depth=guess.asked(halves, variance)), seen)
    state = replace(state, inverse_depth=inverse_depth)
    size = np.where(in_front, np.linalg.norm(error, axis=-1), 99.0)
    worst = np.zeros(len(start))
    np.maximum.at(worst, seen.track, size)
    observed = np.bincount(seen.track, minlength=len(start)) > 0
    moving = observed & (worst > MOVING_PIXELS)
    rays = np.concatenate([canonical[anchor[0]] / focal, np.ones((len(start), 1))], axis=1)
    xyz = state.centre[anchor[0]] + (rays @ state.rotation[anchor[0]]) / inverse_depth[:, None]
    _, depth = project(torch.from_numpy(xyz).expand(len(frames), -1, -1), part.camera_from_world, part.intrinsics)
    return _Points(
        frames=frames,
        points=points,
        visible=visible & (depth.numpy() > 1e-6),
        disparity=(1 / np.maximum(depth.numpy(), 1e-6)).astype(np.float32),
        still=observed & (worst < STILL_PIXELS),
        moving=moving,
        weight=np.where(moving, 1 / loose, (information + guess.weight * prior) / (information + prior)).astype(np.float32)
        + np.float32(1e-3),
        variance=(guess.variance * unsure / (guess.variance + unsure)).astype(np.float32),
        firm=np.where(moving, 1 / loose, left * np.maximum(1 / loose, information / (information + prior))).astype(np.float32),
    )
