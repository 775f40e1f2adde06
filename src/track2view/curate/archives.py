"""Datasets that are still packed: tar (also compressed) and zip archives, unpacked as far as they are whole."""

import json
import tarfile
import zipfile
import zlib
from pathlib import Path

from track2view.errors import DISK_FULL
from track2view.progress import progress
from track2view.records import atomic_path

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
TRUNCATED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError)


def find_archives(root: Path) -> list[Path]:
    """All archives below ``root``, in order."""
    return sorted(path for path in root.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())


def unpack(archive: Path, folder: Path) -> str | None:
    """Unpack into ``folder``; a file that is not whole is not left there. Done once: a second call only remembers.

    Returns:
        What is wrong with the archive, or ``None``.
    """
    remembered = folder.with_name(f"{folder.name}.json")
    if not remembered.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wrong = _unzip(archive, folder) if archive.suffix == ".zip" else _untar(archive, folder)
        with atomic_path(remembered) as partial:
            partial.write_text(json.dumps({"wrong": wrong}))
    return json.loads(remembered.read_text())["wrong"]


def _untar(archive: Path, folder: Path) -> str | None:
    name = "its first member"
    try:
        with tarfile.open(archive) as file:
            for member in progress(file, f"unpacking {archive.name}"):
                name = member.name
                file.extract(member, folder, filter="data")
    except TRUNCATED as error:
        return _broken(archive, folder, name, error)
    return None


def _unzip(archive: Path, folder: Path) -> str | None:
    name = "its table of contents"
    try:
        with zipfile.ZipFile(archive) as file:
            for name in progress(file.namelist(), f"unpacking {archive.name}"):
                file.extract(name, folder)
    except TRUNCATED as error:
        return _broken(archive, folder, name, error)
    return None


def _broken(archive: Path, folder: Path, name: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
    if (folder / name).is_file():
        (folder / name).unlink()
    return f"{archive.name} ends or breaks at {name} ({error})"
