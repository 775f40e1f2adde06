"""Files that anybody may have made: read within limits, and refused in one line that names the file."""

import json
import math
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError

import numpy as np

from track2view.errors import UserError

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
        raise UserError(f"{path}: not JSON ({error})") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file; nothing in it is run, and it takes no more memory than it holds.

    An array is allocated only after its header has been found to announce what the archive holds of it, and all together may take
    512 MiB or a hundred times the file's own size, whichever is more.

    Raises:
        UserError: missing, cut short, damaged, holding Python objects, or growing beyond these limits.
    """
    try:
        limit = max(ARRAY_BYTES, INFLATION * path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if (total := sum(member.file_size for member in members)) > limit:
                raise UserError(f"{path}: would grow to {total / 1e6:.0f} MB when unpacked; {limit / 1e6:.0f} MB at most are read")
            return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except _DAMAGED as error:
        raise UserError(f"{path}: not a whole .npz file ({error}); copy or make it again") from None


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read_header is None:
            raise ValueError(f"{member.filename}: npy version {version}")
        shape, fortran, kind = read_header(file, max_header_size=HEADER_BYTES)
        if kind.kind not in "biufcSU" or not kind.itemsize:
            raise ValueError(f"{member.filename}: holds {kind}, not numbers or text")
        held = member.file_size - file.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != held:
            raise ValueError(f"{member.filename}: announces {list(shape)} of {kind}, holds {held} bytes")
        flat = np.empty(math.prod(shape), kind)
        place = flat.view(np.uint8)
        for start in range(0, held, CHUNK):
            size = min(CHUNK, held - start)
            place[start : start + size] = np.frombuffer(file.read(size), np.uint8, count=size)
        return flat.reshape(shape, order="F" if fortran else "C")


_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    TokenError,
)
"""What zipfile and numpy raise on damaged archives: tables, streams, unknown or encrypted members, headers that are no literal."""
