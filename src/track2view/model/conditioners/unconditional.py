"""No word of the target camera: what a model makes of two views by itself, the floor of every comparison."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from track2view.model.conditioners.camera import CameraConditioning
from track2view.model.conditioners.protocol import Conditioner, Known


@dataclass(frozen=True, kw_only=True, slots=True)
class NoCondition:
    """Nothing, of any number of clips."""

    @property
    def alive(self) -> bool:
        """Always: nothing is missing."""
        return True

    def to(self, device: torch.device) -> "NoCondition":
        """Itself."""
        return self


class UnconditionalConditioner(Conditioner):
    """One learned vector a block, the same for every clip, where the camera conditioner has its poses; a fresh one changes nothing.

    Args:
        token_width: D, the transformer's width.
        blocks: of the transformer.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, token_width: int = 1536, blocks: int = 30) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(blocks, token_width))
        self.gradient_checkpointing = False  # diffusers asks for it; there is nothing here to compute

    @staticmethod
    def given(known: Known) -> NoCondition:
        """Nothing of all this."""
        return NoCondition()

    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: NoCondition) -> CameraConditioning:
        """The vectors, at every frame of every clip."""
        batch, frames = source_tokens.shape[:2]
        return CameraConditioning(embeddings=self.embedding[:, None, None].expand(-1, batch, frames, -1))
