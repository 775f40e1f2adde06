"""Paired tracks to token context (design section 5): sample along source tracks, mix along time, scatter into both views.

Shapes: B clips, F latent frames, N tracks, h w token grid, D model width, d conditioner width.
"""

import math
from dataclasses import dataclass, replace

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from track2view.errors import UserError
from track2view.model.latents import LatentGrid
from track2view.records import PairedTracks, ViewTracks

ROBUST_RANGE = (0.02, 0.98)
BEYOND_RANGE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewCondition:
    """Tracks of a batch as one view sees them, at latent frames.

    Attributes:
        uv: [0, 1] image units where valid; anything finite elsewhere.
        disparity: normalised jointly over both views, about [0, 1]; 0 where invalid.
        valid: where the position counts.
    """

    uv: Float[Tensor, "B F N 2"]
    disparity: Float[Tensor, "B F N"]
    valid: Bool[Tensor, "B F N"]

    def to(self, device: torch.device) -> "ViewCondition":
        """The same on another device."""
        return ViewCondition(uv=self.uv.to(device), disparity=self.disparity.to(device), valid=self.valid.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackCondition:
    """What the conditioner reads beside source tokens: column n is the same scene point in both views."""

    source: ViewCondition
    target: ViewCondition
    confidence: Float[Tensor, "B F N"]

    def to(self, device: torch.device) -> "TrackCondition":
        """The same on another device."""
        return TrackCondition(source=self.source.to(device), target=self.target.to(device), confidence=self.confidence.to(device))

    @staticmethod
    def of(pairs: PairedTracks, latent_frames: int, stride: int = 4) -> "TrackCondition":
        """One clip's tracks at frames 0, ``stride``, …; beyond the clip's end its last frame is held, as in the latents.

        Raises:
            UserError: no track is ever valid in the source view.
        """
        if not bool(pairs.source.valid.any()):
            raise UserError("no track is visible in the source view; track more points, or check the source camera")
        frames = (torch.arange(latent_frames) * stride).clamp(max=len(pairs.confidence) - 1)
        views = [_at_frames(view, frames) for view in (pairs.source, pairs.target)]
        disparity = normalised_disparity([1 / depth for _, depth, _ in views], [valid for *_, valid in views])
        source, target = (
            ViewCondition(uv=uv[None], disparity=near[None], valid=valid[None])
            for (uv, _, valid), near in zip(views, disparity, strict=True)
        )
        return TrackCondition(source=source, target=target, confidence=pairs.confidence[frames][None])


def on_padded(condition: TrackCondition, grid: LatentGrid) -> TrackCondition:
    """Image positions of the clip as positions in the padded picture that the token grid covers."""

    def moved(view: ViewCondition) -> ViewCondition:
        return replace(view, uv=grid.uv_in_padded(view.uv))

    return replace(condition, source=moved(condition.source), target=moved(condition.target))


def normalised_disparity(disparity: list[Float[Tensor, "F N"]], valid: list[Bool[Tensor, "F N"]]) -> list[Float[Tensor, "F N"]]:
    """Both views' disparities on one scale (so that their relation stays): the middle 96 % of valid entries fill [0, 1]."""
    known = torch.cat([each[where] for each, where in zip(disparity, valid, strict=True)])
    low, high = torch.quantile(known.float(), torch.tensor(ROBUST_RANGE, device=known.device)).tolist()
    span = max(high - low, 1e-6 * max(abs(high), 1e-6))
    scaled = [((each - low) / span).clamp(-BEYOND_RANGE, 1 + BEYOND_RANGE) for each in disparity]
    return [torch.where(where, each, torch.zeros_like(each)) for each, where in zip(scaled, valid, strict=True)]


def sample_tracks(
    field: Float[Tensor, "B F h w D"], uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"]
) -> Float[Tensor, "B F N D"]:
    """Bilinear samples of a token field along tracks, 0 where invalid (paper section 3.2; design section 5, step 1).

    The grid covers the image: uv (0, 0) is its corner, cell centres are at (i + 0.5) / w, border cells are held.
    """
    batch, frames, _, _, width = field.shape
    planes = field.flatten(0, 1).permute(0, 3, 1, 2)
    grid = (2 * uv - 1).flatten(0, 1)[:, :, None].to(field.dtype)
    sampled = grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    out = sampled[..., 0].transpose(1, 2).reshape(batch, frames, -1, width)
    return torch.where(valid[..., None], out, torch.zeros_like(out))


def scatter_tracks(
    values: Float[Tensor, "B F N D"],
    uv: Float[Tensor, "B F N 2"],
    valid: Bool[Tensor, "B F N"],
    size: tuple[int, int],
    weight: Float[Tensor, "B F N"] | None = None,
) -> Float[Tensor, "B F h w D"]:
    """The normalised adjoint of :func:`sample_tracks` (design section 5, step 4).

    Every valid track adds its value to its four nearest cells with bilinear weights (times ``weight``); cells are divided by
    their summed weights and are 0 where no track is.
    """
    batch, frames, count, width = values.shape
    planes = batch * frames
    share = valid.to(values.dtype) if weight is None else torch.where(valid, weight.to(values.dtype), 0.0)
    index, corner_weight = corner_weights(uv.reshape(planes, count, 2).to(values.dtype), size)
    total = values.new_zeros(planes * size[0] * size[1], width)
    amount = values.new_zeros(planes * size[0] * size[1])
    first = (torch.arange(planes, device=values.device) * size[0] * size[1])[:, None]
    flat = torch.where(valid[..., None], values, torch.zeros_like(values)).reshape(planes * count, width)
    for corner in range(4):
        strength = (corner_weight[..., corner] * share.reshape(planes, count)).reshape(-1)
        where = (first + index[..., corner]).reshape(-1)
        total = total.index_add(0, where, flat * strength[:, None])
        amount = amount.index_add(0, where, strength)
    cells = torch.where((amount > 0)[:, None], total / torch.where(amount > 0, amount, 1.0)[:, None], 0.0)
    return cells.reshape(batch, frames, *size, width)


def corner_weights(uv: Float[Tensor, "P N 2"], size: tuple[int, int]) -> tuple[Int64[Tensor, "P N 4"], Float[Tensor, "P N 4"]]:
    """The four cells nearest to each point (flat index, row by row) and their bilinear weights; border cells are held."""
    height, width = size
    column, row = uv[..., 0] * width - 0.5, uv[..., 1] * height - 0.5
    left, top = column.floor(), row.floor()
    right_share, bottom_share = column - left, row - top
    columns = torch.stack([left, left + 1, left, left + 1], dim=-1).clamp(0, width - 1)
    rows = torch.stack([top, top, top + 1, top + 1], dim=-1).clamp(0, height - 1)
    across = torch.stack([1 - right_share, right_share, 1 - right_share, right_share], dim=-1)
    down = torch.stack([1 - bottom_share, 1 - bottom_share, bottom_share, bottom_share], dim=-1)
    return (rows * width + columns).long(), across * down


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
    values: Float[Tensor, "B F N D"], uv: Float[Tensor, "B F N 2"], valid: Bool[Tensor, "B F N"], size: tuple[int, int]
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


def confidence_weight(condition: TrackCondition, strength: float) -> Float[Tensor, "B F N"]:
    """Surer tracks outweigh others in a cell (the paper's future work); strength 0 weighs all alike."""
    return condition.confidence.clamp(min=1e-3) ** strength


def nearness_weight(view: ViewCondition, strength: float) -> Float[Tensor, "B F N"]:
    """Nearer tracks outweigh farther ones in a cell (ours); strength 0 weighs all alike."""
    return torch.exp(strength * view.disparity)


class TrackConditioner(ModelMixin, ConfigMixin):
    """Context for source and target tokens from clean source tokens and paired tracks (paper section 3.2).

    It reads nothing that changes over denoising steps or guidance branches: evaluate it once per clip and target camera.

    Args:
        token_width: D, the transformer's width.
        width: d, its own.
        layers: encoder layers along time (the paper's ablation: 2, 4, 8).
        heads: attention heads of these.
        bands: octaves of the Fourier features of position and disparity.
        confidence_strength: see :func:`confidence_weight`; 0 as in the paper.
        nearness_strength: see :func:`nearness_weight`; 0 as in the paper.
    """

    @register_to_config
    def __init__(
        self,
        token_width: int = 1536,
        width: int = 512,
        layers: int = 8,
        heads: int = 8,
        bands: int = 8,
        confidence_strength: float = 0.0,
        nearness_strength: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(token_width, width)
        self.position = nn.Linear(4 * bands, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.depth = nn.Sequential(nn.Linear(2 * bands, width), nn.GELU(), nn.Linear(width, width))
        self.out_proj = nn.Linear(width, token_width, bias=False)
        nn.init.zeros_(self.out_proj.weight)

    def forward(
        self, source_tokens: Float[Tensor, "B F h w D"], condition: TrackCondition
    ) -> tuple[Float[Tensor, "B F h w D"], Float[Tensor, "B F h w D"]]:
        """What to add to the source's and to the target's tokens before the first block."""
        size = (source_tokens.shape[2], source_tokens.shape[3])
        along = self.follow(source_tokens, condition.source)
        alive = condition.source.valid.any(1, keepdim=True)
        contexts = []
        for view in (condition.source, condition.target):
            values = along + self.depth(fourier(view.disparity[..., None].to(along.dtype), self.config["bands"]))
            weight = confidence_weight(condition, self.config["confidence_strength"])
            weight = weight * nearness_weight(view, self.config["nearness_strength"])
            contexts.append(self.out_proj(scatter_tracks(values, view.uv, view.valid & alive, size, weight)))
        return contexts[0], contexts[1]

    def follow(self, source_tokens: Float[Tensor, "B F h w D"], source: ViewCondition) -> Float[Tensor, "B F N d"]:
        """Features of tracks at every latent frame, also those that do not see them; 0 for tracks that no frame sees."""
        batch, frames, count = source.valid.shape
        features = sample_tracks(self.in_proj(source_tokens), source.uv, source.valid)
        query = features + self.position(fourier(source.uv.to(features.dtype), self.config["bands"]))
        query = query + self.mlp(self.norm(query))
        query = torch.where(source.valid[..., None], query, 0.0)
        query = query + time_embedding(frames, query.shape[-1]).to(query)[None, :, None]
        alive = source.valid.any(1).reshape(-1)
        by_track = query.transpose(1, 2).reshape(batch * count, frames, -1)
        unseen = ~source.valid.transpose(1, 2).reshape(batch * count, frames)
        mixed = torch.zeros_like(by_track)
        mixed[alive] = self.encoder(by_track[alive], src_key_padding_mask=unseen[alive]).to(mixed.dtype)
        return mixed.reshape(batch, count, frames, -1).transpose(1, 2)


def fourier(values: Float[Tensor, "*n c"], bands: int) -> Float[Tensor, "*n p"]:
    """Sines and cosines of each channel at ``bands`` octaves from half a period per unit."""
    frequency = math.pi * 2.0 ** torch.arange(bands, device=values.device, dtype=values.dtype)
    angle = (values[..., None] * frequency).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def time_embedding(frames: int, width: int) -> Float[Tensor, "F d"]:
    """Sinusoidal positions of latent frames, for any number of them."""
    frequency = torch.exp(-math.log(1000.0) * torch.arange(width // 2) / (width // 2))
    angle = torch.arange(frames)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _at_frames(view: ViewTracks, frames: Int64[Tensor, "F"]) -> tuple[Tensor, Tensor, Tensor]:
    valid = view.valid[frames]
    uv = torch.where(valid[..., None], view.uv[frames], 0.5)
    return uv, torch.where(valid, view.depth[frames], 1.0), valid


def _cells_of(uv: Float[Tensor, "2"], height: int, width: int) -> list[tuple[int, int, Tensor]]:
    column, row = uv[0] * width - 0.5, uv[1] * height - 0.5
    left, top = math.floor(float(column)), math.floor(float(row))
    return [
        (min(max(top + below, 0), height - 1), min(max(left + right, 0), width - 1), share_row * share_column)
        for below, share_row in ((0, 1 - (row - top)), (1, row - top))
        for right, share_column in ((0, 1 - (column - left)), (1, column - left))
    ]
