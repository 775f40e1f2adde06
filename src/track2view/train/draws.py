"""What training draws anew for each sample in each epoch: a noise level, noise, and what is kept from the model.

A sample's draws follow from (seed, epoch, its name) and from nothing else: neither what is beside it in a batch, nor the number of
processes, nor a restart changes them. Shapes: B samples, C F Y X latents, L E text states, N tracks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Float32
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.model.sampling import shifted
from track2view.train.data import Batch, Example, with_tensors

SHIFT = 5.0
MOST_DROPPED_FRAMES = 0.5
LEAST_KEPT_TRACKS = 0.5
DROPPED_CAPTIONS = 0.1


def generator_for(seed: int, epoch: int, name: str) -> Generator:
    """The source of a sample's draws in an epoch, the same in every process."""
    digest = sha256(f"{seed}/{epoch}/{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # torch's generator of the CPU reads no more than 32 bits


def draw_sigma(generator: Generator, shift: float = SHIFT) -> Float32[Tensor, ""]:
    """A noise level: u uniform in [0, 1), shifted (design section 5)."""
    return shifted(torch.rand((), generator=generator), shift)


def draw_dropped_frames(frames: int, generator: Generator) -> Bool[Tensor, "F"]:
    """Which latent frames of the source to drop: a number uniform from none to half of them, any of them."""
    return _some(frames, 0, math.floor(MOST_DROPPED_FRAMES * frames), generator)


def draw_kept_tracks(count: int, generator: Generator) -> Bool[Tensor, "N"]:
    """Which tracks to keep: a number uniform from half to all of them, any of them."""
    return _some(count, math.ceil(LEAST_KEPT_TRACKS * count), count, generator)


def draw_dropped_caption(generator: Generator) -> Bool[Tensor, ""]:
    """Whether the caption is replaced by the empty one."""
    return torch.rand((), generator=generator) < DROPPED_CAPTIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """A batch's draws, a row per sample.

    Attributes:
        sigma: noise levels in [0, 1).
        noise: of unit variance, for the target.
        dropped_frames: latent frames of the source that the model does not see.
        kept_tracks: those that it reads; False beyond a sample's own.
        dropped_captions: where it reads the empty one.
    """

    sigma: Float32[Tensor, "B"]
    noise: Float32[Tensor, "B C F Y X"]
    dropped_frames: Bool[Tensor, "B F"]
    kept_tracks: Bool[Tensor, "B N"]
    dropped_captions: Bool[Tensor, "B"]

    @staticmethod
    def of(examples: Sequence[Example], *, seed: int, epoch: int, shift: float = SHIFT) -> "Draws":
        """Those of examples of one latent shape, in order."""
        generators = [generator_for(seed, epoch, each.name) for each in examples]
        drawing = list(zip(examples, generators, strict=True))
        return Draws(
            sigma=torch.stack([draw_sigma(generator, shift) for generator in generators]),
            dropped_frames=torch.stack([draw_dropped_frames(each.source.shape[1], generator) for each, generator in drawing]),
            kept_tracks=pad_sequence(
                [draw_kept_tracks(each.condition.confidence.shape[2], generator) for each, generator in drawing], batch_first=True
            ),
            dropped_captions=torch.stack([draw_dropped_caption(generator) for generator in generators]),
            noise=torch.stack([torch.randn(each.target.shape, generator=generator) for each, generator in drawing]),
        )

    def pin_memory(self) -> "Draws":
        """The same in page-locked memory, from which copies to a GPU need not wait."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Draws":
        """The same on another device."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def augmented(batch: Batch, draws: Draws, nothing: Float[Tensor, "L E"]) -> Batch:
    """A batch without what was drawn to be kept from the model; the target stays as it is.

    Args:
        nothing: encoder states of the empty caption.
    """
    source, condition = drop_source_frames(batch.source, batch.condition, draws.dropped_frames)
    text = drop_captions(batch.text, nothing, draws.dropped_captions)
    return replace(batch, source=source, condition=keep_tracks(condition, draws.kept_tracks), text=text)


def drop_source_frames(
    source: Float[Tensor, "B C F Y X"], condition: TrackCondition, dropped: Bool[Tensor, "B F"]
) -> tuple[Float[Tensor, "B C F Y X"], TrackCondition]:
    """Source latents with frames set to zero, and tracks that do not claim to be seen there."""
    kept = ~dropped
    seen = _valid_where(condition.source, kept[:, :, None])
    return source * kept[:, None, :, None, None], replace(condition, source=seen)


def keep_tracks(condition: TrackCondition, kept: Bool[Tensor, "B N"]) -> TrackCondition:
    """The others invalid in both views, of confidence 0, as if there were fewer; shapes stay, and nothing waits for a device."""
    where = kept[:, None]
    return TrackCondition(
        source=_valid_where(condition.source, where),
        target=_valid_where(condition.target, where),
        confidence=condition.confidence * where,
    )


def drop_captions(texts: Float[Tensor, "B L E"], nothing: Float[Tensor, "L E"], dropped: Bool[Tensor, "B"]) -> Float[Tensor, "B L E"]:
    """Captions replaced by the empty prompt's encoding, for guidance to have a branch without text."""
    return torch.where(dropped[:, None, None], nothing, texts)


def _valid_where(view: ViewCondition, where: Bool[Tensor, "B #F #N"]) -> ViewCondition:
    return replace(view, valid=view.valid & where, disparity=view.disparity * where)


def _some(count: int, least: int, most: int, generator: Generator) -> Bool[Tensor, "count"]:
    """A number uniform from ``least`` to ``most``, of ``count``, any of them."""
    chosen = int(torch.randint(least, most + 1, (), generator=generator))
    return torch.randperm(count, generator=generator) < chosen
