"""Flashes: moments that are much brighter than what is alike on both sides of them."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

THUMBNAIL = (32, 24)
FLASH_FRAMES = 5
FLASH_LEVELS, FLASH_LIKENESS = 30.0, 0.8

Thumbnails = Float32[np.ndarray, "T p"]


def flashes(grey: UInt8[np.ndarray, "T H W"]) -> list[tuple[int, int]]:
    """Last frame before and first frame behind each moment that is much brighter than what is alike on both sides of it."""
    small = thumbnails(grey)
    bright = small.mean(1)
    found, frame = [], 0
    while frame < len(small) - 2:
        for after in range(frame + 2, min(frame + FLASH_FRAMES + 2, len(small))):
            lit = bright[frame + 1 : after].min() > max(bright[frame], bright[after]) + FLASH_LEVELS
            if lit and likeness(small[frame], small[after]) > FLASH_LIKENESS:
                found.append((frame, after))
                frame = after - 1
                break
        frame += 1
    return found


def thumbnails(grey: UInt8[np.ndarray, "T H W"]) -> Thumbnails:
    """Frames so small that little of their motion is left, as rows."""
    return np.stack([cv2.resize(each, THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for each in grey]).astype(np.float32)


def likeness(one: Float32[np.ndarray, "p"], other: Float32[np.ndarray, "p"]) -> float:
    """Correlation; a blank picture is like none."""
    return float(np.corrcoef(one, other)[0, 1]) if min(np.ptp(one), np.ptp(other)) > 0 else 0.0
