"""Completion by public weights: what a tiny VACE of the real classes is given, and what of its making is kept."""

import itertools
import json
import math
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Done
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from shot_support import exact_shot
from test_docs import blocks
from torch import Tensor
from vace_support import Knowing, new_vace

from track2view import generation
from track2view.complete import CompletionPipeline, control, given_back, vace
from track2view.complete.control import Control, grown
from track2view.complete.give_back import fitted
from track2view.errors import Notice, UserError
from track2view.generation import Completer, all_shown
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import Rendered
from track2view.model.latents import LatentGrid, encode
from track2view.model.sampling import Guidance
from track2view.model.settings import DiffusionSettings
from track2view.pipeline import target_camera
from track2view.scenes import make_rig, make_training_world, render_path
from track2view.video import read_clip
from track2view.warp import WarpRenderer

Within = Callable[[list[str | Path]], Done]

FAST = DiffusionSettings(steps=2, guidance=Guidance(scale=1.0))
SIZE = (32, 56)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_vace(tmp_path_factory.mktemp("vace") / "base")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> CompletionPipeline:
    return CompletionPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> CompletionPipeline:
    """With a VAE that is trained."""
    return CompletionPipeline.from_pretrained(new_vace(tmp_path_factory.mktemp("seeing") / "base", trained_vae=True))


def drawn(frames: int, size: tuple[int, int], seed: int = 0) -> Rendered:
    """Noise with holes that come and go."""
    numbers = np.random.default_rng(seed)
    shown = np.ones((frames, *size), bool)
    for frame in range(frames):
        if frame % 3:
            row, column = numbers.integers(0, size[0] - 4), numbers.integers(0, size[1] - 6)
            shown[frame, row : row + 4, column : column + 6] = False
    colour = numbers.integers(0, 256, (frames, 3, *size), np.uint8)
    return Rendered(colour=torch.from_numpy(colour), shown=torch.from_numpy(shown))


def by_hand(pipe: CompletionPipeline, rendered: Rendered, unknown: Tensor) -> Tensor:
    """What VACE reads, pixel by pixel: frames 1 + 4k, sides in sixteens."""
    frames, _, height, width = rendered.colour.shape
    own = [range(1), *(range(first, first + 4) for first in range(1, frames, 4))]
    video = torch.zeros(1, 3, frames, height, width)
    masks = torch.zeros(1, 64, len(own), height // 8, width // 8)
    for number, latent in enumerate(own):
        generated = unknown[latent.start : latent.stop].any(0)
        for frame in latent:
            picture = rendered.colour[frame].float() / 127.5 - 1
            video[0, :, frame] = torch.where(generated, torch.zeros(()), picture)
        for row, column in itertools.product(range(8), range(8)):
            masks[0, 8 * row + column, number] = generated[row::8, column::8]
    mean, deviation = (torch.tensor(pipe.vae.config[name]).reshape(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        kept, nothing = ((pipe.vae.encode(each).latent_dist.mode() - mean) * (1 / deviation) for each in (video, torch.zeros_like(video)))
    return torch.cat([kept, nothing, masks], dim=1)


@pytest.mark.parametrize("frames", [17, 49, 81])
def test_the_model_is_given_what_is_made_by_hand(pipe: CompletionPipeline, frames: int) -> None:
    rendered = drawn(frames, (32, 48))
    grid = LatentGrid(frames=frames, size=(32, 48), strides=pipe.strides)
    made = Control.of(rendered.colour, ~rendered.shown, grid)
    assert torch.equal(pipe.guide(made), by_hand(pipe, rendered, ~rendered.shown))
    assert set(made.video[made.holes > 0].tolist()) == {0.0}


def test_frames_and_sides_are_filled_up_to_whole_latents(pipe: CompletionPipeline) -> None:
    rendered = drawn(11, (30, 45))
    grid = LatentGrid(frames=11, size=(30, 45), strides=pipe.strides)
    made = Control.of(rendered.colour, ~rendered.shown, grid)
    last, below, right = [10, 10], [29, 29], [44, 44, 44]
    order = [torch.tensor([*range(end), *more]) for end, more in ((11, last), (30, below), (45, right))]
    filled = Rendered(
        colour=rendered.colour[order[0]][:, :, order[1]][..., order[2]], shown=rendered.shown[order[0]][:, order[1]][..., order[2]]
    )
    assert torch.equal(pipe.guide(made), by_hand(pipe, filled, ~filled.shown))


def test_diffusers_own_call_prepares_the_same(pipe: CompletionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mask that stays, which its sampling along time cannot mistake."""
    rendered = replace(drawn(17, (32, 48)), shown=(torch.arange(48) < 30).expand(17, 32, 48))
    read: list[Tensor] = []

    def forward(_: object, hidden_states: Tensor, *, control_hidden_states: Tensor, **__: object) -> tuple[Tensor]:
        read.append(control_hidden_states)
        return (hidden_states,)

    monkeypatch.setattr(WanVACETransformer3DModel, "forward", forward)
    monkeypatch.setattr(pipe.parts, "scheduler", vace.WanVACEPipeline.from_pretrained(pipe.base).scheduler)
    shown = rendered.shown[:, None]
    pictures = torch.where(shown, rendered.colour / 255, torch.full((), 0.5))
    pipe.parts(
        video=pictures[None],
        mask=(~shown).float().expand_as(pictures)[None],
        height=32,
        width=48,
        num_frames=17,
        num_inference_steps=1,
        guidance_scale=1.0,
        prompt_embeds=torch.zeros(1, 24, 32),
        output_type="latent",
    )
    grid = LatentGrid(frames=17, size=(32, 48), strides=pipe.strides)
    assert torch.allclose(read[0], pipe.guide(Control.of(rendered.colour, ~rendered.shown, grid)), atol=1e-4)


@given(st.integers(0, 10**6), st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_holes_grow_as_far_as_asked(seed: int, pixels: int) -> None:
    holes = torch.from_numpy(np.random.default_rng(seed).random((2, 24, 31)) < 0.01)
    row, column = torch.meshgrid(torch.arange(24), torch.arange(31), indexing="ij")
    expected = torch.zeros_like(holes)
    for frame, y, x in holes.nonzero().tolist():
        expected[frame] |= ((row - y).abs() <= pixels) & ((column - x).abs() <= pixels)
    assert torch.equal(grown(holes, pixels), expected)


@pytest.fixture(scope="module")
def exact() -> Tensor:
    """Fifty frames that a camera sees."""
    camera = make_rig(3, frames=50, size=SIZE)["cam01"]
    return render_path(make_training_world("solids", 3, frames=50, dynamic=True), camera).colour


def with_hole(exact: Tensor, frames: int = 17) -> Rendered:
    """What a warp shows of it: all but a third that widens, which is painted red."""
    edge = 48 - torch.arange(frames) * 16 // frames
    shown = (torch.arange(SIZE[1]) < edge[:, None])[:, None].expand(frames, *SIZE)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    return Rendered(colour=torch.where(shown[:, None], exact[:frames], red), shown=shown.clone())


@pytest.fixture
def knowing(seeing: CompletionPipeline, exact: Tensor, monkeypatch: pytest.MonkeyPatch) -> CompletionPipeline:
    """It makes what the camera sees, window by window, tinted."""
    starts = iter(vace.plan_windows(50, replace(FAST, window=17, overlap=5), seeing.strides))
    frames: list[range] = []
    tint = torch.tensor([10.0, -10.0, 10.0])[:, None, None]

    def leads_to(_: Tensor) -> Tensor:
        window = frames[-1]
        tinted = (exact[window.start : window.stop].float() + tint).round().clamp(0, 255).to(torch.uint8)
        return encode(seeing.vae, LatentGrid(frames=len(window), size=SIZE, strides=seeing.strides).padded(tinted))

    of = Control.of
    monkeypatch.setattr(control.Control, "of", staticmethod(lambda *given: frames.append(next(starts)) or of(*given)))
    monkeypatch.setattr(seeing.parts, "transformer", Knowing.like(seeing.transformer, leads_to))
    return seeing


def test_what_was_seen_comes_back_and_a_tint_goes(knowing: CompletionPipeline, exact: Tensor) -> None:
    rendered = with_hole(exact)
    made = knowing(rendered, FAST)
    seen = rendered.shown[:, None].expand_as(made)
    assert torch.equal(made[seen], rendered.colour[seen])
    apart = made.float() - exact[:17].float()
    per_channel = torch.stack([apart[:, channel][~rendered.shown].mean() for channel in range(3)])
    assert float(per_channel.abs().max()) < 1.0, "what is left of a tint of ten"
    assert float(apart[~seen].abs().mean()) < 12, "it made what it was to make"


def test_windows_join_without_a_seam(knowing: CompletionPipeline, exact: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = with_hole(exact, 50)
    read: list[Control] = []
    guide = CompletionPipeline.guide
    monkeypatch.setattr(CompletionPipeline, "guide", lambda self, control, memory: read.append(control) or guide(self, control, memory))
    options = replace(FAST, window=17, overlap=5)
    made = knowing(rendered, options)
    assert made.shape == exact.shape
    windows = vace.plan_windows(50, options, knowing.strides)
    assert len(windows) == len(read) == 4
    assert torch.equal(read[0].holes[0, 0, 0] > 0, grown(~rendered.shown[:1])[0])
    for before, window, guided in zip(windows, windows[1:], read[1:], strict=False):
        known = before.stop - window.start
        assert not bool(guided.holes[:, :, :known].any()), "the window before is known"
        overlap = made[window.start : before.stop].permute(1, 0, 2, 3)[None].float() / 127.5 - 1
        assert torch.equal(guided.video[:, :, :known, : SIZE[0], : SIZE[1]], overlap)
        assert bool(guided.holes[:, :, known].any())
        assert not bool(guided.sampled[:, :, 1].any()), "no latent frame of what is known is generated"
    hole = ~rendered.shown[0]
    error = (made.float() - exact.float()).mean(1)[:, hole]
    steps = (error[1:] - error[:-1]).abs().mean(1)
    joints = [window.stop - 1 for window in windows[:-1]]
    usual = np.delete(steps.numpy(), joints)
    assert float(steps[joints].max()) <= float(usual.max()) + 0.5


def waves(height: int, width: int) -> Tensor:
    row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([0.5 + 0.2 * torch.sin(row / 5), 0.5 + 0.2 * torch.cos(column / 7), 0.5 + 0.2 * torch.sin((row + column) / 9)])


@given(tint=st.tuples(*[st.floats(-10, 10)] * 3), share=st.floats(0.3, 1.0))
@settings(deadline=None, max_examples=10)
def test_a_tint_is_taken_away(tint: tuple[float, ...], share: float) -> None:
    colour = waves(48, 64)
    tinted = colour + torch.tensor(tint)[:, None, None] / 255
    assert float((fitted(tinted, colour, torch.arange(64).expand(48, 64) < share * 64) - colour).abs().max()) < 0.1 / 255


@given(gain=st.tuples(*[st.floats(0.85, 1.15)] * 3))
@settings(deadline=None, max_examples=10)
def test_contrast_is_fitted_where_enough_is_seen(gain: tuple[float, ...]) -> None:
    colour = waves(96, 128)
    turned = colour * torch.tensor(gain)[:, None, None]
    assert float((fitted(turned, colour, torch.arange(128).expand(96, 128) < 96) - colour).abs().max()) < 1 / 255


def test_a_picture_of_which_little_is_seen_is_shifted_but_not_turned() -> None:
    colour = torch.full((3, 32, 32), 0.4)
    seen = torch.zeros(32, 32, dtype=torch.bool)
    seen[:8, :8] = True
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    picture[:, seen] = 0.5
    assert torch.allclose(fitted(picture, colour, seen), picture - 0.1, atol=1e-6)
    assert torch.equal(fitted(picture, colour, torch.zeros_like(seen)), picture)


def test_the_rim_of_a_hole_goes_on_from_what_is_seen() -> None:
    """A difference that no map of colours explains fades into the hole; far within, what was made stays."""
    colour = torch.full((1, 3, 64, 64), 110, dtype=torch.uint8)
    colour[:, :, :16] = 150
    shown = (torch.arange(64) < 32).expand(1, 64, 64).clone()
    made = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    out = given_back(made, Rendered(colour=colour, shown=shown))[0, 0].float()
    assert float((out[8, 32] - 150).abs()) < 6
    assert float((out[48, 32] - 110).abs()) < 6
    assert float((out[8, 36] - 120 - 30 * math.exp(-4 / 6)).abs()) < 2, "the nearest seen pixel's"
    assert float((out[:, 63] - 120).abs().max()) < 1, "a shift by what the seen is brighter than the made"
    assert torch.equal(out[:, :32].to(torch.uint8), colour[0, 0, :, :32])


def test_memory_modes_and_batching_change_next_to_nothing(folder: Path, pipe: CompletionPipeline) -> None:
    rendered, guided = drawn(9, (32, 48)), replace(FAST, guidance=Guidance(scale=3.0))
    usual = pipe(rendered, guided)
    for other in (replace(guided, memory="fast"), replace(guided, memory="low"), guided):
        assert torch.equal(usual, pipe(rendered, other))
    assert int((pipe(rendered, replace(guided, batched=True)).int() - usual.int()).abs().max()) <= 1
    assert not torch.equal(usual, pipe(rendered, replace(guided, seed=1)))
    assert not torch.equal(usual, pipe(rendered, replace(guided, prompt="a red box")))
    with pytest.raises(UserError, match="has 4 frames; completion needs at least 5"):
        pipe(drawn(4, (32, 48)), FAST)


def test_the_guide_reaches_the_picture(pipe: CompletionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vace, "given_back", lambda made, _: made)
    rendered = drawn(9, (32, 48))
    other = replace(rendered, colour=rendered.colour.flip(0))
    assert not torch.equal(pipe(rendered, FAST), pipe(other, FAST))


def test_noise_levels_go_by_the_size_of_the_picture(pipe: CompletionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    sigmas = vace.shifted_sigmas
    monkeypatch.setattr(vace, "shifted_sigmas", lambda steps, shift: asked.append(shift) or sigmas(steps, shift))
    pipe(drawn(5, (32, 48)), FAST)
    pipe(drawn(5, (32, 48)), replace(FAST, shift=2.0))
    monkeypatch.setattr(vace, "SMALL_SIDE", 16)
    pipe(drawn(5, (32, 48)), FAST)
    assert asked == [3.0, 2.0, 5.0]


def test_a_large_clip_is_completed_small_and_keeps_what_it_shows(
    pipe: CompletionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipe.short_side == 480
    monkeypatch.setattr(vace, "SMALL_WIDTH", 47)
    assert pipe.short_side == 720
    monkeypatch.setattr(vace, "LARGE_SIDE", 32)
    made_at: list[torch.Size] = []
    guide = CompletionPipeline.guide
    monkeypatch.setattr(
        CompletionPipeline, "guide", lambda self, control, memory: made_at.append(control.video.shape) or guide(self, control, memory)
    )
    shot = exact_shot((64, 112), 5, 10)[1]
    target = target_camera(shot, "orbit-right:25")
    with pytest.warns(Notice, match="made at 32×56, near what the model was trained on, and enlarged"):
        made = Completer(model=pipe, settings=FAST).refilm(shot, target, tmp_path)
    warp = generation.rendered(WarpRenderer(shot.scene, shot.depth, shot.tracking.camera), target)
    seen = warp.shown[:, None].expand_as(warp.colour)
    assert 0.5 < float(seen.float().mean()) < 0.98
    assert made_at == [(1, 3, 5, 32, 64)]
    assert torch.equal(made.frames[seen], warp.colour[seen])
    assert not torch.equal(made.frames, warp.colour)
    assert made.fps == shot.clip.fps


def test_a_smaller_pixel_is_shown_where_all_of_it_is() -> None:
    shown = torch.ones(1, 8, 12, dtype=torch.bool)
    shown[0, 3, 5] = False
    small = all_shown(shown, (4, 6))
    assert (~small).nonzero().tolist() == [[0, 1, 2]]


def lora(path: Path, names: dict[str, tuple[int, int]], rank: int = 2) -> dict[str, Tensor]:
    """A file of LoRA weights; its weights by layer, multiplied out."""
    numbers, weights, products = torch.Generator().manual_seed(1), {}, {}
    for name, (inputs, outputs) in names.items():
        down, up = torch.randn(rank, inputs, generator=numbers), torch.randn(outputs, rank, generator=numbers)
        kind = ("lora_down", "lora_up") if name.startswith("diffusion_model") else ("lora_A", "lora_B")
        weights |= {f"{name}.{kind[0]}.weight": down, f"{name}.{kind[1]}.weight": up}
        products[name] = up @ down
    save_file(weights, path)
    return products


def test_lora_weights_are_added_under_whoever_s_names(folder: Path, pipe: CompletionPipeline, tmp_path: Path) -> None:
    ours = lora(tmp_path / "ours.safetensors", {"transformer.blocks.1.attn1.to_q": (48, 48), "transformer.blocks.2.ffn.net.2": (96, 48)})
    theirs = lora(
        tmp_path / "theirs.safetensors",
        {"diffusion_model.blocks.1.self_attn.q": (48, 48), "diffusion_model.blocks.2.ffn.2": (96, 48)},
    )
    assert all(torch.equal(one, other) for one, other in zip(ours.values(), theirs.values(), strict=True))
    for name, weight in (("ours", 0.5), ("theirs", 1.0)):
        with_lora = CompletionPipeline.from_pretrained(folder, lora=tmp_path / f"{name}.safetensors", lora_weight=weight)
        for module, added in zip(("blocks.1.attn1.to_q", "blocks.2.ffn.net.2"), ours.values(), strict=True):
            before, after = (each.transformer.get_parameter(f"{module}.weight") for each in (pipe, with_lora))
            assert torch.allclose(after - before, weight * added, atol=1e-5)
        assert set(with_lora.transformer.state_dict()) == set(pipe.transformer.state_dict())


BAD_LORA = {
    "absent": (lambda path: None, "no such LoRA file"),
    "of another model": (
        lambda path: lora(path, {"transformer.blocks.35.attn1.to_q": (48, 48)}),
        r"has 'transformer.blocks.35.attn1.to_q.lora_A.weight', which this base has no place for",
    ),
    "of another width": (lambda path: lora(path, {"transformer.blocks.1.attn1.to_q": (64, 64)}), "cannot be loaded"),
    "no LoRA": (lambda path: save_file({"blocks.1.weight": torch.zeros(2)}, path), "which this base has no place for"),
    "empty": (lambda path: save_file({}, path), "holds no LoRA"),
    "damaged": (lambda path: path.write_bytes(b"\x00" * 40), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_LORA)
def test_a_bad_lora_is_one_line(case: str, folder: Path, tmp_path: Path) -> None:
    write, message = BAD_LORA[case]
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(UserError, match=message) as refused:
        CompletionPipeline.from_pretrained(folder, lora=path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_clip_is_completed_as_the_docs_say(folder: Path, short_file: Path, within: Within, tmp_path: Path) -> None:
    (line,) = blocks("docs/completion.md", "sh")
    (tmp_path / "clip.mp4").symlink_to(short_file)
    (tmp_path / "Wan2.1-VACE-1.3B-diffusers").symlink_to(folder)
    words = [each.replace("orbit-right", "pan-left:12") for each in shlex.split(line)[1:]]
    done: Done = within([*words, "--steps", "2", "--out", "run"])
    assert done.returncode == 0, done.stderr
    assert within(["render", short_file, "--camera", "pan-left:12", "--out", "warp"]).returncode == 0
    made, warped, mask = (read_clip(tmp_path / name).frames.float() for name in ("run/output.mp4", "warp/output.mp4", "run/guide_mask.mp4"))
    hole = mask[:, 0] > 128
    assert float(hole.float().mean()) > 0.1
    apart = (made - warped).abs().mean(1)
    assert float(apart[~hole].mean()) < 3, "what is seen is the warp's, but for the codec"
    assert float(apart[hole].mean()) > 10, "what is not is the model's"
    kept, painted = (read_clip(tmp_path / name / "guide.mp4").frames for name in ("run", "warp"))
    assert torch.equal(kept, painted)


BAD = {
    "no base": ([], "--renderer complete: give --base"),
    "a text-to-video base": (["--base", MINI / "base"], "not a Wan VACE model: its transformer is WanTransformer3DModel"),
    "an adapter": (["--base", "FOLDER", "--adapter", MINI / "adapter"], "--adapter: is for --renderer diffusion"),
    "no such LoRA": (["--base", "FOLDER", "--lora", "nowhere.safetensors"], "nowhere.safetensors: no such LoRA file"),
    "a pickled LoRA": (["--base", "FOLDER", "--lora", __file__], "only .safetensors are read"),
    "a window that no latents fit": (["--base", "FOLDER", "--window", "16"], "window: expected 4k + 1 frames"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, folder: Path, short_file: Path, within: Within, tmp_path: Path) -> None:
    options, message = BAD[case]
    options = [folder if each == "FOLDER" else each for each in options]
    done: Done = within(["render", short_file, "--camera", "pan-left", "--renderer", "complete", "--out", "run", *options])
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("track2view:") and "warning" not in line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not (tmp_path / "run/output.mp4").exists()


def test_a_lora_for_another_renderer_is_refused(short_file: Path, within: Within) -> None:
    done: Done = within(["render", short_file, "--camera", "pan-left", "--lora", "any.safetensors"])
    assert done.returncode == 2
    assert "--lora: is for --renderer complete" in done.stderr


def test_parts_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    path = base / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vace_in_channels": 80}))
    with pytest.raises(UserError, match="vace_in_channels"):
        CompletionPipeline.from_pretrained(base)
