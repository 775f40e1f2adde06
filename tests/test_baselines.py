"""Other ways to tell a model its target camera, or none: what they compute, and that they train and load as tracks do."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_conditioner import SIZE, F, N, random_condition
from test_dual_view import NOTHING, PROMPT, SHAPE, SOURCE, TARGET, TIME, WIDTH, draw, tiny_transformer
from torch import Tensor
from torch.nn.functional import silu

from track2view.errors import UserError
from track2view.model.checkpoint import AdapterRecord, QueryPlan, load_adapter, save_adapter
from track2view.model.conditioners import Conditioner
from track2view.model.conditioners.bilinear import sample_reference, scatter_reference
from track2view.model.conditioners.protocol import RenderedView, Views
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.tracks import TrackCondition, time_embedding
from track2view.model.conditioners.trajectory import TrajectoryConditioner
from track2view.model.conditioners.unconditional import NoCondition, UnconditionalConditioner
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.latents import LatentGrid, Strides
from track2view.model.parallel import trainable_parameters

D, HEADS = 16, 3


def branches(*, blocks: int = 2, width: int = D) -> TrajectoryConditioner:
    torch.manual_seed(0)
    conditioner = TrajectoryConditioner(token_width=width, blocks=blocks, branch_width=12, heads=HEADS).eval()
    for branch in conditioner.branches:
        torch.nn.init.normal_(branch.out.weight, std=0.3)
    return conditioner


def tokens(seed: int) -> Tensor:
    return draw(seed, 1, F, *SIZE, D)


def learnt(conditioner: TrajectoryConditioner, target: Tensor, source: Tensor, given: TrackCondition, block: int = 1) -> Tensor:
    """What a branch adds to the target's tokens, (1, F, h, w, D)."""
    around = conditioner(source, given).around_attention(block)
    zero = torch.zeros_like(target.flatten(1, 3))
    return around.gives(Views(target=target.flatten(1, 3), source=zero), Views(target=zero, source=zero)).target.reshape(target.shape)


def reference(conditioner: TrajectoryConditioner, target: Tensor, source: Tensor, given: TrackCondition, block: int = 1) -> Tensor:
    """The same, one track after another: gather, ask, remember, lay back."""
    branch = conditioner.branches[block]
    normed = torch.nn.functional.layer_norm(source, source.shape[-1:])
    here = sample_reference(target, given.target.uv, given.target.valid)[0] @ branch.asks.weight.T
    there = sample_reference(normed, given.source.uv, given.source.valid)[0] @ branch.remembers.weight.T
    time = time_embedding(F, 12, target.device)
    out = torch.zeros(1, F, N, 12)
    for n in range(N):
        asking, key, value = here[:, n].chunk(3, dim=-1)
        source_key, source_value = there[:, n].chunk(2, dim=-1)
        seen = torch.cat([given.target.valid[0, :, n], given.source.valid[0, :, n]])
        if not seen.any():
            continue
        keys, values = torch.cat([key + time, source_key + time])[seen], torch.cat([value, source_value])[seen]
        for head in range(HEADS):
            part = slice(4 * head, 4 * head + 4)
            weight = ((asking + time)[:, part] @ keys[:, part].T / math.sqrt(4)).softmax(-1)
            out[0, :, n, part] = weight @ values[:, part]
    return scatter_reference(out, given.target.uv, given.target.valid, SIZE) @ branch.out.weight.T


@pytest.mark.parametrize("seed", range(4))
def test_branches_attend_along_tracks_as_a_loop_over_tracks_does(seed: int) -> None:
    conditioner, given = branches(), random_condition(seed)
    nowhere = given.target.valid.clone()
    nowhere[:, :, 0] = False
    unseen = replace(given, target=replace(given.target, valid=nowhere), source=replace(given.source, valid=nowhere & given.source.valid))
    for condition in (given, unseen):
        target, source = tokens(seed), tokens(seed + 50).requires_grad_()
        gradients = []
        for way in (learnt, reference):
            found = way(conditioner, target.requires_grad_(), source, condition)
            found.square().sum().backward()
            gradients.append((found.detach(), target.grad, source.grad, conditioner.branches[1].asks.weight.grad))
            target.grad = source.grad = conditioner.branches[1].asks.weight.grad = None
        for fast, slow in zip(*gradients, strict=True):
            assert torch.allclose(fast, slow, atol=1e-4)
        assert float(gradients[0][0].abs().max()) > 0.1


@torch.no_grad()
def test_what_tracks_do_not_see_has_no_say() -> None:
    conditioner, given = branches(), random_condition(3)
    target, source = tokens(1), tokens(2)
    usual = learnt(conditioner, target, source, given)
    views = [replace(each, uv=torch.where(each.valid[..., None], each.uv, 0.123)) for each in (given.source, given.target)]
    assert torch.allclose(learnt(conditioner, target, source, replace(given, source=views[0], target=views[1])), usual, atol=1e-6)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    turned = [replace(each, uv=each.uv[:, :, order], valid=each.valid[:, :, order]) for each in (given.source, given.target)]
    assert torch.allclose(learnt(conditioner, target, source, replace(given, source=turned[0], target=turned[1])), usual, atol=1e-5)
    unpaired = replace(given, source=turned[0])
    assert not torch.allclose(learnt(conditioner, target, source, unpaired), usual, atol=1e-2), "which track is whose matters"


@torch.no_grad()
def test_each_block_has_a_branch_of_its_own_and_the_source_is_left_alone() -> None:
    conditioner, given = branches(), random_condition(3)
    target, source = tokens(1), tokens(2)
    assert not torch.allclose(learnt(conditioner, target, source, given, 0), learnt(conditioner, target, source, given, 1), atol=1e-2)
    read, attended = (Views(target=tokens(seed).flatten(1, 3), source=tokens(seed + 1).flatten(1, 3)) for seed in (5, 7))
    around = conditioner(source, given).around_attention(0)
    assert around.reads(read) is read
    assert torch.equal(around.gives(read, attended).source, attended.source)
    alone = read._replace(target=None), attended._replace(target=None)
    assert around.gives(*alone) is alone[1]


def guide(seed: int, *, frames: int = 5, size: tuple[int, int] = (8, 12)) -> RenderedView:
    return RenderedView(latents=draw(seed, 1, 16, frames, *size), shown=draw(seed + 1, 1, frames, *size).sigmoid())


@torch.no_grad()
def test_each_block_adds_what_it_makes_of_a_rendered_view_to_the_target_alone() -> None:
    torch.manual_seed(0)
    conditioner, given = RenderConditioner(token_width=D, blocks=2, guide_width=6), guide(3)
    for layer in conditioner.layers:
        torch.nn.init.normal_(layer.weight)
    said = conditioner(draw(10, 1, 5, 4, 6, D), given)
    views = Views(target=draw(11, 1, 5 * 24, D), source=draw(12, 1, 5 * 24, D))
    for block in range(2):
        led = said.before_block(block, views)
        assert torch.equal(led.source, views.source)
        added = (led.target - views.target).reshape(1, 5, 4, 6, D)
        for frame, row, column in itertools.product(range(5), range(4), range(6)):
            part = (0, slice(None), frame, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            seen = torch.cat([given.latents[part], given.shown[0, frame, part[3], part[4]][None]])
            embedded = (conditioner.embed.weight[:, :, 0] * seen).sum((1, 2, 3)) + conditioner.embed.bias
            hidden = silu(conditioner.mix.weight @ silu(embedded) + conditioner.mix.bias)
            assert torch.allclose(added[0, frame, row, column], conditioner.layers[block].weight @ hidden, atol=1e-5)
    alone = views._replace(target=None)
    assert said.before_block(0, alone) is alone
    two = [guide(3), guide(5)]
    both = RenderedView(latents=torch.cat([each.latents for each in two]), shown=torch.cat([each.shown for each in two]))
    source, still = draw(10, 2, 5, 4, 6, D), Views(target=torch.zeros(4, 5 * 24, D))
    added = conditioner(source, both).repeated(2).before_block(0, still).target
    expected = [conditioner(source[:1], each).before_block(0, Views(target=torch.zeros(1, 5 * 24, D))).target for each in two]
    assert torch.allclose(added, torch.cat([*expected, *expected]), atol=1e-6)


def test_a_rendered_view_is_grey_where_nothing_is_shown_and_says_how_much_is() -> None:
    grid = LatentGrid(frames=6, size=(18, 30), strides=Strides(frames=4, pixels=4, patch=(2, 2)))
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 256, (6, 3, 18, 30), generator=generator, dtype=torch.uint8)
    shown = torch.rand(6, 18, 30, generator=generator) > 0.4
    seen: list[Tensor] = []
    view = RenderedView.of(colour, shown, grid, lambda video: seen.append(video) or torch.zeros(1, 16, 3, 6, 8))
    where = shown[:, None].expand_as(colour)
    video = seen[0][0].permute(1, 0, 2, 3)[:6, :, :18, :30]
    assert torch.allclose(video[where], colour[where] / 127.5 - 1)
    assert float(video[~where].abs().max()) < 0.005
    filled = torch.nn.functional.pad(shown[None].float(), (0, 2, 0, 6, 0, 3), mode="replicate")[0]  # as pixels are
    for frame, times in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        for row, column in itertools.product(range(6), range(8)):
            share = filled[times, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean()
            assert float(view.shown[0, frame, row, column]) == pytest.approx(float(share), abs=1e-5)
    assert view.alive
    assert not replace(view, shown=torch.zeros_like(view.shown)).alive


def conditioners(*, fresh: bool) -> list[tuple[Conditioner, object]]:
    trajectory, unconditional = branches(blocks=3, width=WIDTH), UnconditionalConditioner(token_width=WIDTH, blocks=3)
    torch.nn.init.normal_(unconditional.embedding)
    render = RenderConditioner(token_width=WIDTH, blocks=3, guide_width=8)
    if not fresh:
        for layer in render.layers:
            torch.nn.init.normal_(layer.weight)
    if fresh:
        trajectory = TrajectoryConditioner(token_width=WIDTH, blocks=3, branch_width=12, heads=HEADS)
        unconditional = UnconditionalConditioner(token_width=WIDTH, blocks=3)
    frames, rows, columns = SHAPE[2:]
    given = guide(1, frames=frames, size=(rows, columns))
    return [(trajectory, random_condition(1, frames=frames)), (unconditional, NoCondition()), (render, given)]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_fresh_ones_change_nothing_and_others_do_in_every_mode(attention: str) -> None:
    modes = DualViewModes(attention=attention)
    for fresh in (True, False):
        for conditioner, given in conditioners(fresh=fresh):
            model = DualViewModel(tiny_transformer(), conditioner, modes).eval()
            plain, led = (model(TARGET, TIME, (PROMPT,), SOURCE, each)[0] for each in (None, given))
            assert torch.equal(plain, led) == fresh
            if attention == "cached-source":
                condition = model.condition(SOURCE, given)
                memory = model.remember(SOURCE, PROMPT, condition)
                found = model(TARGET, TIME, (PROMPT,), condition=condition, memories=[memory])[0]
                assert torch.allclose(found, led, atol=1e-5)


@torch.no_grad()
def test_guidance_at_once_is_guidance_one_by_one() -> None:
    for conditioner, given in conditioners(fresh=False):
        model = DualViewModel(tiny_transformer(), conditioner).eval()
        condition = model.condition(SOURCE, given)
        alone = [model(TARGET, TIME, (text,), SOURCE, condition)[0] for text in (PROMPT, NOTHING)]
        twice = [torch.cat([each, each]) for each in (TARGET, SOURCE)]
        both = model(twice[0], TIME.repeat(2), (torch.cat([PROMPT, NOTHING]),), twice[1], condition.repeated(2))[0]
        assert torch.allclose(both, torch.cat(alone), atol=1e-5)


def test_they_are_saved_and_loaded_as_adapters_and_refuse_another_base(tmp_path: Path) -> None:
    for conditioner, given in conditioners(fresh=False):
        name = type(conditioner).__name__
        transformer = tiny_transformer().requires_grad_(False)
        model = DualViewModel(transformer, conditioner).eval()
        record = AdapterRecord(
            base="tiny", width=WIDTH, conditioner=name, modes=DualViewModes(), queries=QueryPlan(), lora_rank=0, lora_alpha=0
        )
        save_adapter(tmp_path / name, trainable_parameters(model), record, conditioner.config)
        again, _ = load_adapter(tmp_path / name, tiny_transformer())
        with torch.no_grad():
            one, other = (each(TARGET, TIME, (PROMPT,), SOURCE, given)[0] for each in (model, again))
        assert torch.equal(one, other)
        with pytest.raises(UserError, match="blocks: expected this base's 2, got 3"):
            load_adapter(tmp_path / name, tiny_transformer(num_layers=2))


@torch.no_grad()
def test_without_a_condition_each_block_has_a_vector_of_its_own() -> None:
    conditioner = UnconditionalConditioner(token_width=WIDTH, blocks=3)
    conditioner.embedding.copy_(draw(11, 3, WIDTH))
    said = conditioner(draw(10, 2, 5, 4, 6, WIDTH), NoCondition())
    for block in range(3):
        read = said.around_attention(block).reads(Views(target=torch.zeros(2, 5 * 24, WIDTH))).target
        assert torch.equal(read, conditioner.embedding[block].expand_as(read))


def test_heads_share_a_branch_evenly() -> None:
    with pytest.raises(UserError, match="branch_width: expected a multiple of 3 heads, got 10"):
        TrajectoryConditioner(token_width=WIDTH, blocks=1, branch_width=10, heads=3)
