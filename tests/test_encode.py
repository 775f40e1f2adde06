"""Latents and text beside the manifest, of a micro base of the real classes."""

from pathlib import Path

import pytest
import torch

from track2view.cli import main
from track2view.curate import curate, export_scene
from track2view.curate.encode import encode_samples
from track2view.encoding import EncodingRecord, caption_key, latents_key
from track2view.errors import UserError
from track2view.model.bases import load_vae
from track2view.model.latents import WAN_STRIDES, LatentGrid, encode
from track2view.model.make import new_model
from track2view.model.text import PromptCache
from track2view.samples import load_record
from track2view.shards import ShardReader
from track2view.video import read_clip


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of samples, and a base."""
    root = tmp_path_factory.mktemp("encode")
    export_scene(root / "data", "train", 1, frames=9, size=(64, 112))
    assert curate(root / "data", root / "out", per_scene=2)["samples"] == 2
    new_model("micro", root)
    return root / "out", root / "base"


def test_shards_hold_what_the_base_says_of_each_sample(curated: tuple[Path, Path]) -> None:
    out, base = curated
    folder = encode_samples(out, base)
    latents, text = ShardReader(folder / "latents"), ShardReader(folder / "text")
    for sample in (path.parent for path in out.glob("samples/**/sample.json")):
        record = load_record(sample)
        states = text[caption_key(record.caption)]
        for view in ("source", "target"):
            found = latents[latents_key(record.name, view)]
            clip = read_clip(sample / f"{view}.mp4")
            expected = encode(load_vae(base), LatentGrid(frames=9, size=clip.size, strides=WAN_STRIDES).padded(clip.frames))[0]
            assert torch.equal(found, expected.half())
        expected = PromptCache(base, out / "prompts").encode([record.caption])[0][0]
        assert torch.equal(states, expected[: len(states)])
        assert float(expected[len(states) :].abs().max()) == 0.0
        assert len(states) < 512
    assert caption_key("") in text
    assert EncodingRecord.load(folder) == EncodingRecord(
        base="base", strides=WAN_STRIDES, size=None, text_length=512, samples=2, captions=len(text)
    )


def test_what_is_encoded_is_kept_and_damage_is_found(curated: tuple[Path, Path]) -> None:
    out, base = curated
    folder = encode_samples(out, base)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert encode_samples(out, base) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    shard = next((folder / "latents").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="not what was written"):
        ShardReader(folder / "latents").verify()
    key = next(iter(ShardReader(folder / "latents")))
    shard.unlink()
    with pytest.raises(UserError, match=r"cannot be read .*; delete it"):
        ShardReader(folder / "latents")[key]
    encode_samples(out, base)
    reader = ShardReader(folder / "latents")
    assert len(reader) == 4
    reader.verify()
    with pytest.raises(UserError, match="no tensor"):
        ShardReader(folder / "latents")["nobody/source"]


def test_the_command_encodes_at_another_size_beside_it(curated: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, base = curated
    main(["curate", "encode", str(out), "--base", str(base), "--size", "32", "48"])
    folder = Path(capsys.readouterr().out.strip())
    assert folder.name.endswith("-32x48")
    latents = ShardReader(folder / "latents")
    assert {tuple(latents[key].shape[1:]) for key in latents} == {(3, 4, 6)}


def test_what_an_older_format_holds_is_not_mixed_with_ours(curated: tuple[Path, Path]) -> None:
    out, base = curated
    folder = encode_samples(out, base, size=(16, 32))
    (folder / "encoding.json").write_text('{"format": "track2view.encoding/1"}')
    with pytest.raises(UserError, match=r"encoding\.json: .*format: .*; delete the folder and run"):
        encode_samples(out, base, size=(16, 32))


def test_what_is_missing_is_named(curated: tuple[Path, Path], tmp_path: Path) -> None:
    out, _ = curated
    with pytest.raises(UserError, match=r"manifest\.parquet: no such manifest"):
        encode_samples(tmp_path, tmp_path)
    with pytest.raises(UserError, match="no vae there"):
        encode_samples(out, tmp_path)
    with pytest.raises(UserError, match="no such index"):
        ShardReader(tmp_path)
