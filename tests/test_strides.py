"""Bases whose VAE has other strides than Wan's, end to end: refilmed, encoded, trained on."""

import itertools
import json
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from test_hostile_samples import RECORD
from torch import Tensor

from track2view.cameras import apply_move, parse_move
from track2view.cli import main
from track2view.curate.encode import encode_samples
from track2view.encoding import EncodingRecord
from track2view.errors import UserError
from track2view.model import diffusion
from track2view.model.bases import load_transformer, load_vae
from track2view.model.conditioners.tracks import TrackCondition
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.dual_view import DualViewModel
from track2view.model.latents import LatentGrid, Strides
from track2view.model.make import new_model
from track2view.model.settings import DiffusionSettings, plan_windows
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, Clip, Queries, TrackSet
from track2view.samples import Sample, write_manifest
from track2view.scenes import make_camera, make_world, render_clip, track_points
from track2view.train.data import Batch, TrainingSamples
from track2view.video import clip_images, write_video

FRAMES, SIZE = 18, (50, 84)
PADDED = (56, 88)
FAST = DiffusionSettings(steps=2)


@dataclass(frozen=True)
class Base:
    """A folder of base and adapter, and what its strides are."""

    folder: Path
    strides: Strides
    window: int
    overlap: int


HALVED = {4: [True, True], 2: [False, True]}


@pytest.fixture(scope="module", params=HALVED)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A VAE of two stages: latents of 4×4 pixels, of four frames or two."""
    folder, frames = tmp_path_factory.mktemp("strides"), request.param
    new_model("micro", folder)
    shutil.rmtree(folder / "base/vae")
    AutoencoderKLWan(
        base_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=HALVED[frames],
        scale_factor_spatial=4,
        scale_factor_temporal=frames,
    ).save_pretrained(folder / "base/vae")
    return Base(folder, Strides(frames=frames, pixels=4, patch=(2, 2)), window=2 * frames + 1, overlap=frames + 1)


@pytest.fixture(scope="module")
def pipe(base: Base) -> Track2ViewPipeline:
    return Track2ViewPipeline.from_pretrained(base.folder / "base", base.folder / "adapter")


@pytest.fixture(scope="module")
def shot() -> tuple[Clip, TrackSet, CameraPath, CameraPath]:
    """Eighteen frames of 50×84: whole latents in neither direction."""
    world, camera = make_world(3, frames=FRAMES, dynamic=True), make_camera("handheld", 3, frames=FRAMES, size=SIZE)
    clip, _, _ = render_clip(world, camera, Fraction(24))
    queries = Queries.grid([0, 8, 17], 12, 12)
    tracks = track_points(world, camera, queries.frame, queries.pixels(SIZE))
    return clip, tracks, camera, apply_move(parse_move("orbit-right"), camera)


def latent_frames(frames: int, strides: Strides) -> list[int]:
    """The last frame of each latent frame."""
    return [min(index, frames - 1) for index in range(0, frames + strides.frames - 1, strides.frames)]


def test_a_clip_is_refilmed_with_its_tracks_where_the_picture_is(
    base: Base, pipe: Track2ViewPipeline, shot: tuple[Clip, TrackSet, CameraPath, CameraPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Tensor, TrackCondition]] = []
    condition = DualViewModel.condition
    monkeypatch.setattr(DualViewModel, "condition", lambda self, *read: given.append(read) or condition(self, *read))
    made = pipe(*shot, FAST)
    assert made.frames.shape == shot[0].frames.shape
    assert not torch.equal(made.frames, pipe(*shot[:3], apply_move(parse_move("orbit-left"), shot[2]), FAST).frames)
    source, read = given[0]
    at = latent_frames(FRAMES, base.strides)
    assert source.shape == (1, 16, len(at), PADDED[0] // 4, PADDED[1] // 4)
    planned = torch.isin(shot[1].query_frame, torch.tensor([0, FRAMES - 1]))
    pairs = pair_by_projection(*shot[1:])
    for found, view in ((read.source, pairs.source), (read.target, pairs.target)):
        valid = view.valid[at][:, planned]
        assert torch.equal(found.valid[0], valid)
        expected = view.uv[at][:, planned] * torch.tensor([SIZE[1] / PADDED[1], SIZE[0] / PADDED[0]])
        assert torch.allclose(found.uv[0][valid], expected[valid])


def test_memory_modes_change_no_pixel_where_the_picture_is_one_tile(
    pipe: Track2ViewPipeline, shot: tuple[Clip, TrackSet, CameraPath, CameraPath]
) -> None:
    assert torch.equal(pipe(*shot, replace(FAST, memory="fast")).frames, pipe(*shot, FAST).frames)


def test_windows_share_whole_latents(
    base: Base, pipe: Track2ViewPipeline, shot: tuple[Clip, TrackSet, CameraPath, CameraPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    beginnings: list[Tensor | None] = []
    denoise = diffusion.denoise

    def noted(*given: object, beginning: Tensor | None, **options: object) -> Tensor:
        beginnings.append(beginning)
        return denoise(*given, beginning=beginning, **options)

    encoded: list[int] = []
    encode = diffusion.encode
    monkeypatch.setattr(diffusion, "encode", lambda vae, video: encoded.append(video.shape[2]) or encode(vae, video))
    monkeypatch.setattr(diffusion, "denoise", noted)
    settings = replace(FAST, window=base.window, overlap=base.overlap)
    made = pipe(*shot, settings)
    assert made.frames.shape == shot[0].frames.shape
    windows = plan_windows(FRAMES, settings, base.strides)
    assert len(windows) > 3
    assert beginnings[0] is None
    for (before, after), beginning in zip(itertools.pairwise(windows), beginnings[1:], strict=True):
        assert beginning is not None
        assert 1 + base.strides.frames * (beginning.shape[2] - 1) == before.stop - after.start
    lengths = [LatentGrid(frames=len(window), size=SIZE, strides=base.strides).padded_frames for window in windows]
    shared = [before.stop - after.start for before, after in itertools.pairwise(windows)]
    assert encoded == [lengths[0], *itertools.chain(*zip(lengths[1:], shared, strict=True))]
    starts = {frame for window in windows for frame in (window[0], window[-1])}
    assert set(pipe.queries(FRAMES, settings).frame.tolist()) == starts


def test_what_does_not_fit_the_strides_is_said_in_their_numbers(
    base: Base, pipe: Track2ViewPipeline, shot: tuple[Clip, TrackSet, CameraPath, CameraPath]
) -> None:
    frames = base.strides.frames
    expected = {4: r"4k \+ 1 frames \(1, 5, …, 81\)", 2: r"2k \+ 1 frames \(1, 3, …, 41\)"}[frames]
    for settings, wrong in ((replace(FAST, window=80), "window"), (replace(FAST, overlap=16), "overlap")):
        with pytest.raises(UserError, match=f"{wrong}: expected {expected}, got {getattr(settings, wrong)}"):
            pipe.check(len(shot[0]), shot[0].size, settings)
        with pytest.raises(UserError, match=f"{wrong}: expected {expected}"):
            pipe.queries(FRAMES, settings)
    pipe.check(frames + 1, shot[0].size, FAST)
    with pytest.raises(UserError, match=f"has {frames} frames; the diffusion renderer needs at least {frames + 1} "):
        pipe.check(frames, shot[0].size, FAST)


def test_memory_is_counted_in_the_bases_tokens(
    pipe: Track2ViewPipeline, shot: tuple[Clip, TrackSet, CameraPath, CameraPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    needed = diffusion.memory_needed
    monkeypatch.setattr(diffusion, "memory_needed", lambda *given, **more: counted.append(given[2]) or needed(*given, **more))
    pipe.check(len(shot[0]), shot[0].size, FAST)
    assert counted[0].padded_size == PADDED
    assert counted[0].strides == pipe.strides


def test_the_description_says_them(base: Base, capsys: pytest.CaptureFixture[str]) -> None:
    main(["model", "info", str(base.folder), "--size", "64", "96", "--frames", "17"])
    said = capsys.readouterr().out
    assert f"one frame, then {base.strides.frames} each, of 4×4 pixels; 2×2 of them a token" in said
    assert f"{(1 + 16 // base.strides.frames) * 8 * 12} tokens a view" in said


def test_samples_are_encoded_and_trained_on(base: Base, shot: tuple[Clip, TrackSet, CameraPath, CameraPath], tmp_path: Path) -> None:
    clip, tracks, camera, target = shot
    for view in ("source", "target"):
        write_video(tmp_path / f"{view}.mp4", clip_images(clip), clip.fps)
    pairs = pair_by_projection(tracks, camera, target)
    record = replace(RECORD, name="train/one", caption="", frames=FRAMES, size=SIZE, tracks=pairs.confidence.shape[1])
    sample = Sample(
        record=record,
        source_file=tmp_path / "source.mp4",
        target_file=tmp_path / "target.mp4",
        source_camera=camera,
        target_camera=target,
        pairs=pairs,
    )
    sample.save(tmp_path / "samples")
    write_manifest(tmp_path / "samples", tmp_path / "manifest.parquet")
    encoded = encode_samples(tmp_path, base.folder / "base")
    assert EncodingRecord.load(encoded).strides == base.strides
    samples = TrainingSamples(tmp_path, encoded)
    example, at = samples[0], latent_frames(FRAMES, base.strides)
    assert samples.shape_of(0) == (len(at), PADDED[0] // 4, PADDED[1] // 4)
    assert example.source.shape == (16, *samples.shape_of(0))
    valid = example.condition.source.valid[0]
    assert torch.equal(valid, pairs.source.valid[at])
    expected = pairs.source.uv[at] * torch.tensor([SIZE[1] / PADDED[1], SIZE[0] / PADDED[0]])
    assert torch.allclose(example.condition.source.uv[0][valid], expected[valid])
    batch = Batch.stack([example])
    model = Track2ViewPipeline.from_pretrained(base.folder / "base", base.folder / "adapter").model
    (velocity,) = model(batch.target, torch.tensor([500.0]), (batch.text,), batch.source, batch.condition)
    assert velocity.shape == batch.target.shape


def test_tokens_of_another_shape_are_not_mixed_into_a_folder(
    base: Base, shot: tuple[Clip, TrackSet, CameraPath, CameraPath], tmp_path: Path
) -> None:
    """The same VAE pads pictures otherwise beside a transformer of other tokens."""
    write_manifest(tmp_path / "samples", tmp_path / "manifest.parquet")
    encode_samples(tmp_path, base.folder / "base")
    other = Path(shutil.copytree(base.folder / "base", tmp_path / "base"))
    place = other / "transformer/config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "patch_size": [1, 1, 2]}))
    with pytest.raises(UserError, match=r"encoding\.json: strides: .*this base has .*patch=\(1, 2\)"):
        encode_samples(tmp_path, other)


def test_a_vae_whose_tiles_would_lie_elsewhere_is_refused(base: Base, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base.folder / "base", tmp_path / "base"))
    place = other / "vae/config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "scale_factor_spatial": 8}))
    for load in (load_vae, load_transformer):
        with pytest.raises(UserError, match=r"base: vae/config\.json: scale_factor_spatial: expected 4, which dim_mult comes to, got 8"):
            load(other)
