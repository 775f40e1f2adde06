"""What cameras, weather and editors do to exact pictures: travel a little, zoom, blur, darken, lay titles over, fade.

A take is filmed from a world; its truth stays exact, for whatever is done here is done to the pictures alone.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from track2view.geometry import look_at
from track2view.records import CameraPath, Clip, Size
from track2view.scenes.lifelike import make_lifelike_world
from track2view.scenes.render import render_path
from track2view.scenes.world import World

FPS, GAMMA = 30, 0.5
DOWN = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
SUBFRAMES = 4
SHUTTER = (0, 1, 2)
"""Of four moments a frame, those while the shutter of a blurred take is open; the truth is the middle one."""
Frames = UInt8[Tensor, "T 3 H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """A filmed clip and what is true of it.

    Attributes:
        world, camera: at the clip's frames; of two shots faded into each other, the first's.
        clip: as filmed.
        exposure: what the world's exact colours are multiplied by in the clip.
        overlay: pixels that show no world: captions, logos, bars.
        fade: frames that show two shots at once; what follows them is the second shot.
    """

    world: World
    camera: CameraPath
    clip: Clip
    exposure: float
    overlay: Bool[Tensor, "H W"]
    fade: range | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a take is filmed.

    Attributes:
        world: one of :data:`track2view.scenes.lifelike.KINDS`.
        distance: from the camera to the middle of the world, metres.
        parallax: by how many degrees the camera's own travel turns the view of what is in the middle.
        turning: how far the hand turns it besides, degrees.
        field_of_view: horizontal, degrees, at the first frame.
        zoom: how many times longer the lens is at the last frame.
        shutter: whether it stays open for half of each frame.
        light: exposure; below 1 noise grows.
        titled: caption, logo and black bars lie over it.
        faded: into another take, in its middle.
    """

    world: str
    distance: float = 4.6
    parallax: float = 1.0
    turning: float = 1.5
    field_of_view: float = 58.0
    zoom: float = 1.0
    shutter: bool = False
    light: float = 1.0
    titled: bool = False
    faded: bool = False


STYLES: dict[str, Style] = {
    "walking": Style(world="walking", parallax=2.0),
    "turning": Style(world="turning"),
    "talking": Style(world="talking", parallax=0.5),
    "sitting": Style(world="sitting", parallax=0.3),
    "half-the-picture": Style(world="talking", distance=1.7, parallax=1.0, field_of_view=64.0),
    "crowd": Style(world="crowd", parallax=1.5),
    "dog": Style(world="dog", distance=3.6),
    "flag": Style(world="flag"),
    "curtain": Style(world="curtain", parallax=0.7),
    "leaves": Style(world="leaves", parallax=2.0),
    "water": Style(world="water"),
    "mirror": Style(world="mirror"),
    "bare-wall": Style(world="bare-wall", parallax=0.7),
    "dark": Style(world="walking", light=0.12),
    "motion-blurred": Style(world="crowd", turning=6.0, shutter=True),
    "standing": Style(world="talking", parallax=0.1, turning=0.2),
    "zooming": Style(world="talking", parallax=0.1, turning=0.2, zoom=1.6),
    "titled": Style(world="turning", titled=True),
    "cross-fade": Style(world="walking", faded=True),
}


def film(style: Style, seed: int, *, frames: int, size: Size) -> Take:
    """A take by style and seed.

    Raises:
        UserError: a style of an unknown world.
    """
    per_frame = SUBFRAMES if style.shutter else 1
    world = make_lifelike_world(style.world, seed, frames=frames * per_frame, fps=FPS * per_frame)
    camera = _held(style, seed, frames=frames * per_frame, size=size, fps=FPS * per_frame)
    picture = render_path(world, camera).colour
    middle = slice(SHUTTER[1], None, SUBFRAMES) if style.shutter else slice(None)
    if style.shutter:
        open_shutter = picture.unflatten(0, (frames, SUBFRAMES))[:, list(SHUTTER)].float().mean(1)
        picture = open_shutter.round().to(torch.uint8)
    truth = world_at(world, middle), replace(camera[middle], fps=float(FPS))
    fade = None
    if style.faded:
        other = film(replace(style, world="dog", faded=False), seed + 1, frames=frames, size=size)
        picture, fade = cross_faded(picture, other.clip.frames, frames // 2, min(12, frames // 3))
    if style.light < 1:
        picture = darkened(picture, style.light, seed)
    overlay = torch.zeros(size, dtype=torch.bool)
    if style.titled:
        picture, overlay = titled(picture, "Sunday, four o'clock", "t2v")
    return Take(
        world=truth[0],
        camera=truth[1],
        clip=Clip(frames=picture, fps=Fraction(FPS)),
        exposure=style.light**GAMMA,
        overlay=overlay,
        fade=fade,
    )


def world_at(world: World, frames: slice) -> World:
    """The world at some of its times."""
    return replace(world, solids=tuple(replace(each, world_from_solid=each.world_from_solid[frames]) for each in world.solids))


def darkened(frames: Frames, light: float, seed: int) -> Frames:
    """As a sensor sees it in so much less light: darker, with shot and read noise that differ from frame to frame."""
    random = torch.Generator().manual_seed(seed)
    signal = frames.float() / 255 * light**GAMMA
    deviation = torch.sqrt(0.0004 / light * signal + (0.01 / light**0.5) ** 2)
    noisy = signal + deviation * torch.randn(signal.shape, generator=random)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def titled(frames: Frames, caption: str, logo: str) -> tuple[Frames, Bool[Tensor, "H W"]]:
    """Under a caption, a logo and black bars above and below; and where these are."""
    height, width = frames.shape[-2:]
    bar, large, small = round(0.09 * height), max(10, height // 16), max(9, height // 20)
    layer = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for top in (0, height - bar):
        draw.rectangle((0, top, width, top + bar - 1), fill=(0, 0, 0, 255))
    white, dark = (255, 255, 255, 255), (20, 20, 20, 255)
    below = (width // 2, height - bar - large)
    draw.text(below, caption, fill=white, font=ImageFont.load_default(large), anchor="mm", stroke_width=2, stroke_fill=dark)
    draw.text((width - small, bar + small), logo, fill=(240, 80, 60, 255), font=ImageFont.load_default(small), anchor="rm")
    painted = torch.from_numpy(np.asarray(layer).copy()).permute(2, 0, 1)
    share = painted[3:].float() / 255
    mixed = frames.float() * (1 - share) + painted[:3].float() * share
    return mixed.round().to(torch.uint8), share[0] > 0


def cross_faded(first: Frames, second: Frames, start: int, length: int) -> tuple[Frames, range]:
    """One shot until ``start``, then ever more of the other; and which frames show both."""
    share = ((torch.arange(len(first)) - start + 1) / (length + 1)).clamp(0, 1)[:, None, None, None]
    return (first.float() * (1 - share) + second.float() * share).round().to(torch.uint8), range(start, start + length)


def _held(style: Style, seed: int, *, frames: int, size: Size, fps: int) -> CameraPath:
    """By hand, before the middle of the world; the same path whatever the rate."""
    random = np.random.default_rng([seed, 7])
    distance = style.distance
    aim = torch.tensor([0.0, -1.0 if distance > 2.5 else -1.35, 0.0], dtype=torch.float64)
    eye = torch.tensor([random.uniform(-0.3, 0.3), -1.5, -distance], dtype=torch.float64)
    seconds = frames / fps
    way = _wander(random, seconds, frames) * math.radians(style.parallax) * distance
    looking = _wander(random, seconds, frames) * math.radians(style.turning) * distance
    poses = look_at(eye + way, aim + looking * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), DOWN)
    focal = 0.5 * size[1] / math.tan(math.radians(style.field_of_view) / 2)
    focals = focal * style.zoom ** torch.linspace(0.0, 1.0, frames, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focals
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = size[1] / 2, size[0] / 2
    return CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=size, unit="metre", fps=float(fps))


def _wander(random: np.random.Generator, seconds: float, frames: int) -> Float64[Tensor, "T 3"]:
    """A smooth random path about 1 across its longest way, drawn at a fixed rate and read at the frames' times."""
    rate = 30.0
    count = math.ceil(seconds * rate) + 1
    steps = gaussian_filter1d(random.normal(size=(count, 3)), 9.0, axis=0, mode="nearest")
    steps = (steps - steps[0]) / max(float(np.ptp(steps, axis=0).max()), 1e-9)
    times = np.arange(frames) / frames * seconds * rate
    return torch.from_numpy(np.stack([np.interp(times, np.arange(count), steps[:, axis]) for axis in range(3)], axis=-1))
