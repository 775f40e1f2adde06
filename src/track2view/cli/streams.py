"""Standard input, output and error as a process may find them: closed, without a reader, in a poor encoding, or a terminal."""

import io
import os
import sys
from typing import TextIO


def open_streams() -> None:
    """Give closed streams the null device, and have every character printed in any encoding.

    Without it the next file that is opened takes a closed stream's number, and what libraries print ends up in a video.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(message: str, stream: TextIO | None = None) -> None:
    """Print one line, on stdout by default. Control characters, which file names may hold, are escaped.

    A stream that takes nothing any more (its reader is gone, its disk is full) is given up: results are files, lines only tell of them.
    """
    stream = stream or sys.stdout
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)
    try:
        print(line, file=stream, flush=True)
    except OSError:
        give_up(stream)


def give_up(stream: TextIO) -> None:
    """Send what is still to come, and what waits to be written, to the null device."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, stream.fileno())
    os.close(handle)
