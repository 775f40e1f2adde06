"""One request from the command line (JSON); messages on standard output: a kind, a length, and so many bytes.

H a header (JSON), F a picture (raw RGB), R the picture before once more, N a notice, E an error that a user can mend, D a disk that is
full, X a fault of ours.
"""

import errno
import json
import struct
import sys
import traceback
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from av.error import FFmpegError

from track2view.decoder import limits
from track2view.decoder.frames import Header, Window, pictures, probe
from track2view.decoder.sound import join
from track2view.errors import DISK_FULL, UserError


def main() -> None:
    """Do what is asked; how it went is told in messages."""
    request = json.loads(sys.argv[1])
    path = Path(request["path"])
    limits.confine(path)
    limits.progressed()
    notices: list[str] = []
    try:
        if request["do"] == "join":
            join(Path(request["picture"]), path, request["track"], request["start"], request["end"], Path(request["out"]), notices)
        elif request["do"] == "probe":
            _send_header(probe(path, notices))
        else:
            _send_pictures(path, request["window"], notices)
        for each in dict.fromkeys(notices):
            _send(b"N", each.encode())
    except UserError as error:
        _send(b"E", str(error).encode())
    except (MemoryError, FFmpegError, OSError) as error:
        full = getattr(error, "errno", None) in DISK_FULL
        _send(b"D" if full else b"E", _in_words(error).encode())
    except Exception:
        _send(b"X", traceback.format_exc().encode())


def _send_pictures(path: Path, window: dict, notices: list[str]) -> None:
    fps, resized = window.pop("fps"), window.pop("resized")
    wanted = Window(**window, fps=None if fps is None else Fraction(fps), resized=None if resized is None else tuple(resized))
    for each in pictures(path, wanted, notices):
        if isinstance(each, Header):
            _send_header(each)
        elif each is None:
            _send(b"R", b"")
        else:
            _send(b"F", each.data)
        limits.progressed()


def _send_header(header: Header) -> None:
    _send(b"H", json.dumps(asdict(header) | {"fps": str(header.fps)}).encode())


def _send(kind: bytes, content: bytes | memoryview) -> None:
    limits.waiting()
    content = memoryview(content).cast("B")
    try:
        sys.stdout.buffer.write(struct.pack("<cQ", kind, len(content)))
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody wants it any more
        limits.leave()


def _in_words(error: Exception) -> str:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "asks for more memory than a file of its size should; it is damaged, or made to harm"
    return f"cannot be read to its end ({getattr(error, 'strerror', None) or error})"


if __name__ == "__main__":
    main()
