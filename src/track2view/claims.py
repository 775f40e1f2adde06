"""Who works at what: locks on files, which the kernel lets go when their process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold ``path`` for a block; yields whether it could be had. Any number of runs, on all machines that share the folder, agree.

    The file is gone when the block ends; one that a killed process left is had like a new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        if not _still_there(path, file.fileno()):
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _still_there(path: Path, handle: int) -> bool:
    """Not so if the one who held it before has finished, and taken the file away, between our opening and our locking it."""
    try:
        return os.stat(path).st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
