"""Samples, manifests, shards, scenes and trackers' answers of anybody's making: read, or refused in one line."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from track2view.curate import SceneRecord
from track2view.errors import UserError
from track2view.records import Clip, Queries
from track2view.samples import FORMAT, SCHEMA, SampleRecord, load_record, read_manifest, write_manifest
from track2view.shards import ShardReader, write_index, write_shard
from track2view.trackers.external import read_answer

CLIP = Clip(frames=torch.zeros(3, 3, 8, 8, dtype=torch.uint8), fps=Fraction(15))
QUERIES = Queries.grid([0], 2, 2)
RECORD = SampleRecord(
    name="scene1/cam01-cam02",
    split="train",
    scene="scene1",
    source_name="cam01",
    target_name="cam02",
    caption="a box",
    frames=9,
    size=(64, 112),
    fps=15.0,
    tracks=1152,
    alive=0.9,
    overlap=0.8,
    agreement=1.0,
    source_sha256="a",
    target_sha256="b",
    cameras_sha256="c",
    tracker="sfm",
    settings="{}",
    version="0.1.0",
)
SCENE = {"seed": 1, "split": "train", "index": 1, "caption": "a box", "frames": 9, "size": [64, 112], "dynamic": True}


def write_sample(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sample.json").write_text(json.dumps({"format": FORMAT, **asdict(RECORD), **changes}))
    return folder


def write_answer(path: Path, **changes: np.ndarray) -> Path:
    made = {
        "xyz_world": np.ones((3, 4, 3), np.float32),
        "visible": np.ones((3, 4), bool),
        "confidence": np.ones((3, 4), np.float32),
        "world_from_camera": np.tile(np.eye(4), (3, 1, 1)),
        "intrinsics": np.tile(np.diag([50.0, 50.0, 1.0]), (3, 1, 1)),
    }
    np.savez(path, **{**made, **changes})  # pyrefly: ignore
    return path


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "", "a\0b", 5, None])
def test_names_that_lead_out_of_the_folder_are_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sample\.json.*name"):
        load_record(write_sample(tmp_path / "s", name=name))
    if not isinstance(name, int):
        row = {**asdict(RECORD), "height": 64, "width": 112, "name": name}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row], schema=SCHEMA), tmp_path / "m.parquet")
        with pytest.raises(UserError, match=r"m\.parquet: .*name"):
            read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "", None])
def test_shards_elsewhere_are_refused(shard: str | None, tmp_path: Path) -> None:
    rows = pyarrow.table(
        {name: pyarrow.array([each], pyarrow.string()) for name, each in (("key", "k"), ("shard", shard), ("sha256", "d"))}
    )
    pyarrow.parquet.write_table(rows, tmp_path / "index.parquet")
    with pytest.raises(UserError, match="names of shards beside it"):
        ShardReader(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": "9"}, "frames"),
        ({"fps": float("nan")}, "fps"),
        ({"size": 5}, "size"),
        ({"size": [1, 2, 3]}, "size"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_field_of_a_sample_is_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"sample\.json: not a sample .*{message}"):
        load_record(write_sample(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visible": np.full((3, 4), "yes")}, "visible: expected numbers"),
        ({"xyz_world": np.ones((3, 4, 3), complex)}, "xyz_world: expected numbers"),
        ({"confidence": np.full((3, 4), np.nan, np.float32)}, "confidence"),
        ({"xyz_world": np.full((3, 4, 3), 1e300)}, "visible"),
        ({"xyz_world": np.full((3, 4, 3), None)}, "cannot be read"),
    ],
)
def test_a_wrong_field_of_an_answer_is_named(changes: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"tracker mine: tracking.npz:? .*{message}"):
        read_answer(write_answer(tmp_path / "tracking.npz", **changes), "mine", CLIP, QUERIES, None)


def test_an_answer_in_another_byte_order_is_read(tmp_path: Path) -> None:
    path = write_answer(tmp_path / "tracking.npz", xyz_world=np.ones((3, 4, 3), ">f8"), visible=np.ones((3, 4), np.uint8))
    assert read_answer(path, "mine", CLIP, QUERIES, None)[0].xyz_world.dtype == torch.float32


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 6])):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at : at + 1] = chance.choice(
                    [b"99999999999", b"-1", b"null", b'"', b"[", b"{}", b"1e99", b"\xff\xff\xff\x7f", bytes(8)]
                )
            case 2:
                del data[at : at + chance.randrange(1, 40)]
            case _:
                data = data[: max(at, 1)]
        data = data or bytearray(b" ")
    return bytes(data)


def all_of(folder: Path) -> None:
    reader = ShardReader(folder)
    for key in reader:
        reader[key]


def verified(folder: Path) -> None:
    ShardReader(folder).verify()


def shards(folder: Path) -> None:
    """With the checksum that the damaged file has: what its maker would write."""
    write_index(folder)
    all_of(folder)
    verified(folder)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sample": ("sample.json", load_record),
    "samples": ("sample.json", lambda folder: write_manifest(folder, folder / "m2.parquet")),
    "scene": ("scene.json", SceneRecord.load),
    "manifest": ("manifest.parquet", lambda folder: read_manifest(folder / "manifest.parquet")),
    "index": ("index.parquet", all_of),
    "shard": ("a.safetensors", all_of),
    "shard, verified": ("a.safetensors", verified),
    "shard, listed": ("a.safetensors", shards),
    "answer": ("tracking.npz", lambda folder: read_answer(folder / "tracking.npz", "mine", CLIP, QUERIES, None)),
}


@pytest.mark.parametrize("what", READERS)
def test_damage_is_named(what: str, tmp_path: Path) -> None:
    name, read = READERS[what]
    write_sample(tmp_path)
    (tmp_path / "scene.json").write_text(json.dumps({"format": "track2view.scene/1", **SCENE}))
    write_manifest(tmp_path, tmp_path / "manifest.parquet")
    write_shard(tmp_path / "a.safetensors", {"x": torch.ones(3, 4), "y": torch.zeros(5, dtype=torch.float16)})
    write_index(tmp_path)
    write_answer(tmp_path / "tracking.npz")
    read(tmp_path)
    whole, chance = (tmp_path / name).read_bytes(), random.Random(0)
    for _ in range(int(os.environ.get("TRACK2VIEW_MUTATIONS", "100"))):
        (tmp_path / name).write_bytes(mutated(whole, chance))
        try:
            read(tmp_path)
        except UserError as error:
            said = str(error)
        else:
            said = ""
        assert "\n" not in said
