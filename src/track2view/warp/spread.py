"""What points tell, told of every pixel: an edge-aware smoother, one layer for what is still and one for what moves."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from track2view.trackers.certainty import CALIBRATED

ISLAND_SHARE = 2e-3
SMOOTHED = 0.02
"""Deviation that spreading depth over a picture adds, in terms of it (docs/benchmarks.md)."""
SMOOTHING = 60.0
COLOUR_SIGMA = 12.0
SPECK_WINDOW = 5
"""Of the median that takes specks out of depth, and frays off its edges."""
EDGE_WINDOW = 7
EDGE_RATIO = 1.12
EDGE_TRUST = 0.02


def far_and_near(image: Float32[np.ndarray, "H W"], window: int) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Least and largest disparity in the window around each pixel."""
    kernel = np.ones((window, window), np.uint8)
    return cv2.erode(image, kernel), cv2.dilate(image, kernel)


def spread(
    guide: UInt8[np.ndarray, "h w 3"],
    total: Float32[np.ndarray, "2 h w"],
    weight: Float32[np.ndarray, "2 h w"],
    evidence: Float32[np.ndarray, "2 h w"],
    *,
    told: bool,
) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Disparity of every pixel, each from its own layer (still or moving), and which pixels are moving.

    Flow is smooth across depth edges, so points near an edge are not sure which side they are on: a first pass finds the
    edges, a second one lets the image decide where exactly they run. Where no track was told its depth, what moves lies as
    far as what is around it: two guesses side by side would tear it.
    """
    amount = [_smooth(guide, each, SMOOTHING) for each in evidence]
    moving = ~_without_islands(~_without_islands(amount[1] > amount[0]))
    layers = []
    for layer in (0, 1):
        rough = _normalised(guide, total[layer], weight[layer], SMOOTHING)
        far, near = far_and_near(rough, EDGE_WINDOW)
        sure = weight[layer] * np.where(near > far * EDGE_RATIO, EDGE_TRUST, 1.0).astype(np.float32)
        ratio = np.divide(total[layer], weight[layer], out=np.zeros_like(total[layer]), where=weight[layer] > 0)
        layers.append(_normalised(guide, ratio * sure, sure, 2 * SMOOTHING))
    return cv2.medianBlur(np.where(moving & told, layers[1], layers[0]).astype(np.float32), SPECK_WINDOW), moving


def deviation_of(
    guide: UInt8[np.ndarray, "h w 3"],
    doubt: Float32[np.ndarray, "2 h w"],
    weight: Float32[np.ndarray, "2 h w"],
    moving: Bool[np.ndarray, "h w"],
) -> Float32[np.ndarray, "h w"]:
    """How unsure each pixel's disparity is, in terms of it: as its layer's points on average, for neighbours err together."""
    height, width = moving.shape
    mine = [
        cv2.resize(each, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        for each in (guide, *(np.where(moving, each[1], each[0]) for each in (doubt, weight)))
    ]
    variance = _normalised(mine[0], mine[1], mine[2], SMOOTHING)
    return np.hypot(SMOOTHED, CALIBRATED * np.sqrt(cv2.resize(variance, (width, height), interpolation=cv2.INTER_LINEAR)))


def _without_islands(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Only those connected regions of a mask that are large enough to be a thing."""
    _, label, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return mask & (stats[label, cv2.CC_STAT_AREA] >= ISLAND_SHARE * mask.size)


def _smooth(guide: UInt8[np.ndarray, "h w 3"], image: Float32[np.ndarray, "h w"], strength: float) -> Float32[np.ndarray, "h w"]:
    return cv2.ximgproc.fastGlobalSmootherFilter(guide, image, strength, COLOUR_SIGMA)


def _normalised(
    guide: UInt8[np.ndarray, "h w 3"], total: Float32[np.ndarray, "h w"], weight: Float32[np.ndarray, "h w"], strength: float
) -> Float32[np.ndarray, "h w"]:
    """Edge-aware weighted mean: near where points are dense, ever broader where they are not."""
    numerator, denominator = np.full_like(total, 1e-12), np.full_like(total, 1e-12)
    for broader, share in ((1, 1.0), (50, 1e-2)):
        numerator += share * _smooth(guide, total, broader * strength)
        denominator += share * _smooth(guide, weight, broader * strength)
    numerator += 1e-4 * cv2.GaussianBlur(total, (0, 0), len(total) / 12)
    denominator += 1e-4 * cv2.GaussianBlur(weight, (0, 0), len(total) / 12)
    return np.maximum(numerator / denominator, 1e-4)
