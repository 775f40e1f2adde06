"""Points that are followed for moments only: in a few frames, what moves along the lines of sight looks still, nearer or farther."""

import math

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.spatial import KDTree

LASTING_FRAMES = 8
"""Frames that a point is followed in, from which on it cannot move along its lines of sight and be taken for still."""
ABOUT, LIVELY_SHARE, SAME_DEPTH = 8, 0.375, 1.35
"""Points about one that are asked; how many of them move where things do; and by how much it may be nearer or farther than a still one."""


def things_move_about(
    points: Float32[np.ndarray, "n 2"], others: Float32[np.ndarray, "m 2"], moving: Bool[np.ndarray, "m"]
) -> Bool[np.ndarray, "n"]:
    """Which points have others about them of which enough move."""
    if not len(points) or not len(others):
        return np.zeros(len(points), bool)
    _, near = KDTree(others).query(points, k=min(ABOUT, len(others)))
    return moving[near.reshape(len(points), -1)].mean(1) >= LIVELY_SHARE


def moves_after_all(
    points: Float32[np.ndarray, "n 2"],
    disparity: Float64[np.ndarray, "n"],
    lasting: Float32[np.ndarray, "m 2"],
    told: Float64[np.ndarray, "m"],
    moving: Bool[np.ndarray, "m"],
) -> Bool[np.ndarray, "n"]:
    """Which points that were followed for moments only, and look still at some depth, move: those that have things that move about
    them, and a depth that nothing still about them has.

    Args:
        lasting: points of the same frame that were followed for long, ``told`` their inverse depth, ``moving`` which of them move.
    """
    still = np.flatnonzero(~moving)
    if not len(points) or not len(still):
        return np.zeros(len(points), bool)
    _, near = KDTree(lasting[still]).query(points, k=min(ABOUT, len(still)))
    beyond = np.abs(np.log(told[still[near.reshape(len(points), -1)]] / disparity[:, None])).min(1)
    return things_move_about(points, lasting, moving) & (beyond > math.log(SAME_DEPTH))
