from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_conditioner import random_condition
from test_dual_view import draw
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from track2view.model.checkpoint import add_lora
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.cost import (
    LIBRARIES_BYTES,
    Shape,
    block_flops,
    conditioner_flops,
    memory_needed,
    remember_flops,
    step_flops,
    video_flops,
)
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.latents import WAN_STRIDES, LatentGrid
from track2view.model.make import SIZES, new_transformer

FULL = Shape(
    blocks=30,
    width=1536,
    feed_forward=8960,
    patch_values=64,
    text_width=4096,
    conditioner_width=512,
    conditioner_layers=8,
    conditioner_bands=8,
)


def counted(call: Callable[[], object]) -> float:
    """With gradients: without, torch runs an encoder layer as one operation that its counter does not know."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formula = {kernel: lambda query, key, value, *_, **__: sdpa_flop(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=formula) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("attention", ["joint", "cached-source"])
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("branches", [1, 2])
def test_formulas_agree_with_torchs_counter(attention: str, rank: int, branches: int) -> None:
    size = SIZES["micro"]
    transformer = new_transformer(size)
    if rank:
        add_lora(transformer, rank, rank)
    conditioner = TrackConditioner(token_width=48, width=32, layers=2, heads=4)
    model = DualViewModel(transformer, conditioner, DualViewModes(attention=attention)).eval()
    shape = Shape.of(transformer, conditioner, rank)
    grid = (5, 12, 16)
    tokens = 5 * 12 * 16
    source, texts = draw(0, 1, 16, 5, 24, 32), (draw(1, 1, 512, 32),) * branches
    contexts = model.condition(source, random_condition(1, frames=5))
    memories = None
    if attention == "cached-source":
        spent = counted(lambda: [model.remember(source, text, contexts) for text in texts])
        assert spent == pytest.approx(remember_flops(shape, tokens, branches).total, rel=0.02)
        memories = [model.remember(source, text, contexts) for text in texts]
    spent = counted(lambda: model(source, torch.tensor([500.0]), texts, None if memories else source, contexts, memories))
    assert spent == pytest.approx(step_flops(shape, model.modes, tokens, branches).total, rel=0.02)
    condition = random_condition(3, frames=5)
    spent = counted(lambda: conditioner(draw(2, 1, 5, 12, 16, 48), condition))
    assert spent == pytest.approx(conditioner_flops(shape, grid, condition.confidence.shape[2]).total, rel=0.02)


def test_full_size_numbers_are_the_designs() -> None:
    joint = block_flops(FULL, 65520, 65520) * 30
    assert joint.total == pytest.approx(961.5e12, rel=1e-3)
    assert joint.attention / joint.total == pytest.approx(0.83, abs=0.01)
    cached = block_flops(FULL, 32760, 32760, remembered=32760) * 30
    assert cached.total == pytest.approx(480.7e12, rel=1e-3)
    video = video_flops(FULL, DualViewModes(), (21, 30, 52), tracks=1152, steps=50)
    assert conditioner_flops(FULL, (21, 30, 52), 1152).total / video.total < 0.005


def test_lower_memory_modes_need_less() -> None:
    grid = LatentGrid(frames=81, size=(480, 832), strides=WAN_STRIDES)
    needs = [
        memory_needed(FULL, DualViewModes(), grid, mode, parameters=1_419_000_000, encoder_parameters=0, bytes_per_value=2, tracks=1152)
        for mode in ("fast", "balanced", "low")
    ]
    assert needs[0] > needs[1] > needs[2]


def test_memory_follows_the_strides() -> None:
    """The decoder makes all frames of a latent at once; smaller latents are more tokens."""

    def needed(width: int, **changes: int) -> float:
        grid = LatentGrid(frames=17, size=(256, 256), strides=replace(WAN_STRIDES, **changes))
        shape = replace(FULL, width=width, feed_forward=width)
        least = memory_needed(shape, DualViewModes(), grid, "balanced", parameters=0, encoder_parameters=0, bytes_per_value=4, tracks=0)
        return least - LIBRARIES_BYTES

    clip = 2 * 3 * 4 * 17 * 256**2
    assert needed(1, frames=4) - clip == pytest.approx(2 * (needed(1, frames=2) - clip))
    assert needed(1 << 15, pixels=4) == pytest.approx(4 * needed(1 << 15, pixels=8))
