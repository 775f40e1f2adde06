"""Image fidelity, on all pixels or on some."""

import math

import numpy as np
from jaxtyping import Bool, UInt8
from skimage.metrics import structural_similarity
from torch import Tensor


def psnr(image: UInt8[Tensor, "*t 3 H W"], reference: UInt8[Tensor, "*t 3 H W"], mask: Bool[Tensor, "*t H W"] | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of ``mask``; infinite for equal images, NaN for an empty mask."""
    squared = (image.float() - reference.float()).square().mean(-3) / 255.0**2
    error = float((squared if mask is None else squared[mask]).mean())
    if error == 0:
        return math.inf
    return math.nan if math.isnan(error) else -10 * math.log10(error)


def ssim(image: UInt8[Tensor, "3 H W"], reference: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"] | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window, σ = 1.5), its map averaged over the pixels of ``mask``."""
    _, similarity = structural_similarity(
        np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        np.ascontiguousarray(reference.permute(1, 2, 0).numpy()),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    per_pixel = similarity.mean(-1)
    return float(per_pixel.mean() if mask is None else per_pixel[mask.numpy()].mean())
