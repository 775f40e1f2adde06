"""Pixels and what is beside them: of pictures of surfaces, their disparity and colour."""

import torch
from jaxtyping import Bool, Float32, Int64, Shaped
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

AGREEMENT = 0.08
"""Of two disparities, as a share of the larger: by less, they are of one surface."""
MIN_COVERAGE = 0.05
SPECKLE = 1.08


def agree(found: Float32[Tensor, "*k n"], expected: Float32[Tensor, "n"]) -> Bool[Tensor, "*k n"]:
    """Whether disparities are of one surface."""
    return (found - expected).abs() < AGREEMENT * torch.maximum(found, expected)


def agreeing_neighbour(
    disparity: Float32[Tensor, "h w"], row: Int64[Tensor, "n"], column: Int64[Tensor, "n"], expected: Float32[Tensor, "n"]
) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"], Bool[Tensor, "n"]]:
    """Of the pixels around each, the one whose disparity is nearest to what is expected, and whether it agrees.

    At an outline a target pixel may land a fraction of a pixel beside its surface; called unseen, it would be a crack.
    """
    rows, columns = three_by_three(row, column, disparity)
    around = disparity[rows, columns]
    nearest = (around - expected).abs().argmin(0, keepdim=True)
    row, column, found = (each.gather(0, nearest)[0] for each in (rows, columns, around))
    return row, column, agree(found, expected)


def own_colours(
    colour: Float32[Tensor, "3 H W"], seen: Bool[Tensor, "H W"], clean: Bool[Tensor, "H W"], surface: Float32[Tensor, "H W"], reach: int
) -> tuple[Float32[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
    """Colours in which seen pixels that are not clean have those of clean ones beside them on the same surface, at most ``reach`` pixels
    away; and what is clean then."""
    colour, clean = colour.clone(), clean.clone()
    for _ in range(reach):
        row, column = (seen & ~clean).nonzero().T
        rows, columns = three_by_three(row, column, clean)
        same = clean[rows, columns] & agree(surface[rows, columns], surface[row, column])
        share = same.sum(0)
        some = share > 0
        mean = (colour[:, rows, columns] * same).sum(1)[:, some] / share[some]
        colour[:, row[some], column[some]], clean[row[some], column[some]] = mean, True
    return colour, clean


def three_by_three(
    row: Int64[Tensor, "n"], column: Int64[Tensor, "n"], image: Shaped[Tensor, "H W"]
) -> tuple[Int64[Tensor, "9 n"], Int64[Tensor, "9 n"]]:
    """Pixels and those around them, at an image's rim itself again."""
    step = torch.tensor([-1, 0, 1], device=row.device)
    down, right = (each.reshape(9, 1) for each in torch.meshgrid(step, step, indexing="ij"))
    return (row + down).clamp(0, image.shape[0] - 1), (column + right).clamp(0, image.shape[1] - 1)


def largest_around(image: Float32[Tensor, "H W"], reach: int = 1) -> Float32[Tensor, "H W"]:
    """The largest value at most ``reach`` rows and columns away."""
    side = 2 * reach + 1
    across = max_pool2d(image[None, None], (1, side), 1, (0, reach))
    return max_pool2d(across, (side, 1), 1, (reach, 0))[0, 0]


def blurred(image: Float32[Tensor, "c H W"]) -> Float32[Tensor, "c H W"]:
    """By half a pixel: a quarter, a half and a quarter along each side."""
    kernel = torch.tensor([0.25, 0.5, 0.25], device=image.device)
    return conv2d(image[:, None], torch.outer(kernel, kernel)[None, None], padding=1)[:, 0]


def close_cracks(surface: Float32[Tensor, "H W"], coverage: Float32[Tensor, "H W"]) -> Float32[Tensor, "H W"]:
    """Fill one-pixel gaps from their neighbours, and drop far specks that show through a near surface."""
    known = coverage > MIN_COVERAGE
    surface = torch.where(known, surface, torch.zeros_like(surface))
    for _ in range(2):
        share = avg_pool2d(known[None, None].float(), 3, 1, 1)[0, 0]
        mean = avg_pool2d(surface[None, None], 3, 1, 1)[0, 0] / share.clamp(min=1e-6)
        speck = known & (mean > surface * SPECKLE) & (max_pool2d(surface[None, None], 3, 1, 1)[0, 0] < mean * SPECKLE * 1.15)
        fill = (~known & (share > 0.5)) | speck
        surface = torch.where(fill, mean, surface)
        known = known | fill
    return surface
