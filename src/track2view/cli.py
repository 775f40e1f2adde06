"""The command line: typed commands, no logic. ``track2view render | track | cameras | model | scenes``."""

import errno
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from track2view.errors import UserError

if TYPE_CHECKING:
    from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
    from track2view.pipeline import Shot
    from track2view.records import CameraPath, Clip
    from track2view.trackers import Queries

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


@dataclass(frozen=True, kw_only=True)
class Track:
    """Track a clip and stop before rendering: tracks.npz and source_camera.json."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    out: Path | None = None
    """Folder; out/CLIP by default."""
    part: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()


@dataclass(frozen=True, kw_only=True)
class ListCameras:
    """List all camera moves and file formats."""


@dataclass(frozen=True, kw_only=True)
class ShowCamera:
    """Draw a camera file's path in 3D to a PNG."""

    file: tyro.conf.Positional[str]
    """Camera file of any format."""
    out: Path | None = None
    """PNG to write; FILE.png in the current folder by default."""


@dataclass(frozen=True, kw_only=True)
class ConvertCamera:
    """Convert a camera file: B is NAME.json (our own), transforms.json (nerfstudio), NAME.txt (RealEstate10K) or a folder (COLMAP)."""

    a: tyro.conf.Positional[str]
    """Camera file of any format."""
    b: tyro.conf.Positional[Path]
    """File or folder to write."""
    size: tuple[int, int] | None = None
    """Height and width of the images, for formats that do not hold them."""


@dataclass(frozen=True, kw_only=True)
class UnpickleCameras:
    """Unpack a RealCam-Vid npz into camera files. It is a pickle and runs whatever code it holds: only for files you trust."""

    file: tyro.conf.Positional[Path]
    """RealCam-Vid npz."""
    out: tyro.conf.Positional[Path]
    """Folder to write to."""


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Camera moves and files."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ListCameras, tyro.conf.subcommand("list")]
        | Annotated[ShowCamera, tyro.conf.subcommand("show")]
        | Annotated[ConvertCamera, tyro.conf.subcommand("convert")]
        | Annotated[UnpickleCameras, tyro.conf.subcommand("unpickle")]
    ]


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """Make a random base and adapter in the real layout, for trials: OUT/base and OUT/adapter."""

    size: tyro.conf.Positional[Literal["micro", "mini"]]
    """How large."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    timestep: Literal["segmented", "shared"] = "segmented"
    """One timestep a view, or one for both."""
    rope: Literal["sequential", "synchronised"] = "sequential"
    """Positions of the source after the target's in time, or at the same time."""
    attention: Literal["joint", "cached-source"] = "joint"
    """All tokens see all, or the source sees itself alone and is computed once."""
    seed: int = 0
    """Of the weights."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Print what a base and adapter are, and what a video costs with them."""

    folder: tyro.conf.Positional[Path]
    """Folder that holds base/ and adapter/, or a base that holds adapter/."""
    size: tuple[int, int] = (480, 832)
    """Height and width of the video."""
    frames: int = 81
    """Of the video."""
    steps: int = 50
    """Denoising steps."""
    tflops: float = 500.0
    """What the device computes in a second, in 10¹² operations, for the floor of the time."""


@dataclass(frozen=True, kw_only=True)
class ExportComfy:
    """Write an adapter's LoRA under ComfyUI's names. (Its track conditioner has no place there.)"""

    adapter: tyro.conf.Positional[Path]
    """Adapter folder."""
    out: tyro.conf.Positional[Path]
    """File to write, .safetensors."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Bases and adapters of the diffusion renderer."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[NewModel, tyro.conf.subcommand("new")]
        | Annotated[ModelInfo, tyro.conf.subcommand("info")]
        | Annotated[ExportComfy, tyro.conf.subcommand("export-comfy")]
    ]


@dataclass(frozen=True, kw_only=True)
class MakeScenes:
    """Render procedural scenes through ten cameras each, in MultiCamVideo's layout; finished ones are kept."""

    out: tyro.conf.Positional[Path]
    """Folder to write."""
    count: int = 4
    """How many scenes."""
    first: int = 0
    """Number of the first."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share neither scenes nor trajectories."""
    frames: int = 81
    """Of every video."""
    size: tuple[int, int] = (480, 832)
    """Height and width."""
    static: bool = False
    """Nothing moves but the cameras."""


@dataclass(frozen=True, kw_only=True)
class ShowScenes:
    """Draw every scene below a folder to sceneN.png: a column for each camera."""

    folder: tyro.conf.Positional[Path]
    """Folder that holds scenes in MultiCamVideo's layout."""
    out: Path = Path("out/scenes")
    """Folder to write pictures to."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Procedural scenes with exact truth."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[MakeScenes, tyro.conf.subcommand("make")] | Annotated[ShowScenes, tyro.conf.subcommand("show")]
    ]


Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Cameras, tyro.conf.subcommand("cameras")]
    | Annotated[Model, tyro.conf.subcommand("model")]
    | Annotated[Scenes, tyro.conf.subcommand("scenes")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; user errors are one line on stderr and exit code 2, an interruption exits with 130."""
    command = tyro.cli(Command, args=arguments, prog="track2view", description=__doc__)
    try:
        RUNNERS[type(command)](command)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno in DISK_FULL:
            _fail(f"{error.filename or 'output'}: disk full; free some space or choose another --out")
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except MemoryError:
        _fail("out of memory: use a smaller --size or fewer --frames")
    except KeyboardInterrupt:
        print("track2view: interrupted; finished tracks are kept, run the same command to go on", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"track2view: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _render(command: Render) -> None:
    from track2view import pipeline

    _check_device(command.device)
    stem = command.clip.resolve().stem
    names = {camera: _name(camera) for camera in command.camera}
    many = {camera: (command.out / name if command.out else Path("out") / f"{stem}-{name}") for camera, name in names.items()}
    folders = {command.camera[0]: command.out} if command.out and len(command.camera) == 1 else many
    for camera in command.camera:
        _check_camera(camera, command.amount)
    for folder in folders.values():
        pipeline.make_folder(folder)
    model = _diffusion(command) if command.diffusion.renderer == "diffusion" else None
    shot = _prepare(command.clip, command.part, command.source, model)
    targets = {
        camera: pipeline.target_camera(
            shot,
            camera,
            amount=command.amount,
            easing=command.easing,
            relative_to=command.relative_to,
            resample=command.resample,
        )
        for camera in command.camera
    }
    settings = {key: str(value) for key, value in asdict(command).items() if value is not None}
    for camera, target in targets.items():
        started = time.perf_counter()
        made = None if model is None else _made(shot, target, folders[camera], model)
        output = pipeline.write_run(
            shot, target, folders[camera], made=made, settings={**settings, "camera": camera}, device=command.device
        )
        print(f"{output}  ({len(shot.clip)} frames, {time.perf_counter() - started:.0f} s)")


def _track(command: Track) -> None:
    from track2view import pipeline

    out = command.out or Path("out") / command.clip.resolve().stem
    pipeline.make_folder(out)
    shot = _prepare(command.clip, command.part, command.source)
    shot.tracking.tracks.save(out / "tracks.npz")
    shot.tracking.camera.save(out / "source_camera.json")
    print(f"{out / 'tracks.npz'}  ({shot.tracking.tracks.xyz_world.shape[1]} tracks, {len(shot.clip)} frames)")


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
        print(f"track2view: warning: {warning}", file=sys.stderr)
    return shot


@dataclass(frozen=True, kw_only=True)
class _Model:
    pipeline: "Track2ViewPipeline"
    settings: "DiffusionSettings"
    captioner: Path | None

    def queries(self, clip: "Clip") -> "Queries":
        from track2view.trackers import Queries

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
        guidance=Guidance(scale=options.guidance),
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
    from track2view.model.text import caption
    from track2view.video import clip_images, write_video

    settings = model.settings
    if model.captioner is not None and not settings.prompt:
        settings = replace(settings, prompt=caption(shot.clip, model.captioner, model.pipeline.device))
        print(f"prompt: {settings.prompt}")
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    try:
        tracking = shot.tracking
        made = model.pipeline(shot.clip, tracking.tracks, tracking.camera, target, settings, lambda step, latents: bool(interrupted))
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        write_video(out / "preview.mp4", clip_images(made), made.fps)
        print(f"{out / 'preview.mp4'}  (what the clip was about to become)")
        raise KeyboardInterrupt
    return made


def _name(camera: str) -> str:
    """A folder's name for a move or a camera file."""
    file, _, part = camera.partition("#")
    return "-".join(filter(None, [Path(file).stem, part])) if Path(file).exists() else camera.replace(":", "")


def _check_camera(camera: str, amount: float | None) -> None:
    """Find a misspelt move or a broken file before an hour of tracking, not after."""
    from track2view.cameras import parse_move, read_camera

    path = Path(camera.partition("#")[0])
    if path.exists() and '"track2view.keyframes/' not in (path.read_text(errors="replace") if path.suffix == ".json" else ""):
        read_camera(camera)
    elif not path.exists() and path.suffix in (".json", ".txt", ".npz"):
        raise UserError(f"{path}: no such camera file")
    elif not path.exists():
        parse_move(camera, amount)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device that torch can use; leave it out to render on the CPU")


def _subcommand(command: Cameras | Model | Scenes) -> None:
    RUNNERS[type(command.do)](command.do)


def _list_cameras(command: ListCameras) -> None:
    from track2view.cameras import MOVES
    from track2view.cameras.formats import KNOWN

    for name, kind in MOVES.items():
        default = f"{kind.default:g} {kind.unit}" if kind.unit else ""
        print(f"{name:16} {default:32} {kind.help}")
    print(f"\nJoin moves with +, give amounts with a colon: dolly-in:0.4+pan-left:20\nFiles: {KNOWN}; track2view keyframes JSON")


def _show_camera(command: ShowCamera) -> None:
    from track2view.cameras import read_camera
    from track2view.overview import draw_camera

    out = command.out or Path(Path(command.file.replace("#", "-")).name).with_suffix(".png")
    camera = read_camera(command.file)
    draw_camera(out, camera, Path(command.file).name)
    print(out)


def _convert_camera(command: ConvertCamera) -> None:
    from track2view.cameras import read_camera, write_camera

    camera = read_camera(command.a, command.size)
    write_camera(camera, command.b)
    print(f"{command.b}  ({len(camera)} frames)")


def _unpickle_cameras(command: UnpickleCameras) -> None:
    from track2view.cameras.formats import convert_realcam_pickle

    for path in convert_realcam_pickle(command.file, command.out):
        print(path)


def _new_model(command: NewModel) -> None:
    from track2view.model.dual_view import DualViewModes
    from track2view.model.make import new_model

    modes = DualViewModes(timestep=command.timestep, rope=command.rope, attention=command.attention)
    new_model(command.size, command.out, modes=modes, seed=command.seed)
    print(f"{command.out / 'base'}\n{command.out / 'adapter'}")


def _model_info(command: ModelInfo) -> None:
    from track2view.model.info import describe

    inside = (command.folder / "base").is_dir()
    base, adapter = (command.folder / "base" if inside else command.folder), command.folder / "adapter"
    print(describe(base, adapter, frames=command.frames, size=command.size, steps=command.steps, tflops=command.tflops))


def _export_comfy(command: ExportComfy) -> None:
    from track2view.model.checkpoint import export_comfy

    export_comfy(command.adapter, command.out)
    print(command.out)


def _make_scenes(command: MakeScenes) -> None:
    from track2view.curate import export_scene
    from track2view.progress import progress

    for name in ("count", "frames"):
        if getattr(command, name) < 1:
            raise UserError(f"--{name}: expected a positive number, got {getattr(command, name)}")
    for index in progress(range(command.first, command.first + command.count), "scenes", command.count):
        print(export_scene(command.out, command.split, index, frames=command.frames, size=command.size, dynamic=not command.static))


def _show_scenes(command: ShowScenes) -> None:
    from track2view.curate import contact_sheet, find_scenes

    for folder in find_scenes(command.folder):
        out = command.out / f"{folder.parent.name}-{folder.name}.png"
        contact_sheet(folder, out)
        print(out)


RUNNERS: dict[type, Callable[..., None]] = {
    Render: _render,
    Track: _track,
    Cameras: _subcommand,
    Model: _subcommand,
    Scenes: _subcommand,
    MakeScenes: _make_scenes,
    ShowScenes: _show_scenes,
    NewModel: _new_model,
    ModelInfo: _model_info,
    ExportComfy: _export_comfy,
    ListCameras: _list_cameras,
    ShowCamera: _show_camera,
    ConvertCamera: _convert_camera,
    UnpickleCameras: _unpickle_cameras,
}
