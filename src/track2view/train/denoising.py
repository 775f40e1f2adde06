"""What training a denoiser takes: noisy batches of pairs or of single clips, and losses at fixed noise.

Shapes: B examples, C F Y X latents, L E text states.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from track2view.errors import UserError
from track2view.model.conditioners.protocol import Given
from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.model.conditioners.unconditional import NoCondition
from track2view.model.sampling import TRAIN_TIMESTEPS
from track2view.train.data import Batch, ClipExample, ClipExamples, Example, Examples, with_tensors
from track2view.train.draws import Draws, augmented, draw_dropped_caption, draw_sigma, drop_captions, generator_for
from track2view.train.objective import noised
from track2view.train.task import Feed

TrackChoice = Literal["all", "first", "half", "quarter"]
"""Which tracks of an example there are at all (the paper's ablation of queries): those that start at the source's first frame, or a
share drawn once for each example."""
SHARES: dict[TrackChoice, float] = {"half": 0.5, "quarter": 0.25}
Reads = Literal["tracks", "camera", "rendered", "nothing"]
"""What of an example its conditioner reads."""
SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""At which validation measures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyBatch:
    """What a denoiser is asked, and the answer.

    Attributes:
        names: of the examples.
        latents, velocity: noisy target latents, and where they go.
        timestep: 0…1000.
        text: encoder states.
        source: clean latents; None where a clip stands alone.
        condition: what the conditioner reads; None where a clip stands alone.
    """

    names: tuple[str, ...]
    latents: Float32[Tensor, "B C F Y X"]
    velocity: Float32[Tensor, "B C F Y X"]
    timestep: Float32[Tensor, "B"]
    text: Float32[Tensor, "B L E"]
    source: Float32[Tensor, "B C F Y X"] | None = None
    condition: Given | None = None

    def pin_memory(self) -> "NoisyBatch":
        """The same in page-locked memory, from which copies to a GPU need not wait."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "NoisyBatch":
        """The same on another device."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


class PairFeed(Feed):
    """Pairs of views, with what training draws for them (:mod:`track2view.train.draws`).

    Args:
        examples: which.
        seed: of the draws.
        shift: of noise levels (design section 5).
        tracks: which there are.
        reads: what the conditioner gets.
    """

    def __init__(self, examples: Examples, *, seed: int, shift: float, tracks: TrackChoice = "all", reads: Reads = "tracks") -> None:
        self.examples, self.seed, self.shift, self.tracks, self.reads = examples, seed, shift, tracks, reads
        self._shapes = [examples.shape_of(index) for index in range(len(examples))]
        self._nothing = examples.text_of("")

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Of latents: (F, Y, X)."""
        return self._shapes

    def fingerprint(self) -> str:
        """Of the examples."""
        return self.examples.fingerprint()

    def verify(self) -> None:
        """Checksums of all shards."""
        self.examples.verify()

    def batch(self, indices: Sequence[int], epoch: int) -> NoisyBatch:
        """As drawn for this epoch."""
        chosen = [with_choice(self.examples[index], self.tracks) for index in indices]
        draws = Draws.of(chosen, seed=self.seed, epoch=epoch, shift=self.shift)
        batch = augmented(Batch.stack(chosen), draws, self._nothing)
        latents, velocity = noised(batch.target, draws.noise, draws.sigma)
        return NoisyBatch(
            names=batch.names,
            latents=latents,
            velocity=velocity,
            timestep=draws.sigma * TRAIN_TIMESTEPS,
            text=batch.text,
            source=batch.source,
            condition=read(batch, self.reads),
        )


class ClipFeed(Feed):
    """Single clips and their captions, for text to video.

    Args:
        examples: which.
        seed: of the draws.
        shift: of noise levels.
    """

    def __init__(self, examples: ClipExamples, *, seed: int, shift: float) -> None:
        self.examples, self.seed, self.shift = examples, seed, shift
        self._shapes = [examples.shape_of(index) for index in range(len(examples))]
        self._nothing = examples.text_of("")

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Of latents: (F, Y, X)."""
        return self._shapes

    def fingerprint(self) -> str:
        """Of the examples."""
        return self.examples.fingerprint()

    def verify(self) -> None:
        """Checksums of all shards."""
        self.examples.verify()

    def batch(self, indices: Sequence[int], epoch: int) -> NoisyBatch:
        """As drawn for this epoch."""
        examples = [self.examples[index] for index in indices]
        generators = [generator_for(self.seed, epoch, each.name) for each in examples]
        sigma = torch.stack([draw_sigma(generator, self.shift) for generator in generators])
        dropped = torch.stack([draw_dropped_caption(generator) for generator in generators])
        noise = torch.stack([torch.randn(each.latents.shape, generator=own) for each, own in zip(examples, generators, strict=True)])
        latents, velocity = noised(torch.stack([each.latents for each in examples]), noise, sigma)
        text = drop_captions(torch.stack([each.text for each in examples]), self._nothing, dropped)
        return NoisyBatch(
            names=tuple(each.name for each in examples),
            latents=latents,
            velocity=velocity,
            timestep=sigma * TRAIN_TIMESTEPS,
            text=text,
        )


def read(of: Example | Batch, reads: Reads) -> Given:
    """What a conditioner gets.

    Raises:
        UserError: a rendered view where none was read.
    """
    match reads:
        case "tracks":
            return of.condition
        case "camera":
            return of.camera
        case "nothing":
            return NoCondition()
        case "rendered":
            if of.rendered is None:
                raise UserError(
                    "rendered views: these data have none; `track2view curate encode --rendered` makes those of procedural worlds"
                )
            return of.rendered


def with_choice(example: Example, tracks: TrackChoice) -> Example:
    """An example with some of its tracks, the same ones whenever it is read."""
    count = example.condition.confidence.shape[2]
    if tracks == "all":
        return example
    if tracks == "first":
        kept = torch.arange(count) < count // 2  # queries at the first frame stand before those at the last (design section 4)
    else:
        drawn = torch.randperm(count, generator=generator_for(0, 0, f"tracks of {example.name}"))
        kept = drawn < SHARES[tracks] * count

    def view(each: ViewCondition) -> ViewCondition:
        return ViewCondition(uv=each.uv[:, :, kept], disparity=each.disparity[:, :, kept], valid=each.valid[:, :, kept])

    condition = example.condition
    fewer = TrackCondition(source=view(condition.source), target=view(condition.target), confidence=condition.confidence[:, :, kept])
    return replace(example, condition=fewer)


def fixed_batches(
    examples: Examples | ClipExamples, indices: Sequence[int], tracks: TrackChoice = "all", reads: Reads = "tracks"
) -> Iterator[NoisyBatch]:
    """Each of some examples at each of :data:`SIGMAS`, whole, under noise that its name alone decides."""
    sigma, many = torch.tensor(SIGMAS), len(SIGMAS)
    for index in indices:
        example: Any = examples[index]
        if isinstance(example, ClipExample):
            clean, source, condition = example.latents, None, None
        else:
            clean, source, condition = example.target, example.source, read(with_choice(example, tracks), reads)
        noise = torch.randn(clean.shape, generator=generator_for(0, 0, f"validation {example.name}"))
        latents, velocity = noised(clean.expand(many, *clean.shape), noise.expand(many, *clean.shape), sigma)
        yield NoisyBatch(
            names=(example.name,) * many,
            latents=latents,
            velocity=velocity,
            timestep=sigma * TRAIN_TIMESTEPS,
            text=example.text.expand(many, *example.text.shape),
            source=None if source is None else source.float().expand(many, *source.shape),
            condition=None if condition is None else with_tensors(condition, lambda each: each.expand(many, *each.shape[1:])),
        )


@torch.no_grad()
def fixed_losses(velocity_of: Callable[[NoisyBatch], Float[Tensor, "B C F Y X"]], batches: Iterator[NoisyBatch]) -> dict[str, float]:
    """Mean loss over batches of :func:`fixed_batches`, at each noise level and in all."""
    rows = []
    for batch in batches:
        found = velocity_of(batch)
        rows.append((found.float() - batch.velocity.to(found.device)).square().flatten(1).mean(1).tolist())
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    levels = {f"validation/loss at {sigma:g}": loss for sigma, loss in zip(SIGMAS, means, strict=True)}
    return {"validation/loss": sum(means) / len(means), **levels}
