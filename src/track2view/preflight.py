"""What is found out before an hour of work, not after it: whether clip, cameras, folder, device, memory and disk will do."""

import math
import shutil
import tempfile
import warnings
from pathlib import Path

import psutil
import torch

from track2view.cameras import is_keyframes, names_file, parse_move, read_camera
from track2view.errors import Notice, UserError, notice
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, Clip, Size, TrackSet
from track2view.trackers import Tracking

MIN_SIDE = 32
SAME_SHAPE = 0.03
"""Largest logarithm of the ratio of two images' aspect ratios at which they count as one shape; codecs crop to whole blocks."""


def check_given(clip: Clip, camera: CameraPath | None, tracks: TrackSet | None, fov: float | None) -> None:
    """A clip, and what is known of it: refused where it cannot be tracked, with a notice where things go together only somehow.

    Args:
        fov: that the user gave.

    Raises:
        UserError: a clip too small or too short, or tracks without the camera that saw them.
    """
    height, width = clip.size
    if min(clip.size) < MIN_SIDE:
        raise UserError(f"the clip is {width}×{height} pixels; at least {MIN_SIDE} on each side are needed to track")
    if len(clip) < 2:
        raise UserError("the clip has one frame; at least two are needed to tell how the camera moves: lengthen --frames or --end")
    if camera is None:
        if tracks is not None:
            raise UserError("--tracks needs --source-camera: 3D tracks mean nothing without the camera they were seen by")
        return
    rows, columns = camera.size
    if abs(math.log(width * rows / (height * columns))) > SAME_SHAPE:
        notice(
            f"the source camera is of {columns}×{rows} images, the clip is {width}×{height}, of another shape: "
            "each side's focal length goes with that side"
        )
    if fov is not None and camera.focal_known:
        notice(f"--fov {fov:g} is not used: the source camera's file has a focal length")


def check_made(clip: Clip, made: Clip) -> None:
    """What another renderer has made of a clip, frame by frame in step with it.

    Raises:
        UserError: it has another length or size.
    """
    if (len(made), *made.size) != (len(clip), *clip.size):
        (height, width), (rows, columns) = clip.size, made.size
        raise UserError(
            f"what was made has {len(made)} frames of {columns}×{rows}, the clip {len(clip)} of {width}×{height}; "
            "cut and resize it to the clip's"
        )


def check_camera(camera: str, amount: float | None) -> None:
    """Find a misspelt move or a broken camera file; notices come when it is read for good.

    Raises:
        UserError: what is wrong with it.
    """
    path = Path(camera.partition("#")[0])
    if not names_file(camera):
        parse_move(camera, amount)
    elif not path.exists() or not is_keyframes(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            read_camera(camera)


def check_view(tracking: Tracking, target: CameraPath, name: str) -> None:
    """Refuse a target path that sees nothing of what the clip shows, in most of its frames.

    Raises:
        UserError: the first such frame.
    """
    pairs = pair_by_projection(tracking.tracks, tracking.camera, target)
    blind = ~(pairs.target.valid & tracking.tracks.visible).any(1)
    if float(blind.float().mean()) > 0.5:
        first = int(blind.nonzero()[0, 0])
        raise UserError(
            f"{name}: from frame {first} on the new camera looks away from all that the clip shows; use a smaller --amount or another path"
        )


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        UserError: which.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device that torch can use; leave it out to render on the CPU")


def run_folders(clip: Path, cameras: list[str], out: Path | None) -> dict[str, Path]:
    """Where each camera's run is written: ``out``, a folder in it for each of several, or by default ``out/CLIP-CAMERA``.

    Raises:
        UserError: two cameras that would share a folder.
    """
    if out and len(cameras) == 1:
        return {cameras[0]: out}
    folders = {camera: out / _named(camera) if out else Path("out") / f"{clip.resolve().stem}-{_named(camera)}" for camera in cameras}
    first = {folder: camera for camera, folder in reversed(folders.items())}
    for camera, folder in folders.items():
        if first[folder] != camera:
            raise UserError(f"--camera: {first[folder]} and {camera} would both be written to {folder}; render one by one, with --out")
    return folders


def _named(camera: str) -> str:
    """A folder's name for a move or a camera file."""
    file, _, part = camera.partition("#")
    return "-".join(filter(None, [Path(file).stem, part])) if Path(file).exists() else camera.replace(":", "")


def make_folder(out: Path) -> None:
    """Make a run folder.

    Raises:
        UserError: one that cannot be made, or not written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}); choose another folder with --out") from None


def tracking_memory(frames: int, size: Size) -> int:
    """Bytes that tracking and rendering a clip take at their peak: libraries, frames, flow, followed points, depth.

    Fitted to measured peaks (docs/benchmarks.md), from 82 frames of 480p to 150 of 1080p and 1,000 of 480p.
    """
    height, width = size
    scale = min(1.0, 480 / min(size))
    working = height * width * scale * scale
    return int(550e6 + frames * (3 * height * width + 8.5 * working) + 520 * height * width)


def check_memory(clip: Clip) -> None:
    """Refuse early what would not fit.

    Raises:
        UserError: with what is needed, what there is, and what to do.
    """
    needed, free = tracking_memory(len(clip), clip.size), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: use a smaller --size or fewer --frames"
        )


def disk_needed(clip: Clip) -> int:
    """Bytes of a run folder: about 2 bits per pixel of each video, a byte of each depth image, and the tracks."""
    height, width = clip.size
    return int(20e6 + 1.75 * len(clip) * height * width)


def check_disk(clip: Clip, out: Path) -> None:
    """Refuse early what would not fit on the disk.

    Raises:
        UserError: with what is needed and what there is.
    """
    needed, free = disk_needed(clip), shutil.disk_usage(out).free
    if needed > free:
        raise UserError(
            f"{out}: disk full: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; free some or choose another --out"
        )
