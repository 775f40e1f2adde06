"""What the training loop asks of a thing to train: the loop knows no model, no loss and no data by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor, nn


@runtime_checkable
class TrainingBatch(Protocol):
    """Some examples of one shape, with what is drawn for them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the examples."""
        ...

    def pin_memory(self) -> "TrainingBatch":
        """The same in page-locked memory."""
        ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TrainingBatch":
        """The same on another device."""
        ...


class Feed(ABC):
    """Where batches come from. It goes to the loader's processes, and holds no model."""

    @property
    @abstractmethod
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Of all examples, by index: those of a batch are alike."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Tells these data from others."""

    @abstractmethod
    def verify(self) -> None:
        """Read what can be damaged once; raises :class:`UserError` that names it."""

    @abstractmethod
    def batch(self, indices: Sequence[int], epoch: int) -> Any:
        """A :class:`TrainingBatch`: a function of these arguments alone, so that a restart changes nothing."""


Model = TypeVar("Model", bound=nn.Module)
Source = TypeVar("Source", bound=Feed)


class Task(ABC, Generic[Model, Source]):
    """A model with its data, its loss, its measures and its form on disk.

    Attributes:
        model: what is trained are its parameters that ask for gradients.
        feed: of batches.
    """

    model: Model
    feed: Source

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Float32[Tensor, ""]:
        """Mean over a batch.

        Args:
            model: :attr:`model`, or what spreads it over processes.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Losses on what is held out, at fixed noise: by name."""

    @abstractmethod
    def sample(self, picture: Path) -> dict[str, float]:
        """Draw what the model makes of what is held out to a PNG, and measure it."""

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor], step: int) -> None:
        """Write the model as others load it.

        Args:
            folder: what it held before gives way.
            state: of what is trained, by name.
        """
