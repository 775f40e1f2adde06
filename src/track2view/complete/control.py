"""What a video-inpainting model reads of a warp: its picture, grey in the holes, and where to generate (design section 6)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from track2view.model.latents import LatentGrid

GROWN = 12
"""Pixels by which holes are made wider: a latent of 8×8 pixels that touches one is generated, not kept half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """A window as diffusers' ``WanVACEPipeline`` prepares it, padded to whole latents and tokens.

    A latent frame stands for several frames of the clip and is generated wherever one of these is. The model is told so twice, in the
    pixels that it reads and in a mask that is sampled along time; the two agree here: the frame that is sampled for a latent, which may
    be the next one's, says what is generated of that latent.

    Attributes:
        video: in [-1, 1], 0 (grey) where something is generated: what lies there would be read as a drawing to follow.
        holes: 1 where pixels of ``video`` are grey.
        sampled: 1 where something is generated, in those frames that diffusers takes of a mask, one for each latent frame.
    """

    video: Float[Tensor, "1 3 t y x"]
    holes: Float[Tensor, "1 3 t y x"]
    sampled: Float[Tensor, "1 3 t y x"]

    @staticmethod
    def of(colour: UInt8[Tensor, "T 3 H W"], unknown: Bool[Tensor, "T H W"], grid: LatentGrid) -> "Control":
        """Of a window of ``grid`` in which ``unknown`` pixels are to be generated."""
        height, width = grid.padded_size
        below, right = height - grid.size[0], width - grid.size[1]
        whole = pad(unknown[None].float(), (0, right, 0, below, 0, grid.padded_frames - grid.frames), mode="replicate")[0] > 0
        generated = by_latent(whole, grid.strides.frames)
        latent = latent_of_frame(grid.padded_frames, grid.strides.frames)
        holes = generated[latent].float()
        sampled = holes.clone()
        sampled[sampled_frames(grid.padded_frames, grid.latent_frames)] = generated.float()
        return Control(
            video=grid.padded(colour) * (1 - holes),
            holes=holes.expand(1, 3, -1, -1, -1),
            sampled=sampled.expand(1, 3, -1, -1, -1),
        )


def grown(holes: Bool[Tensor, "T H W"], pixels: int = GROWN) -> Bool[Tensor, "T H W"]:
    """Holes and what is within so many rows and columns of one."""
    return max_pool2d(holes.float(), 2 * pixels + 1, 1, pixels) > 0


def by_latent(mask: Bool[Tensor, "t y x"], group: int) -> Bool[Tensor, "F y x"]:
    """Of each latent frame, whether any of its frames has it; the first has one frame, each other ``group``."""
    return torch.cat([mask[:1], mask[1:].unflatten(0, (-1, group)).any(1)])


def latent_of_frame(frames: int, group: int) -> Tensor:
    """The latent frame of each frame."""
    return (torch.arange(frames) + group - 1) // group


def sampled_frames(frames: int, latent_frames: int) -> Tensor:
    """The frame of a mask that diffusers takes for each latent frame."""
    number = torch.arange(frames, dtype=torch.float64)[None, None]
    return interpolate(number, size=latent_frames, mode="nearest-exact")[0, 0].long()
