"""``track2view render`` and ``track2view track``."""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from track2view.cli.streams import say

if TYPE_CHECKING:
    from track2view.generation import Advised, Completer, Generator
    from track2view.model.settings import DiffusionSettings
    from track2view.pipeline import Shot
    from track2view.records import CameraPath, Clip
    from track2view.trackers.relative_depth import DepthPrior


CUT = "cut"
"""The name of a cut's folder."""


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
    depth_prior: Path | None = None
    """Folder of a Depth Anything V2 or Depth Pro model of transformers: tells depth where the camera hardly travels."""
    cache: bool = True
    """Reuse and keep tracks by the clip's content."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The renderers that generate, and how they do it."""

    renderer: Literal["warp", "complete", "diffusion"] = "warp"
    """warp needs no weights; complete keeps what it shows and has public weights (--base, a Wan2.1-VACE) paint what was never seen;
    diffusion has the mini, which shows the method at 64×112, or --base and --adapter."""
    base: Path | None = None
    """Folder of a Wan model in diffusers' layout: text-to-video for diffusion (the mini by default), VACE for complete."""
    adapter: Path | None = None
    """Folder of a Track2View adapter, for diffusion; BASE/adapter by default."""
    lora: Path | None = None
    """File of LoRA weights, for complete: of those that need few --steps and no --guidance, mostly."""
    lora_weight: float = 1.0
    """How much of it is added."""
    prompt: str = ""
    """What the clip shows, in words."""
    captioner: Path | None = None
    """Folder of an image-to-text model of transformers, to find the words."""
    negative_prompt: str | None = None
    """What to lead away from; has a default."""
    steps: int | None = None
    """Denoising steps; by default what the adapter says, 50 for most, 4 for the mini; 30 to complete."""
    guidance: float | None = None
    """Strength of guidance on the prompt; 1 is none, and twice as fast. By default what the adapter says, 5 for most."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels, from and to, within which guidance is used; one pass is enough outside."""
    batched: bool = False
    """Both guidance branches in one pass: faster on small clips, more memory."""
    solver: Literal["unipc", "euler"] = "unipc"
    """How steps are taken."""
    seed: int = 0
    """Of the noise."""
    window: int | None = None
    """Most frames at once (4k + 1 with Wan's VAE), by default as many as the adapter was trained on; longer clips go window by window."""
    memory: Literal["fast", "balanced", "low"] = "balanced"
    """Keep all on the device, one part at a time, or one block at a time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers that the transformer works in."""


@dataclass(frozen=True, kw_only=True)
class Render:
    """Re-film a clip along one or more camera paths."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    camera: list[str] = field(default_factory=list)
    """Moves (orbit-right, dolly-in:0.3+pan-left:20, …; `cameras list` shows all), keyframe files or camera files. +stereo:0.04 films
    for two eyes so far apart (in distances to what the clip is about), side by side; stereo alone from where the clip was filmed."""
    cut: list[str] = field(default_factory=list)
    """Cut between cameras on one timeline, each from a second on: orbit-left@0 static@2.5."""
    out: Path | None = None
    """Run folder; out/CLIP-CAMERA by default. With several cameras, each gets a folder in it."""
    amount: float | None = None
    """How much of a move: degrees, distances to what the clip is about, or times; each has a default."""
    easing: Literal["smooth", "linear", "in", "out"] = "smooth"
    """How moves start and stop."""
    relative_to: Literal["source", "first-frame", "world"] | None = None
    """Lay a move over the source's own path or over its first camera; place a file at the first camera or as it is."""
    resample: bool = False
    """Stretch camera files of another length to the clip's."""
    overlay: Literal["keep", "drop"] = "keep"
    """Captions, logos and black bars, which never move: lay them back as they are, or fill in the scene behind them."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to render."""
    guide: tuple[Literal["vace", "morphic", "crossview"], ...] = ()
    """Write what these generators take, under their names and in their colours, into folders guide-NAME: Wan2.1-VACE,
    Reshoot-Anything, ComfyUI-CrossViewWarp."""
    validate_only: bool = False
    """Track, say how much of each camera's picture the clip can show, and what rendering will take; render nothing."""
    part: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()
    diffusion: tyro.conf.OmitArgPrefixes[Diffusion] = Diffusion()

    def run(self) -> None:
        """Prepare once, render every camera."""
        from track2view import pipeline
        from track2view.outlook import Outlook
        from track2view.preflight import check_device
        from track2view.stereo import write_stereo

        check_device(self.device)
        folders = self._folders()
        generator = _loaded(self)
        shot = _prepare(self.clip, self.part, self.source, generator)
        if self.overlay == "drop":
            shot = shot.without_overlay()
        targets = self._targets(shot)
        if self.validate_only:
            outlook = Outlook(shot, self.device)
            for camera, (target, _) in targets.items():
                say(f"{camera}: {outlook.coverage(target).in_words}; {outlook.forecast(target)}")
            return
        if generator is not None and self.diffusion.captioner is not None:
            from track2view.generation import described  # it brings the libraries of models, which the warp does without

            generator = described(generator, shot.scene, self.diffusion.captioner)
            say(f"prompt: {generator.settings.prompt}")
        settings: dict[str, object] = {key: str(value) for key, value in asdict(self).items() if value is not None}
        if generator is not None:
            settings["sampling"] = asdict(generator.settings)
        for camera, (target, eye_distance) in targets.items():
            started, own, out = time.perf_counter(), {**settings, "camera": camera}, folders[camera]
            if eye_distance is not None:
                output = write_stereo(shot, target, eye_distance, out, settings=own, device=self.device)
            else:
                made = None if generator is None else _made(generator, shot, target, out)
                output = pipeline.write_run(shot, target, out, made=made, guides=self.guide, settings=own, device=self.device)
            say(f"{output}  ({len(shot.clip)} frames, {time.perf_counter() - started:.0f} s)")

    def _folders(self) -> dict[str, Path]:
        """Of each camera, and of the cut; made, where something will be written."""
        from track2view.cameras import parse_cuts
        from track2view.errors import UserError
        from track2view.preflight import check_camera, make_folder, run_folders
        from track2view.stereo import split_stereo

        if bool(self.camera) == bool(self.cut):
            raise UserError("give --camera or --cut, one of them: moves, files, or several with the seconds at which to cut to them")
        eye_distances = {camera: split_stereo(camera) for camera in self.camera}
        for base in [*(base for base, _ in eye_distances.values()), *(each.camera for each in parse_cuts(self.cut))]:
            check_camera(base, self.amount)
        if any(distance for _, distance in eye_distances.values()):
            if self.diffusion.renderer != "warp":
                raise UserError("--camera stereo: both eyes must see the same, which --renderer warp alone can promise")
            if self.guide:
                raise UserError("--guide: a guide is of one eye; leave out stereo")
        folders = run_folders(self.clip, self.camera or [CUT], self.out)
        for folder in () if self.validate_only else folders.values():
            make_folder(folder)
        return folders

    def _targets(self, shot: "Shot") -> "dict[str, tuple[CameraPath, float | None]]":
        """Each camera's path, and the distance between its eyes."""
        from track2view.cameras import cut_between, parse_cuts
        from track2view.pipeline import target_camera
        from track2view.stereo import split_stereo

        def path(camera: str) -> "CameraPath":
            return target_camera(shot, camera, amount=self.amount, easing=self.easing, relative_to=self.relative_to, resample=self.resample)

        if cuts := parse_cuts(self.cut):
            return {CUT: (cut_between([path(each.camera) for each in cuts], cuts, float(shot.clip.fps)), None)}
        eye_distances = {camera: split_stereo(camera) for camera in self.camera}
        return {camera: (path(base), distance) for camera, (base, distance) in eye_distances.items()}


@dataclass(frozen=True, kw_only=True)
class HowFar:
    """Find the amounts of a move up to which the clip still shows 90, 75 and 50 % of every picture."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    move: tyro.conf.Positional[str]
    """One move, without an amount (`cameras list` shows all)."""
    relative_to: Literal["source", "first-frame"] = "source"
    """Lay the move over the source's own path or over its first camera."""
    part: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()

    def run(self) -> None:
        """Track, then look."""
        from track2view.cameras import MOVES, parse_move
        from track2view.outlook import FURTHEST, Outlook, check_findable

        move = parse_move(self.move, relative_to=self.relative_to)
        check_findable(move)
        found = Outlook(_prepare(self.clip, self.part, self.source)).how_far(move)
        unit = MOVES[move.name].unit
        for share, amount in found.items():
            far = f"as far as anybody goes ({FURTHEST[unit]:g} {unit})" if amount is None else f"up to {amount:.3g} {unit}"
            say(f"{move.name}: {100 * share:.0f} % of every picture is seen {far}")


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
        from track2view.pipeline import write_tracks
        from track2view.preflight import make_folder

        out = self.out or Path("out") / self.clip.resolve().stem
        make_folder(out)
        shot = _prepare(self.clip, self.part, self.source)
        say(f"{write_tracks(shot, out)}  ({shot.tracking.tracks.xyz_world.shape[1]} tracks, {len(shot.clip)} frames)")


def _prepare(clip: Path, part: Window, source: Source, generator: "Generator | Completer | None" = None) -> "Shot":
    from track2view import pipeline
    from track2view.cameras import read_camera
    from track2view.records import TrackSet
    from track2view.trackers import SfmTracker
    from track2view.video import read_clip

    tracker, prior = SfmTracker(fov=source.fov), _opened(source.depth_prior)
    read = read_clip(clip, short_side=part.size, start=part.start, end=part.end, frames=part.frames)
    camera = read_camera(source.source_camera, read.size) if source.source_camera else None
    tracks = TrackSet.load(source.tracks) if source.tracks else None
    queries = None if generator is None else generator.queries(read)
    shot = pipeline.prepare(
        read, tracker=tracker, source_camera=camera, tracks=tracks, queries=queries, depth_prior=prior, use_cache=source.cache
    )
    for warning in shot.tracking.report.warnings:
        say(f"track2view: warning: {warning}", sys.stderr)
    return shot


def _opened(folder: Path | None) -> "DepthPrior | None":
    if folder is None:
        return None
    import transformers

    from track2view.model.depth import NetworkDepth

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return NetworkDepth(folder)


def _made(generator: "Generator | Completer", shot: "Shot", target: "CameraPath", out: Path) -> "Clip":
    from track2view.generation import Interrupted

    try:
        return generator.refilm(shot, target, out)
    except Interrupted as stop:
        say(f"{stop.preview}  (what the clip was about to become)")
        raise


def _loaded(command: Render) -> "Generator | Completer | None":
    """Load the model before an hour of tracking, not after."""
    from track2view.errors import UserError

    options = command.diffusion
    if options.renderer != "complete" and options.lora is not None:
        raise UserError("--lora: is for --renderer complete; an adapter of --renderer diffusion has its own")
    if options.renderer != "diffusion" and options.adapter is not None:
        raise UserError("--adapter: is for --renderer diffusion")
    if options.renderer == "warp":
        return None

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return _completer(options, command.device) if options.renderer == "complete" else _generator(options, command.device)


def _generator(options: Diffusion, device: str) -> "Generator":
    import torch

    from track2view.generation import Generator, load_model

    if options.base is None:
        say("track2view: the mini: trained on procedural worlds at 64×112, it shows the method and is no tool for films", sys.stderr)
    model = load_model(options.base, options.adapter, dtype=getattr(torch, options.dtype), device=device)
    return Generator(model=model, settings=_settings(options, model.record))


def _completer(options: Diffusion, device: str) -> "Completer":
    import torch

    from track2view.cache import cache_folder
    from track2view.complete import CompletionPipeline, PublicAdvice
    from track2view.errors import UserError
    from track2view.generation import Completer

    if options.base is None:
        raise UserError("--renderer complete: give --base, a local copy of Wan-AI/Wan2.1-VACE-1.3B-diffusers or of its larger sibling")
    model = CompletionPipeline.from_pretrained(
        options.base,
        lora=options.lora,
        lora_weight=options.lora_weight,
        dtype=getattr(torch, options.dtype),
        device=device,
        prompt_folder=cache_folder() / "prompts",
    )
    return Completer(model=model, settings=_settings(options, PublicAdvice()))


def _settings(options: Diffusion, advised: "Advised") -> "DiffusionSettings":
    from track2view.generation import settings_for

    return settings_for(
        advised,
        prompt=options.prompt,
        negative_prompt=options.negative_prompt,
        steps=options.steps,
        solver=options.solver,
        guidance=options.guidance,
        guidance_interval=options.guidance_interval,
        batched=options.batched,
        seed=options.seed,
        window=options.window,
        memory=options.memory,
    )
