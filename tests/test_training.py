import socket
from pathlib import Path

import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conditioner import random_condition
from test_dual_view import PROMPT, SHAPE, draw, tiny_model
from torch.nn.parallel import DistributedDataParallel

from track2view.train.draws import (
    draw_dropped_frames,
    draw_sigma,
    drop_captions,
    drop_source_frames,
    flow_matching_loss,
    noised,
    subsample_tracks,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_noised_target_and_its_velocity_lead_to_clean_and_to_noise() -> None:
    clean, noise, sigma = draw(1, 3, 2, 2, 4, 4), draw(2, 3, 2, 2, 4, 4), torch.tensor([0.0, 0.3, 1.0])
    latents, velocity = noised(clean, noise, sigma)
    level = sigma[:, None, None, None, None]
    assert torch.equal(latents[0], clean[0])
    assert torch.equal(latents[2], noise[2])
    assert torch.allclose(latents - level * velocity, clean, atol=1e-6)
    assert torch.allclose(latents + (1 - level) * velocity, noise, atol=1e-6)
    assert float(flow_matching_loss(velocity, velocity)) == 0.0


def test_noise_levels_follow_the_shifted_uniform() -> None:
    sigma = draw_sigma(20000, seeded(0))
    assert float(sigma.median()) == pytest.approx(5 * 0.5 / (1 + 4 * 0.5), abs=0.01)
    assert torch.equal(sigma[:5], draw_sigma(20000, seeded(0))[:5])


@given(seed=st.integers(0, 1000), frames=st.integers(1, 21))
@settings(deadline=None)
def test_dropped_source_frames_are_zero_and_their_tracks_invalid_exactly_there(seed: int, frames: int) -> None:
    condition, source = random_condition(seed, frames=frames), draw(seed, 1, 4, frames, 4, 6) + 3.0
    dropped = draw_dropped_frames(1, frames, seeded(seed))
    assert int(dropped.sum()) <= frames / 2
    fewer, changed = drop_source_frames(source, condition, dropped)
    kept = ~dropped[0]
    assert torch.equal(fewer[:, :, kept], source[:, :, kept])
    assert float(fewer[:, :, dropped[0]].abs().sum()) == 0.0
    assert torch.equal(changed.source.valid, condition.source.valid & kept[None, :, None])
    assert torch.equal(changed.target.valid, condition.target.valid)


def test_every_number_of_dropped_frames_up_to_half_occurs() -> None:
    counts = draw_dropped_frames(4000, 8, seeded(1)).sum(1)
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_subsampling_keeps_half_to_all_tracks_paired(seed: int) -> None:
    condition = random_condition(seed, frames=4, count=40)
    fewer = subsample_tracks(condition, seeded(seed))
    count = fewer.confidence.shape[2]
    assert 20 <= count <= 40
    for column in range(0, count, 7):
        same = (condition.source.uv == fewer.source.uv[:, :, column : column + 1]).all(-1).all(1)[0]
        assert bool((condition.target.uv[:, :, same] == fewer.target.uv[:, :, column : column + 1]).all())


def test_captions_are_dropped_about_as_often_as_asked() -> None:
    texts, nothing = draw(1, 2000, 3, 4), torch.zeros(1, 3, 4)
    out = drop_captions(texts, nothing, seeded(3), share=0.1)
    gone = (out == 0).flatten(1).all(1)
    assert 0.07 < float(gone.float().mean()) < 0.13
    assert torch.equal(out[~gone], texts[~gone])


def _loss(model: torch.nn.Module, seed: int) -> torch.Tensor:
    target, source, noise = (draw(100 * seed + index, *SHAPE) for index in range(3))
    latents, velocity = noised(target, noise, torch.tensor([0.6]))
    found = model(latents, torch.tensor([600.0]), (PROMPT,), source, random_condition(seed, frames=5))[0]
    return flow_matching_loss(found, velocity)


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name.removeprefix("module."): each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    assert found
    return found


def _rank(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = tiny_model()
    model.transformer.requires_grad_(False)
    wrapped = DistributedDataParallel(model.train())
    _loss(wrapped, rank).backward()
    torch.save(_gradients(wrapped), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_get_the_gradients_of_both_samples(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    model = tiny_model()
    model.transformer.requires_grad_(False)
    (0.5 * (_loss(model.train(), 0) + _loss(model, 1))).backward()
    alone = _gradients(model)
    assert ranks[0].keys() == ranks[1].keys() == alone.keys()
    assert any("conditioner" in name for name in alone)
    for name, gradient in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert torch.allclose(ranks[0][name], gradient, atol=1e-7), name
