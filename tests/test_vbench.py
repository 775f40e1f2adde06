"""VBench's two dimensions with networks of their own, against numbers that their makers' code gave for the same random weights."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from track2view.errors import UserError
from track2view.evaluate.amt import FILE as AMT_FILE
from track2view.evaluate.amt import Interpolator, MotionMeasure
from track2view.evaluate.benchmark import Given
from track2view.evaluate.musiq import FILE as MUSIQ_FILE
from track2view.evaluate.musiq import QualityMeasure

NOTHING = Given(source=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), exact=None, fps=Fraction(15), caption="", parallax=0.0, known=None)
D, FEED, LAYERS = 24, 40, 3
"""Of a small MUSIQ."""


def filled(shapes: dict[str, tuple[int, ...]], seed: int, gain: float = 0.5) -> dict[str, Tensor]:
    generator, state = torch.Generator().manual_seed(seed), {}
    for name in sorted(shapes):
        drawn = torch.randn(shapes[name], generator=generator)
        state[name] = drawn * (gain / max(1, drawn[0].numel()) ** 0.5 if drawn.ndim > 1 else 0.3)
    return state


def musiq_shapes() -> dict[str, tuple[int, ...]]:
    """Published names."""
    block, layer = "block1", "transformer_encoder.transformer.encoderblock"
    shapes: dict[str, tuple[int, ...]] = {
        "conv_root.weight": (64, 3, 7, 7),
        f"{block}.conv1.weight": (64, 64, 1, 1),
        f"{block}.conv2.weight": (64, 64, 3, 3),
        f"{block}.conv3.weight": (256, 64, 1, 1),
        f"{block}.conv_proj.weight": (256, 64, 1, 1),
        "transformer_encoder.posembed_input.position_emb": (1, 100, D),
        "transformer_encoder.scaleembed_input.scale_emb": (3, D),
        "transformer_encoder.cls": (1, 1, D),
    }
    vectors = {"gn_root": 64, f"{block}.gn1": 64, f"{block}.gn2": 64, f"{block}.gn3": 256, f"{block}.gn_proj": 256}
    vectors |= {f"{layer}_{index}.norm{each}": D for index in range(LAYERS) for each in (1, 2)}
    vectors["transformer_encoder.encoder_norm"] = D
    for name, width in vectors.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    maps = {"embedding": (D, 16384), "head": (1, D)}
    for index in range(LAYERS):
        maps |= {f"{layer}_{index}.attention.{each}": (D, D) for each in ("query", "key", "value", "out")}
        maps |= {f"{layer}_{index}.mlp.fc1": (FEED, D), f"{layer}_{index}.mlp.fc2": (D, FEED)}
    for name, (outer, inner) in maps.items():
        shapes |= {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}
    return shapes


def clip(frames: int, height: int, width: int, seed: int) -> Tensor:
    coarse = torch.rand(frames, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return (interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(filled(musiq_shapes(), 2), folder / MUSIQ_FILE)
    shapes = {name: tuple(each.shape) for name, each in Interpolator().state_dict().items()}
    torch.save({"state_dict": filled(shapes, 1, gain=1.2)}, folder / AMT_FILE)
    return folder


@pytest.mark.parametrize(
    ("size", "score"), [((64, 112), 0.08586038), ((240, 416), 0.08791592), ((131, 77), 0.08631738), ((320, 640), 0.08837198)]
)
def test_imaging_quality_is_what_musiqs_own_code_says(weights: Path, size: tuple[int, int], score: float) -> None:
    assert QualityMeasure(weights)(clip(2, *size, 5), NOTHING)["imaging_quality"] == pytest.approx(score, abs=2e-7)


def test_motion_smoothness_is_what_amts_own_code_says(weights: Path) -> None:
    assert MotionMeasure(weights)(clip(6, 144, 200, 4), NOTHING)["motion_smoothness"] == pytest.approx(50.91935, abs=5e-3)


@pytest.fixture(scope="module")
def averaging(tmp_path_factory: pytest.TempPathFactory) -> MotionMeasure:
    """With weights of zero: no flow, and the mean of both frames."""
    folder = tmp_path_factory.mktemp("zero")
    torch.save({"state_dict": {name: torch.zeros_like(each) for name, each in Interpolator().state_dict().items()}}, folder / AMT_FILE)
    return MotionMeasure(folder)


def test_motion_is_smooth_where_odd_frames_lie_between_even_ones(averaging: MotionMeasure) -> None:
    dark, light = torch.zeros(3, 128, 136, dtype=torch.uint8), torch.full((3, 128, 136), 255, dtype=torch.uint8)
    still, alternating = torch.stack([light] * 5), torch.stack([dark, light, dark, light])
    ramp = torch.stack([torch.full_like(dark, 20 * index) for index in range(5)])
    jump = torch.stack([dark, dark, light])
    for frames, score in ((still, 100), (alternating, 0), (ramp, 100), (jump, 100 * (1 - 127 / 255))):
        assert averaging(frames, NOTHING)["motion_smoothness"] == pytest.approx(score, abs=0.5)


def test_frames_whose_sides_the_network_does_not_divide_lose_nothing_at_their_borders(averaging: MotionMeasure) -> None:
    frames = clip(3, 128, 136, 7)
    frames[1] = ((frames[0].float() + frames[2].float()) / 2).to(torch.uint8)
    for part in (frames, frames[:, :, :121, :130]):
        assert averaging(part, NOTHING)["motion_smoothness"] == pytest.approx(100, abs=0.3)
    spoilt = frames[:, :, :121, :130].clone()
    spoilt[1, :, 0] = 255 - spoilt[1, :, 0]
    assert averaging(spoilt, NOTHING)["motion_smoothness"] < 99.9


def test_too_few_and_too_small_frames_have_no_smoothness(averaging: MotionMeasure) -> None:
    for frames in (clip(2, 128, 128, 1), clip(5, 112, 200, 1), clip(5, 200, 112, 1)):
        assert math.isnan(averaging(frames, NOTHING)["motion_smoothness"])


@pytest.mark.parametrize(("measure", "name"), [(QualityMeasure, MUSIQ_FILE), (MotionMeasure, AMT_FILE)])
def test_weights_that_are_others_are_refused_in_a_line(measure: type, name: str, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name}: cannot be read"):
        measure(tmp_path)
    for spoilt, said in ((b"not a file of torch's", "cannot be read"), (b"", "cannot be read")):
        (tmp_path / name).write_bytes(spoilt)
        with pytest.raises(UserError, match=said):
            measure(tmp_path)
    for state, said in (({"state_dict": {}}, "no AMT-S|no tensors by name"), ({}, "no MUSIQ|cannot be read"), ([1.0], "cannot be read")):
        torch.save(state, tmp_path / name)
        with pytest.raises(UserError, match=said):
            measure(tmp_path)
    whole = torch.load(weights / name)
    narrow = whole.get("state_dict", whole)
    first = sorted(narrow)[0]
    narrow[first] = narrow[first][:1]
    torch.save(whole, tmp_path / name)
    with pytest.raises(UserError, match=r"size mismatch.*get it from"):
        measure(tmp_path)
