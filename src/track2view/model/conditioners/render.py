"""A point cloud's render as a guide in every block, after Gen3C (arXiv 2503.03751) and TrajectoryCrafter (arXiv 2503.05638).

There the source's pixels are carried to the target camera by its depth; the latents of that video and a mask of what it shows are
concatenated to the noisy latents, and the transformer is trained whole. Here the base stays frozen, so that all ways to tell it the
camera have as many weights to learn: guide and mask are embedded token by token, and a layer of each block's own, which begins at
zero, adds them to the target's tokens.

Shapes: B clips, C F Y X latents, S tokens of one view, D model width, d of the guide.
"""

from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from track2view.errors import UserError
from track2view.model.conditioners.protocol import Conditioner, Conditioning, Known, RenderedView, Views


class RenderConditioning(Conditioning):
    """The embedded guide, and each block's own layer for it."""

    def __init__(self, guide: Float[Tensor, "B S d"], layers: nn.ModuleList) -> None:
        self.guide, self.layers = guide, layers

    def before_block(self, index: int, views: Views) -> Views:
        """With what the block's own layer makes of the guide, in the target; the source's as they are."""
        if views.target is None:
            return views
        return views._replace(target=views.target + self.layers[index](self.guide).to(views.target.dtype))

    def repeated(self, times: int) -> "RenderConditioning":
        """For a batch that repeats the same clips ``times`` times."""
        return RenderConditioning(self.guide.repeat(times, 1, 1), self.layers)


class RenderConditioner(Conditioner):
    """A rendered view, added in every block; a fresh one changes nothing.

    Args:
        token_width: D, the transformer's width.
        blocks: of the transformer.
        latent_channels: C.
        patch: latents a token has along rows and columns.
        guide_width: d.
    """

    _supports_gradient_checkpointing = True
    reads_rendered: ClassVar[bool] = True

    @register_to_config
    def __init__(
        self, token_width: int = 1536, blocks: int = 30, latent_channels: int = 16, patch: int = 2, guide_width: int = 480
    ) -> None:
        super().__init__()
        size = (1, patch, patch)
        self.embed = nn.Conv3d(latent_channels + 1, guide_width, size, stride=size)
        self.mix = nn.Linear(guide_width, guide_width)
        self.layers = nn.ModuleList(nn.Linear(guide_width, token_width, bias=False) for _ in range(blocks))
        for each in self.layers.parameters():
            nn.init.zeros_(each)
        self.gradient_checkpointing = False  # diffusers asks for it; there is little here that is worth computing twice

    @staticmethod
    def given(known: Known) -> RenderedView:
        """The rendered view alone.

        Raises:
            UserError: none was made.
        """
        if known.rendered is None:
            raise UserError("this adapter reads a rendered view of the target camera; give `rendered`, which a weight-free renderer makes")
        return known.rendered

    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: RenderedView) -> RenderConditioning:
        """What each block shall add to the target's tokens."""
        seen = torch.cat([given.latents, given.shown[:, None]], dim=1).to(self.dtype)
        guide = self.embed(seen).flatten(2).transpose(1, 2)
        return RenderConditioning(silu(self.mix(silu(guide))), self.layers)
