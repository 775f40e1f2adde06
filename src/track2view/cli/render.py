"""``track2view render`` and ``track2view track``."""

import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from track2view.cli.streams import say
from track2view.errors import Notice, UserError

if TYPE_CHECKING:
    from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
    from track2view.pipeline import Shot
    from track2view.records import CameraPath, Clip, Queries


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which part of a clip, and how large."""

    size: int | None = None
    """Resize so that the shorter side has this many pixels."""
    start: float = 0.0
    """Begin here, in seconds."""
    end: float | None = None
    """Stop here, in seconds."""
    frames: int | None = None
    """At most this many frames."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is already known of a clip."""

    source_camera: Path | None = None
    """The clip's own camera path, if you have it (any format of `cameras list`)."""
    tracks: Path | None = None
    """3D tracks in the world of --source-camera, if you have them (a tracks.npz)."""
    fov: float | None = None
    """Horizontal field of view in degrees, if you know it."""
    cache: bool = True
    """Reuse and keep tracks by the clip's content."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The diffusion renderer, and how it renders."""

    renderer: Literal["warp", "diffusion"] = "warp"
    """warp needs nothing; diffusion needs --base and --adapter."""
    base: Path | None = None
    """Folder of a text-to-video Wan model in diffusers' layout."""
    adapter: Path | None = None
    """Folder of a Track2View adapter; BASE/adapter by default."""
    prompt: str = ""
    """What the clip shows, in words."""
    captioner: Path | None = None
    """Folder of an image-to-text model of transformers, to find the words."""
    negative_prompt: str | None = None
    """What to lead away from; has a default."""
    steps: int = 50
    """Denoising steps."""
    guidance: float = 5.0
    """Strength of guidance on the prompt; 1 is none, and twice as fast."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels, from and to, within which guidance is used; one pass is enough outside."""
    batched: bool = False
    """Both guidance branches in one pass: faster on small clips, more memory."""
    solver: Literal["unipc", "euler"] = "unipc"
    """How steps are taken."""
    seed: int = 0
    """Of the noise."""
    window: int = 81
    """Most frames at once (4k + 1); longer clips go window by window."""
    memory: Literal["fast", "balanced", "low"] = "balanced"
    """Keep all on the device, one part at a time, or one block at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers that the transformer works in."""


@dataclass(frozen=True, kw_only=True)
class Render:
    """Re-film a clip along one or more camera paths."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    camera: list[str]
    """Moves (orbit-right, dolly-in:0.3+pan-left:20, …; `cameras list` shows all), keyframe files or camera files."""
    out: Path | None = None
    """Run folder; out/CLIP-CAMERA by default. With several cameras, each gets a folder in it."""
    amount: float | None = None
    """How much of a move: degrees, scene units or times; each has a default."""
    easing: Literal["smooth", "linear", "in", "out"] = "smooth"
    """How moves start and stop."""
    relative_to: Literal["source", "first-frame", "world"] | None = None
    """Lay a move over the source's own path or over its first camera; place a file at the first camera or as it is."""
    resample: bool = False
    """Stretch camera files of another length to the clip's."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to render."""
    part: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()
    diffusion: tyro.conf.OmitArgPrefixes[Diffusion] = Diffusion()

    def run(self) -> None:
        """Prepare once, render every camera."""
        from track2view import pipeline
        from track2view.preflight import make_folder

        _check_device(self.device)
        for camera in self.camera:
            _check_camera(camera, self.amount)
        folders = self._folders()
        for folder in folders.values():
            make_folder(folder)
        model = _diffusion(self) if self.diffusion.renderer == "diffusion" else None
        shot = _prepare(self.clip, self.part, self.source, model)
        targets = {
            camera: pipeline.target_camera(
                shot,
                camera,
                amount=self.amount,
                easing=self.easing,
                relative_to=self.relative_to,
                resample=self.resample,
            )
            for camera in self.camera
        }
        settings = {key: str(value) for key, value in asdict(self).items() if value is not None}
        for camera, target in targets.items():
            started = time.perf_counter()
            made = None if model is None else _made(shot, target, folders[camera], model)
            output = pipeline.write_run(
                shot, target, folders[camera], made=made, settings={**settings, "camera": camera}, device=self.device
            )
            say(f"{output}  ({len(shot.clip)} frames, {time.perf_counter() - started:.0f} s)")

    def _folders(self) -> dict[str, Path]:
        """Where each camera's run is written."""
        if self.out and len(self.camera) == 1:
            return {self.camera[0]: self.out}
        stem = self.clip.resolve().stem
        folders = {
            camera: self.out / name if self.out else Path("out") / f"{stem}-{name}" for camera in self.camera for name in [_name(camera)]
        }
        first = {folder: camera for camera, folder in reversed(folders.items())}
        for camera, folder in folders.items():
            if first[folder] != camera:
                raise UserError(f"--camera: {first[folder]} and {camera} would both be written to {folder}; render one by one, with --out")
        return folders


@dataclass(frozen=True, kw_only=True)
class Track:
    """Track a clip and stop before rendering: tracks.npz and source_camera.json."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    out: Path | None = None
    """Folder; out/CLIP by default."""
    part: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()

    def run(self) -> None:
        """Write tracks and the clip's camera."""
        from track2view.folders import written_whole
        from track2view.preflight import make_folder

        out = self.out or Path("out") / self.clip.resolve().stem
        make_folder(out)
        shot = _prepare(self.clip, self.part, self.source)
        with written_whole(out) as folder:
            shot.tracking.tracks.save(folder / "tracks.npz")
            shot.tracking.camera.save(folder / "source_camera.json")
        say(f"{out / 'tracks.npz'}  ({shot.tracking.tracks.xyz_world.shape[1]} tracks, {len(shot.clip)} frames)")


def _prepare(clip: Path, part: Window, source: Source, model: "_Model | None" = None) -> "Shot":
    from track2view import pipeline
    from track2view.cameras import read_camera
    from track2view.records import TrackSet
    from track2view.trackers import SfmTracker
    from track2view.video import read_clip

    for name in ("size", "frames"):
        if (value := getattr(part, name)) is not None and value < 1:
            raise UserError(f"--{name}: expected a positive number, got {value}")
    tracker = SfmTracker(fov=source.fov)
    read = read_clip(clip, short_side=part.size, start=part.start, end=part.end, frames=part.frames)
    camera = read_camera(source.source_camera, read.size) if source.source_camera else None
    tracks = TrackSet.load(source.tracks) if source.tracks else None
    queries = None if model is None else pipeline.default_queries(read, model.queries(read))
    shot = pipeline.prepare(read, tracker=tracker, source_camera=camera, tracks=tracks, queries=queries, use_cache=source.cache)
    for warning in shot.tracking.report.warnings:
        say(f"track2view: warning: {warning}", sys.stderr)
    return shot


@dataclass(frozen=True, kw_only=True)
class _Model:
    pipeline: "Track2ViewPipeline"
    settings: "DiffusionSettings"
    captioner: Path | None

    def queries(self, clip: "Clip") -> "Queries":
        from track2view.records import Queries

        self.pipeline.check(clip, self.settings)
        plan = self.pipeline.record.queries
        return Queries.grid(self.pipeline.query_frames(len(clip), self.settings), plan.rows, plan.columns)


def _diffusion(command: Render) -> _Model:
    """Load the model before an hour of tracking, not after."""
    import diffusers
    import torch
    import transformers

    from track2view.cache import cache_folder
    from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
    from track2view.model.sampling import Guidance
    from track2view.model.text import NEGATIVE_PROMPT

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    options = command.diffusion
    if options.base is None:
        raise UserError(
            "--renderer diffusion needs --base, a folder of a text-to-video Wan model (`track2view model new` makes a tiny one)"
        )
    settings = DiffusionSettings(
        prompt=options.prompt,
        negative_prompt=NEGATIVE_PROMPT if options.negative_prompt is None else options.negative_prompt,
        steps=options.steps,
        solver=options.solver,
        guidance=Guidance(scale=options.guidance, interval=options.guidance_interval),
        batched=options.batched,
        seed=options.seed,
        window=options.window,
        overlap=min(17, max(1, options.window - 4)),
        memory=options.memory,
    )
    model = Track2ViewPipeline.from_pretrained(
        options.base,
        options.adapter,
        dtype=getattr(torch, options.dtype),
        device=command.device,
        prompt_folder=cache_folder() / "prompts",
    )
    return _Model(pipeline=model, settings=settings, captioner=options.captioner)


def _made(shot: "Shot", target: "CameraPath", out: Path, model: _Model) -> "Clip":
    """The diffusion renderer's clip; Ctrl-C ends it after the running step, and what it was about to become is kept."""
    from track2view.folders import written_whole
    from track2view.model.text import caption
    from track2view.video import clip_images, write_video

    settings = model.settings
    if model.captioner is not None and not settings.prompt:
        settings = replace(settings, prompt=caption(shot.scene, model.captioner, model.pipeline.device))
        say(f"prompt: {settings.prompt}")
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    try:
        tracking = shot.tracking
        made = model.pipeline(shot.scene, tracking.tracks, tracking.camera, target, settings, lambda step, latents: bool(interrupted))
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        with written_whole(out) as folder:
            write_video(folder / "preview.mp4", clip_images(made), made.fps)
        say(f"{out / 'preview.mp4'}  (what the clip was about to become)")
        raise KeyboardInterrupt
    return made


def _name(camera: str) -> str:
    """A folder's name for a move or a camera file."""
    file, _, part = camera.partition("#")
    return "-".join(filter(None, [Path(file).stem, part])) if Path(file).exists() else camera.replace(":", "")


def _check_camera(camera: str, amount: float | None) -> None:
    """Find a misspelt move or a broken file before an hour of tracking, not after; notices come when it is read for good."""
    from track2view.cameras import is_keyframes, parse_move, read_camera

    path = Path(camera.partition("#")[0])
    if path.exists() and not is_keyframes(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            read_camera(camera)
    elif not path.exists() and path.suffix in (".json", ".txt", ".npz", ".npy"):
        raise UserError(f"{path}: no such camera file")
    elif not path.exists():
        parse_move(camera, amount)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device that torch can use; leave it out to render on the CPU")
