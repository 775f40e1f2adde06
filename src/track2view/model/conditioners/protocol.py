"""What a dual-view model asks of whatever conditions it (design section 5): it knows no conditioner by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor

from track2view.errors import UserError
from track2view.model.latents import LatentGrid
from track2view.records import CameraPath, TrackSet


class Views(NamedTuple):
    """Something of each view; None where a view takes no part. A tuple, so that torch's wrappers find the tensors in it."""

    target: Any = None
    source: Any = None

    def map(self, function: Callable[..., Any], *others: "Views") -> "Views":
        """``function`` of each view that takes part, and of what ``others`` hold of it."""
        return Views(*(None if each is None else function(each, *rest) for each, *rest in zip(self, *others, strict=True)))


@runtime_checkable
class AroundAttention(Protocol):
    """What a conditioner does about one block's self-attention. Tokens are (B, S, D)."""

    def reads(self, normed: Views) -> Views:
        """What attention reads, from the normalised and modulated tokens of the views."""
        ...

    def gives(self, read: Views, attended: Views) -> Views:
        """What goes on to the gate, from what attention read and made of it."""
        ...


class Conditioning(ABC):
    """What a conditioner has to say of one batch of clips and cameras; the same at every step and for every prompt.

    By default it says nothing.
    """

    def before_block(self, index: int, views: Views) -> Views:
        """Tokens of the views, (B, S, D) each, as block ``index`` shall get them."""
        return views

    def around_attention(self, index: int) -> AroundAttention | None:
        """What happens about the self-attention of block ``index``; None for nothing."""
        return None

    @abstractmethod
    def repeated(self, times: int) -> "Conditioning":
        """For a batch that repeats the same clips ``times`` times."""


@runtime_checkable
class Given(Protocol):
    """What a conditioner reads of a batch of clips and cameras, beside source tokens."""

    @property
    def alive(self) -> bool:
        """Whether it says anything of the target camera."""
        ...

    def to(self, device: torch.device) -> "Given":
        """The same on another device."""
        ...


class Conditioner(ModelMixin, ConfigMixin, ABC):
    """A network from what it reads (paired tracks, poses, a guide) and the clean source's tokens to a :class:`Conditioning`.

    Its config has ``token_width``, the width D of the base that it fits, and ``blocks``, if it acts in each of them. Weights of single
    blocks belong to its own tree.
    """

    @staticmethod
    @abstractmethod
    def given(tracks: TrackSet, source: CameraPath, target: CameraPath, grid: LatentGrid) -> Given:
        """What it reads of one clip and target camera; frames are the grid's, tracks are in the world of both cameras.

        Raises:
            UserError: cameras that do not fit the tracks or each other.
        """

    @abstractmethod
    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: Any) -> Conditioning:
        """Evaluate once per clip and target camera."""

    def check_base(self, width: int, blocks: int) -> None:
        """Raise :class:`UserError` naming the field of its config that does not fit a base of this width and number of blocks."""
        if self.config["token_width"] != width:
            raise UserError(f"token_width: expected this base's {width}, got {self.config['token_width']!r:.60}")
        if self.config.get("blocks", blocks) != blocks:
            raise UserError(f"blocks: expected this base's {blocks}, got {self.config['blocks']!r:.60}")
