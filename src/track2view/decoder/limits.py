"""What a file may take: time without progress, memory, pixels."""

import os
import resource
import signal
from pathlib import Path

from track2view.errors import UserError

SECONDS_WITHOUT_PROGRESS = 15.0
MOST_PIXELS = 1 << 26
"""8192 × 8192: above 8K video, below what a made-up header can be made to announce."""
MEMORY, MEMORY_PER_BYTE = 1 << 30, 64
"""A decoder holds two dozen frames at most, and large frames do not come in small files."""
STRETCH = 8
"""Pixels wider or higher than this many times are a damaged header, not a lens."""


def confine(path: Path) -> None:
    """Let the kernel end this process if it stands still, and refuse it memory out of proportion to the file."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, which ends us
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = MEMORY + MEMORY_PER_BYTE * (path.stat().st_size if path.is_file() else MEMORY // MEMORY_PER_BYTE)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def check_pixels(width: int, height: int) -> None:
    """Refuse what would take the memory before anything is decoded.

    Raises:
        UserError: more pixels than any camera makes.
    """
    if width * height > MOST_PIXELS:
        raise UserError(f"has {width}×{height} pixels; {MOST_PIXELS / 1e6:.0f} million at most are read: make it smaller first")


def progressed() -> None:
    """Set the alarm anew; its default action ends the process even inside a decoder that never returns."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_WITHOUT_PROGRESS)


def waiting() -> None:
    """Stop the alarm while somebody else is waited for."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def leave() -> None:
    """End at once, with nothing flushed."""
    os._exit(0)
