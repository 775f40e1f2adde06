"""Between points of a picture and the cells of a grid over it: bilinear sampling, and its normalised adjoint.

Both are products with one matrix of shares, so they are deterministic on every device (atomic additions are not), forwards and
backwards. They compute in float32 (float64 where positions are) whatever the values' type and whatever autocast says: in
bfloat16 a column of 52 cells errs by up to 3.6 pixels (design section 5, Numbers).

Shapes: B clips, F frames, N points, h w cells, D channels. The grid covers the picture: uv (0, 0) is its corner, cell centres
are at (i + 0.5) / w, border cells are held.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from track2view.records import Size


def cell_shares(uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"], size: Size) -> Float[Tensor, "B F N c"]:
    """How much each of the h·w cells counts at each point: four at most, together 1; none where invalid."""
    exact = uv.to(torch.promote_types(uv.dtype, torch.float32))
    across, down = (_line_shares(exact[..., axis], count) for axis, count in ((0, size[1]), (1, size[0])))
    shares = (down[..., :, None] * across[..., None, :]).flatten(-2)
    return torch.where(valid[..., None], shares, 0.0)


def sample_tracks(
    field: Float[Tensor, "B F h w D"], uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"]
) -> Float[Tensor, "B F N D"]:
    """Bilinear samples of a token field along tracks, 0 where invalid (paper section 3.2; design section 5, step 1)."""
    with torch.autocast(field.device.type, enabled=False):
        shares = cell_shares(uv, valid, (field.shape[2], field.shape[3]))
        return shares @ field.flatten(2, 3).to(shares.dtype)


def scatter_tracks(
    values: Float[Tensor, "B F N D"],
    uv: Float[Tensor, "B F N 2"],
    valid: Bool[Tensor, "B F N"],
    size: Size,
    weight: Float[Tensor, "B F N"] | None = None,
) -> Float[Tensor, "B F h w D"]:
    """The normalised adjoint of :func:`sample_tracks` (design section 5, step 4).

    Every valid track adds its value to its four nearest cells with bilinear weights (times ``weight``); cells are divided by
    their summed weights and are 0 where no track is.
    """
    with torch.autocast(values.device.type, enabled=False):
        shares = cell_shares(uv, valid, size)
        shares = shares if weight is None else shares * weight[..., None].to(shares.dtype)
        amount = shares.sum(2)[..., None]
        total = shares.transpose(2, 3) @ torch.where(valid[..., None], values, 0.0).to(shares.dtype)
        return torch.where(amount > 0, total / torch.where(amount > 0, amount, 1.0), 0.0).unflatten(2, size)


def _line_shares(position: Float[Tensor, "*n"], count: int) -> Float[Tensor, "*n c"]:
    """Of the cells in a line, at positions in [0, 1]: a hat of one cell's width about each centre."""
    cells = torch.arange(count, device=position.device, dtype=position.dtype)
    return (1 - ((position * count - 0.5).clamp(0, count - 1)[..., None] - cells).abs()).clamp(min=0)


def sample_reference(
    field: Float[Tensor, "B F h w D"], uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"]
) -> Float[Tensor, "B F N D"]:
    """:func:`sample_tracks`, slow and obvious: one track at a time."""
    batch, frames, height, width, channels = field.shape
    rows = [field.new_zeros(channels) for _ in range(batch * frames * uv.shape[2])]
    for b, f, n in valid.nonzero().tolist():
        for row, column, share in _cells_of(uv[b, f, n], height, width):
            place = (b * frames + f) * uv.shape[2] + n
            rows[place] = rows[place] + share * field[b, f, row, column]
    return torch.stack(rows).reshape(batch, frames, uv.shape[2], channels)


def scatter_reference(
    values: Float[Tensor, "B F N D"], uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"], size: Size
) -> Float[Tensor, "B F h w D"]:
    """:func:`scatter_tracks` without weights, slow and obvious: one track at a time."""
    batch, frames, _, channels = values.shape
    total: dict[tuple[int, int, int, int], Tensor] = {}
    amount: dict[tuple[int, int, int, int], Tensor] = {}
    for b, f, n in valid.nonzero().tolist():
        for row, column, share in _cells_of(uv[b, f, n], *size):
            cell = (b, f, row, column)
            total[cell] = total.get(cell, 0) + share * values[b, f, n]
            amount[cell] = amount.get(cell, 0) + share
    nothing = values.new_zeros(channels)
    cells = [
        total[cell] / amount[cell] if cell in total and bool(amount[cell] > 0) else nothing
        for cell in (
            (b, f, row, column) for b in range(batch) for f in range(frames) for row in range(size[0]) for column in range(size[1])
        )
    ]
    return torch.stack(cells).reshape(batch, frames, *size, channels)


def _cells_of(uv: Float[Tensor, "2"], height: int, width: int) -> list[tuple[int, int, Tensor]]:
    column, row = uv[0] * width - 0.5, uv[1] * height - 0.5
    left, top = math.floor(float(column)), math.floor(float(row))
    return [
        (min(max(top + below, 0), height - 1), min(max(left + right, 0), width - 1), share_row * share_column)
        for below, share_row in ((0, 1 - (row - top)), (1, row - top))
        for right, share_column in ((0, 1 - (column - left)), (1, column - left))
    ]
