"""The generating renderers' part of the main path: where tracks start for them, their words, their clip."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from track2view.cache import cache_folder
from track2view.complete import CompletionPipeline, given_back
from track2view.errors import notice
from track2view.folders import written_whole
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import Rendered, Track2ViewPipeline
from track2view.model.room import MemoryMode
from track2view.model.sampling import Guidance
from track2view.model.settings import DiffusionSettings, Preview
from track2view.model.text import NEGATIVE_PROMPT, caption
from track2view.pipeline import Shot, default_queries
from track2view.records import CameraPath, Clip, Queries, Size
from track2view.signals import Stopped, noted
from track2view.video import clip_images, write_video
from track2view.warp import WarpRenderer


class Interrupted(Stopped):
    """Ctrl-C while a clip was made; ``preview`` is a video of what it was about to become."""

    def __init__(self, preview: Path) -> None:
        super().__init__(signal.SIGINT)
        self.preview = preview


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """A model, and how it makes clips: no larger than those it was trained on, and then enlarged."""

    model: Track2ViewPipeline
    settings: DiffusionSettings

    def queries(self, clip: Clip) -> Queries:
        """Where tracks start: as the model plans it, and where the warp beside it needs more.

        Raises:
            UserError: a clip that the model cannot make.
        """
        self.model.check(len(clip), self._size(clip), self.settings)
        return default_queries(clip, self.model.queries(len(clip), self.settings))

    def refilm(self, shot: Shot, target: CameraPath, out: Path) -> Clip:
        """The scene as seen from ``target``.

        Raises:
            Interrupted: by Ctrl-C, after the step that was running; ``out`` has a preview.
        """
        tracking, size = shot.tracking, self._size(shot.scene)
        scene = replace(shot.scene, frames=resampled(shot.scene.frames, size))
        cameras = tracking.camera.resized(size), target.resized(size)
        reads = self.model.model.conditioner.reads_rendered
        guide = rendered(WarpRenderer(scene, shot.depth, cameras[0]), cameras[1]) if reads else None
        make = lambda preview: self.model(scene, tracking.tracks, *cameras, self.settings, preview, guide)  # noqa: E731
        return _enlarged(make, size, shot.scene.size, out)

    def _size(self, clip: Clip) -> Size:
        trained = self.model.record.size
        return clip.size if trained is None else no_larger(clip.size, min(trained))


@dataclass(frozen=True, kw_only=True, slots=True)
class Completer:
    """A model that paints what the warp does not show; large clips it makes small, and what is seen comes from the warp all the same."""

    model: CompletionPipeline
    settings: DiffusionSettings

    def queries(self, clip: Clip) -> Queries:
        """Where tracks start: where the warp needs them.

        Raises:
            UserError: a clip that the model cannot make.
        """
        self.model.check(len(clip), no_larger(clip.size, self.model.short_side), self.settings)
        return default_queries(clip)

    def refilm(self, shot: Shot, target: CameraPath, out: Path) -> Clip:
        """The scene as seen from ``target``: what the warp shows as it shows it, the rest made up by the model.

        Raises:
            Interrupted: by Ctrl-C, after the step that was running; ``out`` has a preview.
        """
        tracking, size = shot.tracking, no_larger(shot.scene.size, self.model.short_side)
        warp = rendered(WarpRenderer(shot.scene, shot.depth, tracking.camera, lens_deviation=tracking.report.focal_deviation), target)
        small = replace(warp, colour=resampled(warp.colour, size), shown=all_shown(warp.shown, size))
        make = lambda preview: replace(shot.scene, frames=self.model(small, self.settings, preview))  # noqa: E731
        made = _enlarged(make, size, shot.scene.size, out)
        return replace(made, frames=given_back(made.frames, warp))


Worded = TypeVar("Worded", bound=Generator | Completer)


def described(generator: Worded, clip: Clip, captioner: Path) -> Worded:
    """With the words that an image-to-text model finds for a clip, where none were given.

    Raises:
        UserError: no such model there.
    """
    if generator.settings.prompt:
        return generator
    words = caption(clip, captioner, generator.model.device)
    return replace(generator, settings=replace(generator.settings, prompt=words))


def _enlarged(make: Callable[[Preview], Clip], made_at: Size, size: Size, out: Path) -> Clip:
    """What a model makes, at ``size``.

    Raises:
        Interrupted: by Ctrl-C, after the step that was running; ``out`` has a preview.
    """
    if made_at != size:
        notice(f"made at {made_at[0]}×{made_at[1]}, near what the model was trained on, and enlarged")
    with noted(signal.SIGINT) as interrupted:
        small = make(lambda step, latents: bool(interrupted))
    made = replace(small, frames=resampled(small.frames, size))
    if interrupted:
        with written_whole(out) as folder:
            write_video(folder / "preview.mp4", clip_images(made), made.fps)
        raise Interrupted(out / "preview.mp4")
    return made


def load_model(
    base: Path | str | None = None, adapter: Path | str | None = None, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Track2ViewPipeline:
    """A base and its adapter from local folders; encoded prompts are kept in the user's cache.

    Args:
        base: in diffusers' Wan layout; the mini that comes with the package by default.
        adapter: ``base/adapter`` by default.

    Raises:
        UserError: what is missing, or does not fit together.
    """
    if base is None:
        base, adapter = MINI / "base", adapter or MINI / "adapter"
    return Track2ViewPipeline.from_pretrained(base, adapter, dtype=dtype, device=device, prompt_folder=cache_folder() / "prompts")


@runtime_checkable
class Advised(Protocol):
    """How a model is meant to be sampled: frames at once, steps, strength of guidance. What an adapter's record says, for one."""

    @property
    def frames(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def guidance(self) -> float: ...


def settings_for(
    model: Advised,
    *,
    prompt: str = "",
    negative_prompt: str | None = None,
    steps: int | None = None,
    solver: Literal["unipc", "euler"] = "unipc",
    guidance: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    batched: bool = False,
    seed: int = 0,
    window: int | None = None,
    memory: MemoryMode = "balanced",
) -> DiffusionSettings:
    """What a user asks of a model, and where they leave that open (None) what it is meant to be sampled with."""
    window = model.frames if window is None else window
    return DiffusionSettings(
        prompt=prompt,
        negative_prompt=NEGATIVE_PROMPT if negative_prompt is None else negative_prompt,
        steps=model.steps if steps is None else steps,
        solver=solver,
        guidance=Guidance(scale=model.guidance if guidance is None else guidance, interval=guidance_interval),
        batched=batched,
        seed=seed,
        window=window,
        overlap=min(17, window // 2 // 4 * 4 + 1),  # whole latents, with any base, where the window is
        memory=memory,
    )


def as_trained(model: Track2ViewPipeline, *, prompt: str = "", seed: int = 0) -> DiffusionSettings:
    """In as many steps and frames and as strongly guided as an adapter asks for; windows overlap by half."""
    record, group = model.record, model.strides.frames
    return DiffusionSettings(
        prompt=prompt,
        steps=record.steps,
        solver="euler",
        guidance=Guidance(scale=record.guidance),
        window=record.frames,
        overlap=1 + group * ((record.frames - 1) // group // 2),
        seed=seed,
    )


def no_larger(size: Size, short_side: int) -> Size:
    """A size of the same shape whose shorter side is no longer than ``short_side``."""
    scale = min(1.0, short_side / min(size))
    height, width = (round(side * scale) for side in size)
    return height, width


def rendered(renderer: WarpRenderer, target: CameraPath) -> Rendered:
    """A clip as the weight-free renderer shows it along ``target``."""
    views = [renderer.render(target, frame) for frame in range(len(target))]
    return Rendered(colour=torch.stack([each.colour for each in views]), shown=torch.stack([each.seen for each in views]))


def resampled(frames: UInt8[Tensor, "T 3 h w"], size: Size) -> UInt8[Tensor, "T 3 H W"]:
    """Frames at another size, antialiased."""
    if frames.shape[2:] == size:
        return frames
    each = (interpolate(frame[None].float(), size, mode="bicubic", antialias=True) for frame in frames)
    return torch.cat(list(each)).round().clamp(0, 255).to(torch.uint8)


def all_shown(shown: Bool[Tensor, "T h w"], size: Size) -> Bool[Tensor, "T H W"]:
    """Of pictures at a smaller size, the pixels of which all is shown."""
    return interpolate(shown[:, None].float(), size, mode="area")[:, 0] == 1
