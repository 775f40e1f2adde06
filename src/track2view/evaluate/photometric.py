"""Direct alignment: cameras moved until exact renderings of a world fit pictures of it.

Levenberg-Marquardt on the robust photometric error over what stands still. What a moved camera would see is predicted from the
rendering's gradient and its exact depth (as in Engel et al. 2018, "Direct Sparse Odometry"), and rendered anew after every step.
Each picture by itself, many at once. Shapes: K pictures, M terms of brightness, P pixels of H × W.
"""

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.spatial.transform import RigidTransform
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from track2view.geometry import inside, pixel_centres, project, unproject
from track2view.records import CameraPath, Size
from track2view.scenes import World, render_views

SMOOTHING = 0.7
BANDS = (1.5, 3.0)
"""Pixels: a picture is compared a little smoothed; a rendering's detail is parted at these widths, each with its own gain."""
STEPS = 12
REST_PIXELS = 0.02
DAMPING, DAMPING_DOWN, DAMPING_UP = 1e-3, 0.2, 10.0
TINY = 1e-6
ROBUST = 2.385
"""Cauchy's constant, in standard deviations: 95 % efficient on Gaussian noise."""
LEAST_SCALE = 1 / 255
LEAST_USED = 0.1
NEAREST_METRES = 0.05
SAME_SURFACE = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Estimates, and the renderings there.

    Attributes:
        poses: world_from_camera.
        brightness: a factor for each term and channel; terms times factors are like the picture.
        terms: the rendering parted by detail, coarsest first, then ones.
        near: inverse depth of what a gradient moves with: the nearest surface of a pixel's neighbourhood.
        used: pixels to compare.
        last_step: that led here or was tried from here, in pixels.
    """

    poses: Float64[Tensor, "K 4 4"]
    brightness: Float32[Tensor, "K M 3"]
    terms: Float32[Tensor, "K M 3 H W"]
    near: Float32[Tensor, "K H W"]
    used: Bool[Tensor, "K H W"]
    last_step: Float64[Tensor, "K"]

    @property
    def fitted(self) -> Float32[Tensor, "K 3 H W"]:
        return (self.terms * self.brightness[..., None, None]).sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What the source view shows at each picture's time: its camera, and depth there."""

    camera_from_world: Float64[Tensor, "K 4 4"]
    intrinsics: Float64[Tensor, "K 3 3"]
    depth: Float32[Tensor, "K H W"]

    @staticmethod
    def of(world: World, source: CameraPath, at: list[int]) -> "Shown":
        depth = render_views(world, source, at).depth.cpu()
        return Shown(camera_from_world=source.camera_from_world[at], intrinsics=source.intrinsics[at], depth=depth)

    def shows(self, points: Float64[Tensor, "K P 3"]) -> Bool[Tensor, "K P"]:
        """Whether points are inside the view and not behind what it shows; to a pixel, unlike :func:`track2view.scenes.shown_by`."""
        height, width = self.depth.shape[1:]
        pixels, depth = project(points, self.camera_from_world, self.intrinsics)
        column, row = pixels[..., 0].long().clamp(0, width - 1), pixels[..., 1].long().clamp(0, height - 1)
        found = self.depth[torch.arange(len(points))[:, None], row, column]
        return inside(pixels, (height, width)) & (depth > NEAREST_METRES) & (depth < found * SAME_SURFACE)

    def at(self, index: int) -> "Shown":
        """Of one picture."""
        return rows(self, torch.tensor([index]))


Rows = TypeVar("Rows", State, Shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """Pictures at one size of the pyramid, and what it takes to render what they should show.

    Attributes:
        intrinsics: of each picture.
        times: the world's, of each picture.
        pictures: smoothed, in [0, 1].
        moving: which solids move.
        shown: what to leave out besides; None for nothing.
    """

    world: World
    size: Size
    intrinsics: Float64[Tensor, "K 3 3"]
    times: list[int]
    pictures: Float32[Tensor, "K 3 H W"]
    moving: Bool[Tensor, "S"]
    shown: Shown | None

    def of(self, chosen: Int64[Tensor, "k"]) -> "Level":
        return replace(
            self,
            intrinsics=self.intrinsics[chosen],
            times=[self.times[index] for index in chosen.tolist()],
            pictures=self.pictures[chosen],
            shown=None if self.shown is None else rows(self.shown, chosen),
        )

    def render(self, poses: Float64[Tensor, "K 4 4"], brightness: Float32[Tensor, "K M 3"]) -> State:
        camera = CameraPath(world_from_camera=poses, intrinsics=self.intrinsics, size=self.size, unit="metre")
        views = render_views(self.world, camera, self.times, camera_frames=list(range(len(poses))))
        depth, solid = views.depth.cpu(), views.solid.cpu()
        known = depth.isfinite() & (depth > NEAREST_METRES)
        left_out = self.moving[solid] | ~known
        if self.shown is not None:
            pixels = pixel_centres(*self.size).double().reshape(1, -1, 2).expand(len(poses), -1, 2)
            points = unproject(pixels, torch.where(known, depth, 1.0).double().flatten(1), poses, self.intrinsics)
            left_out |= ~self.shown.shows(points).reshape(left_out.shape)
        return State(
            poses=poses,
            brightness=brightness,
            terms=_terms(views.colour.cpu().float() / 255),
            near=max_pool2d(torch.where(known, 1 / depth, 0.0), 3, 1, 1),
            used=max_pool2d(left_out.float(), 3, 1, 1) == 0,
            last_step=torch.full((len(poses),), math.inf, dtype=torch.float64),
        )


def settled(level: Level, state: State) -> State:
    """Where the steps from ``state`` lead."""
    damping = torch.full((len(state.poses),), DAMPING, dtype=torch.float64)
    for _ in range(STEPS):
        active = (state.last_step >= REST_PIXELS).nonzero()[:, 0]
        if not len(active):
            break
        part, now = level.of(active), rows(state, active)
        scale = scale_of_residual(part, now)
        information, slope = normal_equations(part, now, scale)
        damped = information + torch.diag_embed(damping[active, None] * information.diagonal(dim1=1, dim2=2) + TINY)
        step = -torch.linalg.solve(damped, slope)
        turn, way, brighter = step[:, :3], step[:, 3:6], step[:, 6:].float().reshape(now.brightness.shape)
        trial = part.render(_moved(now.poses, step[:, :6]), now.brightness + brighter)
        better = _cost(part, trial, scale) < _cost(part, now, scale)
        near = now.near.flatten(1).median(1).values
        state = with_rows(state, active[better], rows(trial, better.nonzero()[:, 0]))
        pixels = part.intrinsics[:, 0, 0] * (turn.norm(dim=1) + way.norm(dim=1) * near)
        state = replace(state, last_step=state.last_step.index_copy(0, active, pixels))
        damping[active] *= torch.where(better, DAMPING_DOWN, DAMPING_UP)
    return state


def normal_equations(level: Level, state: State, scale: Float32[Tensor, "K"]) -> tuple[Float64[Tensor, "K n n"], Float64[Tensor, "K n"]]:
    """Weighted Gauss-Newton's matrix and right side, for a rotation vector and a translation in the camera's axes, then brightness."""
    count, terms, channels = state.brightness.shape
    residual = (state.fitted - level.pictures).flatten(2)
    weight = weights(level, state, scale).flatten(2)
    by_motion, by_brightness = _by_motion(level, state), state.terms.flatten(3).permute(0, 2, 3, 1)
    information = torch.zeros(count, *[6 + terms * channels] * 2, dtype=torch.float64)
    slope = torch.zeros(count, 6 + terms * channels, dtype=torch.float64)
    for channel in range(channels):
        own = torch.cat([by_motion[:, channel], by_brightness[:, channel]], dim=-1)
        weighted = own * weight[:, channel, :, None]
        where = torch.cat([torch.arange(6), 6 + channels * torch.arange(terms) + channel])
        information[:, where[:, None], where] += (weighted.mT @ own).double()
        slope[:, where] += (weighted.mT @ residual[:, channel, :, None])[..., 0].double()
    return information, slope


def _by_motion(level: Level, state: State) -> Float32[Tensor, "K 3 P 6"]:
    """Derivative of the fitted rendering by the camera's motion: points move by -v - ω × X, and what they show with them."""
    down, right = (each.flatten(2)[..., None] for each in torch.gradient(state.fitted, dim=(2, 3)))
    focal, centre = level.intrinsics.float()[:, None, [0, 1], [0, 1]], level.intrinsics.float()[:, None, [0, 1], [2, 2]]
    x, y = ((pixel_centres(*level.size).reshape(1, -1, 2) - centre) / focal).unbind(-1)
    near, none = state.near.flatten(1), torch.zeros_like(x)
    u = torch.stack([x * y, -1 - x * x, y, -near, none, x * near], dim=-1) * focal[..., :1]
    v = torch.stack([1 + y * y, -x * y, -x, none, -near, y * near], dim=-1) * focal[..., 1:]
    return -(right * u[:, None] + down * v[:, None])


def weights(level: Level, state: State, scale: Float32[Tensor, "K"]) -> Float32[Tensor, "K 3 H W"]:
    """Cauchy's, 0 where not used."""
    off = (state.fitted - level.pictures) / (ROBUST * scale[:, None, None, None])
    return state.used[:, None] / (1 + off.square())


def _cost(level: Level, state: State, scale: Float32[Tensor, "K"]) -> Float32[Tensor, "K"]:
    """Cauchy's loss, mean over the pixels used; infinite where these are too few."""
    off = (state.fitted - level.pictures) / (ROBUST * scale[:, None, None, None])
    used = state.used.float()
    total = (torch.log1p(off.square()).sum(1) * used).sum((1, 2))
    return torch.where(used.mean((1, 2)) > LEAST_USED, total / used.sum((1, 2)), math.inf)


def scale_of_residual(level: Level, state: State) -> Float32[Tensor, "K"]:
    """Robust standard deviation of the residual."""
    size = torch.where(state.used[:, None], (state.fitted - level.pictures).abs(), math.nan)
    return (1.4826 * size.flatten(1).nanmedian(1).values).nan_to_num(1.0).clamp(min=LEAST_SCALE)


def correlation(level: Level, state: State, weight: Float32[Tensor, "K 3 H W"]) -> Float32[Tensor, "K"]:
    """Of pictures and fitted renderings, each channel's mean taken off."""
    total = weight.sum((2, 3), keepdim=True).clamp(min=TINY)
    one, other = (each - (weight * each).sum((2, 3), keepdim=True) / total for each in (state.fitted, level.pictures))
    together, alone, as_well = ((weight * product).sum((1, 2, 3)) for product in (one * other, one * one, other * other))
    return together / (alone * as_well).sqrt().clamp(min=TINY)


def _terms(rendering: Float32[Tensor, "K 3 H W"]) -> Float32[Tensor, "K M 3 H W"]:
    """A rendering as the sum of its coarse part and its details, and ones: gains of these fit a tint, a blur, and both."""
    smooth = [blurred(rendering, math.hypot(SMOOTHING, width)) for width in (0.0, *BANDS)]
    return torch.stack([smooth[-1], *(fine - coarse for fine, coarse in pairwise(smooth)), torch.ones_like(rendering)], dim=1)


def as_rendered(count: int) -> Float32[Tensor, "K M 3"]:
    """Brightness as rendered."""
    brightness = torch.ones(count, len(BANDS) + 2, 3)
    brightness[:, -1] = 0
    return brightness


def blurred(image: Float32[Tensor, "K 3 H W"], sigma: float) -> Float32[Tensor, "K 3 H W"]:
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None])
    return conv2d(pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None]).reshape(image.shape)


def _moved(poses: Float64[Tensor, "K 4 4"], step: Float64[Tensor, "K 6"]) -> Float64[Tensor, "K 4 4"]:
    moved = RigidTransform.from_matrix(poses.numpy()) * RigidTransform.from_exp_coords(step.numpy())
    return torch.from_numpy(np.ascontiguousarray(moved.as_matrix()))


def _tensors(record: State | Shown) -> dict[str, Tensor]:
    return {each.name: value for each in fields(record) if isinstance(value := getattr(record, each.name), Tensor)}


def rows(record: Rows, chosen: Int64[Tensor, "k"]) -> Rows:
    return replace(record, **{name: value[chosen] for name, value in _tensors(record).items()})


def with_rows(record: Rows, where: Int64[Tensor, "k"], new: Rows) -> Rows:
    """The record with ``new`` at rows ``where``."""
    put = _tensors(new)
    return replace(record, **{name: value.index_copy(0, where, put[name]) for name, value in _tensors(record).items()})
