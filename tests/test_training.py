import socket
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_conditioner import random_condition
from test_dual_view import PROMPT, SHAPE, draw, tiny_model
from torch.nn.parallel import DistributedDataParallel

from track2view.model.conditioners.camera import CameraCondition
from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.train.data import Batch, Example
from track2view.train.draws import (
    Draws,
    augmented,
    draw_dropped_caption,
    draw_dropped_frames,
    draw_kept_tracks,
    draw_sigma,
    generator_for,
    keep_tracks,
)
from track2view.train.objective import flow_matching_loss, noised

NOTHING = torch.zeros(3, 4)
SURE = 0.999


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(seed: int, frames: int = 5, count: int = 40) -> Example:
    return Example(
        name=f"scene{seed}/cam01_cam02",
        source=draw(seed, 4, frames, 4, 6).half() + 3,
        target=draw(seed + 1, 4, frames, 4, 6).half(),
        text=draw(seed + 2, 3, 4),
        condition=random_condition(seed, frames=frames, count=count),
        camera=CameraCondition(poses=draw(seed + 3, 1, frames, 12)),
    )


def equally_often(counts: torch.Tensor) -> bool:
    """Whether numbers of occurrences are what chance makes of equal shares, 999 times of 1000."""
    return len(counts) <= 1 or float(chisquare(counts.numpy()).pvalue) > 1 - SURE


def test_the_noised_target_and_its_velocity_lead_to_clean_and_to_noise() -> None:
    clean, noise, sigma = draw(1, 3, 2, 2, 4, 4), draw(2, 3, 2, 2, 4, 4), torch.tensor([0.0, 0.3, 1.0])
    latents, velocity = noised(clean, noise, sigma)
    level = sigma[:, None, None, None, None]
    assert torch.equal(latents[0], clean[0])
    assert torch.equal(latents[2], noise[2])
    assert torch.allclose(latents - level * velocity, clean, atol=1e-6)
    assert torch.allclose(latents + (1 - level) * velocity, noise, atol=1e-6)
    assert float(flow_matching_loss(velocity, velocity)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_is_added_in_float32_whatever_holds_the_latents(dtype: torch.dtype) -> None:
    clean, noise, sigma = draw(1, 2, 2, 2, 4, 4).to(dtype), draw(2, 2, 2, 2, 4, 4), torch.tensor([0.3, 0.9993])
    found, expected = noised(clean, noise, sigma), noised(clean.double().float(), noise, sigma)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    halves = flow_matching_loss(clean, noise.to(dtype))
    assert torch.equal(halves, flow_matching_loss(clean.float(), noise.to(dtype).float()))


def test_noise_levels_follow_the_shifted_uniform() -> None:
    sigma = torch.stack([draw_sigma(generator_for(0, 0, str(index))) for index in range(4000)])
    u = sigma / (5 - 4 * sigma)
    assert equally_often(torch.histc(u, 10, 0, 1))
    assert sigma.dtype == torch.float32


@pytest.mark.parametrize("frames", [1, 2, 8, 21])
def test_every_number_of_dropped_frames_up_to_half_comes_equally_often_and_every_frame(frames: int) -> None:
    generator, most = seeded(1), frames // 2
    dropped = torch.stack([draw_dropped_frames(frames, generator) for _ in range(600 * (most + 1))])
    counts = torch.bincount(dropped.sum(1), minlength=most + 1)
    assert len(counts) == most + 1
    assert equally_often(counts)
    assert most == 0 or equally_often(dropped.sum(0))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 20])
def test_every_number_of_kept_tracks_from_half_comes_equally_often_and_every_track(count: int) -> None:
    generator, least = seeded(2), (count + 1) // 2
    kept = torch.stack([draw_kept_tracks(count, generator) for _ in range(400 * (count - least + 1))])
    counts = torch.bincount(kept.sum(1), minlength=count + 1)
    assert int(counts[:least].sum()) == 0
    assert equally_often(counts[least:])
    assert count == 0 or equally_often(kept.sum(0))


def test_captions_are_dropped_about_as_often_as_asked() -> None:
    generator = seeded(3)
    dropped = torch.stack([draw_dropped_caption(generator) for _ in range(2000)])
    assert 0.08 < float(dropped.float().mean()) < 0.12


@given(seed=st.integers(0, 1000), frames=st.integers(1, 21))
@settings(deadline=None, max_examples=30)
def test_what_is_drawn_is_kept_from_the_model_and_nothing_else(seed: int, frames: int) -> None:
    examples = [example(seed, frames, 40), example(seed + 1, frames, 25)]
    batch, draws = Batch.stack(examples), Draws.of(examples, seed=seed, epoch=0)
    fewer = augmented(batch, draws, NOTHING)
    for row, original in enumerate(examples):
        seen, kept, count = ~draws.dropped_frames[row], draws.kept_tracks[row], original.condition.confidence.shape[2]
        assert torch.equal(fewer.source[row][:, seen], batch.source[row][:, seen])
        assert float(fewer.source[row][:, ~seen].abs().sum()) == 0.0
        assert torch.equal(fewer.text[row], NOTHING if draws.dropped_captions[row] else original.text)
        assert (count + 1) // 2 <= int(kept.sum()) <= count
        assert not bool(kept[count:].any())
        for before, after, where in (
            (batch.condition.source, fewer.condition.source, kept & seen[:, None]),
            (batch.condition.target, fewer.condition.target, kept.expand(frames, -1)),
        ):
            assert torch.equal(after.valid[row], before.valid[row] & where)
            assert torch.equal(after.disparity[row], before.disparity[row] * where)
            assert torch.equal(after.uv[row], before.uv[row])
        assert torch.equal(fewer.condition.confidence[row], batch.condition.confidence[row] * kept)
    assert torch.equal(fewer.target, batch.target)
    assert fewer.names == batch.names


@torch.no_grad()
def test_tracks_that_are_marked_condition_as_tracks_that_are_not_there() -> None:
    model, source = tiny_model(), draw(5, *SHAPE)
    condition, kept = random_condition(1, frames=5, count=40), draw_kept_tracks(40, seeded(4))

    def chosen(view: ViewCondition) -> ViewCondition:
        return ViewCondition(uv=view.uv[:, :, kept], disparity=view.disparity[:, :, kept], valid=view.valid[:, :, kept])

    fewer = TrackCondition(source=chosen(condition.source), target=chosen(condition.target), confidence=condition.confidence[:, :, kept])
    marked, whole = model.condition(source, keep_tracks(condition, kept[None])), model.condition(source, condition)
    expected = model.condition(source, fewer)
    for name in ("source", "target"):
        assert torch.allclose(getattr(marked, name), getattr(expected, name), atol=1e-5)
        assert not torch.allclose(getattr(whole, name), getattr(expected, name), atol=1e-2)


def row_of(draws: Draws, row: int, count: int) -> dict[str, torch.Tensor]:
    found = {each.name: getattr(draws, each.name)[row] for each in fields(draws)}
    assert not bool(found["kept_tracks"][count:].any())
    return {**found, "kept_tracks": found["kept_tracks"][:count]}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[bool]:
    return [torch.equal(one[name], other[name]) for name in one]


def test_a_samples_draws_are_its_own_in_any_batch_and_in_any_place() -> None:
    first, poorer, richer = example(1, count=30), example(2, count=20), example(3, count=50)
    alone = row_of(Draws.of([first], seed=7, epoch=2), 0, 30)
    for others in ([poorer, first, richer], [first, richer], [richer, poorer, first]):
        assert all(same(alone, row_of(Draws.of(others, seed=7, epoch=2), others.index(first), 30)))
    for other in (
        Draws.of([first], seed=8, epoch=2),
        Draws.of([first], seed=7, epoch=3),
        Draws.of([replace(first, name="another")], seed=7, epoch=2),
    ):
        found = dict(zip(alone, same(alone, row_of(other, 0, 30)), strict=True))
        assert not found["sigma"]
        assert not found["noise"]
        assert not found["kept_tracks"]


def test_a_samples_draws_are_the_same_in_every_process() -> None:
    assert generator_for(7, 2, "scene1/cam01_cam02").initial_seed() == 1763130953
    assert generator_for(1, 12, "a").initial_seed() != generator_for(11, 2, "a").initial_seed()


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
    del wrapped  # were it the last to hold the group, it would wait for gloo's threads with the lock held that these may wait for
    torch.distributed.barrier()
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
