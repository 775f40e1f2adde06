"""What a training run takes, from configurations alone: parameters by group, memory of each process, operations of a step, hours."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from track2view.model.cost import Shape, block_flops, conditioner_flops, step_flops
from track2view.model.dual_view import DualViewModes
from track2view.model.parallel import trainable_parameters
from track2view.train.plan import Sharding, TrainingPlan

PEAK_TFLOPS = {"h100": 989.0, "h200": 989.0, "a100": 312.0, "rtx4090": 165.0}
"""Dense bfloat16 products, by their makers' data sheets."""
USED = 0.4
"""Share of the peak that training is assumed to reach."""
LIBRARIES_BYTES = 1.5e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run takes.

    Attributes:
        groups: trained parameters by what they belong to.
        frozen: parameters that stay.
        bytes_by_use: of one process, at its peak.
        checkpoint_bytes: of one on disk.
        step_flops: of one step, over all processes.
        steps: of the run.
    """

    groups: Mapping[str, int]
    frozen: int
    bytes_by_use: Mapping[str, float]
    checkpoint_bytes: float
    step_flops: float
    steps: int

    @property
    def trained(self) -> int:
        """Parameters in all groups."""
        return sum(self.groups.values())

    @property
    def memory(self) -> float:
        """Bytes of one process."""
        return sum(self.bytes_by_use.values())

    def hours(self, gpu: str, processes: int) -> float:
        """On so many GPUs of a kind in :data:`PEAK_TFLOPS`, at :data:`USED` of its peak."""
        return self.step_flops * self.steps / (PEAK_TFLOPS[gpu] * 1e12 * USED * processes) / 3600

    def lines(self, processes: int) -> list[str]:
        """In words."""
        total = {name: f"{count / 1e6:,.2f} M" for name, count in self.groups.items()}
        return [
            f"trained    {self.trained / 1e6:,.2f} M parameters: " + ", ".join(f"{name} {count}" for name, count in total.items()),
            f"frozen     {self.frozen / 1e6:,.2f} M parameters",
            f"memory     {self.memory / 1e9:.1f} GB a process: "
            + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.bytes_by_use.items()),
            f"disk       {self.checkpoint_bytes / 1e9:.2f} GB a checkpoint",
            f"a step     {self.step_flops / 1e12:,.1f} TFLOP over {processes} process{'es' * (processes > 1)}; {self.steps:,} steps",
            "hours      "
            + ", ".join(f"{self.hours(gpu, processes):,.1f} on {processes} {gpu}" for gpu in PEAK_TFLOPS)
            + f" (at {USED:.0%} of the peak)",
        ]


def groups_of(model: nn.Module) -> tuple[dict[str, int], int]:
    """Trained parameters by group, and how many are frozen."""
    groups: dict[str, int] = {}
    trained = trainable_parameters(model)
    for name, each in trained.items():
        group = "LoRA" if ".lora_" in name else name.split(".")[0] if name.startswith(("conditioner", "view_embedding")) else "base"
        groups[group] = groups.get(group, 0) + each.numel()
    return groups, sum(each.numel() for each in model.parameters()) - sum(groups.values())


def adapter_estimate(
    model: nn.Module,
    shape: Shape,
    modes: DualViewModes,
    grid: tuple[int, int, int],
    tracks: int,
    plan: TrainingPlan,
    *,
    processes: int,
    sharding: Sharding = "none",
) -> Estimate:
    """Of training an adapter, or all of a dual-view model.

    A forward pass counts once; the backward pass once for what gradients flow through and once more for weights that are trained
    themselves; checkpointing computes the forward pass again. Activations: what enters each block stays under checkpointing, and one
    block's own (24 values of float32 a token and width, and its products in the weights' type); without, those of all blocks.

    Args:
        model: on the meta device suffices.
        grid: tokens of one view, (F, h, w).
        tracks: that the conditioner reads.
    """
    groups, frozen = groups_of(model)
    trained = sum(groups.values())
    tokens = grid[0] * grid[1] * grid[2]
    half = 2 if plan.precision == "bfloat16" else 4
    forward = step_flops(shape, modes, tokens, branches=1) + conditioner_flops(shape, grid, tracks)
    if modes.attention == "cached-source":  # training computes the source's blocks beside the target's
        forward = forward + block_flops(shape, tokens, tokens) * shape.blocks
    passes = 2.0 + plan.checkpointing + ("base" in groups)
    shards = processes if sharding == "fsdp2" else 1
    moments = processes if sharding in ("zero1", "fsdp2") else 1
    seen = plan.micro_batch * 2 * tokens
    entering = seen * shape.width * half
    within = seen * (24 * shape.width + (4 * shape.width + 2 * shape.feed_forward) * half)
    per_track = plan.micro_batch * tracks * grid[0] * shape.conditioner_width
    conditioner = per_track * 24 * 4 * (1 if plan.checkpointing else shape.conditioner_layers)
    return Estimate(
        groups=groups,
        frozen=frozen,
        bytes_by_use={
            "libraries": LIBRARIES_BYTES,
            "frozen weights": frozen * half / shards,
            "trained weights, gradients, average": 3 * 4 * trained / shards,
            "moments": 2 * 4 * trained / moments,
            "activations": shape.blocks * entering + within if plan.checkpointing else shape.blocks * within,
            "conditioner": conditioner,
        },
        checkpoint_bytes=4 * 4 * trained,
        step_flops=forward.total * passes * plan.batch,
        steps=plan.steps,
    )
