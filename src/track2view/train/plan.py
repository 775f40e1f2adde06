"""How long, how fast and how precisely something is trained: the numbers of a run, and which examples each of its steps takes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from track2view.errors import UserError

Precision = Literal["float32", "bfloat16"]
Sharding = Literal["none", "zero1", "fsdp2"]
SHARDINGS: tuple[Sharding, ...] = ("none", "zero1", "fsdp2")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """The numbers of a run.

    Attributes:
        steps: of the optimiser.
        batch: examples a step, over all processes.
        micro_batch: examples at once in a process; what a step needs beyond that is accumulated.
        processes: that it is meant for; any number that can share a step takes the same steps.
        learning_rate: the highest.
        warmup: steps in which it rises from nothing to that, in a straight line.
        decay: last steps, in which it falls in a straight line. Until then a run does not depend on how long it is planned to be, and
            may be made longer or shorter.
        final_rate: share of it that it falls towards.
        weight_decay: AdamW's, on matrices alone.
        betas: AdamW's.
        clip: longest gradient, over all that is trained.
        average: share of the running average of weights that stays at each step; less in the first ones.
        precision: of products under autocast; weights that are trained are float32 either way.
        checkpointing: activations are computed twice instead of kept.
        compiled: blocks are compiled.
        seed: of order, draws and new weights.
        log_every, validate_every, sample_every, save_every: steps between lines, losses, sampled clips, checkpoints.
        kept: newest checkpoints that stay.
    """

    steps: int
    batch: int
    micro_batch: int
    learning_rate: float
    processes: int = 1
    warmup: int = 0
    decay: int = 0
    final_rate: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    average: float = 0.999
    precision: Precision = "float32"
    checkpointing: bool = False
    compiled: bool = False
    seed: int = 0
    log_every: int = 10
    validate_every: int = 500
    sample_every: int = 2000
    save_every: int = 500
    kept: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "processes", "log_every", "validate_every", "sample_every", "save_every", "kept"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise UserError(f"plan.{name}: expected a whole number from 1, got {getattr(self, name)!r:.60}")
        for name, low, high in (("learning_rate", 0, 1), ("final_rate", 0, 1), ("weight_decay", 0, 1), ("average", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"plan.{name}: expected {low} to {high}, got {getattr(self, name)!r:.60}")
        if self.clip <= 0:
            raise UserError(f"plan.clip: expected a positive length, got {self.clip!r:.60}")
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > self.steps:
            raise UserError(f"plan.steps: {self.steps} have no room for {self.warmup} of warm-up and {self.decay} of decay")
        if self.batch % self.micro_batch:
            raise UserError(f"plan.micro_batch: a step's {self.batch} examples are no whole number of micro-batches of {self.micro_batch}")

    def lasting(self, steps: int) -> "TrainingPlan":
        """The same for another number of steps; warm-up and decay shrink with a run that has no room for them."""
        share = min(1.0, steps / max(1, 2 * (self.warmup + self.decay)))
        return replace(self, steps=steps, warmup=int(self.warmup * share), decay=int(self.decay * share))

    def accumulation(self, processes: int) -> int:
        """Micro-batches that each process adds up for a step.

        Raises:
            UserError: a number of processes that a step's examples cannot be shared among.
        """
        micro_batches = self.batch // self.micro_batch
        if micro_batches % processes:
            fitting = [count for count in range(1, micro_batches + 1) if micro_batches % count == 0]
            raise UserError(
                f"{processes} processes cannot share a step of {micro_batches} micro-batches; "
                f"use {' or '.join(map(str, fitting))} processes"
            )
        return micro_batches // processes

    @property
    def schedule(self) -> dict[str, int]:
        """What the learning rate's course follows from, beside its height."""
        return {"steps": self.steps, "warmup": self.warmup, "decay": self.decay}

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        falling = step + 1 - (self.steps - self.decay)
        return self.learning_rate * (1 - (1 - self.final_rate) * falling / (self.decay + 1)) if falling > 0 else self.learning_rate

    def average_at(self, step: int) -> float:
        """What stays of the average at a step: a young average forgets its beginning sooner."""
        return min(self.average, (1 + step) / (10 + step))


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which examples make up each micro-batch of a run: a function of the seed alone, whatever the processes and restarts.

    An epoch takes examples in an order drawn anew, and cuts those of one shape into micro-batches; what fills none is left out of
    that epoch.

    Attributes:
        shapes: of all examples, by index.
        size: examples in a micro-batch.
    """

    shapes: Sequence[tuple[int, ...]]
    size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.per_epoch:
            raise UserError(f"the data hold {len(self.shapes)} examples, of no shape as many as a micro-batch of {self.size} needs")

    @cached_property
    def per_epoch(self) -> int:
        """Micro-batches in an epoch."""
        return sum(count // self.size for count in Counter(self.shapes).values())

    def epoch(self, number: int) -> list[list[int]]:
        """Indices of an epoch's micro-batches, in order."""
        random = np.random.default_rng([self.seed, number])
        waiting: dict[tuple[int, ...], list[int]] = {}
        batches = []
        for index in random.permutation(len(self.shapes)).tolist():
            bucket = waiting.setdefault(self.shapes[index], [])
            bucket.append(index)
            if len(bucket) == self.size:
                batches.append(waiting.pop(self.shapes[index]))
        return batches
