"""Ranks on one machine, over gloo: every way to spread training takes the steps that one process takes."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from test_conditioner import random_condition
from test_dual_view import PROMPT, SHAPE, WIDTH, draw, tiny_model
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from track2view.model.checkpoint import AdapterRecord, QueryPlan, add_lora, save_adapter
from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.parallel import parallelize, trainable_parameters, whole_state

RANKS, STEPS, RATE = 2, 3, 0.05


def trained_model(attention: str) -> DualViewModel:
    """Base frozen, LoRA and conditioner trained, the same numbers in every process."""
    model = tiny_model(DualViewModes(attention=attention, rope="synchronised"))
    model.transformer.requires_grad_(False)
    torch.manual_seed(5)
    add_lora(model.transformer, 4, 4)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(each, std=0.1)
    return model.train()


def batch(clips: slice) -> tuple[Tensor, Tensor, Tensor, TrackCondition, Tensor]:
    """Some of two clips."""
    target, source, velocity = (draw(seed, 2, *SHAPE[1:])[clips] for seed in (11, 12, 13))
    conditions = [random_condition(seed, frames=5) for seed in (21, 22)][clips]

    def joined(view: Callable[[TrackCondition], ViewCondition]) -> ViewCondition:
        views = [view(each) for each in conditions]
        return ViewCondition(**{name: torch.cat([getattr(each, name) for each in views]) for name in ("uv", "disparity", "valid")})

    condition = TrackCondition(
        source=joined(lambda each: each.source),
        target=joined(lambda each: each.target),
        confidence=torch.cat([each.confidence for each in conditions]),
    )
    return target, source, velocity, condition, torch.tensor([637.0, 251.0])[clips]


def train(model: nn.Module, optimiser: torch.optim.Optimizer, clips: slice) -> None:
    target, source, velocity, condition, time = batch(clips)
    for _ in range(STEPS):
        optimiser.zero_grad()
        found = model(target, time, (PROMPT.expand(len(target), -1, -1),), source, condition)[0]
        (found - velocity).square().mean().backward()
        optimiser.step()


def run_rank(rank: int, port: int, way: str, attention: str, out: Path) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of its own deprecated code when it is imported

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    model: nn.Module = parallelize(trained_model(attention), mesh=mesh if way == "FSDP2" else None)
    record, config = record_of(model), model.conditioner.config
    if rank == 0 or way == "FSDP2":
        velocity = sampled(model)
    if way != "FSDP2":
        model = DistributedDataParallel(model)
    given = list(trainable_parameters(model).values())
    optimiser = ZeroRedundancyOptimizer(given, torch.optim.SGD, lr=RATE, momentum=0.9) if way == "ZeRO-1" else sgd(given)
    before = whole_state(trainable_parameters(model))
    train(model, optimiser, slice(rank, rank + 1))
    state = whole_state(trainable_parameters(model))
    if rank == 0:
        save_adapter(out / "adapter", before, record, config)
        torch.save(state, out / "state.pt")
        torch.save(velocity, out / "velocity.pt")
    # gloo's threads may outlive the group: one that still holds a gathered tensor when Python ends aborts the process (FSDP2), and DDP,
    # were it the last to hold the group, would wait for them with the lock held that they may wait for
    del model, given, optimiser
    distributed.barrier()
    distributed.destroy_process_group()


@torch.no_grad()
def sampled(model: DualViewModel) -> Tensor:
    """As a sampler uses a model: what is constant is computed once, beside its forward."""
    target, source, _, condition, time = batch(slice(None))
    text = PROMPT.expand(2, -1, -1)
    conditioning = model.condition(source, condition)
    memories = [model.remember(source, text, conditioning)] if model.modes.attention == "cached-source" else None
    return model(target, time, (text,), source if memories is None else None, conditioning, memories)[0]


def record_of(model: DualViewModel) -> AdapterRecord:
    return AdapterRecord(base="tiny", width=WIDTH, modes=model.modes, queries=QueryPlan(), lora_rank=4, lora_alpha=4)


def tensors_in(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {str(path.relative_to(folder)): load_file(path) for path in folder.rglob("*.safetensors")}


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE, momentum=0.9)


@pytest.mark.parametrize(
    ("way", "attention"),
    [
        ("DDP", "joint"),
        ("FSDP2", "cached-source"),
        ("ZeRO-1", "joint"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("DDP", "cached-source"), ("FSDP2", "joint"), ("ZeRO-1", "cached-source"))
        ),
    ],
)
def test_two_ranks_take_the_steps_that_one_process_takes(way: str, attention: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (port, way, attention, tmp_path), nprocs=RANKS)
    assert torch.allclose(torch.load(tmp_path / "velocity.pt", weights_only=True), sampled(trained_model(attention)), atol=1e-6)
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    model = parallelize(trained_model(attention), checkpointing=False)
    before = whole_state(trainable_parameters(model))
    save_adapter(tmp_path / "plain", before, record_of(model), model.conditioner.config)
    gathered, plain = tensors_in(tmp_path / "adapter"), tensors_in(tmp_path / "plain")
    assert gathered.keys() == plain.keys()
    for file, tensors in plain.items():
        assert gathered[file].keys() == tensors.keys()
        for name, each in tensors.items():
            assert torch.equal(gathered[file][name], each), name
    train(model, sgd(list(trainable_parameters(model).values())), slice(None))
    expected = whole_state(trainable_parameters(model))
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.allclose(found[name], each, atol=1e-6), name
    moved = {name.split(".")[0] for name in expected if not torch.equal(before[name], expected[name])}
    assert moved == {"blocks", "conditioner", "view_embedding"}
