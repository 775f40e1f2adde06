"""What a dual-view model asks of whatever conditions it (design section 5): it knows no conditioner by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool3d

from track2view.errors import UserError
from track2view.model.latents import LatentGrid
from track2view.records import CameraPath, TrackSet

GREY = 128
"""What a rendered view has where it shows nothing: the middle of what a VAE takes."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedView:
    """A clip as rendered without weights along the target path.

    Attributes:
        latents: clean, of unit variance; of grey where nothing is shown.
        shown: share of each latent's pixels and frames that the render shows, 0…1.
    """

    latents: Float[Tensor, "B C F Y X"]
    shown: Float[Tensor, "B F Y X"]

    @property
    def alive(self) -> bool:
        """Whether it shows anything."""
        return bool((self.shown > 0).any())

    def to(self, device: torch.device) -> "RenderedView":
        """The same on another device."""
        return RenderedView(latents=self.latents.to(device), shown=self.shown.to(device))

    @staticmethod
    def of(
        colour: UInt8[Tensor, "T 3 H W"],
        shown: Bool[Tensor, "T H W"],
        grid: LatentGrid,
        encode: Callable[[Float[Tensor, "1 3 t y x"]], Float[Tensor, "1 C F Y X"]],
    ) -> "RenderedView":
        """Of a renderer's frames and which of their pixels it has from the clip.

        Args:
            encode: to latents of unit variance, with the base's VAE.
        """
        clear = torch.where(shown[:, None], colour, torch.tensor(GREY, dtype=torch.uint8))
        padded = grid.padded((shown * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1))[:, :1] / 2 + 0.5
        s = grid.strides
        begin, rest = padded[:, :, :1], padded[:, :, 1:]
        pooled = [avg_pool3d(begin, (1, s.pixels, s.pixels))]
        if rest.shape[2]:
            pooled.append(avg_pool3d(rest, (s.frames, s.pixels, s.pixels)))
        return RenderedView(latents=encode(grid.padded(clear)), shown=torch.cat(pooled, dim=2)[:, 0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of one clip and one target camera, of which each conditioner takes what it reads.

    Attributes:
        tracks: in the world of both cameras.
        source, target: as many frames as the tracks and the grid.
        rendered: None where nobody asked for it: it is costly, and most conditioners do not read it.
    """

    tracks: TrackSet
    source: CameraPath
    target: CameraPath
    grid: LatentGrid
    rendered: RenderedView | None = None


class Conditioner(ModelMixin, ConfigMixin, ABC):
    """A network from what it reads (paired tracks, poses, a guide) and the clean source's tokens to a :class:`Conditioning`.

    Its config has ``token_width``, the width D of the base that it fits, and ``blocks``, if it acts in each of them. Weights of single
    blocks belong to its own tree.
    """

    reads_rendered: ClassVar[bool] = False
    """Whether it needs :attr:`Known.rendered`."""

    @staticmethod
    @abstractmethod
    def given(known: Known) -> Given:
        """What it reads.

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
