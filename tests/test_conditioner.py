from dataclasses import replace

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from track2view.model.conditioners.bilinear import sample_reference, sample_tracks, scatter_reference, scatter_tracks
from track2view.model.conditioners.protocol import Views
from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, TrackContext, ViewCondition, nearness_weight
from track2view.model.latents import WAN_STRIDES, LatentGrid, Strides
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
    assert torch.allclose(found, torch.tensor([0.0953, 0.4551, 0.0860, 0.4252]), atol=2e-4)


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


def grid(frames: int, strides: Strides = WAN_STRIDES) -> LatentGrid:
    return LatentGrid(frames=frames, size=(50, 84), strides=strides)


@pytest.mark.parametrize(
    ("strides", "frames", "latent_frames", "padded"),
    [
        (WAN_STRIDES, 17, 5, (64, 96)),
        (WAN_STRIDES, 33, 9, (64, 96)),
        (WAN_STRIDES, 50, 14, (64, 96)),
        (WAN_STRIDES, 1, 1, (64, 96)),
        (Strides(frames=4, pixels=4, patch=(2, 2)), 18, 6, (56, 88)),
        (Strides(frames=2, pixels=4, patch=(1, 3)), 18, 10, (52, 84)),
    ],
)
def test_tracks_lie_in_latents_as_the_picture_does(strides: Strides, frames: int, latent_frames: int, padded: tuple[int, int]) -> None:
    """Those at the end of each latent frame, the last one held; in the padded picture."""
    pairs = paired(frames)
    condition = TrackCondition.of(pairs, grid(frames, strides))
    at = [min(strides.frames * index, frames - 1) for index in range(latent_frames)]
    for found, view in ((condition.source, pairs.source), (condition.target, pairs.target)):
        assert torch.equal(found.valid[0], view.valid[at])
        expected = view.uv[at] * torch.tensor([84 / padded[1], 50 / padded[0]])
        assert torch.allclose(found.uv[found.valid], expected[view.valid[at]])
    assert torch.equal(condition.confidence[0], pairs.confidence[at])


def test_disparity_keeps_the_relation_between_views() -> None:
    pairs = paired(17)
    farther = replace(pairs, target=replace(pairs.target, uv=pairs.source.uv, valid=pairs.source.valid, depth=2 * pairs.source.depth))
    condition = TrackCondition.of(farther, grid(17))
    valid = condition.source.valid
    near, far = condition.source.disparity[valid], condition.target.disparity[valid]
    assert torch.allclose(near - near.min(), 2 * (far - far.min()), atol=0.05)
    assert float((near - far).mean()) > 0.1
    grown = replace(
        farther,
        source=replace(farther.source, depth=7 * farther.source.depth),
        target=replace(farther.target, depth=7 * farther.target.depth),
    )
    assert torch.allclose(TrackCondition.of(grown, grid(17)).target.disparity, condition.target.disparity, atol=1e-4)


def with_dead(condition: TrackCondition, clip: int | slice) -> TrackCondition:
    valid = condition.source.valid.clone()
    valid[clip] = False
    return replace(condition, source=replace(condition.source, valid=valid))


def batched(*conditions: TrackCondition) -> TrackCondition:
    def view(name: str) -> ViewCondition:
        views = [getattr(each, name) for each in conditions]
        return ViewCondition(**{part: torch.cat([getattr(each, part) for each in views]) for part in ("uv", "disparity", "valid")})

    return TrackCondition(source=view("source"), target=view("target"), confidence=torch.cat([each.confidence for each in conditions]))


@torch.no_grad()
def test_half_precision_errs_by_its_products_alone() -> None:
    """Positions in a row of 52 cells, which bfloat16 cannot tell apart, are not what it loses."""
    conditioner, condition = small_conditioner(), random_condition(8, count=200)
    wide = torch.randn(1, F, 4, 52, 16, generator=torch.Generator().manual_seed(1))
    expected = torch.stack(both(conditioner(wide, condition)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.stack(both(conditioner(wide, condition))).float()
    assert float((found - expected).norm() / expected.norm()) < 0.005
    half = torch.stack(both(small_conditioner().to(torch.bfloat16)(wide, condition))).float()
    assert bool(half.isfinite().all())
    assert float((half - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_hundred_tracks_in_one_cell_average_what_they_hold(dtype: torch.dtype) -> None:
    uv = torch.rand(1, 1, 400, 2, generator=torch.Generator().manual_seed(0)) / 52
    ones = torch.ones(1, 1, 400, 3, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        cells = scatter_tracks(ones, uv, torch.ones(1, 1, 400, dtype=torch.bool), (30, 52))
    assert cells.dtype == torch.float32
    assert float((cells[0, 0, 0, 0] - 1).abs().max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_clips_of_a_batch_do_not_know_of_each_other(dtype: torch.dtype, tolerance: float) -> None:
    conditioner, conditions = small_conditioner().to(dtype), [random_condition(9), random_condition(10), with_dead(random_condition(11), 0)]
    clips = torch.cat([tokens(seed) for seed in (1, 2, 3)])
    together = conditioner(clips, batched(*conditions))
    for index, condition in enumerate(conditions):
        alone = conditioner(clips[index : index + 1], condition)
        for one, other in zip(both(together), both(alone), strict=True):
            assert torch.allclose(one[index], other[0], atol=tolerance)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_without_a_living_track_adds_nothing_and_gives_finite_gradients(checkpointing: bool) -> None:
    conditioner, dead = small_conditioner().train(), with_dead(random_condition(12), slice(None))
    if checkpointing:
        conditioner.enable_gradient_checkpointing()
    source = tokens().requires_grad_()
    contexts = torch.stack(both(conditioner(source, dead)))
    assert bool((contexts == 0).all())
    contexts.sum().backward()
    gradients = [source.grad, *(each.grad for each in conditioner.parameters())]
    assert all(each is None or bool(each.isfinite().all()) for each in gradients)


def test_no_track_at_latent_frames_is_legal() -> None:
    pairs = paired(17)
    blind = replace(pairs, source=replace(pairs.source, valid=torch.zeros_like(pairs.source.valid)))
    nowhere = replace(blind, target=replace(blind.target, valid=torch.zeros_like(blind.target.valid)))
    for each in (blind, nowhere):
        condition = TrackCondition.of(each, grid(17))
        assert bool(condition.target.disparity.isfinite().all())
        assert bool((small_conditioner()(tokens(), condition).target == 0).all())


def test_what_it_computes_does_not_depend_on_which_tracks_live() -> None:
    """One graph for all: where shapes depended on numbers, a device would have to be waited for."""
    torch.multiprocessing.spawn(compile_for_any_tracks)


@torch.no_grad()
def compile_for_any_tracks(_: int) -> None:
    """In a process where nothing checks types: Dynamo does not follow the checks."""
    conditioner = small_conditioner()
    compiled = torch.compile(conditioner, fullgraph=True, backend="eager")
    for condition in (random_condition(13), with_dead(random_condition(14), slice(None))):
        for one, other in zip(both(compiled(tokens(), condition)), both(conditioner(tokens(), condition)), strict=True):
            assert torch.equal(one, other)


def test_checkpointing_changes_no_gradient_and_keeps_less() -> None:
    kept, gradients = [], []
    for on in (False, True):
        conditioner = small_conditioner().train()
        if on:
            conditioner.enable_gradient_checkpointing()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each.numel()) or each, lambda each: each):  # noqa: B023
            contexts = conditioner(tokens(), random_condition(15, count=300))
            kept.append(sum(saved))
        (contexts.target.square().mean() + contexts.source.mean()).backward()
        gradients.append({name: each.grad for name, each in conditioner.named_parameters()})
    assert kept[1] < 0.2 * kept[0]
    for name, each in gradients[0].items():
        assert torch.allclose(each, gradients[1][name], atol=1e-7), name


@torch.no_grad()
def test_a_track_carries_a_token_from_its_cell_to_its_cell_in_the_other_view_and_no_farther() -> None:
    conditioner = small_conditioner()
    torch.nn.init.eye_(conditioner.out_proj.weight)
    at = {"source": (1, 2), "target": (3, 5)}
    views = {
        name: ViewCondition(
            uv=torch.tensor([(column + 0.5) / SIZE[1], (row + 0.5) / SIZE[0]]).expand(1, F, 1, 2),
            disparity=torch.zeros(1, F, 1),
            valid=torch.ones(1, F, 1, dtype=torch.bool),
        )
        for name, (row, column) in at.items()
    }
    condition = TrackCondition(**views, confidence=torch.ones(1, F, 1))
    before, changed = tokens(), tokens()
    changed[:, :, 1, 2] += 1
    moved = {
        name: (getattr(conditioner(changed, condition), name) - getattr(conditioner(before, condition), name)).abs().sum(-1)[0] > 0
        for name in at
    }
    for name, cell in at.items():
        only = torch.zeros(F, *SIZE, dtype=torch.bool)
        only[:, cell[0], cell[1]] = True
        assert torch.equal(moved[name], only), name


def test_of_two_tracks_in_a_cell_the_nearer_counts_more() -> None:
    view = ViewCondition(
        uv=torch.full((1, 1, 2, 2), 0.5), disparity=torch.tensor([[[0.9, 0.1]]]), valid=torch.ones(1, 1, 2, dtype=torch.bool)
    )
    weight = nearness_weight(view, 2.0)
    assert float(weight[0, 0, 0]) > float(weight[0, 0, 1])
    assert torch.equal(nearness_weight(view, 0.0), torch.ones(1, 1, 2))


def test_contexts_are_added_to_their_own_view_before_the_first_block_alone() -> None:
    context = TrackContext(target=torch.ones(1, 1, 1, 2, 4), source=torch.full((1, 1, 1, 2, 4), 2.0))
    views = Views(target=torch.zeros(1, 2, 4), source=torch.zeros(1, 2, 4))
    first = context.before_block(0, views)
    assert float(first.target.mean()) == 1.0
    assert float(first.source.mean()) == 2.0
    assert context.before_block(1, views) == views
    assert context.before_block(0, Views(target=views.target)).source is None
    assert context.around_attention(0) is None
