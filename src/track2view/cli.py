"""The command line: typed commands, no logic. ``track2view render | track | cameras``."""

import errno
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from track2view.errors import UserError

if TYPE_CHECKING:
    from track2view.pipeline import Shot

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
    window: tyro.conf.OmitArgPrefixes[Window] = Window()
    source: tyro.conf.OmitArgPrefixes[Source] = Source()


@dataclass(frozen=True, kw_only=True)
class Track:
    """Track a clip and stop before rendering: tracks.npz and source_camera.json."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of images."""
    out: Path | None = None
    """Folder; out/CLIP by default."""
    window: tyro.conf.OmitArgPrefixes[Window] = Window()
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


Command = (
    Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Cameras, tyro.conf.subcommand("cameras")]
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
    shot = _prepare(command.clip, command.window, command.source)
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
        output = pipeline.write_run(shot, target, folders[camera], settings={**settings, "camera": camera}, device=command.device)
        print(f"{output}  ({len(shot.clip)} frames, {time.perf_counter() - started:.0f} s)")


def _track(command: Track) -> None:
    from track2view import pipeline

    out = command.out or Path("out") / command.clip.resolve().stem
    pipeline.make_folder(out)
    shot = _prepare(command.clip, command.window, command.source)
    shot.tracking.tracks.save(out / "tracks.npz")
    shot.tracking.camera.save(out / "source_camera.json")
    print(f"{out / 'tracks.npz'}  ({shot.tracking.tracks.xyz_world.shape[1]} tracks, {len(shot.clip)} frames)")


def _prepare(clip: Path, window: Window, source: Source) -> "Shot":
    from track2view import pipeline
    from track2view.cameras import read_camera
    from track2view.records import TrackSet
    from track2view.trackers import SfmTracker
    from track2view.video import read_clip

    for name in ("size", "frames"):
        if (value := getattr(window, name)) is not None and value < 1:
            raise UserError(f"--{name}: expected a positive number, got {value}")
    tracker = SfmTracker(fov=source.fov)
    read = read_clip(clip, short_side=window.size, start=window.start, end=window.end, frames=window.frames)
    camera = read_camera(source.source_camera, read.size) if source.source_camera else None
    tracks = TrackSet.load(source.tracks) if source.tracks else None
    shot = pipeline.prepare(read, tracker=tracker, source_camera=camera, tracks=tracks, use_cache=source.cache)
    for warning in shot.tracking.report.warnings:
        print(f"track2view: warning: {warning}", file=sys.stderr)
    return shot


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


def _cameras(command: Cameras) -> None:
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


RUNNERS: dict[type, Callable[..., None]] = {
    Render: _render,
    Track: _track,
    Cameras: _cameras,
    ListCameras: _list_cameras,
    ShowCamera: _show_camera,
    ConvertCamera: _convert_camera,
    UnpickleCameras: _unpickle_cameras,
}
