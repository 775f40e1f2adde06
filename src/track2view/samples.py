"""The training sample on disk, and the manifest of many: written by curation, read by training.

A sample is a folder: ``source.mp4`` and ``target.mp4`` (the dataset's own files, unchanged), ``source_camera.json``,
``target_camera.json``, ``tracks.npz`` (:class:`PairedTracks`) and ``sample.json`` (:class:`SampleRecord`). The manifest is one
Parquet table with a row for each; relations stand in columns, never in names.
"""

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from track2view.cameras import read_camera
from track2view.errors import UserError
from track2view.files import ARRAY_BYTES, atomic_folder, atomic_path, read_record, write_record
from track2view.records import CameraPath, PairedTracks, Size

FORMAT = "track2view.sample/1"
FILES = ("source.mp4", "target.mp4", "source_camera.json", "target_camera.json", "tracks.npz")
CHUNK = 1 << 20
MOST = 1 << 31


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRecord:
    """What a row of the manifest says.

    Attributes:
        name: folder of the sample, relative to the manifest; a key, of which nothing else is to be read.
        split, scene, source_name, target_name: where it came from.
        caption: what is there; empty if nobody knows.
        frames, size, fps: of both clips.
        tracks: how many.
        alive: share of tracks that the source sees at its last frame and that live on both sides of the shared frame 0.
        overlap: share of source entries that lie in the target's picture.
        agreement: share of points that both views see at one time and whose rays meet.
        source_sha256, target_sha256, cameras_sha256: of the dataset's files.
        tracker, settings, version: what made the tracks.
    """

    name: str
    split: str
    scene: str
    source_name: str
    target_name: str
    caption: str
    frames: int
    size: Size
    fps: float
    tracks: int
    alive: float
    overlap: float
    agreement: float
    source_sha256: str
    target_sha256: str
    cameras_sha256: str
    tracker: str
    settings: str
    version: str

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type is str and not isinstance(value, str):
                raise UserError(f"{each.name}: expected text, got {value!r:.60}")
            if each.type is int and (type(value) is not int or not 0 <= value < MOST):
                raise UserError(f"{each.name}: expected a whole number from 0, got {value!r:.60}")
            if each.type is float and (not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < MOST):
                raise UserError(f"{each.name}: expected a number, got {value!r:.60}")
        if not isinstance(self.size, tuple) or len(self.size) != 2 or not all(type(side) is int and 0 < side < MOST for side in self.size):
            raise UserError(f"size: expected height and width, got {self.size!r:.60}")
        if not is_inside(self.name):
            raise UserError(f"name: {self.name!r:.80} is no place below the folder of samples")


def is_inside(name: str) -> bool:
    """Whether a name that somebody wrote down leads to a place below the folder it is relative to."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A pair of synchronised views with their cameras and paired tracks.

    Attributes:
        source_file, target_file: videos.
    """

    record: SampleRecord
    source_file: Path
    target_file: Path
    source_camera: CameraPath
    target_camera: CameraPath
    pairs: PairedTracks

    def __post_init__(self) -> None:
        frames, size, (length, tracks) = self.record.frames, self.record.size, self.pairs.confidence.shape
        for name, what, expected, found in (
            ("source_camera", "frames", frames, len(self.source_camera)),
            ("target_camera", "frames", frames, len(self.target_camera)),
            ("pairs", "frames", frames, length),
            ("pairs", "tracks", self.record.tracks, tracks),
            ("source_camera", "(height, width)", size, self.source_camera.size),
            ("target_camera", "(height, width)", size, self.target_camera.size),
        ):
            if found != expected:
                raise UserError(f"Sample.{name}: expected {expected} {what} as the record says, got {found}")

    @staticmethod
    def load(folder: Path) -> "Sample":
        """Read what :meth:`save` wrote; of the videos no more than that they are there.

        Raises:
            UserError: not a sample, a file that is missing or damaged, or files that disagree, by name.
        """
        record = load_record(folder)
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise UserError(f"{folder}: not a whole sample (it has no {missing[0]}); delete it and run `track2view curate run` again")
        source_file, target_file, source_camera, target_camera, pairs = (folder / name for name in FILES)
        try:
            return Sample(
                record=record,
                source_file=source_file,
                target_file=target_file,
                source_camera=read_camera(source_camera),
                target_camera=read_camera(target_camera),
                pairs=PairedTracks.load(pairs),
            )
        except UserError as error:
            raise UserError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None

    def save(self, root: Path) -> Path:
        """Write ``root/name``; the folder appears only when it is whole."""
        folder = root / self.record.name
        with atomic_folder(folder) as partial:
            source_file, target_file, source_camera, target_camera, pairs = (partial / name for name in FILES)
            shutil.copyfile(self.source_file, source_file)
            shutil.copyfile(self.target_file, target_file)
            self.source_camera.save(source_camera)
            self.target_camera.save(target_camera)
            self.pairs.save(pairs)
            write_record(partial / "sample.json", self.record, FORMAT)
        return folder


def load_record(folder: Path) -> SampleRecord:
    """A sample's record; raises :class:`UserError` where the folder is none."""
    return read_record(folder / "sample.json", SampleRecord, FORMAT, what="a sample", maker="track2view curate run")


def find_samples(root: Path) -> list[Path]:
    """All sample folders below ``root``, in order; what others are writing there at the same time is left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        if "sample.json" in files:
            found.append(Path(folder))
    return sorted(found)


def write_manifest(root: Path, path: Path) -> int:
    """A Parquet table of all samples below ``root``, in the order of their names; returns how many."""
    records = sorted(map(load_record, find_samples(root)), key=lambda record: record.name)
    rows = [{**asdict(each), "height": each.size[0], "width": each.size[1]} for each in records]
    for row in rows:
        row.pop("size")
    write_table(path, pyarrow.Table.from_pylist(rows, schema=SCHEMA))
    return len(rows)


def write_table(path: Path, table: pyarrow.Table) -> None:
    """Write a Parquet file, which appears only when it is whole."""
    with atomic_path(path) as partial, partial.open("wb") as file:  # pyarrow itself takes no names beyond the locale's
        pyarrow.parquet.write_table(table, file)


def read_manifest(path: Path) -> list[SampleRecord]:
    """The rows of a manifest: the inverse of :func:`write_manifest`.

    Raises:
        UserError: no manifest there, a damaged one, or a row that is no record, by its field.
    """
    if not path.exists():
        raise UserError(f"{path}: no such manifest; `track2view curate run` writes one")
    try:
        return [SampleRecord(size=(row.pop("height"), row.pop("width")), **row) for row in read_table(path, SCHEMA.names)]
    except (TypeError, UserError) as error:
        raise UserError(f"{path}: {' '.join(str(error).removeprefix(f'{path}: ').split()):.300}") from None


def read_table(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Some columns of a Parquet file of anybody's making, as rows.

    Raises:
        UserError: damaged, without these columns, or larger than 512 MiB when unpacked.
    """
    try:
        with path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            size = sum(max(group.total_byte_size, group.num_rows) for group in groups)
            if not 0 <= size <= ARRAY_BYTES:
                raise UserError(f"{path}: announces {size / 1e6:.0f} MB; {ARRAY_BYTES / 1e6:.0f} MB at most are read")
            if missing := sorted(set(columns) - set(file.schema_arrow.names)):
                raise UserError(f"{path}: has no column {missing[0]}")
            return file.read(columns=columns).to_pylist()
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole Parquet file ({' '.join(str(error).split()):.200})") from None


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("name", "split", "scene", "source_name", "target_name", "caption")),
        *((name, pyarrow.int32()) for name in ("frames", "height", "width", "tracks")),
        *((name, pyarrow.float64()) for name in ("fps", "alive", "overlap", "agreement")),
        *((name, pyarrow.string()) for name in ("source_sha256", "target_sha256", "cameras_sha256", "tracker", "settings", "version")),
    ]
)
