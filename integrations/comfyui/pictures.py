"""Between ComfyUI's pictures and track2view's: IMAGE is float32 [T, H, W, 3], RGB in [0, 1]; MASK is float32 [T, H, W], 1 where masked."""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from track2view import Clip, UserError

Images = Float32[Tensor, "T H W 3"]
Mask = Float32[Tensor, "T H W"]
LARGEST_DENOMINATOR = 1001
"""Of a frame rate: 30000/1001 is what a file says that is played at 29.97002997 frames a second."""


def images_of(frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Images:
    """IMAGE of frames."""
    return torch.from_numpy(np.stack(list(frames))).float() / 255


def grey_images_of(values: Iterable[Float32[np.ndarray, "H W"]]) -> Images:
    """IMAGE of brightness in [0, 1]."""
    return torch.from_numpy(np.stack(list(values)))[..., None].repeat(1, 1, 1, 3)


def mask_of(masked: Iterable[Bool[np.ndarray, "H W"]]) -> Mask:
    """MASK of pixels."""
    return torch.from_numpy(np.stack(list(masked))).float()


def clip_of(images: Images, fps: float) -> Clip:
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
