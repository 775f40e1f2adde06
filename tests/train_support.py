"""A tiny adapter and made-up examples, trained for real; run as a program it can be killed.

python tests/train_support.py OUT [--steps N] [--sharding none|zero1|fsdp2] [--micro-batch N] [--compiled]
"""

import argparse
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import torch
from test_conditioner import random_condition
from test_dual_view import WIDTH, draw, tiny_transformer
from torch import Tensor

from track2view.model.checkpoint import AdapterRecord, QueryPlan, add_lora
from track2view.model.conditioners.camera import CameraCondition
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.train.adapter import AdapterTask
from track2view.train.data import Example
from track2view.train.denoising import PairFeed
from track2view.train.loop import train
from track2view.train.plan import TrainingPlan
from track2view.train.processes import processes

PLAN = TrainingPlan(
    steps=8,
    batch=4,
    micro_batch=2,
    learning_rate=1e-2,
    warmup=2,
    decay=3,
    average=0.9,
    log_every=1,
    validate_every=4,
    sample_every=8,
    save_every=2,
)


class MadeUp:
    """Examples drawn by number: most of one shape, some longer."""

    def __init__(self, count: int = 13, spoilt: int | None = None) -> None:
        self.count, self.spoilt = count, spoilt

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        frames = self.shape_of(index)[0]
        source, target = (draw(10 * index + view, 16, frames, 4, 6) for view in (0, 1))
        return Example(
            name=f"pair{index}",
            source=source,
            target=target * float("nan") if index == self.spoilt else target,
            text=draw(index, 5, 16),
            condition=random_condition(index, frames=frames, count=20 + index),
            camera=CameraCondition(poses=draw(index, 1, frames, 12)),
        )

    def shape_of(self, index: int) -> tuple[int, ...]:
        return (3 if index % 3 else 2), 4, 6

    def text_of(self, caption: str) -> Tensor:
        assert caption == ""
        return torch.zeros(5, 16)

    def verify(self) -> None:
        pass

    def fingerprint(self) -> str:
        return sha256(f"{self.count} {self.spoilt}".encode()).hexdigest()


def tiny_task(examples: MadeUp | None = None, *, checkpointing: bool = False) -> AdapterTask:
    transformer = tiny_transformer().requires_grad_(False)
    torch.manual_seed(5)
    conditioner = TrackConditioner(token_width=WIDTH, width=24, layers=1, heads=3, bands=3)
    add_lora(transformer, 4, 4)
    model = DualViewModel(transformer, conditioner, DualViewModes(rope="synchronised"))
    given = examples or MadeUp()
    record = AdapterRecord(base="tiny", width=WIDTH, modes=model.modes, queries=QueryPlan(), lora_rank=4, lora_alpha=4)
    feed = PairFeed(given, seed=PLAN.seed, shift=5.0)
    return AdapterTask(model, feed, record, Path("nowhere"), held_out=given, validated=(0, 1))


def run(out: Path, plan: TrainingPlan = PLAN, examples: MadeUp | None = None, sharding: str = "none", loaders: int = 0) -> AdapterTask:
    task = tiny_task(examples)
    recipe = {name: value for name, value in asdict(plan).items() if name in ("learning_rate", "batch", "seed", "clip")}
    with processes("cpu") as here:
        train(task, plan, recipe, out, here, sharding=sharding, loaders=loaders)
    return task


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=PLAN.steps)
    parser.add_argument("--micro-batch", type=int, default=PLAN.micro_batch)
    parser.add_argument("--sharding", default="none")
    parser.add_argument("--compiled", action="store_true")
    given = parser.parse_args()
    run(given.out, replace(PLAN, steps=given.steps, micro_batch=given.micro_batch, compiled=given.compiled), sharding=given.sharding)
    sys.exit(0)
