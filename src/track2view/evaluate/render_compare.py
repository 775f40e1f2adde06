"""The camera of a picture of a known world: the one whose exact rendering fits it best.

Works where matching does not: at 64×112, on pictures that are blurred, compressed, tinted or partly wrong. It starts at the
commanded camera and goes from coarse to fine; each frame by itself. Shapes: K frames, H W pixels.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from track2view.evaluate.found import FoundCameras, check_clip
from track2view.evaluate.photometric import (
    LEAST_USED,
    SMOOTHING,
    TINY,
    Level,
    Shown,
    State,
    as_rendered,
    blurred,
    correlation,
    normal_equations,
    rows,
    scale_of_residual,
    settled,
    weights,
    with_rows,
)
from track2view.geometry import rigid, rotation_about
from track2view.records import CameraPath
from track2view.scenes import World

SEARCH_SIDE = 8
"""Lines at which turned cameras are tried; twice as many at which fitting begins."""
SEARCH_YAW, SEARCH_PITCH = range(-16, 17, 4), range(-8, 9, 4)
LOOSE_REST_PIXELS = 0.5
JUDGED_SIZE = (64, 112)
MOST_DEVIATION = 0.16
LEAST_CORRELATION = 0.75
"""Chosen on worlds of the train split: there right fits deviate by less, but for some in strong noise; wrong ones by 0.2° or more,
but for pictures that are of two cameras at once or warped, which have no one camera."""
ROUGH_DEVIATION = 1.0
"""Degrees: of a picture so blurred that its camera cannot be told to :data:`MOST_DEVIATION`, enough to tell following it from not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraFit(FoundCameras):
    """Cameras found by rendering.

    Attributes:
        converged: whether the steps came to rest at a camera whose rendering is like the picture, and the picture tells which.
        roughly: the same with a camera that the picture tells to within a degree.
        used: share of pixels that were compared: neither what moves, nor what the source does not show, nor pixels beside.
        residual: robust standard deviation of what is left there once brightness and blur are fitted, in grey levels of 255, 1 at least.
        correlation: of the picture with the fitted rendering there, weighted as in the fit; at most 1.
        deviation: predicted standard deviation of the rotation in degrees, as if no larger than 64×112: neighbours err alike.
    """

    roughly: Bool[Tensor, "K"]
    used: Float32[Tensor, "K"]
    residual: Float32[Tensor, "K"]
    correlation: Float32[Tensor, "K"]
    deviation: Float32[Tensor, "K"]


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
    check_clip(world, frames, commanded, source, at)
    coarsest, *levels = _pyramid(world, frames, commanded, source, at)
    start = commanded.world_from_camera[at]
    state = _descended(levels, start)
    fit = _judged(levels[-1], state)
    lost = (~fit.converged).nonzero()[:, 0]
    if not len(lost):
        return fit
    parts = [each.of(lost) for each in levels]
    again = _descended(parts, _search(coarsest.of(lost), start[lost]))
    found = _judged(parts[-1], again).converged.nonzero()[:, 0]
    return _judged(levels[-1], with_rows(state, lost[found], rows(again, found)))


def _pyramid(
    world: World, frames: UInt8[Tensor, "T 3 H W"], commanded: CameraPath, source: CameraPath | None, at: list[int]
) -> list[Level]:
    """Coarsest first; two levels at least."""
    height, width = commanded.size
    halvings = max(1, math.floor(math.log2(min(height, width) / SEARCH_SIDE)))
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])
    pictures = frames[at].cpu().float() / 255
    levels = []
    for halved in reversed(range(halvings + 1)):
        size = max(1, round(height / 2**halved)), max(1, round(width / 2**halved))
        small = blurred(interpolate(pictures, size=size, mode="area"), SMOOTHING)
        intrinsics = commanded.resized(size).intrinsics[at]
        sought = halved == halvings  # the search looks at everything: little of a far-off view may be shown where it starts
        shown = None if source is None or sought else Shown.of(world, source.resized(size), at)
        levels.append(Level(world=world, size=size, intrinsics=intrinsics, times=at, pictures=small, moving=moving, shown=shown))
    return levels


def _search(level: Level, poses: Float64[Tensor, "K 4 4"]) -> Float64[Tensor, "K 4 4"]:
    """Of cameras turned from ``poses``, those whose renderings correlate best with the pictures."""
    yaw, pitch = torch.cartesian_prod(*(torch.tensor(each, dtype=torch.float64) for each in (SEARCH_YAW, SEARCH_PITCH))).T
    turns = rigid(rotation_about("y", yaw) @ rotation_about("x", pitch), torch.zeros(len(yaw), 3, dtype=torch.float64))
    turned = poses[:, None] @ turns
    whole = level.of(torch.arange(len(poses)).repeat_interleave(len(turns)))
    state = whole.render(turned.flatten(0, 1), as_rendered(len(whole.times)))
    alike = correlation(whole, state, state.used[:, None].expand_as(whole.pictures).float())
    enough = state.used.float().mean((1, 2)) > LEAST_USED
    best = torch.where(enough, alike, -1.0).reshape(len(poses), -1).argmax(1)
    return turned[torch.arange(len(poses)), best]


def _descended(levels: list[Level], poses: Float64[Tensor, "K 4 4"]) -> State:
    """Where fitting on one level after the other leads from ``poses``."""
    *coarse, finest = levels
    brightness = as_rendered(len(poses))
    for level in coarse:
        state = settled(level, level.render(poses, brightness))
        poses, brightness = state.poses, state.brightness
    return settled(finest, finest.render(poses, brightness))


def _judged(level: Level, state: State) -> CameraFit:
    scale = scale_of_residual(level, state)
    information, _ = normal_equations(level, state, scale)
    weight = weights(level, state, scale)
    variance = (weight * (state.fitted - level.pictures).square()).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    height, width = level.size
    merged = 4 * math.pi * SMOOTHING**2 * max(1.0, height * width / math.prod(JUDGED_SIZE))  # pixels to one independent value
    covariance = torch.linalg.inv(information + TINY**2 * torch.eye(information.shape[-1])) * (merged * variance)[:, None, None]
    deviation = torch.rad2deg(covariance.diagonal(dim1=1, dim2=2)[:, :3].sum(1).sqrt()).float()
    alike = correlation(level, state, weight)
    used = state.used.float().mean((1, 2))
    rests = (state.last_step < LOOSE_REST_PIXELS) & (used > LEAST_USED) & (alike > LEAST_CORRELATION)
    return CameraFit(
        frames=tuple(level.times),
        world_from_camera=state.poses,
        converged=rests & (deviation < MOST_DEVIATION),
        roughly=rests & (deviation < ROUGH_DEVIATION),
        used=used,
        residual=255 * scale,
        correlation=alike,
        deviation=deviation,
    )
