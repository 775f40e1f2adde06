"""What is computed once for many samples: tensors in safetensors shards, an index that says where each is, and checksums.

``index.parquet`` has a row for each tensor: ``key``, ``shard`` (file name) and ``sha256`` of that file. A shard is written
once, whole.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from track2view.errors import UserError
from track2view.files import atomic_path
from track2view.progress import progress
from track2view.samples import file_sha256, read_table, write_table

LONGEST_NAME = 255
REMEDY = "delete it and run `track2view curate encode` again"
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("key", "shard", "sha256")])


def write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a ``.safetensors`` file, which appears only when it is whole."""
    with atomic_path(path) as partial:
        save_file({key: each.contiguous().cpu() for key, each in tensors.items()}, partial)


def write_index(folder: Path) -> int:
    """List all tensors of a folder's shards in ``index.parquet``; returns how many."""
    rows = []
    for path in sorted(folder.glob("[!.]*.safetensors")):
        digest = file_sha256(path)
        with _damage_named(path), safe_open(path, "pt") as shard:
            rows += [{"key": key, "shard": path.name, "sha256": digest} for key in shard.keys()]  # noqa: SIM118
    rows.sort(key=lambda row: row["key"])
    write_table(folder / "index.parquet", pyarrow.Table.from_pylist(rows, schema=SCHEMA))
    return len(rows)


def is_file_name(name: str) -> bool:
    """Whether it names a file beside another, on any file system."""
    return 0 < len(name.encode(errors="replace")) <= LONGEST_NAME and Path(name).name == name and "\0" not in name


class ShardReader:
    """Tensors by key. Each shard is opened once and kept open; what its header announces is trusted.

    A checksum tells of a shard that is damaged inside, and costs reading all of it: :meth:`verify` does so for all shards, once,
    when a run begins. A reader goes to other processes, forked or by pickle: open shards stay behind, and are opened anew.

    Raises:
        UserError: no index there, or not of this format.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "index.parquet"
        if not path.exists():
            raise UserError(f"{path}: no such index; `track2view curate encode` writes one")
        self.folder = folder
        rows = read_table(path, SCHEMA.names)
        for row in rows:
            name = row["shard"]
            if not all(isinstance(value, str) for value in row.values()) or not is_file_name(name):
                raise UserError(f"{path}: expected keys, names of shards beside it and checksums, got {row!s:.120}")
        self._places = {row["key"]: row["shard"] for row in rows}
        self._digests = sorted({(row["shard"], row["sha256"]) for row in rows})
        self._open: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """All keys, in order."""
        return iter(self._places)

    def __contains__(self, key: str) -> bool:
        """Whether the index lists it and its shard is there."""
        return key in self._places and (self.folder / self._places[key]).is_file()

    def __getitem__(self, key: str) -> Tensor:
        """One tensor; its memory is the file's, paged in as it is read.

        Raises:
            UserError: no such key, or a shard that cannot be read.
        """
        if key not in self._places:
            raise UserError(f"{self.folder}: no tensor {key!r}; `track2view curate encode` adds what is missing")
        name = self._places[key]
        path = self.folder / name
        with _damage_named(path):
            if name not in self._open:
                self._open[name] = safe_open(path, "pt")
            return self._open[name].get_tensor(key)

    def shard_of(self, key: str) -> str:
        """The file name of a tensor's shard."""
        return self._places[key]

    def fingerprint(self) -> str:
        """Tells what it lists from other content."""
        return hashlib.sha256(repr((sorted(self._places.items()), self._digests)).encode()).hexdigest()

    def verify(self) -> None:
        """Read every shard once and compare its checksum, with a progress bar.

        Raises:
            UserError: a shard that is gone, or not what was written, by name.
        """
        for name, digest in progress(self._digests, f"verifying {self.folder.name}", len(self._digests)):
            path = self.folder / name
            if not path.is_file() or file_sha256(path) != digest:
                raise UserError(f"{path}: gone, or not what was written (checksum); {REMEDY}")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from None
