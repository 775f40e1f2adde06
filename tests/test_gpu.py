"""On a CUDA device: the same numbers as on the CPU, in every memory mode, and compiled; worlds rendered faster than trained on."""

import time
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
from track2view.scenes import make_rig, make_varied_world, render_path, stream_pairs

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


@pytest.mark.parametrize("seed", range(4))
def test_worlds_look_the_same_on_the_gpu(seed: int) -> None:
    world, camera = make_varied_world(seed, frames=5, dynamic=True), make_rig(seed, frames=5, size=(128, 224))["cam02"]
    here, there = render_path(world, camera), render_path(world.to("cuda"), camera)
    apart = (here.colour.int() - there.colour.cpu().int()).abs().amax(1)
    assert float((apart <= 2).float().mean()) >= 0.999
    one, other = (
        next(iter(stream_pairs("test", range(seed, seed + 1), frames=5, size=(64, 112), device=device))) for device in ("cpu", "cuda")
    )
    assert torch.allclose(one.tracks.xyz_world, other.tracks.xyz_world.cpu(), atol=1e-3)
    assert float((one.tracks.visible == other.tracks.visible.cpu()).float().mean()) > 0.999


def test_ten_thousand_frames_a_second() -> None:
    world = make_varied_world(0, frames=292, dynamic=True).to("cuda")
    camera = make_rig(0, frames=292, size=(128, 224))["cam02"]
    render_path(world, camera)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(5):
        render_path(world, camera)
    torch.cuda.synchronize()
    assert 5 * 292 / (time.perf_counter() - started) >= 10_000
