"""What is found out before an hour of work, not after it: whether the folder, the memory and the disk will do."""

import shutil
import tempfile
from pathlib import Path

import psutil

from track2view.errors import UserError
from track2view.records import Clip, Size


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


def memory_needed(frames: int, size: Size) -> int:
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
    needed, free = memory_needed(len(clip), clip.size), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: use a smaller --size or fewer --frames"
        )


def check_disk(clip: Clip, out: Path) -> None:
    """Refuse early what would not fit on the disk (about 2 bits per pixel of each video, and the tracks).

    Raises:
        UserError: with what is needed and what there is.
    """
    height, width = clip.size
    needed, free = int(20e6 + 0.5 * len(clip) * height * width), shutil.disk_usage(out).free
    if needed > free:
        raise UserError(
            f"{out}: disk full: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; free some or choose another --out"
        )
