"""Between ComfyUI's pictures and track2view's: IMAGE is float32 [T, H, W, 3], RGB in [0, 1]; MASK is float32 [T, H, W], 1 where masked."""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from track2view import Clip, UserError

LARGEST_DENOMINATOR = 1001
"""Of a frame rate: 30000/1001 is what a file says that is played at 29.97002997 frames a second."""


def images_of(frames: Iterable[np.ndarray]) -> Tensor:
    """IMAGE of uint8 frames [H, W, 3]."""
    return torch.from_numpy(np.stack(list(frames))).float() / 255


def clip_of(images: Tensor, fps: float) -> Clip:
    """A clip without sound; rounding makes the frames that an IMAGE was made of out of it again.

    Raises:
        UserError: pictures that are not RGB, or not finite.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"images: expected RGB pictures [T, H, W, 3], got {list(images.shape)}; take out an alpha channel first")
    if not bool(images.isfinite().all()):
        raise UserError("images: hold values that are not numbers; the node that made them went wrong")
    frames = (255 * images.cpu()).round().clamp(0, 255).to(torch.uint8).permute(0, 3, 1, 2).contiguous()
    return Clip(frames=frames, fps=Fraction(fps).limit_denominator(LARGEST_DENOMINATOR))
