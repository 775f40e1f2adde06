"""Folders that several processes may write to at once, and that a process may be killed in."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from track2view.errors import DISK_FULL, UserError, notice

MARK = ".track2view-", ".partial"
LOCKLESS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""Error numbers with which a file system says that it locks no folders, as some network ones do not."""


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield a hidden empty folder to write to; what is in it takes its place in ``folder`` together, when the block ends without error.

    One process at a time: another waits. What a killed process had begun is cleared away.

    Raises:
        UserError: the disk is full.
        OSError: ``folder`` cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as alone:
            if alone:
                for begun in folder.glob("*".join(MARK)):
                    shutil.rmtree(begun)
            staging = folder / uuid4().hex.join(MARK)
            try:  # a signal between the making of the folder and this line would leave it
                staging.mkdir()
                yield staging
                for made in sorted(staging.iterdir()):
                    place = folder / made.name
                    if made.is_dir() and place.is_dir():
                        place.replace(staging / uuid4().hex)  # a folder takes no other's place
                    made.replace(place)
            finally:
                try:
                    shutil.rmtree(staging, ignore_errors=True)
                finally:  # a signal may have come before it began, or into the midst of it
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"{folder}: disk full; free some space or choose another folder") from error
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the lock on a folder, which the kernel lets go when its process dies, however it dies.

    Yields:
        Whether there is such a lock. Without one, files are whole all the same, since each writer has a folder of its own.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"{folder}: another run is writing to it; waiting for its end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            yield False
            return
        yield True
    finally:
        os.close(handle)
