"""What training adds to the model: noised targets and their loss, dropped source frames, fewer tracks, dropped captions.

Pure functions of their inputs and a generator: the same seed gives the same batch on every device.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from track2view.model.conditioners.tracks import TrackCondition, ViewCondition

SHIFT = 5.0
MAX_DROPPED_FRAMES = 0.5
MIN_KEPT_TRACKS = 0.5


def draw_sigma(batch: int, generator: Generator, shift: float = SHIFT) -> Float[Tensor, "B"]:
    """Noise levels for training: u uniform in [0, 1), σ = shift u / (1 + (shift − 1) u) (design section 5)."""
    u = torch.rand(batch, generator=generator)
    return shift * u / (1 + (shift - 1) * u)


def noised(
    target: Float[Tensor, "B C F Y X"], noise: Float[Tensor, "B C F Y X"], sigma: Float[Tensor, "B"]
) -> tuple[Float[Tensor, "B C F Y X"], Float[Tensor, "B C F Y X"]]:
    """Latents at ``sigma`` on the straight way from clean to noise, and the velocity there: noise − clean, at every σ."""
    level = sigma.to(target).reshape(-1, 1, 1, 1, 1)
    return (1 - level) * target + level * noise, noise - target


def flow_matching_loss(found: Float[Tensor, "B C F Y X"], velocity: Float[Tensor, "B C F Y X"]) -> Float[Tensor, ""]:
    """Mean squared error of the target's velocity, all σ weighed alike; the source has no loss."""
    return (found.float() - velocity.float()).square().mean()


def draw_dropped_frames(batch: int, frames: int, generator: Generator, most: float = MAX_DROPPED_FRAMES) -> Bool[Tensor, "B F"]:
    """Which latent frames of each source to drop: a number uniform from none to ``most`` of them, any of them."""
    count = (torch.rand(batch, 1, generator=generator) * (most * frames + 1)).floor().clamp(max=int(most * frames))
    order = torch.rand(batch, frames, generator=generator).argsort(dim=1).argsort(dim=1)
    return order < count


def drop_source_frames(
    source: Float[Tensor, "B C F Y X"], condition: TrackCondition, dropped: Bool[Tensor, "B F"]
) -> tuple[Float[Tensor, "B C F Y X"], TrackCondition]:
    """Source latents with frames set to zero, and tracks that do not claim to be seen there."""
    kept = ~dropped.to(source.device)
    view = condition.source
    seen = replace(view, valid=view.valid & kept[..., None], disparity=view.disparity * kept[..., None])
    return source * kept[:, None, :, None, None], replace(condition, source=seen)


def subsample_tracks(condition: TrackCondition, generator: Generator, least: float = MIN_KEPT_TRACKS) -> TrackCondition:
    """Between ``least`` and all of the tracks, the same ones in both views."""
    count = condition.confidence.shape[2]
    share = least + (1 - least) * float(torch.rand(1, generator=generator))
    keep = torch.randperm(count, generator=generator)[: max(1, round(share * count))].sort().values
    keep = keep.to(condition.confidence.device)

    def chosen(view: ViewCondition) -> ViewCondition:
        return ViewCondition(uv=view.uv[:, :, keep], disparity=view.disparity[:, :, keep], valid=view.valid[:, :, keep])

    return TrackCondition(source=chosen(condition.source), target=chosen(condition.target), confidence=condition.confidence[:, :, keep])


def drop_captions(texts: Float[Tensor, "B L E"], nothing: Float[Tensor, "1 L E"], generator: Generator, share: float = 0.1) -> Tensor:
    """Captions replaced by the empty prompt's encoding, for guidance to have a branch without text."""
    dropped = torch.rand(len(texts), generator=generator) < share
    return torch.where(dropped[:, None, None].to(texts.device), nothing.to(texts), texts)
