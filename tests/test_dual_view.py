from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from test_conditioner import random_condition
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from track2view.errors import UserError
from track2view.model import dual_view
from track2view.model.conditioners.camera import CameraConditioning
from track2view.model.conditioners.protocol import Conditioning, Views
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.conditioners.trajectory import TrajectoryConditioner
from track2view.model.dual_view import DualViewModel, DualViewModes

SHAPE = (1, 16, 5, 8, 12)
WIDTH = 24


def tiny_transformer(**other: object) -> WanTransformer3DModel:
    torch.manual_seed(0)
    given = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 16,
        "ffn_dim": 32,
        "num_layers": 3,
        "rope_max_seq_len": 32,
    }
    return WanTransformer3DModel(**(given | other)).eval()


def tiny_model(modes: DualViewModes | None = None, *, fresh: bool = False) -> DualViewModel:
    transformer = tiny_transformer()
    torch.manual_seed(1)
    conditioner = TrackConditioner(token_width=WIDTH, width=24, layers=1, heads=3, bands=3)
    if not fresh:
        torch.nn.init.normal_(conditioner.out_proj.weight, std=0.2)
    return DualViewModel(transformer, conditioner, modes).eval()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TARGET, SOURCE, TIME = draw(1, *SHAPE), draw(2, *SHAPE), torch.tensor([637.0])
PROMPT, NOTHING = draw(3, 1, 7, 16), draw(4, 1, 7, 16)


@torch.no_grad()
def test_one_view_is_the_transformer_bit_for_bit() -> None:
    model = tiny_model()
    expected = model.transformer(TARGET, TIME, PROMPT, return_dict=False)[0]
    assert torch.equal(model(TARGET, TIME, (PROMPT,))[0], expected)


@torch.no_grad()
def test_a_fresh_conditioner_changes_nothing_bit_for_bit() -> None:
    model = tiny_model(fresh=True)
    contexts = model.condition(SOURCE, random_condition(1, frames=5))
    with_tracks = model(TARGET, TIME, (PROMPT,), SOURCE, contexts)[0]
    assert torch.equal(with_tracks, model(TARGET, TIME, (PROMPT,), SOURCE)[0])


@torch.no_grad()
def test_tracks_change_the_result_once_the_conditioner_is_trained() -> None:
    model = tiny_model()
    contexts = model.condition(SOURCE, random_condition(1, frames=5))
    assert not torch.allclose(model(TARGET, TIME, (PROMPT,), SOURCE, contexts)[0], model(TARGET, TIME, (PROMPT,), SOURCE)[0])


@torch.no_grad()
@pytest.mark.parametrize("timestep", ["segmented", "shared"])
def test_two_views_equal_the_transformer_over_their_concatenation_with_a_timestep_per_token(timestep: str) -> None:
    model = tiny_model(DualViewModes(timestep=timestep))
    tokens = 5 * 4 * 6
    source_time = torch.zeros(1, tokens) if timestep == "segmented" else TIME.expand(1, tokens)
    table = torch.cat([TIME.expand(1, tokens), source_time], dim=1)
    both = model.transformer(torch.cat([TARGET, SOURCE], dim=2), table, PROMPT, return_dict=False)[0]
    found = model(TARGET, TIME, (PROMPT,), SOURCE)[0]
    assert torch.allclose(found, both[:, :, :5], atol=1e-6)


@torch.no_grad()
def test_synchronised_positions_are_told_apart_by_their_marks() -> None:
    model = tiny_model(DualViewModes(rope="synchronised"))
    assert model.view_embedding is not None
    before = model(TARGET, TIME, (PROMPT,), SOURCE)[0]
    sequential = tiny_model()(TARGET, TIME, (PROMPT,), SOURCE)[0]
    assert not torch.allclose(before, sequential)
    model.view_embedding.data[1] = 0.5
    assert not torch.allclose(before, model(TARGET, TIME, (PROMPT,), SOURCE)[0])


@torch.no_grad()
def test_cached_source_equals_joint_attention_under_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(DualViewModes(attention="cached-source"))
    contexts = model.condition(SOURCE, random_condition(2, frames=5))
    found = model(TARGET, TIME, (PROMPT,), SOURCE, contexts)[0]

    joint = DualViewModel(model.transformer, model.conditioner).eval()
    tokens = 5 * 4 * 6
    own = torch.arange(2 * tokens).expand(tokens, -1) >= tokens
    asked: list[str] = []

    def masked(query: Tensor, key: Tensor, value: Tensor, backend: object = None) -> Tensor:
        asked.append("source" if asked and asked[-1] == "target" else "target")
        mask = own if asked[-1] == "source" else None
        out = torch.nn.functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value)), attn_mask=mask)
        return out.transpose(1, 2)

    monkeypatch.setattr(dual_view, "dispatch_attention_fn", masked)
    expected = joint(TARGET, TIME, (PROMPT,), SOURCE, contexts)[0]
    assert asked == ["target", "source", "target", "source", "target"]
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_a_remembered_source_gives_the_same_result_as_one_computed_at_every_step() -> None:
    model = tiny_model(DualViewModes(attention="cached-source"))
    contexts = model.condition(SOURCE, random_condition(2, frames=5))
    memories = [model.remember(SOURCE, text, contexts) for text in (PROMPT, NOTHING)]
    kept = model(TARGET, TIME, (PROMPT, NOTHING), None, contexts, memories)
    anew = model(TARGET, TIME, (PROMPT, NOTHING), SOURCE, contexts)
    assert all(torch.equal(one, other) for one, other in zip(kept, anew, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_guidance_branches_together_equal_each_alone_bit_for_bit(attention: str) -> None:
    model = tiny_model(DualViewModes(attention=attention))
    together = model(TARGET, TIME, (PROMPT, NOTHING), SOURCE)
    alone = [model(TARGET, TIME, (text,), SOURCE)[0] for text in (PROMPT, NOTHING)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


@torch.no_grad()
def test_leaving_out_the_sources_queries_in_the_last_block_changes_nothing() -> None:
    model = tiny_model()
    found = model(TARGET, TIME, (PROMPT,), SOURCE)[0]
    for block in model.blocks:
        forward = block.forward
        block.forward = lambda *given, forward=forward, asking, **rest: forward(*given, **rest)
    assert torch.equal(found, model(TARGET, TIME, (PROMPT,), SOURCE)[0])


@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_checkpointing_changes_no_gradient(attention: str) -> None:
    model = tiny_model(DualViewModes(attention=attention))
    gradients = []
    for on in (False, True):
        model.enable_gradient_checkpointing(on)
        model.zero_grad()
        contexts = model.condition(SOURCE, random_condition(2, frames=5))
        model(TARGET, TIME, (PROMPT,), SOURCE, contexts)[0].square().mean().backward()
        gradients.append({name: each.grad.clone() for name, each in model.conditioner.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-7), name


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="token_width: expected this base's 24, got 16"):
        DualViewModel(tiny_transformer(), TrackConditioner(token_width=16, width=24, layers=1, heads=3))
    with pytest.raises(UserError, match="text-to-video"):
        DualViewModel(tiny_transformer(in_channels=36), TrackConditioner(token_width=WIDTH, width=24, layers=1, heads=3))
    with pytest.raises(UserError, match="cached-source"):
        DualViewModes(attention="cached-source", timestep="shared")


def test_memories_are_refused_where_the_source_changes() -> None:
    cached, joint = tiny_model(DualViewModes(attention="cached-source")), tiny_model()
    with pytest.raises(ValueError, match="give source instead"):
        joint(TARGET, TIME, (PROMPT,), None, None, [cached.remember(SOURCE, PROMPT)])


@torch.no_grad()
def test_attention_that_only_plain_mathematics_could_do_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(dual_view, "MAX_SCORES_BYTES", 1000)
    model(TARGET, TIME, (PROMPT,), SOURCE)
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(UserError, match=r"attention over 240 tokens needs .* use --dtype bfloat16"):
        model(TARGET, TIME, (PROMPT,), SOURCE)


@torch.no_grad()
def test_attention_kernels_agree() -> None:
    """On the CPU: torch's fused kernel and plain mathematics."""
    model, found = tiny_model(), []
    kernels = [*dual_view.attention_backends("cpu"), "_native_math"]
    for name in kernels:
        model.transformer.set_attention_backend(name)
        found.append(model(TARGET, TIME, (PROMPT,), SOURCE)[0])
    assert len(set(kernels)) >= 2
    assert not torch.equal(found[0], found[1])
    assert all(torch.allclose(each, found[0], atol=1e-5) for each in found)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 0)])
def test_kernels_are_found_by_the_kind_of_device_and_those_without_a_backward_are_not_for_training(
    device: str | torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(dual_view, "find_spec", lambda _: True)
    assert dual_view.attention_backends(device) == ["_flash_3", "_native_cudnn", "flash", "native"]
    assert dual_view.attention_backends(device, training=True) == ["_native_cudnn", "flash", "native"]
    assert dual_view.attention_backends(device, torch.float32) == ["native"]


@torch.no_grad()
def test_synchronised_views_stand_at_the_same_places() -> None:
    """Whoever sees the same picture twice at the same places sees it once."""
    model = tiny_model(DualViewModes(rope="synchronised", timestep="shared"))
    assert torch.allclose(model(TARGET, TIME, (PROMPT,), TARGET)[0], model(TARGET, TIME, (PROMPT,))[0], atol=1e-5)
    sequential = tiny_model(DualViewModes(timestep="shared"))
    assert not torch.allclose(sequential(TARGET, TIME, (PROMPT,), TARGET)[0], sequential(TARGET, TIME, (PROMPT,))[0], atol=1e-3)


def test_every_tensor_has_one_place(tmp_path: Path) -> None:
    model = tiny_model(DualViewModes(rope="synchronised"))
    state = model.state_dict()
    assert len({each.data_ptr() for each in state.values()}) == len(state)
    assert sum(each.numel() for each in state.values()) == sum(
        each.numel() for each in (*model.transformer.parameters(), *model.conditioner.parameters(), model.view_embedding)
    )
    save_file(state, tmp_path / "whole.safetensors")
    assert load_file(tmp_path / "whole.safetensors").keys() == state.keys()
    assert {type(each).__name__ for each in model.modules()} >= set(model._no_split_modules)


@pytest.mark.parametrize("attention", ["joint", pytest.param("cached-source", marks=pytest.mark.slow)])
def test_blocks_compile_whole_also_where_attention_is_looked_at_twice(attention: str) -> None:
    torch.multiprocessing.spawn(compile_blocks, (attention,))


@torch.no_grad()
def compile_blocks(_: int, attention: str) -> None:
    """In a process where nothing checks types: Dynamo does not follow the checks."""
    dual_view.MAX_SCORES_BYTES = 1000
    model = tiny_model(DualViewModes(attention=attention))
    given = [(TARGET, TIME, (PROMPT, NOTHING), SOURCE, each) for each in all_kinds_of_conditions(model)]
    expected = [model(*each) for each in given]
    model.compile_blocks("eager")
    for each, results in zip(given, expected, strict=True):
        torch._dynamo.reset()
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(model(*each), results, strict=True))


def all_kinds_of_conditions(model: DualViewModel) -> list[Conditioning]:
    return [
        model.condition(SOURCE, random_condition(1, frames=5)),
        PerBlock(draw(7, 3, WIDTH), draw(8, WIDTH)),
        CameraConditioning(embeddings=draw(9, 3, 1, 5, WIDTH)),
        TrajectoryConditioner(token_width=WIDTH, blocks=3, branch_width=12)(draw(10, 1, 5, 4, 6, WIDTH), random_condition(2, frames=5)),
    ]


@pytest.mark.slow
def test_gradients_of_compiled_trajectories_are_the_same() -> None:
    torch.multiprocessing.spawn(train_compiled)


def train_compiled(_: int) -> None:
    """In a process where nothing checks types; by the compiler that training uses, which knows patterns of its own in attention."""
    torch.set_num_threads(1)
    model = tiny_model()
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile_blocks("inductor")
        model.zero_grad()
        condition = all_kinds_of_conditions(model)[-1].repeated(2)
        twice = [torch.cat([each, each]) for each in (TARGET, TIME, PROMPT, SOURCE)]
        model(*twice[:2], (twice[2],), twice[3], condition)[0].square().mean().backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    own, other = gradients
    assert own.keys() == other.keys()
    assert all(torch.allclose(own[name], other[name], atol=1e-6, rtol=1e-3) for name in own)


@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_checkpointing_keeps_what_enters_blocks_and_no_more(attention: str) -> None:
    """Keys and values of a source that is cached in inference, two tensors of its size a block, among what is not kept."""
    model = tiny_model(DualViewModes(attention=attention))
    model.transformer.requires_grad_(False)
    model.enable_gradient_checkpointing()
    condition, saved = model.condition(SOURCE, random_condition(2, frames=5)), {}
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.setdefault(each.data_ptr(), each), lambda each: each):
        found = model(TARGET, TIME, (PROMPT,), SOURCE, condition)[0]
    tokens = 5 * 4 * 6 * WIDTH
    large = sum(each.numel() for each in saved.values() if each.numel() >= tokens)
    assert large <= (2 * len(model.blocks) + 4) * tokens
    found.square().mean().backward()


class PerBlock(Conditioning):
    """An embedding in every block's attention, as camera embeddings are, and one in front of the second block."""

    def __init__(self, marks: Tensor, front: Tensor) -> None:
        self.marks, self.front = marks, front

    def before_block(self, index: int, views: Views) -> Views:
        return views._replace(target=views.target + self.front) if index == 1 else views

    def around_attention(self, index: int) -> "Marks":
        return Marks(self.marks[index])

    def repeated(self, times: int) -> "PerBlock":
        return self


class Marks:
    def __init__(self, mark: Tensor) -> None:
        self.mark = mark

    def reads(self, normed: Views) -> Views:
        return normed.map(lambda view: view + self.mark)

    def gives(self, read: Views, attended: Views) -> Views:
        return attended.map(lambda each, view: each + 0.1 * view, read)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "cached-source"])
def test_a_conditioner_can_act_in_front_of_and_around_the_attention_of_every_block(attention: str) -> None:
    model = tiny_model(DualViewModes(attention=attention))
    marks, front = draw(7, 3, WIDTH), draw(8, WIDTH)
    plain = model(TARGET, TIME, (PROMPT,), SOURCE)[0]
    whole = model(TARGET, TIME, (PROMPT,), SOURCE, PerBlock(marks, front))[0]
    for index in range(3):
        less = marks.clone()
        less[index] = 0
        assert not torch.allclose(model(TARGET, TIME, (PROMPT,), SOURCE, PerBlock(less, front))[0], whole, atol=1e-4)
    assert not torch.allclose(model(TARGET, TIME, (PROMPT,), SOURCE, PerBlock(marks, 0 * front))[0], whole, atol=1e-4)
    assert not torch.allclose(model(TARGET, TIME, (PROMPT,), SOURCE, PerBlock(0 * marks, 0 * front))[0], plain, atol=1e-4)
