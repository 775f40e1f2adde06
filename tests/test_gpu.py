"""On a CUDA device: the same numbers as on the CPU, in every memory mode, and compiled."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_conditioner import random_condition
from test_diffusion import FAST, Shot, shot  # noqa: F401
from test_dual_view import NOTHING, PROMPT, SOURCE, TARGET, TIME, tiny_model

from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.dual_view import DualViewModes
from track2view.model.make import new_model

pytestmark = pytest.mark.gpu


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_the_model_computes_what_it_does_on_the_cpu(attention: str) -> None:
    model, condition = tiny_model(DualViewModes(attention=attention)), random_condition(1, frames=5)
    expected = model(TARGET, TIME, (PROMPT, NOTHING), SOURCE, condition)
    model.cuda()
    found = model(TARGET.cuda(), TIME.cuda(), (PROMPT.cuda(), NOTHING.cuda()), SOURCE.cuda(), condition.to(torch.device("cuda")))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other.cpu(), atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_modes_agree_on_the_gpu(dtype: torch.dtype, shot: Shot, tmp_path: Path) -> None:  # noqa: F811
    new_model("micro", tmp_path)
    made = {}
    for memory in ("fast", "balanced", "low"):
        pipe = Track2ViewPipeline.from_pretrained(tmp_path / "base", tmp_path / "adapter", device="cuda", dtype=dtype)
        made[memory] = pipe(*shot, replace(FAST, memory=memory)).frames.int()
    assert int((made["fast"] - made["balanced"]).abs().max()) <= 2
    assert int((made["fast"] - made["low"]).abs().max()) <= 2
