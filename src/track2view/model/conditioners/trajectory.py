"""Attention along trajectories in every block, after Trajectory Attention (Xiao et al., ICLR 2025, arXiv 2411.19324).

There a branch beside a block's own attention gathers its tokens along given trajectories, lets those of one trajectory attend to each
other over time, and lays the result back where they came from; its last layer begins at zero. Here the trajectories are the paired
tracks: those of the target view also attend to the clean source's tokens along the same points' tracks there, so that this baseline
is told what the track conditioner is told. It was published for one view and a U-Net; the source's part is ours.

Shapes: B clips, F latent frames, N tracks, S tokens of one view, c cells of a frame, D model width, d of the branch.
"""

from typing import NamedTuple, cast

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from track2view.errors import UserError
from track2view.model.conditioners.bilinear import cell_shares, sample_tracks
from track2view.model.conditioners.protocol import Conditioner, Conditioning, Known, Views
from track2view.model.conditioners.tracks import TrackCondition, time_embedding
from track2view.pairing import pair_by_projection


class Trajectories(NamedTuple):
    """Where tracks are in the target, and what the source has along them; a tuple, so that torch's wrappers find the tensors in it."""

    shares: Float[Tensor, "B F N c"]
    seen: Bool[Tensor, "B N K"]
    along_source: Float[Tensor, "B N F D"]

    def repeated(self, times: int) -> "Trajectories":
        """For a batch that repeats the same clips ``times`` times."""
        return Trajectories(*(torch.cat([each] * times) for each in self))


class AlongTrajectories(NamedTuple):
    """One block's branch."""

    trajectories: Trajectories
    asks: Float[Tensor, "d3 D"]
    remembers: Float[Tensor, "d2 D"]
    out: Float[Tensor, "D d"]
    heads: int

    def reads(self, normed: Views) -> Views:
        """Unchanged."""
        return normed

    def gives(self, read: Views, attended: Views) -> Views:
        """With what the target's tokens learn along their trajectories; the source's as they are."""
        if attended.target is None:
            return attended
        shares, seen, along_source = self.trajectories
        frames, width = shares.shape[1], len(self.asks) // 3
        own = linear(read.target, self.asks.to(read.target.dtype)).unflatten(1, (frames, -1))
        there = linear(along_source.to(read.target.dtype), self.remembers.to(read.target.dtype))
        with torch.autocast(shares.device.type, enabled=False):
            here = (shares @ own.to(shares.dtype)).transpose(1, 2)
            time = time_embedding(frames, width, shares.device).to(shares.dtype)
            asking, key, value = here.chunk(3, dim=-1)
            source_key, source_value = there.to(shares.dtype).chunk(2, dim=-1)
            keys, values = torch.cat([key + time, source_key + time], dim=2), torch.cat([value, source_value], dim=2)
            # each track is one of a batch, for torch has fast kernels for a single one alone
            split = [each.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (asking + time, keys, values)]
            # a track that is seen nowhere attends to all, and has no share in any token
            mask = (seen | ~seen.any(-1, keepdim=True)).flatten(0, 1)[:, None, None]
            attended_along = scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).flatten(2)
            learnt = attended_along.unflatten(0, (len(shares), -1)).transpose(1, 2)
            amount = shares.sum(2)[..., None]
            laid = shares.transpose(2, 3) @ learnt
            laid = torch.where(amount > 0, laid / torch.where(amount > 0, amount, 1.0), 0.0).flatten(1, 2)
        added = linear(laid.to(read.target.dtype), self.out.to(read.target.dtype))
        return attended._replace(target=attended.target + added)


class TrajectoryConditioning(Conditioning):
    """The branches of all blocks, and the trajectories that they share."""

    def __init__(self, trajectories: Trajectories, branches: nn.ModuleList, heads: int) -> None:
        self.trajectories, self.branches, self.heads = trajectories, branches, heads

    def around_attention(self, index: int) -> AlongTrajectories:
        """The block's own branch."""
        own = cast(TrajectoryBranch, self.branches[index])
        return AlongTrajectories(self.trajectories, own.asks.weight, own.remembers.weight, own.out.weight, self.heads)

    def repeated(self, times: int) -> "TrajectoryConditioning":
        """For a batch that repeats the same clips ``times`` times."""
        return TrajectoryConditioning(self.trajectories.repeated(times), self.branches, self.heads)


class TrajectoryBranch(nn.Module):
    """One block's weights: from the target's tokens to what asks, keys and values; from the source's to keys and values; and back."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__()
        self.asks = nn.Linear(token_width, 3 * width, bias=False)
        self.remembers = nn.Linear(token_width, 2 * width, bias=False)
        self.out = nn.Linear(width, token_width, bias=False)
        nn.init.zeros_(self.out.weight)


class TrajectoryConditioner(Conditioner):
    """A branch of attention along paired tracks in every block; a fresh one changes nothing.

    Args:
        token_width: D, the transformer's width.
        blocks: of the transformer.
        branch_width: d.
        heads: of a branch's attention.

    Raises:
        UserError: a width that heads do not share evenly.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, token_width: int = 1536, blocks: int = 30, branch_width: int = 96, heads: int = 4) -> None:
        super().__init__()
        if branch_width % heads:
            raise UserError(f"branch_width: expected a multiple of {heads} heads, got {branch_width}")
        self.branches = nn.ModuleList(TrajectoryBranch(token_width, branch_width) for _ in range(blocks))
        self.gradient_checkpointing = False  # diffusers asks for it; what is costly happens in blocks, which compute again themselves

    @staticmethod
    def given(known: Known) -> TrackCondition:
        """Tracks as both cameras see them."""
        return TrackCondition.of(pair_by_projection(known.tracks, known.source, known.target), known.grid)

    def forward(self, source_tokens: Float[Tensor, "B F h w D"], given: TrackCondition) -> TrajectoryConditioning:
        """What each block shall gather along which tracks."""
        tokens = layer_norm(source_tokens.float(), source_tokens.shape[-1:])
        trajectories = Trajectories(
            shares=cell_shares(given.target.uv, given.target.valid, (source_tokens.shape[2], source_tokens.shape[3])),
            seen=torch.cat([given.target.valid, given.source.valid], dim=1).transpose(1, 2),
            along_source=sample_tracks(tokens, given.source.uv, given.source.valid).transpose(1, 2).to(self.dtype),
        )
        return TrajectoryConditioning(trajectories, self.branches, self.config["heads"])
