"""Forward splatting with a z-buffer: where surfaces seen by one camera land in another. Torch, any device."""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from track2view.records import Size

SAME_SURFACE = 0.02


def splat_disparity(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size
) -> tuple[Float32[Tensor, "H W"], Float32[Tensor, "H W"]]:
    """Disparity and coverage of points that land at ``pixels``; the nearest surface wins in every cell.

    Every point reaches its four nearest pixel centres with bilinear weights; points within 2 % of the nearest one are
    averaged (disparity is linear across an image of a plane). Coverage is the summed weight, 0 where nothing landed.
    """
    index, weight, source = _corners(pixels, disparity > 0, size)
    landed = disparity[source]
    nearest = torch.zeros(size[0] * size[1], device=pixels.device)
    nearest.scatter_reduce_(0, index, landed, reduce="amax")
    front = landed >= nearest[index] * (1 - SAME_SURFACE)
    index, weight, landed = index[front], weight[front], landed[front]
    coverage = torch.zeros_like(nearest).index_add_(0, index, weight)
    total = torch.zeros_like(nearest).index_add_(0, index, weight * landed)
    return (total / coverage.clamp(min=1e-9)).reshape(size), coverage.reshape(size)


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
            if here.any():
                front = here & (disparity >= disparity[here].max() * (1 - SAME_SURFACE))
                coverage[row, column] = reach[front].sum()
                out[row, column] = (reach[front] * disparity[front]).sum() / reach[front].sum()
    return out, coverage


def splat_nearest(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], size: Size
) -> Int64[Tensor, "H W"]:
    """Index of the nearest of the points that reach each pixel, -1 where none does."""
    index, _, source = _corners(pixels, disparity > 0, size)
    nearest = torch.zeros(size[0] * size[1], device=pixels.device)
    nearest.scatter_reduce_(0, index, disparity[source], reduce="amax")
    front = disparity[source] >= nearest[index]
    winner = torch.full((size[0] * size[1],), -1, dtype=torch.int64, device=pixels.device)
    winner[index[front]] = source[front]
    return winner.reshape(size)


def _corners(
    pixels: Float32[Tensor, "n 2"], keep: Tensor, size: Size
) -> tuple[Int64[Tensor, "m"], Float32[Tensor, "m"], Int64[Tensor, "m"]]:
    """Flat cell index, bilinear weight and point index of every (point, cell) pair inside the image."""
    height, width = size
    at = pixels - 0.5
    keep = keep & (at[:, 0] > -1) & (at[:, 1] > -1) & (at[:, 0] < width) & (at[:, 1] < height)
    source = keep.nonzero()[:, 0]
    at = at[source]
    base = at.floor()
    fraction = at - base
    indices, weights, sources = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = base[:, 0] + right, base[:, 1] + down
            across = fraction[:, 0] if right else 1 - fraction[:, 0]
            along = fraction[:, 1] if down else 1 - fraction[:, 1]
            weight = across * along
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (weight > 1e-6)
            indices.append((row * width + column)[inside].long())
            weights.append(weight[inside])
            sources.append(source[inside])
    return torch.cat(indices), torch.cat(weights), torch.cat(sources)
