"""Training examples from a manifest, its samples and what was encoded of them; and batches of these.

It imports what reading needs and no more: neither PyAV nor transformers, no file locks. Shapes: B examples, C F Y X latents, L E
text states, N tracks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from track2view.encoding import EncodingRecord, caption_key, latents_key
from track2view.errors import UserError
from track2view.model.conditioners.camera import CameraCondition
from track2view.model.conditioners.protocol import RenderedView
from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.samples import Sample, read_manifest
from track2view.shards import ShardReader

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One pair of views, as read.

    Attributes:
        name: of the sample.
        source, target: clean latents of unit variance, in the shards' precision.
        text: encoder states of the caption, zeros beyond its end.
        condition: its tracks at latent frames, in the padded picture; a batch of one.
        camera: where its target camera goes; a batch of one.
        rendered: its target by a renderer without weights, a batch of one; None where it is not read.
    """

    name: str
    source: Float[Tensor, "C F Y X"]
    target: Float[Tensor, "C F Y X"]
    text: Float32[Tensor, "L E"]
    condition: TrackCondition
    camera: CameraCondition
    rendered: RenderedView | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipExample:
    """One clip alone, as read.

    Attributes:
        name: of the clip.
        latents: clean, of unit variance.
        text: encoder states of the caption, zeros beyond its end.
    """

    name: str
    latents: Float32[Tensor, "C F Y X"]
    text: Float32[Tensor, "L E"]


Read_co = TypeVar("Read_co", covariant=True)


@runtime_checkable
class Encoded(Protocol[Read_co]):
    """Examples by index, wherever they come from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Read_co: ...

    def shape_of(self, index: int) -> tuple[int, ...]:
        """(F, Y, X) of its latents, without reading it."""
        ...

    def text_of(self, caption: str) -> Float32[Tensor, "L E"]:
        """Encoder states of a caption, zeros beyond its end."""
        ...

    def verify(self) -> None:
        """Raises :class:`UserError` where what was written is damaged."""
        ...

    def fingerprint(self) -> str:
        """Tells these examples from others."""
        ...


Examples = Encoded[Example]
ClipExamples = Encoded[ClipExample]


class Some:
    """A few of many examples.

    Args:
        of: all.
        indices: which of them.

    Raises:
        UserError: more than there are.
    """

    def __init__(self, of: Examples, indices: Sequence[int]) -> None:
        if len(of) <= max(indices):
            raise UserError(f"the data hold {len(of)} examples, {max(indices) + 1} are needed")
        self.of, self.indices = of, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.of[self.indices[index]]

    def shape_of(self, index: int) -> tuple[int, ...]:
        """(F, Y, X) of its latents."""
        return self.of.shape_of(self.indices[index])

    def text_of(self, caption: str) -> Float32[Tensor, "L E"]:
        """Encoder states of a caption."""
        return self.of.text_of(caption)

    def verify(self) -> None:
        """All of them."""
        self.of.verify()

    def fingerprint(self) -> str:
        """Tells these examples from others."""
        return sha256(f"{self.of.fingerprint()} {list(self.indices)}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Examples of one latent shape, in float32: noise is added to them at full precision.

    Attributes:
        names: of the samples.
        source, target, text: as in :class:`Example`.
        condition: of as many tracks as the richest example has; what others lack is invalid, of confidence 0.
        camera: where target cameras go.
        rendered: targets by a renderer without weights; None where they are not read.
    """

    names: tuple[str, ...]
    source: Float32[Tensor, "B C F Y X"]
    target: Float32[Tensor, "B C F Y X"]
    text: Float32[Tensor, "B L E"]
    condition: TrackCondition
    camera: CameraCondition
    rendered: RenderedView | None = None

    @staticmethod
    def stack(examples: Sequence[Example]) -> "Batch":
        """One batch, in order.

        Raises:
            UserError: examples whose latents or text differ in shape, by name.
        """
        first = examples[0]
        for each in examples:
            for what in ("source", "text"):
                one, other = (list(getattr(example, what).shape) for example in (first, each))
                if one != other:
                    raise UserError(
                        f"{first.name} and {each.name} differ in the shape of their {what}: {one} and {other}; a batch is of one shape"
                    )
        return Batch(
            names=tuple(each.name for each in examples),
            source=torch.stack([each.source.float() for each in examples]),
            target=torch.stack([each.target.float() for each in examples]),
            text=torch.stack([each.text for each in examples]),
            condition=_joined([each.condition for each in examples]),
            camera=CameraCondition(poses=torch.cat([each.camera.poses for each in examples])),
            rendered=_views_joined([each.rendered for each in examples if each.rendered is not None]),
        )

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which copies to a GPU need not wait."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


class TrainingSamples(Dataset[Example]):
    """The samples of a manifest with their latents and text, by index in the manifest's order.

    Reading trusts that shards are what was written; :meth:`verify` makes sure. It may be sent to a loader's workers.

    Args:
        folder: what ``track2view curate run`` wrote: ``samples/`` and ``manifest.parquet``.
        encoded: what ``track2view curate encode`` wrote of it: ``encoding.json``, ``latents/`` and ``text/``.

    Raises:
        UserError: one of these missing or damaged, or a sample that is not encoded, by name.
    """

    def __init__(self, folder: Path, encoded: Path) -> None:
        self.folder = folder / "samples"
        self.records = read_manifest(folder / "manifest.parquet")
        self.encoding = EncodingRecord.load(encoded)
        self.latents, self.texts = ShardReader(encoded / "latents"), ShardReader(encoded / "text")
        latents, texts = set(self.latents), set(self.texts)
        for record in self.records:
            keys = {latents_key(record.name, view) for view in ("source", "target")}
            if not keys <= latents or caption_key(record.caption) not in texts:
                raise UserError(f"{encoded}: sample {record.name} is not encoded; `track2view curate encode` adds what is missing")

    def verify(self) -> None:
        """Read all shards once and compare their checksums; before a run, not in it.

        Raises:
            UserError: a shard that is gone or damaged, by name.
        """
        self.latents.verify()
        self.texts.verify()

    def __len__(self) -> int:
        return len(self.records)

    def shape_of(self, index: int) -> tuple[int, int, int]:
        """(F, Y, X) of an example's latents, without reading it: batches are formed of examples of one shape."""
        record = self.records[index]
        grid = self.encoding.grid(record.frames, record.size)
        return grid.latent_frames, *grid.latent_size

    def text_of(self, caption: str) -> Float32[Tensor, "L E"]:
        """Encoder states that the transformer attends to, as at inference; the empty caption's stand where guidance drops a caption.

        Raises:
            UserError: a caption that is not encoded, or longer than its record says.
        """
        return padded_text(self.texts, caption_key(caption), caption, self.encoding.text_length)

    def fingerprint(self) -> str:
        """Tells these samples from others."""
        names = " ".join(record.name for record in self.records)
        return sha256(f"{self.encoding} {names} {self.latents.fingerprint()} {self.texts.fingerprint()}".encode()).hexdigest()

    def __getitem__(self, index: int) -> Example:
        """One example.

        Raises:
            UserError: a sample or a shard that is missing or damaged, or samples, manifest and latents that disagree.
        """
        record = self.records[index]
        folder = self.folder / record.name
        sample = Sample.load(folder)
        if sample.record != record:
            raise UserError(f"{folder}: is not what the manifest says; `track2view curate run` writes the manifest again")
        keys = [latents_key(record.name, view) for view in ("source", "target")]
        source, target = (self.latents[key] for key in keys)
        for key, latents in zip(keys, (source, target), strict=True):
            if tuple(latents.shape[1:]) != self.shape_of(index):
                raise UserError(f"{self.latents.folder}: {key}: expected latents of {self.shape_of(index)}, got {list(latents.shape)}")
        pairs = self.encoding.framing(record.size).pairs(sample.pairs)
        grid = self.encoding.grid(record.frames, record.size)
        return Example(
            name=record.name,
            source=source,
            target=target,
            text=self.text_of(record.caption),
            condition=TrackCondition.of(pairs, grid),
            camera=CameraCondition.of(sample.source_camera, sample.target_camera, grid),
        )


def padded_text(texts: ShardReader, key: str, caption: str, length: int) -> Float32[Tensor, "L E"]:
    """Encoder states of a caption as inference has them, zeros beyond their end.

    Raises:
        UserError: a caption that is not encoded, or longer than ``length``.
    """
    states = texts[key].float()
    if len(states) > length:
        raise UserError(f"{texts.folder}: caption {caption!r:.60} has {len(states)} states, more than {length}")
    return pad(states, (0, 0, 0, length - len(states)))


def _joined(conditions: list[TrackCondition]) -> TrackCondition:
    """One condition of a batch; tracks that one lacks are invalid there."""
    most = max(each.confidence.shape[2] for each in conditions)

    def filled(parts: list[Tensor], value: float = 0.0) -> Tensor:
        return torch.cat([pad(each, (0,) * 2 * (each.ndim - 3) + (0, most - each.shape[2]), value=value) for each in parts])

    def joined(views: list[ViewCondition]) -> ViewCondition:
        return ViewCondition(
            uv=filled([each.uv for each in views], 0.5),
            disparity=filled([each.disparity for each in views]),
            valid=filled([each.valid for each in views]),
        )

    return TrackCondition(
        source=joined([each.source for each in conditions]),
        target=joined([each.target for each in conditions]),
        confidence=filled([each.confidence for each in conditions]),
    )


def _views_joined(views: list[RenderedView]) -> RenderedView | None:
    """One batch of rendered views; None of none."""
    if not views:
        return None
    return RenderedView(
        latents=torch.cat([each.latents.float() for each in views]), shown=torch.cat([each.shown.float() for each in views])
    )


def with_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """A record whose tensors, and those of the records in it, are changed."""

    def changed(value: object) -> object:
        if isinstance(value, Tensor):
            return change(value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: changed(getattr(value, each.name)) for each in fields(value)})
        return value

    return changed(record)  # pyrefly: ignore[bad-return]
