"""The camera of a picture of a known world: the one whose exact rendering fits it best.

Works where matching does not: at 64×112, on pictures that are blurred, compressed, tinted or partly wrong. From the commanded
camera on, coarse to fine, each frame by itself: Levenberg-Marquardt on the robust photometric error over what stands still. What a
moved camera would see is predicted from the rendering's gradient and its exact depth (direct alignment, as in Engel et al. 2018,
"Direct Sparse Odometry"), and rendered anew after every step. Shapes: K frames, M terms of brightness, H W pixels.
"""

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from scipy.spatial.transform import RigidTransform
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from track2view.errors import UserError
from track2view.geometry import inside, pixel_centres, project, rigid, rotation_about, unproject
from track2view.metrics.paths import path_length, pose_errors
from track2view.records import CameraPath, Size
from track2view.scenes import World, render_views

SEARCH_SIDE = 8
"""Lines at which turned cameras are tried; twice as many at which fitting begins."""
SEARCH_YAW, SEARCH_PITCH = range(-16, 17, 4), range(-8, 9, 4)
SMOOTHING = 0.7
BANDS = (1.5, 3.0)
"""Pixels: a picture is compared a little smoothed; a rendering's detail is parted at these widths, each with its own gain."""
STEPS = 12
REST_PIXELS, LOOSE_REST_PIXELS = 0.02, 0.5
DAMPING, DAMPING_DOWN, DAMPING_UP = 1e-3, 0.2, 10.0
TINY = 1e-6
ROBUST = 2.385
"""Cauchy's constant, in standard deviations: 95 % efficient on Gaussian noise."""
LEAST_SCALE = 1 / 255
LEAST_USED = 0.1
NEAREST_METRES = 0.05
SAME_SURFACE = 1.05
JUDGED_SIZE = (64, 112)
MOST_DEVIATION = 0.16
LEAST_CORRELATION = 0.75
"""Chosen on worlds of the train split: there right fits deviate by less, but for some in strong noise; wrong ones by 0.2° or more,
but for pictures that are of two cameras at once or warped, which have no one camera."""
FAR_DEGREES = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraFit:
    """Cameras found for some frames of a clip.

    Attributes:
        frames: which.
        world_from_camera: where not ``converged``, the last pose tried, which says nothing.
        converged: whether the steps came to rest at a camera whose rendering is like the picture, and the picture tells which.
        used: share of pixels that were compared: neither what moves, nor what the source does not show, nor pixels beside.
        residual: robust standard deviation of what is left there once brightness and blur are fitted, in grey levels of 255.
        correlation: of the picture with the fitted rendering there, weighted as in the fit; at most 1.
        deviation: predicted standard deviation of the rotation in degrees, as if no larger than 64×112: neighbours err alike.
    """

    frames: tuple[int, ...]
    world_from_camera: Float64[Tensor, "K 4 4"]
    converged: Bool[Tensor, "K"]
    used: Float32[Tensor, "K"]
    residual: Float32[Tensor, "K"]
    correlation: Float32[Tensor, "K"]
    deviation: Float32[Tensor, "K"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraErrors:
    """How far a clip's cameras are from the commanded ones. Means are over frames that converged, NaN where none did.

    Attributes:
        converged: share of the frames.
        rotation: mean geodesic distance, degrees.
        translation: mean distance, in the path's unit.
        translation_percent: the same as a percentage of the commanded path's length; NaN for a path without length.
        auc: area under the share of frames within a rotation error, 0 … 5°, in [0, 1]; what did not converge is never within.
    """

    converged: float
    rotation: float
    translation: float
    translation_percent: float
    auc: float


def estimate_cameras(
    world: World, frames: UInt8[Tensor, "T 3 H W"], commanded: CameraPath, at: list[int], *, source: CameraPath | None = None
) -> CameraFit:
    """The camera of a clip's frames ``at``, found by rendering.

    Where the fit that starts at the commanded camera does not converge, a second one starts at the best of cameras turned from
    there by up to 16° sideways and 8° up or down.

    Args:
        world: what the clip should show, at the same times.
        commanded: its camera, in the world's metres, for pictures of the clip's size.
        source: of the clip it was made from, of the same size and length: then only what that shows at the same time is compared,
            since the rest had to be invented.

    Raises:
        UserError: the clip, the path and the world do not fit together, or ``at`` names frames that are not there.
    """
    for name, camera in (("commanded", commanded), *((("source", source),) if source else ())):
        if camera.size != tuple(frames.shape[-2:]):
            raise UserError(f"{name}: a camera for pictures of {list(camera.size)}, the clip is {list(frames.shape[-2:])}; resize one")
        if not len(frames) == len(camera) <= world.frames:
            raise UserError(f"{name}: {len(camera)} frames, the clip has {len(frames)}, the world {world.frames}; they must agree")
    if not at or min(at) < 0 or max(at) >= len(frames):
        raise UserError(f"at: expected frames in 0 … {len(frames) - 1}, got {at}")
    coarsest, *levels = _pyramid(world, frames, commanded, source, at)
    start = commanded.world_from_camera[at]
    fit = _fitted(levels, start)
    lost = (~fit.converged).nonzero()[:, 0]
    if not len(lost):
        return fit
    again = _fitted([each.of(lost) for each in levels], _search(coarsest.of(lost), start[lost]))
    found = again.converged.nonzero()[:, 0]
    return _with_rows(fit, lost[found], _rows(again, found))


def camera_errors(fit: CameraFit, commanded: CameraPath) -> CameraErrors:
    """Compare found cameras with the commanded ones, in the world's own coordinates: nothing is aligned or scaled."""
    rotation, translation = pose_errors(fit.world_from_camera, commanded.world_from_camera[list(fit.frames)])
    length = path_length(commanded)
    missed = float(translation[fit.converged].mean())
    return CameraErrors(
        converged=float(fit.converged.float().mean()),
        rotation=float(rotation[fit.converged].mean()),
        translation=missed,
        translation_percent=100 * missed / length if length > 1e-9 else math.nan,
        auc=float(torch.where(fit.converged, 1 - rotation / FAR_DEGREES, 0.0).clamp(min=0).mean()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """Estimates, and the renderings there.

    Attributes:
        poses: world_from_camera.
        brightness: a factor for each term and channel; terms times factors are like the picture.
        terms: the rendering parted by detail, coarsest first, then ones.
        near: inverse depth of what a gradient moves with: the nearest surface of a pixel's neighbourhood.
        used: pixels to compare.
    """

    poses: Float64[Tensor, "K 4 4"]
    brightness: Float32[Tensor, "K M 3"]
    terms: Float32[Tensor, "K M 3 H W"]
    near: Float32[Tensor, "K H W"]
    used: Bool[Tensor, "K H W"]

    @property
    def fitted(self) -> Float32[Tensor, "K 3 H W"]:
        return (self.terms * self.brightness[..., None, None]).sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What the source view shows at each picture's time: its camera, and depth there."""

    camera_from_world: Float64[Tensor, "K 4 4"]
    intrinsics: Float64[Tensor, "K 3 3"]
    depth: Float32[Tensor, "K H W"]

    @staticmethod
    def of(world: World, source: CameraPath, at: list[int]) -> "_Shown":
        depth = render_views(world, source, at).depth.cpu()
        return _Shown(camera_from_world=source.camera_from_world[at], intrinsics=source.intrinsics[at], depth=depth)

    def shows(self, points: Float64[Tensor, "K P 3"]) -> Bool[Tensor, "K P"]:
        """Whether points are inside the view and not behind what it shows; to a pixel, unlike :func:`track2view.scenes.shown_by`."""
        height, width = self.depth.shape[1:]
        pixels, depth = project(points, self.camera_from_world, self.intrinsics)
        column, row = pixels[..., 0].long().clamp(0, width - 1), pixels[..., 1].long().clamp(0, height - 1)
        found = self.depth[torch.arange(len(points))[:, None], row, column]
        return inside(pixels, (height, width)) & (depth > NEAREST_METRES) & (depth < found * SAME_SURFACE)


Rows = TypeVar("Rows", _State, _Shown, CameraFit)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
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
    shown: _Shown | None

    def of(self, chosen: Int64[Tensor, "k"]) -> "_Level":
        return replace(
            self,
            intrinsics=self.intrinsics[chosen],
            times=[self.times[index] for index in chosen.tolist()],
            pictures=self.pictures[chosen],
            shown=None if self.shown is None else _rows(self.shown, chosen),
        )

    def render(self, poses: Float64[Tensor, "K 4 4"], brightness: Float32[Tensor, "K M 3"]) -> _State:
        camera = CameraPath(world_from_camera=poses, intrinsics=self.intrinsics, size=self.size, unit="metre")
        views = render_views(self.world, camera, self.times, camera_frames=list(range(len(poses))))
        depth, solid = views.depth.cpu(), views.solid.cpu()
        known = depth.isfinite() & (depth > NEAREST_METRES)
        left_out = self.moving[solid] | ~known
        if self.shown is not None:
            pixels = pixel_centres(*self.size).double().reshape(1, -1, 2).expand(len(poses), -1, 2)
            points = unproject(pixels, torch.where(known, depth, 1.0).double().flatten(1), poses, self.intrinsics)
            left_out |= ~self.shown.shows(points).reshape(left_out.shape)
        return _State(
            poses=poses,
            brightness=brightness,
            terms=_terms(views.colour.cpu().float() / 255),
            near=max_pool2d(torch.where(known, 1 / depth, 0.0), 3, 1, 1),
            used=max_pool2d(left_out.float(), 3, 1, 1) == 0,
        )


def _pyramid(
    world: World, frames: UInt8[Tensor, "T 3 H W"], commanded: CameraPath, source: CameraPath | None, at: list[int]
) -> list[_Level]:
    """Coarsest first; two levels at least."""
    height, width = commanded.size
    halvings = max(1, math.floor(math.log2(min(height, width) / SEARCH_SIDE)))
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])
    pictures = frames[at].cpu().float() / 255
    levels = []
    for halved in reversed(range(halvings + 1)):
        size = max(1, round(height / 2**halved)), max(1, round(width / 2**halved))
        small = _blurred(interpolate(pictures, size=size, mode="area"), SMOOTHING)
        intrinsics = commanded.resized(size).intrinsics[at]
        sought = halved == halvings  # the search looks at everything: little of a far-off view may be shown where it starts
        shown = None if source is None or sought else _Shown.of(world, source.resized(size), at)
        levels.append(_Level(world=world, size=size, intrinsics=intrinsics, times=at, pictures=small, moving=moving, shown=shown))
    return levels


def _search(level: _Level, poses: Float64[Tensor, "K 4 4"]) -> Float64[Tensor, "K 4 4"]:
    """Of cameras turned from ``poses``, those whose renderings correlate best with the pictures."""
    yaw, pitch = torch.cartesian_prod(*(torch.tensor(each, dtype=torch.float64) for each in (SEARCH_YAW, SEARCH_PITCH))).T
    turns = rigid(rotation_about("y", yaw) @ rotation_about("x", pitch), torch.zeros(len(yaw), 3, dtype=torch.float64))
    turned = poses[:, None] @ turns
    whole = level.of(torch.arange(len(poses)).repeat_interleave(len(turns)))
    state = whole.render(turned.flatten(0, 1), _plain(len(whole.times)))
    alike = _correlation(whole, state, state.used[:, None].expand_as(whole.pictures).float())
    enough = state.used.float().mean((1, 2)) > LEAST_USED
    best = torch.where(enough, alike, -1.0).reshape(len(poses), -1).argmax(1)
    return turned[torch.arange(len(poses)), best]


def _fitted(levels: list[_Level], poses: Float64[Tensor, "K 4 4"]) -> CameraFit:
    brightness = _plain(len(poses))
    *coarse, finest = levels
    for level in coarse:
        state, _ = _settled(level, level.render(poses, brightness))
        poses, brightness = state.poses, state.brightness
    return _judged(finest, *_settled(finest, finest.render(poses, brightness)))


def _settled(level: _Level, state: _State) -> tuple[_State, Float64[Tensor, "K"]]:
    """Where the steps of one level lead, and the last ones' size in pixels."""
    damping = torch.full((len(state.poses),), DAMPING, dtype=torch.float64)
    last_step = torch.full_like(damping, math.inf)
    for _ in range(STEPS):
        active = (last_step >= REST_PIXELS).nonzero()[:, 0]
        if not len(active):
            break
        part, now = level.of(active), _rows(state, active)
        scale = _scale(part, now)
        information, slope = _normal_equations(part, now, scale)
        damped = information + torch.diag_embed(damping[active, None] * information.diagonal(dim1=1, dim2=2) + TINY)
        step = -torch.linalg.solve(damped, slope)
        turn, way, brighter = step[:, :3], step[:, 3:6], step[:, 6:].float().reshape(now.brightness.shape)
        trial = part.render(_moved(now.poses, step[:, :6]), now.brightness + brighter)
        better = _cost(part, trial, scale) < _cost(part, now, scale)
        state = _with_rows(state, active[better], _rows(trial, better.nonzero()[:, 0]))
        damping[active] *= torch.where(better, DAMPING_DOWN, DAMPING_UP)
        near = now.near.flatten(1).median(1).values
        last_step[active] = part.intrinsics[:, 0, 0] * (turn.norm(dim=1) + way.norm(dim=1) * near)
    return state, last_step


def _judged(level: _Level, state: _State, last_step: Float64[Tensor, "K"]) -> CameraFit:
    scale = _scale(level, state)
    information, _ = _normal_equations(level, state, scale)
    weight = _weight(level, state, scale)
    variance = (weight * (state.fitted - level.pictures).square()).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    height, width = level.size
    alike = 4 * math.pi * SMOOTHING**2 * max(1.0, height * width / math.prod(JUDGED_SIZE))  # pixels to one independent value
    covariance = torch.linalg.inv(information + TINY**2 * torch.eye(information.shape[-1])) * (alike * variance)[:, None, None]
    deviation = torch.rad2deg(covariance.diagonal(dim1=1, dim2=2)[:, :3].sum(1).sqrt()).float()
    correlation = _correlation(level, state, weight)
    used = state.used.float().mean((1, 2))
    rests = (last_step < LOOSE_REST_PIXELS) & (used > LEAST_USED)
    return CameraFit(
        frames=tuple(level.times),
        world_from_camera=state.poses,
        converged=rests & (deviation < MOST_DEVIATION) & (correlation > LEAST_CORRELATION),
        used=used,
        residual=255 * scale,
        correlation=correlation,
        deviation=deviation,
    )


def _normal_equations(level: _Level, state: _State, scale: Float32[Tensor, "K"]) -> tuple[Float64[Tensor, "K n n"], Float64[Tensor, "K n"]]:
    """Weighted Gauss-Newton's matrix and right side, for a rotation vector and a translation in the camera's axes, then brightness."""
    count, terms, channels = state.brightness.shape
    residual = (state.fitted - level.pictures).flatten(2)
    weight = _weight(level, state, scale).flatten(2)
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


def _by_motion(level: _Level, state: _State) -> Float32[Tensor, "K 3 P 6"]:
    """Derivative of the fitted rendering by the camera's motion: points move by -v - ω × X, and what they show with them."""
    down, right = (each.flatten(2)[..., None] for each in torch.gradient(state.fitted, dim=(2, 3)))
    focal, centre = level.intrinsics.float()[:, None, [0, 1], [0, 1]], level.intrinsics.float()[:, None, [0, 1], [2, 2]]
    x, y = ((pixel_centres(*level.size).reshape(1, -1, 2) - centre) / focal).unbind(-1)
    near, none = state.near.flatten(1), torch.zeros_like(x)
    u = torch.stack([x * y, -1 - x * x, y, -near, none, x * near], dim=-1) * focal[..., :1]
    v = torch.stack([1 + y * y, -x * y, -x, none, -near, y * near], dim=-1) * focal[..., 1:]
    return -(right * u[:, None] + down * v[:, None])


def _weight(level: _Level, state: _State, scale: Float32[Tensor, "K"]) -> Float32[Tensor, "K 3 H W"]:
    """Cauchy's, 0 where not used."""
    off = (state.fitted - level.pictures) / (ROBUST * scale[:, None, None, None])
    return state.used[:, None] / (1 + off.square())


def _cost(level: _Level, state: _State, scale: Float32[Tensor, "K"]) -> Float32[Tensor, "K"]:
    """Cauchy's loss, mean over the pixels used; infinite where these are too few."""
    off = (state.fitted - level.pictures) / (ROBUST * scale[:, None, None, None])
    used = state.used.float()
    total = (torch.log1p(off.square()).sum(1) * used).sum((1, 2))
    return torch.where(used.mean((1, 2)) > LEAST_USED, total / used.sum((1, 2)), math.inf)


def _scale(level: _Level, state: _State) -> Float32[Tensor, "K"]:
    """Robust standard deviation of the residual."""
    size = torch.where(state.used[:, None], (state.fitted - level.pictures).abs(), math.nan)
    return (1.4826 * size.flatten(1).nanmedian(1).values).nan_to_num(1.0).clamp(min=LEAST_SCALE)


def _correlation(level: _Level, state: _State, weight: Float32[Tensor, "K 3 H W"]) -> Float32[Tensor, "K"]:
    """Of pictures and fitted renderings, each channel's mean taken off."""
    total = weight.sum((2, 3), keepdim=True).clamp(min=TINY)
    one, other = (each - (weight * each).sum((2, 3), keepdim=True) / total for each in (state.fitted, level.pictures))
    together, alone, as_well = ((weight * product).sum((1, 2, 3)) for product in (one * other, one * one, other * other))
    return together / (alone * as_well).sqrt().clamp(min=TINY)


def _terms(rendering: Float32[Tensor, "K 3 H W"]) -> Float32[Tensor, "K M 3 H W"]:
    """A rendering as the sum of its coarse part and its details, and ones: gains of these fit a tint, a blur, and both."""
    smooth = [_blurred(rendering, math.hypot(SMOOTHING, width)) for width in (0.0, *BANDS)]
    return torch.stack([smooth[-1], *(fine - coarse for fine, coarse in pairwise(smooth)), torch.ones_like(rendering)], dim=1)


def _plain(count: int) -> Float32[Tensor, "K M 3"]:
    """Brightness as rendered."""
    brightness = torch.ones(count, len(BANDS) + 2, 3)
    brightness[:, -1] = 0
    return brightness


def _blurred(image: Float32[Tensor, "K 3 H W"], sigma: float) -> Float32[Tensor, "K 3 H W"]:
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None])
    return conv2d(pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None]).reshape(image.shape)


def _moved(poses: Float64[Tensor, "K 4 4"], step: Float64[Tensor, "K 6"]) -> Float64[Tensor, "K 4 4"]:
    moved = RigidTransform.from_matrix(poses.numpy()) * RigidTransform.from_exp_coords(step.numpy())
    return torch.from_numpy(np.ascontiguousarray(moved.as_matrix()))


def _tensors(record: _State | _Shown | CameraFit) -> dict[str, Tensor]:
    return {each.name: value for each in fields(record) if isinstance(value := getattr(record, each.name), Tensor)}


def _rows(record: Rows, chosen: Int64[Tensor, "k"]) -> Rows:
    return replace(record, **{name: value[chosen] for name, value in _tensors(record).items()})


def _with_rows(record: Rows, where: Int64[Tensor, "k"], new: Rows) -> Rows:
    """The record with ``new`` at rows ``where``."""
    put = _tensors(new)
    return replace(record, **{name: value.index_copy(0, where, put[name]) for name, value in _tensors(record).items()})
