"""Files: those that anybody may have made are read within limits, and refused in one line that names them; ours appear only when whole."""

import json
import math
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from io import BufferedIOBase, BytesIO
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from track2view.errors import UserError

Record = TypeVar("Record")

TEXT_BYTES = 1 << 28
ARRAY_BYTES = 1 << 29
INFLATION = 100
CHUNK = 1 << 20
HEADER_BYTES = 10_000
"""numpy's own limit on the length of an array's header."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: missing, unreadable, over 256 MiB, or not text.
    """
    try:
        if (size := path.stat().st_size) > TEXT_BYTES:
            raise UserError(f"{path}: {size / 1e6:.0f} MB of text; {TEXT_BYTES / 1e6:.0f} MB at most are read, is this the right file?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json(path: Path) -> object:
    """The document of a JSON file.

    Raises:
        UserError: as :func:`read_text`, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: not JSON ({error})") from None


def read_record(path: Path, kind: type[Record], form: str, *, what: str, maker: str) -> Record:
    """The dataclass that :func:`write_record` wrote, and the dataclasses and tuples in it; fields without a default must be there.

    Args:
        form: what the file must say of its format.
        what: what the file's folder is, for messages ("a sample").
        maker: the command that makes one.

    Raises:
        UserError: missing, as :func:`read_json`, of another format, or with a field that is missing, unknown or wrong, by name.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: not {what}: it has no {path.name}; `{maker}` makes one")
    document = read_json(path)
    try:
        if not isinstance(document, dict) or document.pop("format", None) != form:
            raise UserError(f'format: expected "{form}"; another version of track2view wrote it, or another program')
        return _built(kind, document, "")
    except (TypeError, UserError) as error:
        raise UserError(f"{path}: not {what} ({' '.join(str(error).split()):.300})") from None


def write_record(path: Path, record: Any, form: str) -> None:
    """Write a dataclass of what JSON holds, and the name of its format."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps({"format": form, **asdict(record)}, indent=2))


def _built(kind: Any, value: object, name: str) -> Any:
    """A value of JSON as a field's type has it; what else there is to check, the dataclass checks."""
    if isinstance(kind, UnionType):
        return None if value is None else _built(get_args(kind)[0], value, name)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{name}: expected a list, got {value!r:.60}")
        return tuple(value)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise UserError(f"{name}: expected {' or '.join(map(str, get_args(kind)))}, got {value!r:.60}")
    if not is_dataclass(kind):
        return value
    kinds = get_type_hints(kind)
    if not isinstance(value, dict):
        raise UserError(f"{name}: expected an object of fields, got {value!r:.60}")
    return kind(**{field: _built(kinds.get(field), each, field) for field, each in value.items()})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside ``path`` to write to; it takes the final name only when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".partial{path.suffix}", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        try:
            partial.unlink(missing_ok=True)
        finally:  # a signal may have come before it began
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``folder`` to write to; it takes the final name only when the block ends without error.

    Raises:
        OSError: ``folder`` is there already, and not empty.
    """
    with _hidden_beside(folder) as partial:
        yield partial
        partial.rename(folder)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """As :func:`atomic_folder`, but what ``folder`` held before gives way as a whole; by one writer at a time.

    A folder that is not empty can only be replaced by renaming twice. Who is killed between the two leaves the old one under a hidden
    name, so whoever reads such a folder asks :func:`standing_folder` where it is.
    """
    folder = folder.resolve()
    old = _old(folder)
    with _hidden_beside(folder) as partial:
        yield partial
        try:
            if folder.exists():  # if not, the hidden one is all there is
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            partial.rename(folder)
        finally:
            if not folder.exists() and old.exists():
                old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def standing_folder(folder: Path) -> Path:
    """``folder``, or where its contents are if a process was killed in the middle of :func:`replaced_folder`."""
    old = _old(folder.resolve())
    return old if old.exists() and not folder.exists() else folder


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-replaced")


@contextmanager
def _hidden_beside(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent))
    try:
        partial.chmod(0o755)
        yield partial
    finally:
        try:
            shutil.rmtree(partial, ignore_errors=True)
        finally:  # a signal may have come before it began, or into the midst of it
            shutil.rmtree(partial, ignore_errors=True)


def read_array(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file; nothing in it is run, and it takes no more memory than it holds.

    Raises:
        UserError: missing, cut short, damaged, holding Python objects, or over 512 MiB.
    """
    with _damage_named(path, ".npy"):
        if (size := path.stat().st_size) > ARRAY_BYTES:
            raise UserError(f"{path}: {size / 1e6:.0f} MB; {ARRAY_BYTES / 1e6:.0f} MB at most are read, is this the right file?")
        with path.open("rb") as file:
            return _values(file, size, path.name)


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file, all or those of the given names; nothing in it is run, and it takes no more memory than it holds.

    An array is allocated only after its header has been found to announce what the archive holds of it, and all together may take
    512 MiB or a hundred times the file's own size, whichever is more.

    Raises:
        UserError: missing, cut short, damaged, holding Python objects, or growing beyond these limits.
    """
    with _damage_named(path, ".npz"):
        limit = max(ARRAY_BYTES, INFLATION * path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            members = {name: member for name, member in members.items() if names is None or name in names}
            if (total := sum(member.file_size for member in members.values())) > limit:
                raise UserError(f"{path}: would grow to {total / 1e6:.0f} MB when unpacked; {limit / 1e6:.0f} MB at most are read")
            arrays = {}
            for name, member in members.items():
                with _member(archive, member) as file:
                    arrays[name] = _values(file, member.file_size, member.filename)
            return arrays


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """What shapes the arrays of an ``.npz`` file announce, by name; no array is read.

    Raises:
        UserError: missing, cut short or damaged.
    """
    with _damage_named(path, ".npz"), zipfile.ZipFile(path) as archive:
        shapes = {}
        for member in archive.infolist():
            with _member(archive, member) as file:
                shapes[member.filename.removesuffix(".npy")] = _header(file, member.filename)[0]
        return shapes


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BufferedIOBase:
    """A member of a kind that numpy writes: of others a few bytes can unpack to gigabytes at once."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename}: compression of kind {member.compress_type}, which numpy does not write")
    return archive.open(member)  # pyrefly: ignore[bad-return]


@contextmanager
def _damage_named(path: Path, suffix: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except _DAMAGED as error:
        raise UserError(f"{path}: not a whole {suffix} file ({' '.join(str(error).split())[:200]}); copy or make it again") from None


def _header(file: BufferedIOBase, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name}: npy version {version}")
    field = "<H" if version == (1, 0) else "<I"
    prefix = file.read(struct.calcsize(field))
    if (length := struct.unpack(field, prefix)[0]) > HEADER_BYTES:  # numpy would take as much memory as is announced
        raise ValueError(f"{name}: announces a header of {length} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy's, on headers that Python 2 wrote: they are read as well
        return read(BytesIO(prefix + file.read(length)), max_header_size=HEADER_BYTES)


def _values(file: BufferedIOBase, size: int, name: str) -> np.ndarray:
    """The array of an open file of ``size`` bytes."""
    shape, fortran, kind = _header(file, name)
    if kind.kind not in "biufcSU" or not kind.itemsize:
        raise ValueError(f"{name}: holds {kind}, not numbers or text")
    held = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != held:
        raise ValueError(f"{name}: announces {list(shape)} of {kind}, holds {held} bytes")
    flat = np.empty(math.prod(shape), kind)
    place = flat.view(np.uint8)
    for start in range(0, held, CHUNK):
        share = min(CHUNK, held - start)
        place[start : start + share] = np.frombuffer(file.read(share), np.uint8, count=share)
    return flat.reshape(shape, order="F" if fortran else "C")


_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    ArithmeticError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    TokenError,
    struct.error,
)
"""What zipfile and numpy raise on damaged archives: tables, streams, unknown or encrypted members, headers that are no literal (a deeply
nested one is a MemoryError of Python's parser)."""
