"""What was computed once about a clip, kept by its content: tracks, camera, dense depth.

An entry is one file: an ``.npz`` archive, then its length and SHA-256. It holds every number exactly as it was computed, so that a render
that goes on from it gives the same bytes as one that has just tracked. What cannot be kept or read is computed again, never trusted.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import numpy as np
import platformdirs
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from track2view.errors import UserError, notice
from track2view.files import read_arrays
from track2view.folders import written_whole
from track2view.records import CameraPath, Clip, Queries, TrackSet
from track2view.trackers import Tracker, Tracking, TrackingReport
from track2view.warp import DenseDepth

VERSION = 9
CHUNK = 1 << 20
LENGTH = struct.Struct("<Q")
NOWHERE = Path(os.devnull) / "no-home"
"""For those who have no home folder: nothing can be kept there."""
PLAIN_OF_CAMERA = tuple(field.name for field in fields(CameraPath) if field.name not in ("world_from_camera", "intrinsics"))
SEAL_BYTES = LENGTH.size + hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Where results are kept: ``TRACK2VIEW_CACHE``, or the user's cache folder."""
    if given := os.environ.get("TRACK2VIEW_CACHE"):
        return Path(given)
    try:
        folder = Path(platformdirs.user_cache_dir("track2view"))
    except RuntimeError:  # how platformdirs says that there is no home; older ones give a path below ~
        return NOWHERE
    return folder if folder.is_absolute() else NOWHERE


def content_key(
    clip: Clip, tracker: Tracker, queries: Queries, camera: CameraPath | None, tracks: TrackSet | None, depth_prior: str | None = None
) -> str:
    """A hash of everything that a tracking depends on; two that differ in any field have different keys.

    Args:
        tracker: a dataclass: its fields are its settings.
        depth_prior: its fingerprint.

    Raises:
        TypeError: a setting that is neither a number, a text, a tensor, a path nor a dataclass or sequence of these.
    """
    digest = hashlib.sha256()
    for piece in _pieces(
        (VERSION, version("track2view"), clip.frames, clip.fps, tracker.name, tracker, queries, camera, tracks, depth_prior)
    ):
        digest.update(piece)
    return digest.hexdigest()[:24]


def load(key: str) -> tuple[Tracking, DenseDepth] | None:
    """What was stored under ``key``; None where nothing is, or, with a notice, nothing whole."""
    path = _path(key)
    if not os.path.lexists(path):
        return None
    try:
        return _read(path)
    except (OSError, LookupError, TypeError, ValueError) as error:
        notice(f"{path}: the tracks kept there are damaged ({error}); the clip is tracked again")
        return None


def store(key: str, tracking: Tracking, depth: DenseDepth) -> None:
    """Keep a result; where that cannot be (a full or read-only disk, no such folder), a notice says so."""
    tracks, camera = tracking.tracks, tracking.camera
    plain = {name: getattr(camera, name) for name in PLAIN_OF_CAMERA}
    record = {"report": asdict(tracking.report), "camera": plain}
    arrays = {
        **{field.name: value.numpy() for field in fields(tracks) if (value := getattr(tracks, field.name)) is not None},
        "world_from_camera": camera.world_from_camera.numpy(),
        "intrinsics": camera.intrinsics.numpy(),
        "disparity_bytes": _planes(depth.disparity),
        "deviation_bytes": _planes(depth.deviation),
        "moving_pixels": np.packbits(depth.moving.numpy(), axis=-1),
        "record": np.array(json.dumps(record)),
    }
    path = _path(key)
    try:
        with written_whole(path.parent) as staging:
            entry = staging / path.name
            np.savez_compressed(entry, **arrays)  # pyrefly: ignore
            seal = _seal(entry, entry.stat().st_size)
            with entry.open("ab") as file:
                file.write(seal)
            if path.is_dir():
                shutil.rmtree(path)
    except OSError as error:
        notice(f"{path.parent}: tracks cannot be kept there for the next run ({error.strerror or error}); this one goes on")
    except UserError as error:
        notice(f"tracks cannot be kept for the next run ({error}); this one goes on")


def _pieces(value: object) -> Iterator[bytes | memoryview]:
    """A value as bytes, with types and lengths, so that no two values are the same bytes."""
    match value:
        case Tensor():
            yield f"tensor {value.dtype} {list(value.shape)};".encode()
            yield np.ascontiguousarray(value.numpy()).reshape(-1).view(np.uint8).data
        case tuple() | list():
            yield f"sequence {len(value)};".encode()
            for each in value:
                yield from _pieces(each)
        case None | bool() | int() | float() | Fraction() | str() | Path():
            text = f"{type(value).__name__} {value!r}".encode()
            yield f"{len(text)} ".encode() + text
        case _ if is_dataclass(value) and not isinstance(value, type):
            yield f"{type(value).__module__}.{type(value).__qualname__} {len(fields(value))};".encode()
            for field in fields(value):
                yield from _pieces((field.name, getattr(value, field.name)))
        case _:
            raise TypeError(f"{type(value).__name__}: a setting of this kind cannot be part of a cache's key")


def _path(key: str) -> Path:
    return cache_folder() / f"{key}.npz"


def _read(path: Path) -> tuple[Tracking, DenseDepth]:
    """Read a sealed entry.

    Raises:
        OSError, LookupError, TypeError, ValueError: it is not what :func:`store` wrote.
    """
    if not path.is_file():
        raise ValueError("not a file")
    length = path.stat().st_size - SEAL_BYTES
    with path.open("rb") as file:
        file.seek(max(0, length))
        seal = file.read()
    if seal[: LENGTH.size] != LENGTH.pack(max(0, length)) or seal != _seal(path, length):
        raise ValueError("not as it was written")
    arrays = read_arrays(path)
    record = json.loads(str(arrays["record"]))
    camera = CameraPath(
        world_from_camera=torch.from_numpy(arrays["world_from_camera"]),
        intrinsics=torch.from_numpy(arrays["intrinsics"]),
        **{**record["camera"], "size": tuple(record["camera"]["size"])},  # pyrefly: ignore
    )
    tracks = TrackSet(**{field.name: torch.from_numpy(arrays[field.name]) for field in fields(TrackSet) if field.name in arrays})
    report = record["report"]
    report["warnings"] = tuple(report["warnings"])
    disparity, deviation = (_numbers(arrays[name]) for name in ("disparity_bytes", "deviation_bytes"))
    moving = torch.from_numpy(np.unpackbits(arrays["moving_pixels"], axis=-1, count=disparity.shape[-1]).astype(bool))
    depth = DenseDepth(disparity=disparity, deviation=deviation, moving=moving)
    return Tracking(tracks=tracks, camera=camera, report=TrackingReport(**report)), depth


def _planes(numbers: Float32[Tensor, "T h w"]) -> UInt8[np.ndarray, "4 T h w"]:
    """First bytes, second bytes, … of all numbers: alike stands beside alike, and packs to two thirds, in a quarter of the time."""
    return np.ascontiguousarray(np.moveaxis(numbers.numpy()[..., None].view(np.uint8), -1, 0))


def _numbers(planes: UInt8[np.ndarray, "4 T h w"]) -> Float32[Tensor, "T h w"]:
    """What :func:`_planes` laid apart."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(np.float32)[..., 0])


def _seal(path: Path, length: int) -> bytes:
    """What stands behind the first ``length`` bytes of an entry: their number, so that a wrong one is told at once, and their hash."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, length, CHUNK):
            digest.update(file.read(min(CHUNK, length - start)))
    return LENGTH.pack(length) + digest.digest()
