"""Matched points and LPIPS, with small instances of the networks' own classes."""

import math
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, max_pool2d, relu
from torchmetrics.functional.image.lpips import NetLinLayer, ScalingLayer
from transformers import LightGlueConfig, LightGlueForKeypointMatching, SuperPointConfig
from transformers.models.lightglue.image_processing_pil_lightglue import LightGlueImageProcessorPil

from track2view.cli.commands import parse
from track2view.errors import UserError
from track2view.evaluate.benchmark import Given
from track2view.evaluate.lpips import BACKBONE, WEIGHTS, Distance, LpipsMeasure
from track2view.evaluate.matches import MatchMeasure, convert_gim
from track2view.evaluate.worlds import Worlds

HEADS, WIDTH, LAYERS = 2, 16, 2


def small_config() -> LightGlueConfig:
    detector = SuperPointConfig(
        encoder_hidden_sizes=[4, 4, 8, 8], decoder_hidden_size=8, descriptor_decoder_dim=WIDTH, keypoint_threshold=0.0
    )
    return LightGlueConfig(
        keypoint_detector_config=detector,
        descriptor_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        depth_confidence=-1.0,
        width_confidence=-1.0,
    )


@pytest.fixture(scope="module")
def matcher() -> LightGlueForKeypointMatching:
    """Points match where SuperPoint, of random weights, finds what is alike: attention adds little."""
    torch.manual_seed(0)
    model = LightGlueForKeypointMatching(small_config()).eval()
    with torch.no_grad():
        for layer in model.transformer_layers:
            layer.cross_attention.k_proj.load_state_dict(layer.cross_attention.q_proj.state_dict())
            for mlp in (layer.self_mlp, layer.cross_mlp):
                mlp.fc2.weight.mul_(0.01)
                mlp.fc2.bias.zero_()
        for convolution in model.keypoint_detector.modules():
            if isinstance(convolution, torch.nn.Conv2d):
                torch.nn.init.normal_(convolution.weight, std=2 / math.sqrt(convolution.weight[0].numel()))
        for each in model.match_assignment_layers:
            each.final_projection.weight.copy_(400 * torch.eye(WIDTH))
            each.matchability.bias.fill_(6.0)
    return model


@pytest.fixture(scope="module")
def weights(matcher: LightGlueForKeypointMatching, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "lightglue"
    matcher.save_pretrained(folder)
    LightGlueImageProcessorPil(size={"height": 64, "width": 112}).save_pretrained(folder)
    return folder


def about(source: torch.Tensor, exact: torch.Tensor | None = None) -> Given[None]:
    return Given(source=source, exact=exact, fps=Fraction(15), caption="", parallax=0.0, known=None)


def clip(seed: int, frames: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, 64, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_what_is_alike_is_matched(weights: Path) -> None:
    measure = MatchMeasure(weights)
    one, other = clip(0), clip(1)
    same, unlike = measure(one, about(one)), measure(one, about(other))
    pair = [one[0].permute(1, 2, 0).numpy()] * 2
    points = measure.model.keypoint_detector(measure.processor(pair, return_tensors="pt")["pixel_values"][0])
    assert same["matched_points_0.1"] > 0.5 * float(points.mask[0].sum()) / 1000 > 0
    assert same["matched_points_0.1"] > 2 * unlike["matched_points_0.1"]
    assert same["matched_points_0.1"] >= same["matched_points_0.2"] >= same["matched_points_0.5"]
    shared = measure(one, about(one, exact=torch.cat([one[:1], other[1:]])))
    assert shared["matched_points_of_exact"] > 1.2, "the exact view has fewer in common with the source"
    half = torch.cat([one[:1], other[1:]])
    mixed = measure(half, about(one))["matched_points_0.1"]
    alone = [measure(each, about(one[:1]))["matched_points_0.1"] for each in (one[:1], other[1:])]
    assert alone[1] < mixed < alone[0], "a mean over frames"


def as_gim(model: LightGlueForKeypointMatching) -> dict[str, torch.Tensor]:
    """Weights by the names of GIM's implementation: "superpoint.…" and "model.…"."""
    own = model.state_dict()
    found: dict[str, torch.Tensor] = {}

    def moved(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in own:
                found[f"{theirs}.{kind}"] = own[f"{ours}.{kind}"]

    moved("model.posenc.Wr", "positional_encoder.projector")
    for index in range(LAYERS):
        layer, theirs = f"transformer_layers.{index}", f"model.transformers.{index}"
        for kind in ("weight", "bias"):
            parts = [own[f"{layer}.self_attention.{letter}_proj.{kind}"] for letter in "qkv"]
            rows = [part[row] for row in range(WIDTH) for part in parts]
            found[f"{theirs}.self_attn.Wqkv.{kind}"] = torch.stack(rows)
        moved(f"{theirs}.self_attn.out_proj", f"{layer}.self_attention.o_proj")
        moved(f"{theirs}.cross_attn.to_qk", f"{layer}.cross_attention.q_proj")
        moved(f"{theirs}.cross_attn.to_v", f"{layer}.cross_attention.v_proj")
        moved(f"{theirs}.cross_attn.to_out", f"{layer}.cross_attention.o_proj")
        for side in ("self", "cross"):
            for number, name in ((0, "fc1"), (1, "layer_norm"), (3, "fc2")):
                moved(f"{theirs}.{side}_attn.ffn.{number}", f"{layer}.{side}_mlp.{name}")
        moved(f"model.log_assignment.{index}.final_proj", f"match_assignment_layers.{index}.final_projection")
        moved(f"model.log_assignment.{index}.matchability", f"match_assignment_layers.{index}.matchability")
        moved(f"model.token_confidence.{index}.token.0", f"token_confidence.{index}.token")
    for block in range(4):
        for letter in "ab":
            moved(f"superpoint.conv{block + 1}{letter}", f"keypoint_detector.encoder.conv_blocks.{block}.conv_{letter}")
    for letter in "ab":
        moved(f"superpoint.convP{letter}", f"keypoint_detector.keypoint_decoder.conv_score_{letter}")
        moved(f"superpoint.convD{letter}", f"keypoint_detector.descriptor_decoder.conv_descriptor_{letter}")
    return found


def test_gims_checkpoint_is_the_same_matcher(matcher: LightGlueForKeypointMatching, tmp_path: Path) -> None:
    torch.save({"state_dict": as_gim(matcher)}, tmp_path / "gim.ckpt")
    convert_gim(tmp_path / "gim.ckpt", tmp_path / "lightglue", small_config())
    read = LightGlueForKeypointMatching.from_pretrained(tmp_path / "lightglue").state_dict()
    for name, each in matcher.state_dict().items():
        assert torch.equal(read[name], each), name
    lacking = {name: each for name, each in as_gim(matcher).items() if "to_v.weight" not in name}
    torch.save(lacking, tmp_path / "cut.ckpt")
    with pytest.raises(UserError, match=r"cut.ckpt: not LightGlue with SuperPoint: .*cross_attention.v_proj.weight is missing"):
        convert_gim(tmp_path / "cut.ckpt", tmp_path / "none", small_config())
    (tmp_path / "gim.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"gim.ckpt: no checkpoint of GIM's"):
        parse(["benchmark", "gim", str(tmp_path / "gim.ckpt"), str(tmp_path / "none")]).run()
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no LightGlue \(.*get it from https://github.com/xuelunshen/gim"):
        MatchMeasure(tmp_path / "empty")


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS's own weights on an AlexNet of random ones."""
    folder = tmp_path_factory.mktemp("lpips")
    spec = find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    (folder / WEIGHTS).write_bytes((Path(spec.origin).parent / "functional/image/lpips_models/alex.pth").read_bytes())
    torch.manual_seed(1)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {f"features.{index}.weight": torch.randn(shape) / math.sqrt(math.prod(shape[1:])) for index, shape in shapes.items()}
    state |= {f"features.{index}.bias": 0.1 * torch.randn(shape[0]) for index, shape in shapes.items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(1)}, folder / BACKBONE)
    return folder


def test_lpips_is_what_its_parts_say(lpips: Path) -> None:
    """The network layer by layer, and torchmetrics' own scaling and weighting."""
    one, other = clip(0, 3), clip(1, 3)
    state, own = (torch.load(lpips / name, map_location="cpu", weights_only=True) for name in (BACKBONE, WEIGHTS))

    def layers(frames: torch.Tensor) -> list[torch.Tensor]:
        x = ScalingLayer()(frames.float() / 127.5 - 1)
        found = []
        for index, options, pooled in ((0, (4, 2), False), (3, (1, 2), True), (6, (1, 1), True), (8, (1, 1), False), (10, (1, 1), False)):
            x = max_pool2d(x, 3, 2) if pooled else x
            x = relu(conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], *options))
            found.append(x / x.norm(dim=1, keepdim=True))
        return found

    expected = torch.zeros(3, 64, 112)
    for index, (a, b) in enumerate(zip(layers(one), layers(other), strict=True)):
        weighted = NetLinLayer(a.shape[1], use_dropout=True)
        weighted.load_state_dict({"model.1.weight": own[f"lin{index}.model.1.weight"]})
        expected += interpolate(weighted.eval()((a - b) ** 2), (64, 112), mode="bilinear")[:, 0].detach()
    found = Distance(lpips)(one, other)
    assert float(expected.mean()) > 0.01
    assert torch.allclose(found, expected, atol=1e-4)
    assert float(Distance(lpips)(one, one).abs().max()) == 0


def test_lpips_is_told_apart_by_what_the_source_shows(lpips: Path) -> None:
    worlds = Worlds(static=0, dynamic=1, frames=3, size=(64, 112))
    given = worlds.given(worlds.cases[0])
    measure, exact, seen = LpipsMeasure(lpips), given.known.target.colour, given.known.seen
    spoilt = torch.where(seen[:, None], exact, 255 - exact)
    values = measure(spoilt, given)
    assert values["lpips_disoccluded"] > 2 * values["lpips_seen"]
    share = float(seen.float().mean())
    assert values["lpips"] == pytest.approx(share * values["lpips_seen"] + (1 - share) * values["lpips_disoccluded"], rel=1e-4)
    assert list(measure(spoilt, replace(given, known=None))) == ["lpips"]
    assert measure(spoilt, about(exact)) == {}


def test_lpips_names_what_is_missing(lpips: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{BACKBONE}: cannot be read .*get it from https://download.pytorch.org"):
        Distance(tmp_path)
    torch.save({}, tmp_path / BACKBONE)
    (tmp_path / WEIGHTS).write_bytes((lpips / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match="no LPIPS"):
        Distance(tmp_path)
