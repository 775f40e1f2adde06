"""Scores of pictures by what a network makes of them: distances of whole sets, and likeness of frames to each other and to text.

Networks are not here: these are functions of their features. Shapes: N pictures or T frames, F features.
"""

import math

import numpy as np
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn.functional import cosine_similarity

from track2view.errors import UserError

KERNEL_DEGREE, KERNEL_OFFSET = 3, 1.0
"""Of the kernel distance (Bińkowski et al. 2018, section 3)."""


def frechet_distance(features: Float64[np.ndarray, "N F"], others: Float64[np.ndarray, "M F"]) -> float:
    """Squared Fréchet distance of two normal distributions fitted to features (FID where these are Inception's; Heusel et al. 2017).

    Of few pictures it is far too large: compare only what was measured on equally many (:func:`kernel_distance` is not biased).

    Raises:
        UserError: fewer than two pictures, for which there is no covariance.
    """
    _check(features, others)
    apart = features.mean(0) - others.mean(0)
    one, other = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (features, others))
    # the trace of a square root of a product is that of the root of its symmetric form, of which no eigenvalue is below 0
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(apart @ apart + np.trace(one) + np.trace(other) - 2 * common)


def kernel_distance(features: Float64[np.ndarray, "N F"], others: Float64[np.ndarray, "M F"]) -> float:
    """Unbiased squared maximum mean discrepancy under a cubic kernel (KID; Bińkowski et al. 2018, equation 4); may be below 0.

    Raises:
        UserError: fewer than two pictures.
    """
    _check(features, others)

    def kernel(one: Float64[np.ndarray, "A F"], other: Float64[np.ndarray, "B F"]) -> Float64[np.ndarray, "A B"]:
        return (one @ other.T / one.shape[1] + KERNEL_OFFSET) ** KERNEL_DEGREE

    def within(some: Float64[np.ndarray, "A F"]) -> float:
        like = kernel(some, some)
        return float((like.sum() - np.trace(like)) / (len(some) * (len(some) - 1)))

    return within(features) + within(others) - 2 * float(kernel(features, others).mean())


def likeness(features: Float[Tensor, "T F"], others: Float[Tensor, "T F"]) -> float:
    """Mean cosine of frames to others, times 100: CLIP-V of a re-filmed clip and its source (paper, section 4.2)."""
    return 100 * float(cosine_similarity(features, others).mean())


def likeness_to_text(features: Float[Tensor, "T F"], text: Float[Tensor, "F"]) -> float:
    """Mean cosine of frames to a caption, times 100: CLIP-T."""
    return 100 * float(cosine_similarity(features, text[None]).mean())


def likeness_over_time(features: Float[Tensor, "T F"]) -> float:
    """Mean cosine of frames to the next, times 100: CLIP-F. NaN for a single frame."""
    return 100 * float(cosine_similarity(features[:-1], features[1:]).mean()) if len(features) > 1 else math.nan


def consistency(features: Float[Tensor, "T F"]) -> float:
    """VBench's subject consistency (DINO's features) and background consistency (CLIP's), in percent (arXiv 2311.17982, appendix).

    Mean over all frames but the first of the cosines to the first frame and to the one before, each not below 0. NaN for a single frame.
    """
    if len(features) < 2:
        return math.nan
    to_first, to_last = (cosine_similarity(features[1:], each).clamp(min=0) for each in (features[:1], features[:-1]))
    return 100 * float((to_first + to_last).mean() / 2)


def steadiness(frames: UInt8[Tensor, "T 3 H W"]) -> float:
    """VBench's temporal flickering, in percent: 100 for a still picture, less the more pixels change from frame to frame."""
    if len(frames) < 2:
        return math.nan
    return 100 * (1 - float(frames.float().diff(dim=0).abs().mean()) / 255)


def _check(*sets: Float64[np.ndarray, "... F"]) -> None:
    if (least := min(map(len, sets))) < 2:
        raise UserError(f"distances of sets need two pictures of each at least, got {least}")
