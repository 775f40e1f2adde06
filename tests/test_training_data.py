"""What training reads: samples apart from curation, with their latents and text, one by one and in batches."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file
from test_hostile_samples import RECORD
from torch import Tensor
from torch.utils.data import DataLoader

from track2view.curate.encode import encode_samples
from track2view.encoding import EncodingRecord, caption_key
from track2view.errors import Notice, UserError
from track2view.geometry import invert
from track2view.model.bases import load_transformer, load_vae
from track2view.model.conditioners.tracks import TrackCondition, TrackContext
from track2view.model.latents import WAN_STRIDES, LatentGrid, encode
from track2view.model.make import new_model
from track2view.model.text import PromptCache
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, Queries
from track2view.samples import Sample, SampleRecord, read_manifest, write_manifest
from track2view.scenes import make_rig, make_world, render_clip, track_points
from track2view.shards import ShardReader, write_shard
from track2view.train.data import Batch, TrainingSamples
from track2view.video import clip_images, read_clip, write_video

FRAMES, SIZE = 9, (48, 72)
SHAPES = {"square": ((96, 96), 6, "a red box"), "wide": ((56, 96), 5, "a green ball, and a longer caption")}


def made(folder: Path, name: str) -> Sample:
    """A sample of exact tracks, its videos in ``folder``."""
    size, grid, caption = SHAPES[name]
    world, rig = make_world(3, frames=FRAMES, dynamic=True), make_rig(3, frames=FRAMES, size=size)
    source, target = rig["cam01"], rig["cam02"]
    for view, camera in (("source", source), ("target", target)):
        clip = render_clip(world, camera, Fraction(15))[0]
        write_video(folder / f"{name}-{view}.mp4", clip_images(clip), clip.fps)
    queries = Queries.grid([0, FRAMES - 1], grid, grid)
    pixels = queries.uv.double() * torch.tensor([size[1], size[0]])
    pairs = pair_by_projection(track_points(world, source, queries.frame, pixels), source, target)
    record = replace(RECORD, name=f"train/{name}", caption=caption, frames=FRAMES, size=size, tracks=2 * grid**2)
    return Sample(
        record=record,
        source_file=folder / f"{name}-source.mp4",
        target_file=folder / f"{name}-target.mp4",
        source_camera=source,
        target_camera=target,
        pairs=pairs,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    new_model("micro", root)
    return root / "base"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of two shapes and their manifest."""
    root = tmp_path_factory.mktemp("samples")
    for name in SHAPES:
        made(root, name).save(root / "samples")
    write_manifest(root / "samples", root / "manifest.parquet")
    return root


@pytest.fixture(scope="module")
def encoded(folder: Path, base: Path) -> Path:
    return encode_samples(folder, base, size=SIZE)


@pytest.fixture
def damaged(folder: Path, encoded: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies to be damaged."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / encoded.relative_to(folder)


def tensors(batch: Batch) -> list[Tensor]:
    views = [batch.condition.source, batch.condition.target]
    return [batch.source, batch.target, batch.text, batch.condition.confidence, *(x for v in views for x in (v.uv, v.disparity, v.valid))]


def test_a_sample_is_read_as_it_was_written(folder: Path) -> None:
    for name in SHAPES:
        place = folder / "samples/train" / name
        read, written = Sample.load(place), made(folder, name)
        assert read.record == written.record
        assert (read.source_file, read.target_file) == (place / "source.mp4", place / "target.mp4")
        for one, other in ((read.source_camera, written.source_camera), (read.target_camera, written.target_camera)):
            assert torch.equal(one.world_from_camera, other.world_from_camera)
            assert torch.equal(one.intrinsics, other.intrinsics)
            assert (one.size, one.unit) == (other.size, other.unit)
        assert torch.equal(read.source_camera.world_from_camera, read.target_camera.world_from_camera) is False
        for one, other in ((read.pairs.source, written.pairs.source), (read.pairs.target, written.pairs.target)):
            assert torch.equal(one.valid, other.valid)
            assert torch.equal(one.uv[one.valid], other.uv[one.valid])


@pytest.mark.parametrize("missing", ["source.mp4", "target.mp4", "source_camera.json", "target_camera.json", "tracks.npz", "sample.json"])
def test_a_missing_part_of_a_sample_is_named(missing: str, damaged: tuple[Path, Path]) -> None:
    place = damaged[0] / "samples/train/wide"
    (place / missing).unlink()
    with pytest.raises(UserError, match=rf"train/wide: not a .*{missing}"):
        Sample.load(place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 8}, "source_camera: expected 8 frames as the record says, got 9"),
        ({"size": [56, 97]}, "source_camera: expected .56, 97. .* got .56, 96."),
        ({"tracks": 49}, "pairs: expected 49 tracks as the record says, got 50"),
    ],
)
def test_parts_of_a_sample_that_disagree_are_named(changes: dict[str, object], message: str, damaged: tuple[Path, Path]) -> None:
    place = damaged[0] / "samples/train/wide"
    document = json.loads((place / "sample.json").read_text())
    (place / "sample.json").write_text(json.dumps({**document, **changes}))
    with pytest.raises(UserError, match=f"train/wide: Sample.{message}"):
        Sample.load(place)


def test_other_files_of_a_sample_that_disagree_are_named(damaged: tuple[Path, Path]) -> None:
    place = damaged[0] / "samples/train/wide"
    sample = Sample.load(place)
    short: CameraPath = sample.target_camera[:5]
    short.save(place / "target_camera.json")
    with pytest.raises(UserError, match=r"train/wide: Sample.target_camera: expected 9 frames"):
        Sample.load(place)
    sample.target_camera.resized((28, 48)).save(place / "target_camera.json")
    with pytest.raises(UserError, match=r"train/wide: Sample.target_camera: expected .56, 96."):
        Sample.load(place)
    (place / "target_camera.json").write_text("{}")
    with pytest.raises(UserError, match=r"target_camera\.json"):
        Sample.load(place)


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    records = read_manifest(folder / "manifest.parquet")
    assert [record.name for record in records] == ["train/square", "train/wide"]
    assert records == [Sample.load(folder / "samples" / record.name).record for record in records]


def test_an_example_is_the_cropped_sample(folder: Path, encoded: Path, base: Path) -> None:
    """The square has 72×72 pixels when it covers 48×72, and loses 12 rows above and below."""
    samples = TrainingSamples(folder, encoded)
    example = samples[0]
    sample = Sample.load(folder / "samples/train/square")
    grid = LatentGrid(frames=FRAMES, size=SIZE, strides=WAN_STRIDES)
    vae = load_vae(base)
    for latents, view in ((example.source, "source"), (example.target, "target")):
        clip = read_clip(folder / "samples/train/square" / f"{view}.mp4")
        whole = [cv2.resize(clip.image(frame), (72, 72), interpolation=cv2.INTER_AREA)[12:60] for frame in range(FRAMES)]
        expected = encode(vae, grid.padded(torch.stack([torch.from_numpy(each).permute(2, 0, 1) for each in whole])))[0]
        assert torch.equal(latents, expected.half())
    kept = [camera.resized((72, 72)).cropped(12, 0, SIZE) for camera in (sample.source_camera, sample.target_camera)]
    world = make_world(3, frames=FRAMES, dynamic=True)
    queries = Queries.grid([0, FRAMES - 1], 6, 6)
    tracks = track_points(world, sample.source_camera, queries.frame, queries.uv.double() * 96)
    expected = TrackCondition.of(pair_by_projection(tracks, *kept), grid)
    for one, other in ((example.condition.source, expected.source), (example.condition.target, expected.target)):
        assert torch.equal(one.valid, other.valid)
        assert torch.allclose(one.uv[one.valid], other.uv[one.valid], atol=1e-5)
        assert torch.allclose(one.disparity, other.disparity, atol=1e-5)
        assert float(one.uv[one.valid][:, 0].max()) <= 72 / 80  # the columns that pad 72 to 80 show nothing
    step = invert(sample.source_camera.world_from_camera[0]) @ sample.target_camera.world_from_camera[:: WAN_STRIDES.frames]
    assert torch.allclose(example.camera.poses, step[None, :, :3].flatten(2).float(), atol=1e-6)
    assert example.name == "train/square"
    assert bool((example.condition.source.valid.sum() < sample.pairs.source.valid[::4].sum()).item())


def test_a_batch_is_its_examples_in_float32_with_tracks_filled_up(folder: Path, encoded: Path) -> None:
    samples = TrainingSamples(folder, encoded)
    examples = [samples[1], samples[0]]
    batch = Batch.stack(examples)
    assert batch.names == ("train/wide", "train/square")
    assert {each.source.dtype for each in examples} == {torch.float16}
    assert batch.source.shape == (2, 16, *samples.shape_of(0))
    for row, each in enumerate(examples):
        assert torch.equal(batch.source[row], each.source.float())
        assert torch.equal(batch.target[row], each.target.float())
        assert torch.equal(batch.text[row], each.text)
        count = each.condition.confidence.shape[2]
        for one, other in ((batch.condition.source, each.condition.source), (batch.condition.target, each.condition.target)):
            assert torch.equal(one.uv[row, :, :count], other.uv[0])
            assert torch.equal(one.disparity[row, :, :count], other.disparity[0])
            assert torch.equal(one.valid[row, :, :count], other.valid[0])
    assert torch.equal(batch.camera.poses[1], examples[1].camera.poses[0])
    assert batch.condition.confidence.shape[2] == 72
    for view in (batch.condition.source, batch.condition.target):
        assert not bool(view.valid[0, :, 50:].any())
        assert bool(((view.uv[0, :, 50:] >= 0) & (view.uv[0, :, 50:] <= 1)).all())
        assert float(view.disparity[0, :, 50:].abs().max()) == 0.0
    assert float(batch.condition.confidence[0, :, 50:].max()) == 0.0


@torch.no_grad()
def test_tracks_that_fill_up_change_no_context(folder: Path, encoded: Path, base: Path) -> None:
    from track2view.model.checkpoint import load_adapter

    samples = TrainingSamples(folder, encoded)
    model, _ = load_adapter(base.parent / "adapter", load_transformer(base, torch.float32))
    batch = Batch.stack([samples[1], samples[0]])
    alone = Batch.stack([samples[1]])
    together, by_itself = (model.condition(each.source, each.condition) for each in (batch, alone))
    assert isinstance(together, TrackContext)
    assert isinstance(by_itself, TrackContext)
    assert torch.allclose(together.target[:1], by_itself.target, atol=1e-5)
    assert torch.allclose(together.source[:1], by_itself.source, atol=1e-5)
    assert float(by_itself.target.abs().max()) > 1e-3


def test_shapes_are_known_before_anything_is_read(folder: Path, base: Path, damaged: tuple[Path, Path]) -> None:
    own = encode_samples(folder, base)
    samples = TrainingSamples(folder, own)
    assert [samples.shape_of(index) for index in range(2)] == [(3, 12, 12), (3, 8, 12)]
    for index in range(2):
        assert tuple(samples[index].source.shape[1:]) == samples.shape_of(index)
    with pytest.raises(UserError, match=r"train/square and train/wide differ in the shape of their source.*\[16, 3, 12, 12\]"):
        Batch.stack([samples[0], samples[1]])
    bare = TrainingSamples(*damaged)
    shutil.rmtree(damaged[0] / "samples")
    for shard in damaged[1].rglob("*.safetensors"):
        shard.unlink()
    assert [bare.shape_of(index) for index in range(2)] == [(3, 6, 10)] * 2


def test_workers_read_what_one_process_reads(folder: Path, encoded: Path) -> None:
    samples = TrainingSamples(folder, encoded)
    expected = Batch.stack([samples[0], samples[1]])
    for each in (samples, pickle.loads(pickle.dumps(samples))):
        (found,) = list(DataLoader(each, batch_size=2, num_workers=1, collate_fn=Batch.stack))
        assert found.names == expected.names
        for one, other in zip(tensors(found), tensors(expected), strict=True):
            assert torch.equal(one, other)


def test_a_batch_goes_to_another_device_whole(folder: Path, encoded: Path) -> None:
    samples = TrainingSamples(folder, encoded)
    moved = Batch.stack([samples[0]]).to("meta", non_blocking=True)
    assert {each.device.type for each in tensors(moved)} == {"meta"}
    assert moved.names == ("train/square",)


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu(folder: Path, encoded: Path) -> None:
    samples = TrainingSamples(folder, encoded)
    loader = DataLoader(samples, batch_size=2, collate_fn=Batch.stack, pin_memory=True)
    (batch,) = list(loader)
    assert all(each.is_pinned() for each in tensors(batch))
    moved = batch.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    assert all(torch.equal(one.cpu(), other) for one, other in zip(tensors(moved), tensors(batch), strict=True))


@torch.no_grad()
def test_training_and_inference_attend_to_the_same_text(folder: Path, encoded: Path, base: Path, tmp_path: Path) -> None:
    samples = TrainingSamples(folder, encoded)
    batch = Batch.stack([samples[1]])
    (inferred,) = PromptCache(base, tmp_path).encode([SHAPES["wide"][2]])
    assert torch.equal(batch.text, inferred)
    transformer = load_transformer(base, torch.float32)
    time = torch.tensor([500.0])
    as_trained, as_inferred = (transformer(batch.target, time, text, return_dict=False)[0] for text in (batch.text, inferred))
    assert torch.equal(as_trained, as_inferred)
    cut = samples.texts[caption_key(SHAPES["wide"][2])][None]
    assert cut.shape[1] < 512
    as_before = transformer(batch.target, time, cut, return_dict=False)[0]
    assert float((as_before - as_inferred).norm() / as_inferred.norm()) > 0.01


def test_a_base_of_fewer_tokens_has_fewer_in_both(folder: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    place = tmp_path / "base/tokenizer/tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "model_max_length": 20}))
    shutil.copytree(folder / "samples", tmp_path / "samples")
    write_manifest(tmp_path / "samples", tmp_path / "manifest.parquet")
    encoded = encode_samples(tmp_path, tmp_path / "base", size=SIZE)
    assert EncodingRecord.load(encoded).text_length == 20
    samples = TrainingSamples(tmp_path, encoded)
    for index, (_, _, caption) in enumerate(SHAPES.values()):
        (inferred,) = PromptCache(tmp_path / "base", tmp_path / "prompts").encode([caption])
        assert inferred.shape[1] == 20
        assert torch.equal(samples[index].text[None], inferred)
    (inferred,) = PromptCache(tmp_path / "base", tmp_path / "prompts").encode([""])
    assert torch.equal(samples.text_of("")[None], inferred)


def test_what_is_not_encoded_is_named(damaged: tuple[Path, Path]) -> None:
    folder, encoded = damaged
    with pytest.raises(UserError, match=r"it has no encoding\.json"):
        TrainingSamples(folder, folder)
    place = folder / "samples/train/wide/sample.json"
    document = json.loads(place.read_text())
    place.write_text(json.dumps({**document, "caption": "another"}))
    with pytest.raises(UserError, match=r"train/wide: is not what the manifest says"):
        TrainingSamples(folder, encoded)[1]
    write_manifest(folder / "samples", folder / "manifest.parquet")
    with pytest.raises(UserError, match="sample train/wide is not encoded"):
        TrainingSamples(folder, encoded)
    shutil.copytree(folder / "samples/train/square", folder / "samples/train/twin")
    twin = folder / "samples/train/twin/sample.json"
    twin.write_text(json.dumps({**json.loads(twin.read_text()), "name": "train/twin"}))
    shutil.rmtree(folder / "samples/train/wide")
    write_manifest(folder / "samples", folder / "manifest.parquet")
    with pytest.raises(UserError, match="sample train/twin is not encoded"):
        TrainingSamples(folder, encoded)


def test_latents_of_another_shape_than_the_record_says_are_named(damaged: tuple[Path, Path]) -> None:
    folder, encoded = damaged
    replace(EncodingRecord.load(encoded), size=(48, 96)).save(encoded)
    with pytest.raises(UserError, match=r"train/square/source: expected latents of \(3, 6, 12\), got \[16, 3, 6, 10\]"):
        TrainingSamples(folder, encoded)[0]
    (shard,) = (encoded / "latents").glob("*.safetensors")
    tensors = load_file(shard)
    write_shard(shard, tensors | {"train/square/target": tensors["train/square/target"][:, 1:]})
    replace(EncodingRecord.load(encoded), size=SIZE).save(encoded)
    with pytest.raises(UserError, match=r"train/square/target: expected latents of \(3, 6, 10\), got \[16, 2, 6, 10\]"):
        TrainingSamples(folder, encoded)[0]
    write_shard(shard, tensors)
    replace(EncodingRecord.load(encoded), size=SIZE, text_length=3).save(encoded)
    with pytest.raises(UserError, match="states, more than 3"):
        TrainingSamples(folder, encoded)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "track2view.encoding/1"}, "format"),
        ({"size": [0, 5]}, "size"),
        ({"size": "480"}, "size"),
        ({"text_length": 0}, "text_length"),
        ({"text_length": True}, "text_length"),
        ({"base": None}, "base"),
        ({"strides": {"frames": 0, "pixels": 8, "patch": [2, 2]}}, "strides: expected whole frames and pixels from 1, got 0"),
        ({"strides": {"frames": 4, "pixels": True, "patch": [2, 2]}}, "strides: expected whole frames and pixels from 1, got 4 and True"),
        ({"strides": {"frames": 4, "pixels": 8, "patch": [2, 0]}}, "strides: patch: expected rows and columns from 1"),
        ({"strides": {"frames": 4, "pixels": 8}}, "patch"),
        ({"strides": 4}, "strides: expected an object"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_field_of_an_encoding_is_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    record = EncodingRecord(base="wan", strides=WAN_STRIDES, size=(480, 832), text_length=512, samples=2, captions=3)
    record.save(tmp_path)
    assert EncodingRecord.load(tmp_path) == record
    document = json.loads((tmp_path / "encoding.json").read_text())
    (tmp_path / "encoding.json").write_text(json.dumps({**document, **changes}))
    with pytest.raises(UserError, match=rf"encoding\.json: .*{message}"):
        EncodingRecord.load(tmp_path)


def test_a_damaged_shard_is_named_before_the_run_or_where_it_is_read(damaged: tuple[Path, Path]) -> None:
    samples = TrainingSamples(*damaged)
    samples.verify()
    for part in ("latents", "text"):
        (shard,) = (damaged[1] / part).glob("*.safetensors")
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match=rf"{shard.name}: gone, or not what was written"):
            samples.verify()
        shard.write_bytes(whole)
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"{shard.name}: cannot be read"):
        TrainingSamples(*damaged)[0]
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name}: gone"):
        samples.verify()


def test_a_shard_is_opened_once_and_never_hashed_for_reading(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from track2view import shards

    opened = []
    real = shards.safe_open
    monkeypatch.setattr(shards, "safe_open", lambda path, framework: opened.append(path) or real(path, framework))
    monkeypatch.setattr(shards, "file_sha256", lambda path: pytest.fail("hashed"))
    reader = ShardReader(encoded / "latents")
    for _ in range(3):
        for key in reader:
            reader[key]
    assert len(opened) == len(set(opened)) == 1


def test_enlarged_samples_are_said(folder: Path, base: Path, recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    shutil.copytree(folder / "samples", tmp_path / "samples")
    shutil.copyfile(folder / "manifest.parquet", tmp_path / "manifest.parquet")
    with pytest.warns(Notice, match=r"1 of 2 samples are enlarged .* smallest has 56×96"):
        encode_samples(tmp_path, base, size=(60, 96))
    encode_samples(tmp_path, base, size=(32, 64))
    assert not [each for each in recwarn if issubclass(each.category, Notice)]


def test_training_data_imports_without_the_libraries_of_curation() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('av', 'fcntl', 'transformers', 'peft')))\n"  # peft itself needs transformers
        "import track2view.train.data, track2view.train.draws\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert run.returncode == 0, run.stderr


def test_a_manifests_row_is_checked(folder: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / "manifest.parquet").to_pylist()
    for changes, message in (({"frames": -1}, "frames"), ({"caption": None}, ".*caption"), ({"height": 0}, "size")):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rows[0] | changes]), tmp_path / "manifest.parquet")
        with pytest.raises(UserError, match=rf"manifest\.parquet: {message}"):
            read_manifest(tmp_path / "manifest.parquet")
    assert asdict(SampleRecord(**asdict(RECORD))) == asdict(RECORD)
