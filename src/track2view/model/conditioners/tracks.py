"""Paired tracks to token context (design section 5): sample along source tracks, mix along time, scatter into both views.

Shapes: B clips, F latent frames, N tracks, h w token grid, D model width, d conditioner width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from track2view.model.conditioners.bilinear import sample_tracks, scatter_tracks
from track2view.model.conditioners.protocol import Conditioner, Conditioning, Known, Views
from track2view.model.latents import LatentGrid
from track2view.pairing import pair_by_projection
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
    """What the conditioner reads beside source tokens: column n is the same scene point in both views.

    Positions are in the padded picture, which the token grid covers.
    """

    source: ViewCondition
    target: ViewCondition
    confidence: Float[Tensor, "B F N"]

    @property
    def alive(self) -> bool:
        """Whether any track is seen in the source."""
        return bool(self.source.valid.any())

    def to(self, device: torch.device) -> "TrackCondition":
        """The same on another device."""
        return TrackCondition(source=self.source.to(device), target=self.target.to(device), confidence=self.confidence.to(device))

    @staticmethod
    def of(pairs: PairedTracks, grid: LatentGrid) -> "TrackCondition":
        """One clip's tracks at the last frame of each latent frame; beyond the clip's end its own last is held, as in the latents.

        That no track lives is legal: such a condition adds nothing.
        """
        frames = (torch.arange(grid.latent_frames) * grid.strides.frames).clamp(max=grid.frames - 1)
        views = [_at_frames(view, frames) for view in (pairs.source, pairs.target)]
        disparity = normalised_disparity([1 / depth for _, depth, _ in views], [valid for *_, valid in views])
        source, target = (
            ViewCondition(uv=grid.uv_in_padded(uv)[None], disparity=near[None], valid=valid[None])
            for (uv, _, valid), near in zip(views, disparity, strict=True)
        )
        return TrackCondition(source=source, target=target, confidence=pairs.confidence[frames][None])


def normalised_disparity(disparity: list[Float[Tensor, "F N"]], valid: list[Bool[Tensor, "F N"]]) -> list[Float[Tensor, "F N"]]:
    """Both views' disparities on one scale (so that their relation stays): the middle 96 % of valid entries fill [0, 1]."""
    known = torch.cat([each[where] for each, where in zip(disparity, valid, strict=True)])
    if not len(known):
        return [torch.zeros_like(each) for each in disparity]
    low, high = torch.quantile(known.float(), torch.tensor(ROBUST_RANGE, device=known.device)).tolist()
    span = max(high - low, 1e-6 * max(abs(high), 1e-6))
    scaled = [((each - low) / span).clamp(-BEYOND_RANGE, 1 + BEYOND_RANGE) for each in disparity]
    return [torch.where(where, each, torch.zeros_like(each)) for each, where in zip(scaled, valid, strict=True)]


def confidence_weight(condition: TrackCondition, strength: float) -> Float[Tensor, "B F N"]:
    """Surer tracks outweigh others in a cell (the paper's future work); strength 0 weighs all alike."""
    return condition.confidence.clamp(min=1e-3) ** strength


def nearness_weight(view: ViewCondition, strength: float) -> Float[Tensor, "B F N"]:
    """Nearer tracks outweigh farther ones in a cell (ours); strength 0 weighs all alike."""
    return torch.exp(strength * view.disparity)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackContext(Conditioning):
    """What is added to each view's tokens before the first block."""

    target: Float[Tensor, "B F h w D"]
    source: Float[Tensor, "B F h w D"]

    def before_block(self, index: int, views: Views) -> Views:
        """With the context, before the first block."""
        if index > 0:
            return views
        contexts = Views(target=self.target, source=self.source)
        return views.map(lambda tokens, context: tokens + context.flatten(1, 3).to(tokens.dtype), contexts)

    def repeated(self, times: int) -> "TrackContext":
        """For a batch that repeats the same clips ``times`` times."""
        return TrackContext(target=torch.cat([self.target] * times), source=torch.cat([self.source] * times))


class TrackConditioner(Conditioner):
    """Context for source and target tokens from clean source tokens and paired tracks (paper section 3.2).

    Its modules compute in their own type or autocast's, what is between them in float32.

    Args:
        token_width: D, the transformer's width.
        width: d, its own.
        layers: encoder layers along time (the paper's ablation: 2, 4, 8).
        heads: attention heads of these.
        bands: octaves of the Fourier features of position and disparity.
        confidence_strength: see :func:`confidence_weight`; 0 as in the paper.
        nearness_strength: see :func:`nearness_weight`; 0 as in the paper.
    """

    _supports_gradient_checkpointing = True

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
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.depth = nn.Sequential(nn.Linear(2 * bands, width), nn.GELU(), nn.Linear(width, width))
        self.out_proj = nn.Linear(width, token_width, bias=False)
        nn.init.zeros_(self.out_proj.weight)
        self.gradient_checkpointing = False

    @staticmethod
    def given(known: Known) -> TrackCondition:
        """Tracks as both cameras see them."""
        return TrackCondition.of(pair_by_projection(known.tracks, known.source, known.target), known.grid)

    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: TrackCondition) -> TrackContext:
        """What to add to the source's and to the target's tokens before the first block; zeros if no track lives."""
        size = (source_tokens.shape[2], source_tokens.shape[3])
        along = self.follow(source_tokens, given.source)
        alive = given.source.valid.any(1, keepdim=True)

        def context(view: ViewCondition) -> Float[Tensor, "B F h w D"]:
            values = along + self.depth(fourier(view.disparity[..., None], self.config["bands"]).to(self.dtype))
            weight = confidence_weight(given, self.config["confidence_strength"])
            weight = weight * nearness_weight(view, self.config["nearness_strength"])
            return self.out_proj(scatter_tracks(values, view.uv, view.valid & alive, size, weight).to(self.dtype))

        return TrackContext(target=self._run(context, given.target), source=self._run(context, given.source))

    def follow(self, source_tokens: Float[Tensor, "B F h w D"], source: ViewCondition) -> Float[Tensor, "B F N d"]:
        """Features of tracks at every latent frame, also those that do not see them; 0 for tracks that no frame sees."""
        batch, _, count = source.valid.shape
        by_track = self._run(self._start, source_tokens, source)
        alive = source.valid.any(1)
        # a track that no frame sees attends to all of them, and is left out afterwards: leaving it out here would cost a synchronisation
        unseen = ~source.valid & alive[:, None]
        hidden = unseen.transpose(1, 2).flatten(0, 1)
        for layer in self.encoder:
            by_track = self._run(layer, by_track, None, hidden)
        mixed = self.encoder_norm(by_track).unflatten(0, (batch, count)).transpose(1, 2)
        return torch.where(alive[:, None, :, None], mixed, 0.0)

    def _start(self, source_tokens: Float[Tensor, "B F h w D"], source: ViewCondition) -> Float[Tensor, "BN F d"]:
        """What each track knows of itself at each frame alone; zero, but for the time, where it is not seen."""
        features = sample_tracks(self.in_proj(source_tokens.to(self.dtype)), source.uv, source.valid)
        query = features + self.position(fourier(source.uv, self.config["bands"]).to(self.dtype))
        query = query + self.mlp(self.norm(query.to(self.dtype)))
        query = torch.where(source.valid[..., None], query, 0.0)
        query = query + time_embedding(query.shape[1], query.shape[-1], query.device)[:, None]
        return query.transpose(1, 2).flatten(0, 1).to(self.dtype)

    def _run(self, part: Callable[..., Tensor], *given: object) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *given, use_reentrant=False)
        return part(*given)


def fourier(values: Float[Tensor, "*n c"], bands: int) -> Float[Tensor, "*n p"]:
    """Sines and cosines of each channel at ``bands`` octaves from half a period per unit."""
    frequency = math.pi * 2.0 ** torch.arange(bands, device=values.device, dtype=values.dtype)
    angle = (values[..., None] * frequency).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def time_embedding(frames: int, width: int, device: torch.device) -> Float[Tensor, "F d"]:
    """Sinusoidal positions of latent frames, for any number of them."""
    frequency = torch.exp(-math.log(1000.0) * torch.arange(width // 2, device=device) / (width // 2))
    angle = torch.arange(frames, device=device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _at_frames(view: ViewTracks, frames: Int64[Tensor, "F"]) -> tuple[Tensor, Tensor, Tensor]:
    valid = view.valid[frames]
    uv = torch.where(valid[..., None], view.uv[frames], 0.5)
    return uv, torch.where(valid, view.depth[frames], 1.0), valid
