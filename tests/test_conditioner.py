from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from track2view.model.conditioners.bilinear import sample_reference, sample_tracks, scatter_reference, scatter_tracks
from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, TrackContext, ViewCondition
from track2view.records import PairedTracks, ViewTracks

F, N, SIZE = 5, 12, (4, 6)


def random_tracks(seed: int, frames: int = F, count: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uv = torch.rand(1, frames, count, 2, generator=generator, dtype=torch.float64)
    return uv, torch.rand(1, frames, count, generator=generator) < 0.7


def random_condition(seed: int, frames: int = F, count: int = N) -> TrackCondition:
    generator = torch.Generator().manual_seed(seed)
    views = []
    for shift in (0, 1):
        uv, valid = random_tracks(10 * seed + shift, frames, count)
        views.append(ViewCondition(uv=uv.float(), disparity=torch.rand(1, frames, count, generator=generator), valid=valid))
    return TrackCondition(source=views[0], target=views[1], confidence=torch.rand(1, frames, count, generator=generator))


def small_conditioner(**options) -> TrackConditioner:
    torch.manual_seed(0)
    conditioner = TrackConditioner(token_width=16, width=24, layers=2, heads=3, bands=3, **options).eval()
    torch.nn.init.normal_(conditioner.out_proj.weight, std=0.1)
    return conditioner


def both(context: TrackContext) -> tuple[Tensor, Tensor]:
    return context.source, context.target


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(1, F, *SIZE, 16, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_fast_and_reference_agree_in_values_and_gradients(seed: int) -> None:
    uv, valid = random_tracks(seed)
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, F, *SIZE, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(1, F, N, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    for fast, slow, leaf in (
        (sample_tracks(field, uv, valid), sample_reference(field, uv, valid), field),
        (scatter_tracks(values, uv, valid, SIZE), scatter_reference(values, uv, valid, SIZE), values),
    ):
        assert torch.allclose(fast, slow, atol=1e-12)
        direction = torch.randn(fast.shape, generator=generator, dtype=torch.float64)
        gradients = [torch.autograd.grad((out * direction).sum(), leaf)[0] for out in (fast, slow)]
        assert torch.allclose(*gradients, atol=1e-12)


def test_gradcheck_of_sample_and_scatter() -> None:
    uv, valid = random_tracks(3, frames=2, count=5)
    field = torch.randn(1, 2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(1, 2, 5, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(1, 2, 5, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(lambda each: sample_tracks(each, uv, valid), (field,))
    assert torch.autograd.gradcheck(lambda each: scatter_tracks(each, uv, valid, (3, 4), weight), (values,))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scatter_is_the_normalised_adjoint_of_sample(seed: int) -> None:
    uv, valid = random_tracks(seed)
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, F, *SIZE, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(1, F, N, 3, generator=generator, dtype=torch.float64)
    adjoint = torch.autograd.grad((sample_tracks(field, uv, valid) * values).sum(), field)[0]
    ones = torch.ones_like(values)
    amount = torch.autograd.grad((sample_tracks(field, uv, valid) * ones).sum(), field)[0]
    expected = torch.where(amount > 0, adjoint / amount.clamp(min=1e-300), 0.0)
    assert torch.allclose(scatter_tracks(values, uv, valid, SIZE), expected, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), value=st.floats(-5, 5))
def test_a_constant_field_comes_back_wherever_tracks_are(seed: int, value: float) -> None:
    uv, valid = random_tracks(seed)
    field = torch.full((1, F, *SIZE, 2), value, dtype=torch.float64)
    back = scatter_tracks(sample_tracks(field, uv, valid), uv, valid, SIZE)
    covered = scatter_tracks(torch.ones(1, F, N, 2, dtype=torch.float64), uv, valid, SIZE) > 0
    assert torch.allclose(back[covered], field[covered], atol=1e-9)
    assert bool((back[~covered] == 0).all())


def test_tracks_on_cell_centres_are_reproduced_exactly() -> None:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(8), indexing="ij")
    uv = torch.stack([(columns + 0.5) / 8, (rows + 0.5) / 4], dim=-1).reshape(1, 1, 32, 2).expand(1, F, 32, 2)
    valid = torch.ones(1, F, 32, dtype=torch.bool)
    field = torch.randn(1, F, 4, 8, 3)
    sampled = sample_tracks(field, uv, valid)
    assert torch.equal(sampled, field.flatten(2, 3))
    assert torch.equal(scatter_tracks(sampled, uv, valid, (4, 8)), field)


def test_a_fresh_conditioner_adds_nothing() -> None:
    fresh = TrackConditioner(token_width=16, width=24, layers=1, heads=3)
    for context in both(fresh(tokens(), random_condition(1))):
        assert bool((context == 0).all())


def test_the_order_of_tracks_does_not_matter() -> None:
    conditioner, condition = small_conditioner(), random_condition(2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    views = [
        replace(view, uv=view.uv[:, :, order], disparity=view.disparity[:, :, order], valid=view.valid[:, :, order])
        for view in (condition.source, condition.target)
    ]
    shuffled = TrackCondition(source=views[0], target=views[1], confidence=condition.confidence[:, :, order])
    for one, other in zip(both(conditioner(tokens(), condition)), both(conditioner(tokens(), shuffled)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_an_invalid_track_changes_nothing_and_one_never_seen_gives_zeros() -> None:
    conditioner, condition = small_conditioner(), random_condition(3)
    never = condition.source.valid.clone()
    never[:, :, 0] = False
    hidden = replace(condition, source=replace(condition.source, valid=never))
    assert bool((conditioner.follow(tokens(), hidden.source)[:, :, 0] == 0).all())
    views = [
        replace(view, uv=view.uv[:, :, 1:], disparity=view.disparity[:, :, 1:], valid=view.valid[:, :, 1:])
        for view in (hidden.source, hidden.target)
    ]
    without = TrackCondition(source=views[0], target=views[1], confidence=condition.confidence[:, :, 1:])
    for one, other in zip(both(conditioner(tokens(), hidden)), both(conditioner(tokens(), without)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_masked_frames_of_a_living_track_get_the_same_context_with_and_without_gradients() -> None:
    conditioner, condition = small_conditioner(), random_condition(4)
    valid = torch.zeros_like(condition.source.valid)
    valid[:, :2] = True
    tail_masked = replace(condition.source, valid=valid)
    with_gradients = conditioner.follow(tokens(), tail_masked)
    with torch.no_grad():
        without = conditioner.follow(tokens(), tail_masked)
    assert torch.allclose(with_gradients, without, atol=1e-5)
    assert float(without[:, 2:].abs().min(-1).values.max()) > 0


def test_surer_and_nearer_tracks_can_be_made_to_count_more() -> None:
    uv = torch.full((1, 1, 2, 2), 0.5)
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    values = torch.tensor([[[[0.0], [1.0]]]])
    even = scatter_tracks(values, uv, valid, (1, 1))
    leaning = scatter_tracks(values, uv, valid, (1, 1), torch.tensor([[[1.0, 3.0]]]))
    assert float(even) == pytest.approx(0.5)
    assert float(leaning) == pytest.approx(0.75)
    condition = random_condition(5)
    plain, weighted = small_conditioner(), small_conditioner(confidence_strength=1.0, nearness_strength=2.0)
    assert not torch.allclose(plain(tokens(), condition).target, weighted(tokens(), condition).target)


def test_golden_numbers() -> None:
    source, target = both(small_conditioner()(tokens(), random_condition(6)))
    found = torch.stack([source.mean(), source.std(), target.mean(), target.std()])
    assert torch.allclose(found, torch.tensor([0.0374, 0.4275, 0.0310, 0.3735]), atol=2e-4)


def test_saved_and_loaded(tmp_path) -> None:
    conditioner, condition = small_conditioner(), random_condition(7)
    conditioner.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    again = TrackConditioner.from_pretrained(tmp_path).eval()
    for one, other in zip(both(conditioner(tokens(), condition)), both(again(tokens(), condition)), strict=True):
        assert torch.equal(one, other)


def paired(frames: int, seed: int = 0) -> PairedTracks:
    generator = torch.Generator().manual_seed(seed)

    def view() -> ViewTracks:
        uv = torch.rand(frames, 6, 2, generator=generator) * 1.4 - 0.2
        depth = torch.rand(frames, 6, generator=generator) * 3 + 0.5
        return ViewTracks(uv=uv, depth=depth, valid=((uv >= 0) & (uv <= 1)).all(-1))

    return PairedTracks(source=view(), target=view(), confidence=torch.ones(frames, 6))


@pytest.mark.parametrize(("frames", "latent_frames"), [(17, 5), (33, 9), (50, 14), (1, 1)])
def test_tracks_are_taken_at_latent_frames_and_held_at_the_end(frames: int, latent_frames: int) -> None:
    pairs = paired(frames)
    condition = TrackCondition.of(pairs, latent_frames)
    at = [min(4 * index, frames - 1) for index in range(latent_frames)]
    assert torch.equal(condition.source.valid[0], pairs.source.valid[at])
    valid = condition.target.valid[0]
    assert torch.equal(condition.target.uv[0][valid], pairs.target.uv[at][valid])


def test_disparity_keeps_the_relation_between_views() -> None:
    pairs = paired(17)
    farther = replace(pairs, target=replace(pairs.target, uv=pairs.source.uv, valid=pairs.source.valid, depth=2 * pairs.source.depth))
    condition = TrackCondition.of(farther, 5)
    valid = condition.source.valid
    assert bool((condition.source.disparity[valid] >= condition.target.disparity[valid]).all())
    grown = replace(
        farther,
        source=replace(farther.source, depth=7 * farther.source.depth),
        target=replace(farther.target, depth=7 * farther.target.depth),
    )
    assert torch.allclose(TrackCondition.of(grown, 5).target.disparity, condition.target.disparity, atol=1e-4)
