"""ReCamMaster's weights in its own layout, against a slow forward of its own blocks written out here."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dual_view import draw
from torch import Tensor
from torch.nn import functional

from track2view import cli
from track2view.cameras import apply_move, parse_move, read_camera
from track2view.errors import UserError
from track2view.model.bases import load_transformer
from track2view.model.checkpoint import load_adapter, save_adapter
from track2view.model.conditioners.camera import CameraCondition, CameraConditioner
from track2view.model.diffusion import Track2ViewPipeline, velocity_of
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.latents import WAN_STRIDES, LatentGrid
from track2view.model.make import new_model
from track2view.model.recammaster import convert_recammaster
from track2view.model.settings import DiffusionSettings
from track2view.records import CameraPath, Clip, Queries, TrackSet
from track2view.scenes import make_camera, make_world, render_clip, track_points
from track2view.video import read_clip

WIDTH, HEADS, BLOCKS, FRAMES = 48, 2, 2, 3
TARGET, SOURCE, TIME, TEXT = draw(1, 1, 16, FRAMES, 8, 12), draw(2, 1, 16, FRAMES, 8, 12), torch.tensor([500.0]), draw(3, 1, 7, 32)
POSES = CameraCondition(poses=draw(4, 1, FRAMES, 12))
FAST = DiffusionSettings(steps=2, prompt="a red box slides")
Weights = dict[str, Tensor]

THEIR_NAMES = [
    (r"^condition_embedder\.(time|text)_embedder\.linear_1", r"\1_embedding.0"),
    (r"^condition_embedder\.(time|text)_embedder\.linear_2", r"\1_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table$", "modulation"),
    (r"^proj_out", "head.head"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
]


def published(base: Path) -> Weights:
    """A base's transformer, disturbed, under Wan's own names, with ReCamMaster's two layers in each block."""
    weights = {}
    for number, (name, weight) in enumerate(load_transformer(base).state_dict().items()):
        for ours, theirs in THEIR_NAMES:
            name = re.sub(ours, theirs, name)  # noqa: PLW2901
        weights[name] = weight + 0.05 * draw(number, *weight.shape)
    for block in range(BLOCKS):
        weights[f"blocks.{block}.cam_encoder.weight"] = draw(100 + block, WIDTH, 12)
        weights[f"blocks.{block}.cam_encoder.bias"] = draw(200 + block, WIDTH)
        weights[f"blocks.{block}.projector.weight"] = torch.eye(WIDTH) + 0.2 * draw(300 + block, WIDTH, WIDTH)
        weights[f"blocks.{block}.projector.bias"] = draw(400 + block, WIDTH)
    return weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    new_model("micro", out)
    return out / "base"


@pytest.fixture(scope="module")
def theirs(base: Path) -> Weights:
    return published(base)


@pytest.fixture(scope="module")
def made(base: Path, theirs: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recammaster")
    torch.save(theirs, folder / "step20000.ckpt")
    convert_recammaster(folder / "step20000.ckpt", base, folder / "made")
    return folder / "made"


def loaded(made: Path) -> DualViewModel:
    return load_adapter(made / "adapter", load_transformer(made / "base"))[0]


class Slow:
    """ReCamMaster's transformer over [target; source], in float64: its formulas, one operation at a time."""

    def __init__(self, weights: Weights) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}

    def linear(self, name: str, values: Tensor) -> Tensor:
        return values @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def rms(self, name: str, values: Tensor) -> Tensor:
        return values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def attention(self, name: str, asking: Tensor, seen: Tensor, turns: Tensor | None) -> Tensor:
        query, key = (
            self.rms(f"{name}.norm_q", self.linear(f"{name}.q", asking)),
            self.rms(f"{name}.norm_k", self.linear(f"{name}.k", seen)),
        )
        query, key, value = (each.unflatten(1, (HEADS, -1)).transpose(0, 1) for each in (query, key, self.linear(f"{name}.v", seen)))
        if turns is not None:
            query, key = (
                torch.view_as_real(torch.view_as_complex(each.unflatten(2, (-1, 2)).contiguous()) * turns).flatten(2)
                for each in (query, key)
            )
        scores = (query @ key.mT / math.sqrt(query.shape[2])).softmax(-1)
        return self.linear(f"{name}.o", (scores @ value).transpose(0, 1).flatten(1))

    def block(self, number: int, tokens: Tensor, text: Tensor, modulation: Tensor, turns: Tensor, poses: Tensor) -> Tensor:
        name = f"blocks.{number}"
        shift, scale, gate, shift_fed, scale_fed, gate_fed = self.weights[f"{name}.modulation"][0] + modulation
        pose = self.linear(f"{name}.cam_encoder", poses)
        twice = torch.cat([pose, pose]).repeat_interleave(len(tokens) // (2 * len(poses)), dim=0)
        read = functional.layer_norm(tokens, (WIDTH,), eps=1e-6) * (1 + scale) + shift + twice
        tokens = tokens + gate * self.linear(f"{name}.projector", self.attention(f"{name}.self_attn", read, read, turns))
        norm = (self.weights[f"{name}.norm3.weight"], self.weights[f"{name}.norm3.bias"])
        tokens = tokens + self.attention(f"{name}.cross_attn", functional.layer_norm(tokens, (WIDTH,), *norm, eps=1e-6), text, None)
        read = functional.layer_norm(tokens, (WIDTH,), eps=1e-6) * (1 + scale_fed) + shift_fed
        hidden = functional.gelu(self.linear(f"{name}.ffn.0", read), approximate="tanh")
        return tokens + gate_fed * self.linear(f"{name}.ffn.2", hidden)

    def __call__(self, target: Tensor, source: Tensor, time: float, text: Tensor, poses: Tensor) -> Tensor:
        """Velocity of the target, (C, F, Y, X), from latents of that shape."""
        latents = torch.cat([target, source], dim=1).double()
        grid = functional.conv3d(latents, self.weights["patch_embedding.weight"], self.weights["patch_embedding.bias"], stride=(1, 2, 2))
        frames, height, width = grid.shape[1:]
        angles = time * 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
        moment = self.linear("time_embedding.0", torch.cat([angles.cos(), angles.sin()]))
        moment = self.linear("time_embedding.2", functional.silu(moment))
        modulation = self.linear("time_projection.1", functional.silu(moment)).unflatten(0, (6, WIDTH))
        words = functional.gelu(self.linear("text_embedding.0", text.double()), approximate="tanh")
        words = self.linear("text_embedding.2", words)
        frequency = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
        places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in (frames, height, width)))
        turns = torch.exp(1j * (places[:, :, None] * frequency).flatten(1))
        tokens = grid.flatten(1).T
        for number in range(BLOCKS):
            tokens = self.block(number, tokens, words, modulation, turns, poses.double())
        shift, scale = self.weights["head.modulation"][0] + moment
        out = self.linear("head.head", functional.layer_norm(tokens, (WIDTH,), eps=1e-6) * (1 + scale) + shift)
        patches = out.reshape(frames, height, width, 2, 2, 16).permute(5, 0, 1, 3, 2, 4)
        return patches.reshape(16, frames, 2 * height, 2 * width)[:, : frames // 2]


@torch.no_grad()
def test_what_is_made_is_their_transformer(made: Path, theirs: Weights) -> None:
    found = loaded(made)(TARGET, TIME, (TEXT,), SOURCE, POSES)[0][0]
    expected = Slow(theirs)(TARGET[0], SOURCE[0], 500.0, TEXT[0], POSES.poses[0])
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert expected.abs().mean() > 0.1


@torch.no_grad()
def test_every_part_that_is_theirs_alone_counts(made: Path, theirs: Weights) -> None:
    """The comparison above would not see a part that the output hardly depends on."""
    found = loaded(made)(TARGET, TIME, (TEXT,), SOURCE, POSES)[0][0]
    for name in theirs:
        if "cam_encoder" in name or "projector" in name:
            less = Slow({**theirs, name: 0.9 * theirs[name]})(TARGET[0], SOURCE[0], 500.0, TEXT[0], POSES.poses[0])
            assert not torch.allclose(found.double(), less, atol=1e-4), name


def unreal(path: Path, source: list[tuple[float, float, float]], target: list[tuple[float, float, float]]) -> None:
    """MultiCamVideo's file of two level cameras, each (yaw to the right in degrees, centimetres forward, centimetres right)."""
    document: dict[str, dict[str, str]] = {}
    for index, views in enumerate(zip(source, target, strict=True)):
        document[f"frame{index}"] = {}
        for name, (yaw, forward, right) in zip(("cam01", "cam02"), views, strict=True):
            sine, cosine = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
            document[f"frame{index}"][name] = (
                f"[{cosine} {sine} 0 0] [{-sine} {cosine} 0 0] [0 0 1 0] [{forward + 300} {right - 200} 150 1] "
            )
    path.write_text(json.dumps(document))


def test_poses_are_those_of_their_training(tmp_path: Path) -> None:
    """Numbers worked out by hand: the target starts where the source does and goes 1 cm forward, 2 right and 3° to the right a frame."""
    count = 18
    unreal(tmp_path / "cameras.json", [(7.0 * i, 0, 5.0 * i) for i in range(count)], [(3.0 * i, 1.0 * i, 2.0 * i) for i in range(count)])
    source, target = (read_camera(f"{tmp_path / 'cameras.json'}#{name}") for name in ("cam01", "cam02"))
    grid = LatentGrid(frames=count, size=(32, 48), strides=WAN_STRIDES)
    found = CameraCondition.of(source, target, grid)
    expected = []
    for frame in (0, 4, 8, 12, 16, 17):
        sine, cosine = math.sin(math.radians(3 * frame)), math.cos(math.radians(3 * frame))
        expected.append([cosine, 0, sine, 0.02 * frame, 0, 1, 0, 0, -sine, 0, cosine, 0.01 * frame])
    assert torch.allclose(found.poses, torch.tensor([expected]), atol=1e-6)
    elsewhere = source.world_from_camera[9]
    moved = CameraCondition.of(source.relative_to(elsewhere), target.relative_to(elsewhere), grid)
    assert torch.allclose(moved.poses, found.poses, atol=1e-6)
    scene = CameraCondition.of(source.scaled(1 / 4, "scene"), target.scaled(1 / 4, "scene"), grid)
    assert torch.allclose(scene.poses, found.poses, atol=1e-6)


def test_cameras_that_do_not_fit_are_named() -> None:
    path = make_camera("arc", 1, frames=9, size=(32, 48))
    grid = LatentGrid(frames=9, size=(32, 48), strides=WAN_STRIDES)
    with pytest.raises(UserError, match="the target camera has 8 frames, the clip has 9"):
        CameraCondition.of(path, path[:8], grid)
    with pytest.raises(UserError, match="the source camera is in scene units and the target in metre"):
        CameraCondition.of(path.scaled(1.0, "scene"), path.scaled(1.0, "metre"), grid)


@torch.no_grad()
def test_a_fresh_conditioner_changes_nothing(base: Path) -> None:
    model = DualViewModel(load_transformer(base), CameraConditioner(token_width=WIDTH, blocks=BLOCKS), DualViewModes(timestep="shared"))
    assert torch.equal(model(TARGET, TIME, (TEXT,), SOURCE, POSES)[0], model(TARGET, TIME, (TEXT,), SOURCE)[0])


@torch.no_grad()
def test_guidance_at_once_keeps_each_clip_its_camera(made: Path) -> None:
    model = loaded(made)
    clips, poses = torch.cat([TARGET, TARGET]), CameraCondition(poses=draw(5, 2, FRAMES, 12))
    texts = tuple(draw(seed, 2, 7, 32) for seed in (6, 7))
    conditioning = model.condition(clips, poses)
    found = [velocity_of(model, clips, conditioning, texts, batched=batched)(clips, TIME.repeat(2), 2) for batched in (False, True)]
    assert not torch.allclose(found[0][0][0], found[0][0][1], atol=1e-2)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))


def test_it_trains_with_checkpointing_as_without(made: Path) -> None:
    gradients = []
    for enabled in (False, True):
        model = loaded(made)
        model.enable_gradient_checkpointing(enabled)
        model(TARGET, TIME, (TEXT,), SOURCE, POSES)[0].square().mean().backward()
        gradients.append([each.grad for each in model.conditioner.parameters()])
    assert all(float(each.abs().max()) > 0 for each in gradients[0])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_a_conditioner_for_another_depth_is_refused(base: Path, made: Path, tmp_path: Path) -> None:
    record = load_adapter(made / "adapter", load_transformer(base))[1]
    deeper = CameraConditioner(token_width=WIDTH, blocks=3)
    save_adapter(tmp_path / "deeper", {f"conditioner.{name}": each for name, each in deeper.state_dict().items()}, record, deeper.config)
    with pytest.raises(UserError, match=r"conditioner/config.json: blocks: expected this base's 2, got 3"):
        load_adapter(tmp_path / "deeper", load_transformer(base))


Shot = tuple[Clip, TrackSet, CameraPath, CameraPath]


@pytest.fixture(scope="module")
def shot() -> Shot:
    world, camera = make_world(3, frames=18, dynamic=True), make_camera("handheld", 3, frames=18, size=(50, 84))
    clip, _, _ = render_clip(world, camera, Fraction(24))
    queries = Queries.grid([0, 17], 6, 6)
    tracks = track_points(world, camera, queries.frame, queries.pixels((50, 84)))
    return clip, tracks, camera, apply_move(parse_move("orbit-right"), camera)


def test_clips_are_made_by_cameras_alone(made: Path, shot: Shot) -> None:
    clip, tracks, camera, target = shot
    pipe = Track2ViewPipeline.from_pretrained(made / "base", made / "adapter")
    settings = replace(FAST, window=9, overlap=5)
    usual = pipe(*shot, settings).frames
    assert usual.shape == clip.frames.shape
    unseen = replace(tracks, visible=torch.zeros_like(tracks.visible))
    assert torch.equal(pipe(clip, unseen, camera, target, settings).frames, usual)
    assert not torch.equal(pipe(clip, tracks, camera, apply_move(parse_move("orbit-left"), camera), settings).frames, usual)
    batched = pipe(*shot, replace(settings, batched=True)).frames
    assert int((batched.int() - usual.int()).abs().max()) <= 1


def typed(*words: str | Path) -> int:
    try:
        cli.main([*map(str, words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_commands(
    base: Path, theirs: Weights, short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(theirs, tmp_path / "step20000.ckpt")
    save_file(theirs, tmp_path / "weights.safetensors")
    for file, out in (("step20000.ckpt", "made"), ("weights.safetensors", "same")):
        assert typed("model", "import", "recammaster", file, base, out) == 0
        assert capfd.readouterr().out.splitlines() == [f"{out}/base", f"{out}/adapter"]
    weights = "adapter/conditioner/diffusion_pytorch_model.safetensors", "base/transformer/diffusion_pytorch_model.safetensors"
    for name in weights:
        one, other = load_file(tmp_path / "made" / name), load_file(tmp_path / "same" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[each], other[each]) for each in one)
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (base / vae).samefile(tmp_path / "made/base" / vae)
    assert typed("model", "info", "made", "--frames", "17") == 0
    said = capfd.readouterr().out
    for words in ("LoRA rank 0", "timestep shared, rope sequential, attention joint", "recipe recammaster"):
        assert words in said
    model = ["--renderer", "diffusion", "--base", "made/base", "--adapter", "made/adapter", "--steps", "2"]
    assert typed("render", short_file, "--camera", "recam-9", "--out", "run", *model) == 0, capfd.readouterr().err
    assert len(read_clip(tmp_path / "run/output.mp4")) == 8


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return open, ("ran", "w")


def without(weights: Weights, *names: str) -> Weights:
    return {name: weight for name, weight in weights.items() if not any(each in name for each in names)}


BAD: dict[str, tuple[Callable[[Weights], object], str]] = {
    "a pickle that runs something": (lambda weights: {**weights, "more": Evil()}, "a pickle that holds more than weights"),
    "a weight missing": (
        lambda weights: without(weights, "blocks.1.self_attn.q.weight"),
        "lacks blocks.1.attn1.to_q.weight (as diffusers calls it; 1 such in all)",
    ),
    "a projector missing": (lambda weights: without(weights, "blocks.1.projector.bias"), "lacks blocks.1.projector.bias"),
    "plain Wan": (
        lambda weights: without(weights, "cam_encoder", "projector"),
        "lacks blocks.0.cam_encoder.weight (as diffusers calls it; 8",
    ),
    "a block more": (
        lambda weights: {**weights, "blocks.2.self_attn.q.weight": weights["blocks.0.self_attn.q.weight"]},
        "has blocks.2.self_attn.q.weight, which this base has no place for (1 such in all)",
    ),
    "an encoder more": (lambda weights: {**weights, "blocks.2.cam_encoder.bias": torch.zeros(WIDTH)}, "has blocks.2.cam_encoder.bias"),
    "an image encoder": (
        lambda weights: {**weights, "img_emb.proj.0.weight": torch.zeros(3)},
        "has img_emb.proj.0.weight, which this base",
    ),
    "twice the same": (
        lambda weights: {**weights, "model.diffusion_model.head.head.bias": weights["head.head.bias"]},
        "head.head.bias and model.diffusion_model.head.head.bias are the same weight",
    ),
    "another width": (
        lambda weights: {name: torch.cat([weight, weight]) for name, weight in weights.items()},
        "is [2, 2, 48], this base needs [1, 2, 48]",
    ),
    "poses of another kind": (
        lambda weights: {**weights, "blocks.1.cam_encoder.weight": torch.zeros(WIDTH, 16)},
        "blocks.1.cam_encoder.weight is [48, 16], this base needs [48, 12]",
    ),
    "nested": (lambda weights: {"state_dict": weights}, "state_dict: expected a weight, got dict"),
    "whole numbers": (
        lambda weights: {**weights, "head.head.bias": torch.zeros(64, dtype=torch.int8)},
        "head.head.bias: expected a weight, got torch.strided torch.int8",
    ),
    "no names": (lambda weights: list(weights.values()), "not ReCamMaster's checkpoint: expected weights by name, got list"),
    "numbers for names": (lambda weights: {7: weights["head.head.bias"]}, "not ReCamMaster's checkpoint: expected weights by name, got 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_is_none_is_refused_by_name(
    case: str, base: Path, theirs: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = BAD[case]
    torch.save(change(theirs), tmp_path / "bad.ckpt")
    with pytest.raises(UserError) as refused:
        convert_recammaster(tmp_path / "bad.ckpt", base, tmp_path / "made")
    assert str(refused.value).startswith(f"{tmp_path / 'bad.ckpt'}: ")
    assert message in str(refused.value)
    assert {each.name for each in tmp_path.iterdir()} == {"bad.ckpt"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.ckpt", None, "no such file; give ReCamMaster's checkpoint"),
        ("text.ckpt", b"not weights", "cannot be loaded"),
        ("short.ckpt", b"PK\x03\x04" + bytes(200), "cannot be loaded"),
        ("text.safetensors", b"not weights", "cannot be loaded"),
    ],
)
def test_a_file_that_is_none_is_refused(name: str, content: bytes | None, message: str, base: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        convert_recammaster(tmp_path / name, base, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_is_there_stays(base: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/mine").touch()
    with pytest.raises(UserError, match="made: is there already; give a folder that is new or empty"):
        convert_recammaster(tmp_path / "any.ckpt", base, tmp_path / "made")
    part = Path(shutil.copytree(base, tmp_path / "part"))
    shutil.rmtree(part / "tokenizer")
    with pytest.raises(UserError, match="part: not a whole base in diffusers' Wan layout: it has no tokenizer"):
        convert_recammaster(tmp_path / "any.ckpt", part, tmp_path / "new")
