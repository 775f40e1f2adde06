"""What is computed once for many samples: tensors in safetensors shards, an index that says where each is, and checksums.

``index.parquet`` has a row for each tensor: ``key``, ``shard`` (file name) and ``sha256`` of that file. A shard is written
once, whole; a reader that finds another checksum says so.
"""

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
from track2view.samples import file_sha256, read_table, write_table

LONGEST_NAME = 255
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
        with _opened(path) as shard:
            rows += [{"key": key, "shard": path.name, "sha256": digest} for key in shard.keys()]  # noqa: SIM118
    rows.sort(key=lambda row: row["key"])
    write_table(folder / "index.parquet", pyarrow.Table.from_pylist(rows, schema=SCHEMA))
    return len(rows)


def is_file_name(name: str) -> bool:
    """Whether it names a file beside another, on any file system."""
    return 0 < len(name.encode(errors="replace")) <= LONGEST_NAME and Path(name).name == name and "\0" not in name


class ShardReader:
    """Tensors by key; each shard's checksum is verified when it is first opened.

    Raises:
        UserError: no index there.
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
        self._places = {row["key"]: (row["shard"], row["sha256"]) for row in rows}
        self._verified: set[str] = set()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """All keys, in order."""
        return iter(self._places)

    def __getitem__(self, key: str) -> Tensor:
        """One tensor.

        Raises:
            UserError: no such key, or a shard that is not what was written.
        """
        if key not in self._places:
            raise UserError(f"{self.folder}: no tensor {key!r}; `track2view curate encode` adds what is missing")
        name, digest = self._places[key]
        path = self.folder / name
        if name not in self._verified:
            if not path.is_file() or file_sha256(path) != digest:
                raise UserError(f"{path}: gone, or not what was written (checksum); delete it and run `track2view curate encode` again")
            self._verified.add(name)
        with _opened(path) as shard:
            return shard.get_tensor(key)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run `track2view curate encode` again") from None
