"""Datasets that are still packed: tar (also compressed) and zip archives, unpacked as far as they are whole and safe.

Whoever made an archive chose its names, types and sizes. Only regular files and folders are taken, only to places inside the
folder, and never through a link; anything else is refused by name. Python's own extraction is not used: its filters have let
members out more than once.
"""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

from track2view.files import CHUNK, INFLATION, atomic_path
from track2view.progress import progress

Item = TypeVar("Item")
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
PACKINGS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
LEAST_LIMIT = 1 << 29
HEADER_BYTES = 1 << 14
MOST_DICTIONARY = 1 << 27
NAME_BYTES, NAME_PARTS, PART_BYTES = 1024, 32, 255
FORBIDDEN = re.compile("[\\x00-\\x1f\\x7f\\\\\ud800-\udfff]")
"""Control characters, backslashes, and bytes that were no text."""
FREE_MEMBERS, BYTES_A_MEMBER = 10_000, 100
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    ValueError,
    MemoryError,
)
"""What the libraries raise of damage: tables, streams, checksums; encrypted and unknown members (RuntimeError, and
NotImplementedError, which is one); headers nested without end (RecursionError, another); text that is none; dictionaries larger
than memory."""


class _Refused(Exception):  # noqa: N818
    """A member, or all that follow, that must not be unpacked, and why."""


class _Broken(Exception):  # noqa: N818
    """What a library said of damage, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """What stands in an archive under a name; ``size`` is what it announces."""

    name: str
    kind: Literal["file", "folder", "neither"]
    size: int
    chunks: Callable[[], Generator[bytes, None, None]]


def find_archives(root: Path) -> list[Path]:
    """All archives below ``root``, in order."""
    return sorted(path for path in root.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())


def unpack(archive: Path, folder: Path) -> str | None:
    """Unpack into ``folder``, and nowhere else; a file that is not whole is not left there. Done once: a second call only remembers.

    All files together may take a hundred times the archive's own size, or 512 MiB if that is more, and what the disk has free.

    Returns:
        What is wrong with the archive, in one line, or ``None``.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    remembered = folder.with_name(f"{folder.name}.json")
    if not remembered.exists():
        folder.mkdir(parents=True, exist_ok=True)
        faults = list(_unpacked(archive, folder))
        wrong = f"{archive.name} {faults[0]}{f' ({len(faults)} such faults)' if faults[1:] else ''}" if faults else None
        with atomic_path(remembered) as unfinished:
            unfinished.write_text(json.dumps({"wrong": wrong}))
    return json.loads(remembered.read_text())["wrong"]


def _unpacked(archive: Path, folder: Path) -> Iterator[str]:
    """Unpack; yields what is wrong."""
    packed = archive.stat().st_size
    room = limit = max(LEAST_LIMIT, INFLATION * packed)
    members = _each_read(_zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive, limit))
    seen: set[tuple[str, ...]] = set()
    name = "its beginning"
    begun = folder.with_name(f".{folder.name}.partial")
    try:
        for count, member in enumerate(progress(members, f"unpacking {archive.name}")):
            name = _shown(member.name)
            if count > FREE_MEMBERS + packed / BYTES_A_MEMBER:
                raise _Refused(f"holds more than {count} members, too many for {packed} bytes")
            if not 0 <= member.size <= room:
                raise _Refused(f"would grow to more than {limit / 1e6:.0f} MB, too much for {packed} bytes")
            try:
                if place := _made_place(folder, member, seen):
                    room -= _copied(member, begun)
                    begun.replace(place)
            except _Refused as refusal:
                yield f"holds {name}: {refusal}; not unpacked"
            except _Broken as broken:
                yield f"ends or breaks at {name} ({broken})"
    except _Refused as refusal:
        yield f"{refusal}; what follows {name} is not unpacked"
    except _Broken as broken:
        yield f"ends or breaks after {name} ({broken})"
    finally:
        members.close()
        begun.unlink(missing_ok=True)


def _shown(name: str) -> str:
    """A name that anybody may have chosen, as one short printable line."""
    return name if name.isprintable() and len(name) <= 80 else f"{name[:80]!a}"


def _made_place(folder: Path, member: _Member, seen: set[tuple[str, ...]]) -> Path | None:
    """Where a file is to go, its parents made; ``None`` for a folder, which is made."""
    parts = _safe_parts(member.name)
    if member.kind == "neither":
        raise _Refused("a link or device, neither file nor folder")
    if member.kind == "file":
        if not parts or parts in seen:
            raise _Refused("its name stands there twice" if parts else "a file without a name")
        seen.add(parts)
    place = folder
    for part in parts[:-1] if member.kind == "file" else parts:
        place /= part
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise _Refused("a file or link stands where its folder should be")
        place.mkdir(exist_ok=True)
    if member.kind == "folder":
        return None
    place /= parts[-1]
    if place.is_dir() and not place.is_symlink():
        raise _Refused("a folder stands in its place")
    return place


def _safe_parts(name: str) -> tuple[str, ...]:
    """A name's parts, none of which leads out of a folder on any system."""
    if FORBIDDEN.search(name):
        raise _Refused("its name has characters that file names must not have")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise _Refused("its name is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _Refused("its name leads out of the folder")
    if len(parts) > NAME_PARTS or len(name.encode()) > NAME_BYTES or any(len(part.encode()) > PART_BYTES for part in parts):
        raise _Refused("its name is too long")
    return parts


def _copied(member: _Member, begun: Path) -> int:
    """Write a member to ``begun``; returns how much. Faults of writing are raised as they are."""
    begun.unlink(missing_ok=True)
    if member.size > shutil.disk_usage(begun.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(begun.parent))
    with begun.open("xb") as out, closing(_each_read(member.chunks())) as chunks:
        written = sum(map(out.write, chunks))
    if written != member.size:
        raise _Broken(f"{written} of {member.size} bytes are there")
    return written


def _each_read(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The items; what their making raises of damage becomes :class:`_Broken`, what their use raises does not."""
    try:
        with closing(items):
            yield from items
    except DAMAGED as error:
        raise _Broken(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _zip_members(archive: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as file:
        for each in file.infolist():
            mode = stat.S_IFMT(each.external_attr >> 16)
            yield _Member(
                name=each.orig_filename,  # zipfile cuts the other one at a NUL
                kind="folder" if each.orig_filename.endswith("/") else "file" if mode in (0, stat.S_IFREG) else "neither",
                size=0 if each.orig_filename.endswith("/") else each.file_size,
                chunks=partial(_zip_chunks, archive, file, each),
            )


def _zip_chunks(archive: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Generator[bytes, None, None]:
    if member.compress_type == zipfile.ZIP_LZMA and (size := _dictionary(archive, member)) > MOST_DICTIONARY:
        raise ValueError(f"an LZMA dictionary of {size / 1e6:.0f} MB; {MOST_DICTIONARY / 1e6:.0f} MB at most are given to one")
    with file.open(member) as opened:
        while chunk := opened.read(CHUNK):
            yield chunk


def _dictionary(archive: Path, member: zipfile.ZipInfo) -> int:
    """Bytes that its decoder will take at once, whatever the member holds (APPNOTE 5.8.8: version, size of properties, properties)."""
    with archive.open("rb") as raw:
        raw.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", raw.read(4))
        raw.seek(name + extra + 5, io.SEEK_CUR)
        return struct.unpack("<I", raw.read(4))[0]


def _tar_members(archive: Path, limit: int) -> Generator[_Member, None, None]:
    with archive.open("rb") as file:
        magic = file.read(max(map(len, PACKINGS)))
    open_packed = next((opener for start, opener in PACKINGS.items() if magic.startswith(start)), open)
    with open_packed(archive, "rb") as file:
        unpacked = _Unpacked(cast(io.BufferedIOBase, file), 2 * limit)
        with tarfile.open(fileobj=cast(IO[bytes], unpacked), mode="r:") as tar:
            while (member := tar.next()) is not None:
                regular = member.isreg() and not member.issparse()
                yield _Member(
                    name=member.name,
                    kind="folder" if member.isdir() else "file" if regular else "neither",
                    size=member.size if regular else 0,
                    chunks=partial(unpacked.chunks, member.offset_data, member.size),
                )
            unpacked.seek(tar.offset)
            if unpacked.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError("there is neither a member nor the archive's end")  # tarfile takes a damaged header for the end


class _Unpacked:
    """A tar's bytes as ``tarfile`` reads them, which trusts sizes: headers of sane length only, and no more than ``limit`` in all."""

    def __init__(self, file: io.BufferedIOBase, limit: int) -> None:
        self._file, self._limit = file, limit

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._limit:
            raise _Refused(f"would grow to more than {self._limit / 1e6:.0f} MB, or has members of negative size")
        return self._file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def chunks(self, start: int, size: int) -> Generator[bytes, None, None]:
        """``size`` bytes from ``start``, or as many as there are."""
        self.seek(start)
        while size > 0 and (chunk := self._file.read(min(CHUNK, size))):
            size -= len(chunk)
            yield chunk
