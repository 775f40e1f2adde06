"""Camera poses in the self-attention of every block, as ReCamMaster has them (arXiv 2503.11647).

What its published weights were trained with (github.com/KwaiVGI/ReCamMaster): the target's poses at frames 0, 4, …, 80, relative to
the source's first camera, in OpenCV axes and metres, their upper three rows row by row (``train_recammaster.py``,
``TensorDataset``). Each block has a linear layer from these 12 numbers to the width; it is added to all tokens of a latent frame,
after they are normalised and modulated and before keys, queries and values are made of them, and to the source's tokens as to the
target's: frame f of either view gets the target's pose at f (``diffsynth/models/wan_video_dit.py``, ``DiTBlock``). Latents are
concatenated as [target; source] there, as tokens are here.

Shapes: B clips, F latent frames, D model width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Float32
from torch import Tensor, nn

from track2view.cameras.moves import RECAM_METRES_TO_PIVOT
from track2view.errors import UserError
from track2view.geometry import invert
from track2view.model.conditioners.protocol import Conditioner, Conditioning, Known, Views
from track2view.model.latents import LatentGrid
from track2view.records import CameraPath

POSE_VALUES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraCondition:
    """Where the target camera goes.

    Attributes:
        poses: source_at_start_from_target at each latent frame, its upper three rows row by row, in metres.
    """

    poses: Float32[Tensor, "B F 12"]

    @property
    def alive(self) -> bool:
        """Always: a camera is known at every frame."""
        return True

    def to(self, device: torch.device) -> "CameraCondition":
        """The same on another device."""
        return CameraCondition(poses=self.poses.to(device))

    @staticmethod
    def of(source: CameraPath, target: CameraPath, grid: LatentGrid) -> "CameraCondition":
        """One clip's cameras, at the last frame of each latent frame; beyond the clip's end its own last is held, as in the latents.

        Paths in scene units, of which the scene's middle is one away, are taken to have it 4 metres away, as ReCamMaster's presets.

        Raises:
            UserError: paths in different units, or not as long as the grid.
        """
        if source.unit != target.unit:
            raise UserError(f"the source camera is in {source.unit} units and the target in {target.unit}; scale one of them")
        for name, path in (("source", source), ("target", target)):
            if len(path) != grid.frames:
                raise UserError(f"the {name} camera has {len(path)} frames, the clip has {grid.frames}")
        frames = (torch.arange(grid.latent_frames) * grid.strides.frames).clamp(max=grid.frames - 1)
        poses = (invert(source.world_from_camera[:1]) @ target.world_from_camera[frames])[:, :3]
        poses[:, :, 3] *= 1.0 if source.unit == "metre" else RECAM_METRES_TO_PIVOT
        return CameraCondition(poses=poses.flatten(1).float()[None])


class PoseInAttention(NamedTuple):
    """What one block's attention reads beside its tokens; a tuple, so that torch's wrappers find the tensor in it."""

    embedding: Float[Tensor, "B F D"]

    def reads(self, normed: Views) -> Views:
        """With the pose's embedding, in either view."""

        def added(tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
            frames = tokens.unflatten(1, (self.embedding.shape[1], -1))
            return (frames + self.embedding[:, :, None].to(tokens.dtype)).flatten(1, 2)

        return normed.map(added)

    def gives(self, read: Views, attended: Views) -> Views:
        """Unchanged."""
        return attended


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraConditioning(Conditioning):
    """Embedded poses, by block."""

    embeddings: Float[Tensor, "blocks B F D"]

    def around_attention(self, index: int) -> PoseInAttention:
        """The block's own embedding of the poses."""
        return PoseInAttention(self.embeddings[index])

    def repeated(self, times: int) -> "CameraConditioning":
        """For a batch that repeats the same clips ``times`` times."""
        return CameraConditioning(embeddings=self.embeddings.repeat(1, times, 1, 1))


class CameraConditioner(Conditioner):
    """A linear layer a block from the target camera's poses to what attention reads; a fresh one changes nothing.

    Args:
        token_width: D, the transformer's width.
        blocks: of the transformer.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, token_width: int = 1536, blocks: int = 30) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(nn.Linear(POSE_VALUES, token_width) for _ in range(blocks))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.gradient_checkpointing = False  # diffusers asks for it; there is nothing here that is worth computing twice

    @staticmethod
    def given(known: Known) -> CameraCondition:
        """The cameras alone."""
        return CameraCondition.of(known.source, known.target, known.grid)

    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: CameraCondition) -> CameraConditioning:
        """What attention of each block shall read beside its tokens."""
        poses = given.poses.to(self.dtype)
        return CameraConditioning(embeddings=torch.stack([encoder(poses) for encoder in self.encoders]))
