"""How sure depth from parallax is: what the views tell, less where a track is unsteady or the picture has nothing to hold on to."""

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

STEADY_PIXELS = 0.3
"""Error, in working pixels, of a track that follows a still point well."""
TEXTURE_WINDOW, HELD_TEXTURE = 7, 1e-3
"""Over which pixels, and from which smallest gradient eigenvalue on, the picture holds a track as firmly as the usual corner."""


def unsteadiness(error: Float64[np.ndarray, "M"], track: Int64[np.ndarray, "M"], count: int) -> Float64[np.ndarray, "N"]:
    """Variance of each of ``count`` tracks in terms of a steady one's, from 1, by the median of its reprojection errors in pixels.

    What sways moves in the picture as what is near does, but not as any still point would: its error tells.
    """
    order = np.lexsort((error, track))
    begin = np.searchsorted(track[order], np.arange(count + 1))
    some = begin[1:] > begin[:-1]
    middle = np.zeros(count)
    middle[some] = error[order[((begin[:-1] + begin[1:]) // 2)[some]]]
    return 1 + (middle / STEADY_PIXELS) ** 2


def looseness(grey: UInt8[np.ndarray, "H W"], points: Float32[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N"]:
    """Variance that a lack of texture adds to points of a picture, in terms of a corner's, from 1: there flow is its neighbours'."""
    strength = cv2.cornerMinEigenVal(cv2.GaussianBlur(grey, (0, 0), 1.0), TEXTURE_WINDOW)
    column, row = np.clip(points.astype(int), 0, np.array(grey.shape[::-1]) - 1).T
    return 1 + HELD_TEXTURE / np.maximum(strength[row, column].astype(np.float64), 1e-6)
