"""Forward splatting with a z-buffer: where surfaces seen by one camera land in another. Torch, any device."""

import math

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from track2view.geometry import invert
from track2view.records import Size

SAME_SURFACE = 0.02
COVERING = 0.05
"""Share of a cell that a surface covers at least to hide what is behind it; whole ones cover 0.55 and more."""


def look(
    xyz: Float32[Tensor, "n 3"], world_from_camera: Float64[Tensor, "4 4"], intrinsics: Float64[Tensor, "3 3"]
) -> tuple[Float32[Tensor, "n 2"], Float32[Tensor, "n"]]:
    """Pixels and disparity (0 where behind the camera) of world points."""
    pose = invert(world_from_camera).float().to(xyz.device)
    in_camera = xyz @ pose[:3, :3].T + pose[:3, 3]
    front = in_camera[:, 2] > 1e-3
    landed = torch.where(front, 1 / in_camera[:, 2].clamp(min=1e-3), torch.zeros_like(in_camera[:, 2]))
    return (in_camera @ intrinsics.float().to(xyz.device).T)[:, :2] * landed[:, None], landed


def splat_disparity(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size
) -> tuple[Float32[Tensor, "H W"], Float32[Tensor, "H W"]]:
    """Disparity and coverage of points that land at ``pixels``; in every cell the nearest surface wins that covers enough of it.

    Every point reaches its four nearest pixel centres with bilinear weights; points within 2 % of the nearest one are
    averaged (disparity is linear across an image of a plane). Coverage is their summed weight, 0 where nothing landed. Where it is less
    than ``COVERING`` and something lies behind, that is the surface: a thing whose rim just touches a cell would grow by a pixel.
    """
    corners = _corners(pixels, disparity, size)
    front, coverage = _surface(corners, disparity, torch.full((_cells(size),), math.inf, device=pixels.device))
    behind, covered = _surface(corners, disparity, front * (1 - SAME_SURFACE))
    touched = (coverage < COVERING) & (covered > coverage)
    return _image(torch.where(touched, behind, front), size), _image(torch.where(touched, covered, coverage), size)


def _surface(
    corners: list[tuple[Int64[Tensor, "n"], Float32[Tensor, "n"]]], disparity: Float32[Tensor, "n"], before: Float32[Tensor, "cells"]
) -> tuple[Float32[Tensor, "cells"], Float32[Tensor, "cells"]]:
    """Disparity and coverage of the nearest surface of those farther than ``before``."""
    nearest, coverage, total = torch.zeros_like(before), torch.zeros_like(before), torch.zeros_like(before)
    for index, _ in corners:
        nearest.scatter_reduce_(0, index, torch.where(disparity < before[index], disparity, 0), reduce="amax")
    for index, weight in corners:
        mine = weight * ((disparity >= nearest[index] * (1 - SAME_SURFACE)) & (disparity < before[index]))
        coverage.index_add_(0, index, mine)
        total.index_add_(0, index, mine * disparity)
    return total / coverage.clamp(min=1e-9), coverage


def splat_reference(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size
) -> tuple[Float32[Tensor, "H W"], Float32[Tensor, "H W"]]:
    """:func:`splat_disparity`, slow and obvious: one cell at a time."""
    height, width = size
    out, coverage = torch.zeros(size), torch.zeros(size)
    for row in range(height):
        for column in range(width):
            reach = (1 - (pixels[:, 0] - (column + 0.5)).abs()).clamp(min=0) * (1 - (pixels[:, 1] - (row + 0.5)).abs()).clamp(min=0)
            here = (reach > 1e-6) & (disparity > 0)
            found = (0.0, 0.0)
            for _ in range(2):
                if not here.any():
                    break
                front = here & (disparity >= disparity[here].max() * (1 - SAME_SURFACE))
                covered = float(reach[front].sum())
                if covered > found[1]:
                    found = float((reach[front] * disparity[front]).sum()) / covered, covered
                if covered >= COVERING:
                    break
                here &= disparity < found[0] * (1 - SAME_SURFACE)
            out[row, column], coverage[row, column] = found
    return out, coverage


def splat_nearest(pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size) -> Int64[Tensor, "H W"]:
    """Index of the nearest of the points that reach each pixel, -1 where none does."""
    corners = _corners(pixels, disparity, size)
    nearest = torch.zeros(_cells(size), device=pixels.device)
    for index, _ in corners:
        nearest.scatter_reduce_(0, index, disparity, reduce="amax")
    winner = torch.full((_cells(size),), -1, dtype=torch.int64, device=pixels.device)
    order = torch.arange(len(pixels), device=pixels.device)
    for index, _ in corners:
        front = disparity >= nearest[index]
        winner.scatter_reduce_(0, index, torch.where(front, order, -1), reduce="amax")
    return _image(winner, size)


def _cells(size: Size) -> int:
    """Cells of an image with a border of one, which takes what lands outside."""
    return (size[0] + 2) * (size[1] + 2)


def _image(cells: Tensor, size: Size) -> Tensor:
    return cells.reshape(size[0] + 2, size[1] + 2)[1:-1, 1:-1].contiguous()


def _corners(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size
) -> list[tuple[Int64[Tensor, "n"], Float32[Tensor, "n"]]]:
    """For each of a point's four nearest cells: flat index into the bordered image, and bilinear weight."""
    height, width = size
    column, row = pixels[:, 0] + 0.5, pixels[:, 1] + 0.5
    outside = (column < 0) | (row < 0) | (column >= width + 1) | (row >= height + 1) | (disparity <= 0)
    column, row = column.masked_fill(outside, 0.0), row.masked_fill(outside, 0.0)
    left, top = column.floor(), row.floor()
    right_share, bottom_share = column - left, row - top
    first = (top * (width + 2) + left).long()
    shares = (
        ((1 - bottom_share) * (1 - right_share), 0),
        ((1 - bottom_share) * right_share, 1),
        (bottom_share * (1 - right_share), width + 2),
        (bottom_share * right_share, width + 3),
    )
    return [(torch.where(weight > 1e-6, first + step, 0), weight) for weight, step in shares]
