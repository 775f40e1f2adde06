"""What track2view itself writes, and what an external tracker answers: arrays, samples, shards, packed datasets."""

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from safetensors.numpy import save_file

from corpus.cameras import FRAMES, intrinsics, poses

TRACKS = 5


def tracks() -> dict[str, np.ndarray]:
    """Fields of a TrackSet, as its file holds them."""
    n, t = np.meshgrid(np.arange(TRACKS), np.arange(FRAMES))
    return {
        "xyz_world": np.stack([n * 0.3, t * 0.01, 2.0 + n], axis=-1).astype(np.float32),
        "visible": (n + t) % 4 > 0,
        "confidence": (n / TRACKS).astype(np.float32),
        "query_frame": np.array([0, 0, 2, 5, 5]),
        "moving": np.array([False, False, False, False, True]),
    }


def make_tracks(folder: Path) -> None:
    """Compressed as saved, and without the optional field."""
    np.savez_compressed(folder / "tracks.npz", **tracks())
    np.savez(folder / "still.npz", **{name: value for name, value in tracks().items() if name != "moving"})


def pairs() -> dict[str, np.ndarray]:
    """Fields of PairedTracks, as its file holds them."""
    n, t = np.meshgrid(np.arange(TRACKS), np.arange(FRAMES))
    view = {
        "uv": np.stack([(n + 0.5) / TRACKS, (t + 0.5) / FRAMES], axis=-1).astype(np.float32),
        "depth": (1.0 + n).astype(np.float32),
        "valid": (n + t) % 3 > 0,
    }
    both = {f"{side}_{name}": value for side in ("source", "target") for name, value in view.items()}
    return {**both, "confidence": (n / TRACKS).astype(np.float32)}


def make_pairs(folder: Path) -> None:
    """Compressed as saved, and stored."""
    np.savez_compressed(folder / "pairs.npz", **pairs())
    np.savez(folder / "stored.npz", **pairs())


def make_answers(folder: Path) -> None:
    """``tracking.npz`` of an external tracker: five queries in six frames."""
    fields = {name: value for name, value in tracks().items() if name != "query_frame"}
    fields |= {"world_from_camera": poses(), "intrinsics": intrinsics()}
    np.savez(folder / "tracking.npz", **fields)
    np.savez_compressed(folder / "double.npz", **{name: value.astype(np.float64) for name, value in fields.items()})


def make_samples(folder: Path) -> None:
    """A sample's folder, as far as its record goes."""
    texts = ("split", "scene", "source_name", "target_name", "caption", "source_sha256", "target_sha256", "cameras_sha256")
    record = {"format": "track2view.sample/1", "name": "train/a", **dict.fromkeys(texts, "a"), "frames": FRAMES, "size": [48, 64]}
    record |= {"fps": 15.0, "tracks": TRACKS, "alive": 0.9, "overlap": 0.8, "agreement": 0.7}
    record |= {"tracker": "sfm", "settings": "{}", "version": "0.1.0"}
    (folder / "sample").mkdir()
    (folder / "sample" / "sample.json").write_text(json.dumps(record, indent=2))


def make_shards(folder: Path) -> None:
    """Two shards and the index that lists them."""
    place = folder / "shards"
    place.mkdir()
    rows = []
    for index in range(2):
        shard = place / f"{index}.safetensors"
        tensors = {f"sample{index}/{name}": np.full((2, 3), index, np.float32) for name in ("source", "target")}
        save_file(tensors, shard)
        digest = hashlib.sha256(shard.read_bytes()).hexdigest()
        rows += [{"key": key, "shard": shard.name, "sha256": digest} for key in tensors]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "index.parquet")


def make_archives(folder: Path) -> None:
    """The same small dataset in every packing."""
    members = {
        "set/scene1/cameras/camera_extrinsics.json": b'{"frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "}}',
        "set/scene1/videos/cam01.mp4": bytes(range(256)) * 12,
        "set/scene1/videos/cam02.mp4": b"\0" * 2000,
    }
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")):
        (folder / f"set{suffix}").write_bytes(_tar(members, mode))
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED), ("lzma.zip", zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(folder / name, "w", method) as out:
            for member, content in members.items():
                out.writestr(zipfile.ZipInfo(member), content, compress_type=method)


def _tar(members: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as out:
        folder = tarfile.TarInfo("set")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        out.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    packed = bytearray(buffer.getvalue())
    if mode == "w:gz":
        packed[4:8] = bytes(4)  # the time of writing
    return bytes(packed)
