"""Image fidelity, on all pixels or on some."""

import math

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from skimage.metrics import structural_similarity
from torch import Tensor

STRONG_EDGES = (80, 200)
"""Canny's two thresholds on luma's gradient: outlines of things pass, most texture does not."""


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


def edges_kept(
    image: UInt8[Tensor, "3 H W"], reference: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"] | None = None
) -> tuple[float, float]:
    """Shares of strong edges: the reference's that the image has within a pixel, and the image's that the reference has.

    The first falls where outlines are torn or smeared, the second where they are doubled or made up. NaN where there are no edges. Edges
    within two pixels of what ``mask`` leaves out are not counted.
    """
    inside = None if mask is None else cv2.erode(mask.numpy().astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    found, true = (_strong_edges(each) for each in (image, reference))
    near = np.ones((3, 3), np.uint8)

    def share(edges: np.ndarray, among: np.ndarray) -> float:
        counted = edges > 0 if inside is None else (edges > 0) & inside
        return float((cv2.dilate(among, near)[counted] > 0).mean()) if counted.any() else math.nan

    return share(true, found), share(found, true)


def flicker(images: UInt8[Tensor, "T 3 H W"], reference: UInt8[Tensor, "T 3 H W"], mask: Bool[Tensor, "T H W"] | None = None) -> float:
    """Mean size, in 8-bit levels, of the change from frame to frame that the reference does not have.

    Args:
        mask: only pixels that it keeps in both frames count; NaN where it keeps none.
    """
    unlike = (images.float().diff(dim=0) - reference.float().diff(dim=0)).abs().mean(1)
    return float((unlike if mask is None else unlike[mask[1:] & mask[:-1]]).mean())


def _strong_edges(image: UInt8[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W"]:
    luma = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
    return cv2.Canny(cv2.GaussianBlur(luma, (0, 0), 0.8), *STRONG_EDGES, L2gradient=True)
