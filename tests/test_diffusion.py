import itertools
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from track2view.cameras import apply_move, parse_move
from track2view.errors import Notice, UserError
from track2view.model import diffusion
from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, TrackContext
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.dual_view import DualViewModes
from track2view.model.latents import WAN_STRIDES
from track2view.model.make import new_model
from track2view.model.sampling import Guidance
from track2view.model.settings import DiffusionSettings, plan_windows
from track2view.records import CameraPath, Clip, Queries, TrackSet, ViewTracks
from track2view.scenes import make_camera, make_world, render_clip, track_points

FAST = DiffusionSettings(steps=2, prompt="a red box slides")
Shot = tuple[Clip, TrackSet, CameraPath, CameraPath]


@pytest.fixture(scope="module")
def shot() -> Shot:
    """Eighteen frames of 50×84: neither a multiple of 16 nor 4k + 1."""
    world, camera = make_world(3, frames=18, dynamic=True), make_camera("handheld", 3, frames=18, size=(50, 84))
    clip, _, _ = render_clip(world, camera, Fraction(24000, 1001))
    queries = Queries.grid([0, 8, 17], 12, 12)
    tracks = track_points(world, camera, queries.frame, queries.pixels((50, 84)))
    return clip, tracks, camera, apply_move(parse_move("orbit-right"), camera)


@pytest.fixture(scope="module", params=["joint", "cached-source"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Track2ViewPipeline:
    out = tmp_path_factory.mktemp("pipe")
    new_model("micro", out, modes=DualViewModes(attention=request.param))
    return Track2ViewPipeline.from_pretrained(out / "base", out / "adapter")


def test_the_clip_comes_back_in_its_own_length_size_and_rate(pipe: Track2ViewPipeline, shot: Shot) -> None:
    made = pipe(*shot, FAST)
    assert made.frames.shape == shot[0].frames.shape
    assert made.fps == shot[0].fps
    assert torch.equal(made.frames, pipe(*shot, FAST).frames)
    assert not torch.equal(made.frames, pipe(*shot, replace(FAST, seed=1)).frames)
    assert not torch.equal(made.frames, pipe(*shot, replace(FAST, prompt="a ball")).frames)


def test_tracks_reach_the_picture(pipe: Track2ViewPipeline, shot: Shot) -> None:
    clip, tracks, camera, _target = shot
    other = apply_move(parse_move("orbit-left"), camera)
    assert not torch.equal(pipe(*shot, FAST).frames, pipe(clip, tracks, camera, other, FAST).frames)


def test_memory_modes_and_batching_change_no_pixel(pipe: Track2ViewPipeline, shot: Shot) -> None:
    usual = pipe(*shot, FAST)
    for settings in (replace(FAST, memory="fast"), replace(FAST, memory="low")):
        assert torch.equal(usual.frames, pipe(*shot, settings).frames)
    assert any(hasattr(block, "_diffusers_hook") and block._diffusers_hook.hooks for block in pipe.model.blocks)
    assert torch.equal(usual.frames, pipe(*shot, replace(FAST, memory="fast")).frames)
    assert not any(block._diffusers_hook.hooks for block in pipe.model.blocks)
    assert not pipe.vae.use_tiling
    pipe = Track2ViewPipeline.from_pretrained(pipe.base, pipe.base.parent / "adapter")
    batched = pipe(*shot, replace(FAST, batched=True)).frames
    assert int((usual.frames.int() - batched.int()).abs().max()) <= 1


@torch.no_grad()
def test_batched_guidance_differs_by_rounding_alone(pipe: Track2ViewPipeline) -> None:
    source, latents = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 16, 3, 8, 8)
    texts = (torch.randn(1, 512, 32), torch.randn(1, 512, 32))
    context = TrackContext(target=torch.randn(1, 3, 4, 4, 48), source=torch.randn(1, 3, 4, 4, 48))
    one, other = (
        diffusion.velocity_of(pipe.model, source, context, texts, batched=batched)(latents, torch.tensor([500.0]), 2)
        for batched in (False, True)
    )
    for sequential, batched in zip(one, other, strict=True):
        assert torch.allclose(sequential, batched, atol=1e-6)


def test_the_conditioner_runs_once_in_a_guided_video(pipe: Track2ViewPipeline, shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, passes = [], []
    forward, model_forward = TrackConditioner.forward, type(pipe.model).forward
    monkeypatch.setattr(TrackConditioner, "forward", lambda self, *given: runs.append(1) or forward(self, *given))
    monkeypatch.setattr(type(pipe.model), "forward", lambda self, *given: passes.append(len(given[2])) or model_forward(self, *given))
    pipe(*shot, replace(FAST, steps=50))
    assert len(runs) == 1
    assert passes == [2] * 50


@given(frames=st.integers(5, 400), window=st.integers(2, 20), overlap=st.integers(0, 8), group=st.sampled_from([1, 2, 4]))
def test_windows_cover_a_clip_and_share_what_the_vae_can_encode(frames: int, window: int, overlap: int, group: int) -> None:
    overlap = min(overlap, window - 1)
    settings = DiffusionSettings(window=group * window + 1, overlap=group * overlap + 1)
    windows = plan_windows(frames, settings, replace(WAN_STRIDES, frames=group))
    assert windows[0].start == 0
    assert windows[-1].stop == frames
    for before, after in itertools.pairwise(windows):
        shared = before.stop - after.start
        assert shared >= settings.overlap
        assert (shared - 1) % group == 0
        assert after.stop > before.stop
        assert len(after) <= settings.window


def test_a_long_clip_goes_window_by_window_and_joins(pipe: Track2ViewPipeline, shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(FAST, window=9, overlap=5)

    beginnings: list[Tensor | None] = []
    denoise = diffusion.denoise

    def noted(*given: object, beginning: Tensor | None, **options: object) -> Tensor:
        latents = denoise(*given, beginning=beginning, **options)
        if beginning is not None:
            assert torch.equal(latents[:, :, : beginning.shape[2]], beginning)
        beginnings.append(beginning)
        return latents

    monkeypatch.setattr(diffusion, "denoise", noted)
    made = pipe(*shot, settings)
    assert made.frames.shape == shot[0].frames.shape
    assert beginnings[0] is None
    assert len(beginnings) == len(plan_windows(18, settings, WAN_STRIDES)) > 2
    assert all(each is not None and each.shape[2] >= 2 for each in beginnings[1:])


def test_stopping_keeps_what_was_made(pipe: Track2ViewPipeline, shot: Shot) -> None:
    seen: list[int] = []

    def stop(step: int, latents: Tensor) -> bool:
        seen.append(step)
        return len(seen) == 3

    made = pipe(*shot, replace(FAST, window=13, overlap=5), preview=stop)
    assert seen == [0, 1, 0]
    assert len(made) == 18


def test_a_saved_pipeline_loads_again_and_its_base_in_plain_diffusers(pipe: Track2ViewPipeline, shot: Shot, tmp_path: Path) -> None:
    from diffusers import WanPipeline

    pipe.save_pretrained(tmp_path / "whole")
    again = Track2ViewPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(pipe(*shot, FAST).frames, again(*shot, FAST).frames)
    assert isinstance(WanPipeline.from_pretrained(tmp_path / "whole").transformer, nn.Module)


COMPILED = """
import sys, torch
from pathlib import Path
from track2view.model.diffusion import Track2ViewPipeline
folder, found = Path(sys.argv[1]), []
for compiled in (False, True):
    model = Track2ViewPipeline.from_pretrained(folder / "base", folder / "adapter").model
    if compiled:
        model.compile_blocks("aot_eager")
    torch.manual_seed(0)
    latents, source, text = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 16, 3, 8, 8), torch.randn(1, 512, 32)
    with torch.no_grad():
        found.append(model(latents, torch.tensor([500.0]), (text, 2 * text), source))
assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found))
"""


def test_compiled_blocks_give_the_same_result(tmp_path: Path) -> None:
    """In a process without run-time type checks: torch cannot compile these."""
    new_model("micro", tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@torch.no_grad()
def test_blocks_offloaded_to_files_change_nothing(tmp_path: Path) -> None:
    new_model("micro", tmp_path)
    found = []
    for folder in (None, tmp_path / "blocks"):
        model = Track2ViewPipeline.from_pretrained(tmp_path / "base", tmp_path / "adapter").model
        if folder is not None:
            model.offload_blocks("cpu", folder)
        torch.manual_seed(0)
        latents, source, text = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 16, 3, 8, 8), torch.randn(1, 512, 32)
        found.append([model(latents, torch.tensor([500.0]), (text, 2 * text), source) for _ in range(2)][-1])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert list((tmp_path / "blocks").iterdir())


def test_what_cannot_be_made_is_refused_before_anything_is_computed(
    pipe: Track2ViewPipeline, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, tracks, camera, target = shot
    with pytest.raises(UserError, match="has 3 frames; the diffusion renderer needs at least 5"):
        pipe(replace(clip, frames=clip.frames[:3]), tracks, camera, target)
    blind = replace(tracks, visible=torch.zeros_like(tracks.visible))
    with pytest.raises(UserError, match="no track is visible in the source view"):
        pipe(clip, blind, camera, target, FAST)
    with pytest.raises(UserError, match="the clip has 18 frames, the target camera 17; give what belongs to this clip"):
        pipe(clip, tracks, camera, target[:17], FAST)
    monkeypatch.setattr(psutil, "virtual_memory", type("Memory", (), {"available": 1.5e9}))
    with pytest.raises(UserError, match=r"needs about 1\.\d GB, you have 1\.5: use --dtype bfloat16, a smaller --size"):
        pipe(*shot, FAST)
    with pytest.raises(UserError, match=r"window: expected 4k \+ 1 frames .1, 5, …, 81., got 80"):
        pipe(*shot, replace(FAST, window=80))
    with pytest.raises(UserError, match="less than the window"):
        DiffusionSettings(window=17, overlap=17)


def test_out_of_memory_names_the_mode_to_try(pipe: Track2ViewPipeline, shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(pipe, "_refilmed", full)
    with pytest.raises(UserError, match="out of memory with --memory balanced: use --memory low"):
        pipe(*shot, FAST)
    with pytest.raises(UserError, match="with --memory low: use --dtype bfloat16, a smaller --size or fewer"):
        pipe(*shot, replace(FAST, memory="low"))


def test_half_precision_differs_less_than_another_camera_does(pipe: Track2ViewPipeline, shot: Shot) -> None:
    full, half = (
        Track2ViewPipeline.from_pretrained(pipe.base, pipe.base.parent / "adapter", dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for each in (full, half):
        each.model.conditioner.out_proj.weight.data.mul_(40)
    expected = full(*shot, FAST).frames.int()
    elsewhere = full(*shot[:3], apply_move(parse_move("orbit-left"), shot[2]), FAST).frames.int()
    by_rounding, by_camera = (float((each - expected).abs().float().mean()) for each in (half(*shot, FAST).frames.int(), elsewhere))
    assert by_rounding < 0.5 * by_camera


def test_broken_weights_are_named_with_the_step(pipe: Track2ViewPipeline, shot: Shot) -> None:
    broken = Track2ViewPipeline.from_pretrained(pipe.base, pipe.base.parent / "adapter")
    broken.model.transformer.proj_out.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers at step 1 of 2"):
        broken(*shot, FAST)


def test_without_guidance_one_branch_is_enough(pipe: Track2ViewPipeline, shot: Shot) -> None:
    alone = replace(FAST, guidance=Guidance(scale=1.0))
    assert not torch.equal(pipe(*shot, alone).frames, pipe(*shot, FAST).frames)
    assert torch.equal(pipe(*shot, alone).frames, pipe(*shot, replace(alone, negative_prompt="other")).frames)


def test_noise_levels_are_shifted_as_in_training_unless_told_otherwise(pipe: Track2ViewPipeline, shot: Shot) -> None:
    other = Track2ViewPipeline(pipe.base, pipe.model, pipe.vae, replace(pipe.record, shift=2.0), pipe.prompts, pipe.device)
    assert torch.equal(pipe(*shot, FAST).frames, other(*shot, replace(FAST, shift=5.0)).frames)
    assert not torch.equal(pipe(*shot, FAST).frames, other(*shot, FAST).frames)


@pytest.fixture
def conditions(monkeypatch: pytest.MonkeyPatch) -> list[TrackCondition]:
    """What the conditioner reads, window by window."""
    read: list[TrackCondition] = []
    forward = TrackConditioner.forward
    monkeypatch.setattr(TrackConditioner, "forward", lambda self, tokens, given: read.append(given) or forward(self, tokens, given))
    return read


def test_tracks_lie_in_the_padded_picture(pipe: Track2ViewPipeline, shot: Shot, conditions: list[TrackCondition]) -> None:
    """A clip of 84×50 is padded to 96×64 at the right and below."""
    _, tracks, camera, target = shot
    pipe(*shot, FAST)
    planned = torch.isin(tracks.query_frame, torch.tensor([0, 17]))
    for view, path in ((conditions[0].source, camera), (conditions[0].target, target)):
        uv = ViewTracks.of(tracks, path).uv[:, planned][[0, 4, 8, 12, 16, 17]]
        valid = view.valid[0]
        assert bool(valid.any())
        assert torch.allclose(view.uv[0][valid], (uv * torch.tensor([84 / 96, 50 / 64]))[valid], atol=1e-5)


def test_every_window_reads_the_tracks_that_start_where_the_plan_says(
    pipe: Track2ViewPipeline, shot: Shot, conditions: list[TrackCondition]
) -> None:
    _, tracks, _, _ = shot
    windows = plan_windows(18, replace(FAST, window=9, overlap=5), WAN_STRIDES)
    pipe(*shot, replace(FAST, window=9, overlap=5))
    counts = [int(torch.isin(tracks.query_frame, torch.tensor([window[0], window[-1]])).sum()) for window in windows]
    assert len(set(counts)) > 1
    assert [each.confidence.shape[2] for each in conditions] == [count or len(tracks.query_frame) for count in counts]


def test_a_window_without_tracks_goes_on_and_says_so(pipe: Track2ViewPipeline, shot: Shot) -> None:
    clip, tracks, camera, target = shot
    early = replace(tracks, visible=tracks.visible & (torch.arange(18) < 4)[:, None])
    with pytest.warns(Notice) as said:
        made = pipe(clip, early, camera, target, replace(FAST, window=9, overlap=5))
    assert "frames 12 to 17: no track is seen there; only the source itself leads the result" in [str(each.message) for each in said]
    assert len(made) == 18
