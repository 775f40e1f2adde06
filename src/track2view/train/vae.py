"""Training a small VAE from nothing: clips through an unmodified Wan VAE and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from track2view.files import replaced_folder
from track2view.metrics.images import psnr
from track2view.model.latents import as_bytes, decode, encode, lay_channels_last
from track2view.records import Size
from track2view.train.data import with_tensors
from track2view.train.draws import generator_for
from track2view.train.sheet import write_sheet
from track2view.train.task import Feed, Task

DIVERGENCE = 1e-5
"""Weight of latents' divergence from unit noise: enough to keep them bounded."""
STATISTICS_CLIPS = 24


@runtime_checkable
class Clips(Protocol):
    """Clips by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[Tensor, "T 3 H W"]: ...

    def name_of(self, index: int) -> str:
        """Of a clip."""
        ...

    def verify(self) -> None:
        """Raises :class:`UserError` where what was written is damaged."""
        ...

    def fingerprint(self) -> str:
        """Tells these clips from others."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelBatch:
    """Pieces of clips.

    Attributes:
        names: of the clips.
        video: in [-1, 1].
    """

    names: tuple[str, ...]
    video: Float32[Tensor, "B 3 t y x"]

    def pin_memory(self) -> "PixelBatch":
        """The same in page-locked memory, from which copies to a GPU need not wait."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PixelBatch":
        """The same on another device."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


class PieceFeed(Feed):
    """A piece of each clip, cut and mirrored as drawn for the epoch.

    Args:
        clips: of one length and size.
        frames, size: of pieces.
        seed: of the draws.
    """

    def __init__(self, clips: Clips, *, frames: int, size: Size, seed: int) -> None:
        self.clips, self.frames, self.size, self.seed = clips, frames, size, seed

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """All pieces are alike."""
        return [(self.frames, *self.size)] * len(self.clips)

    def fingerprint(self) -> str:
        """Of the clips."""
        return self.clips.fingerprint()

    def verify(self) -> None:
        """Checksums of all shards."""
        self.clips.verify()

    def batch(self, indices: Sequence[int], epoch: int) -> PixelBatch:
        """As drawn for this epoch."""
        names = tuple(self.clips.name_of(index) for index in indices)
        pieces = [self._piece(self.clips[index], generator_for(self.seed, epoch, name)) for index, name in zip(indices, names, strict=True)]
        return PixelBatch(names=names, video=as_video(torch.stack(pieces)))

    def _piece(self, clip: UInt8[Tensor, "T 3 H W"], generator: torch.Generator) -> UInt8[Tensor, "t 3 y x"]:
        wanted = (self.frames, *self.size)
        have = (len(clip), *clip.shape[2:])
        starts = [int(torch.randint(0, most - need + 1, (), generator=generator)) for most, need in zip(have, wanted, strict=True)]
        frames, rows, columns = (slice(start, start + need) for start, need in zip(starts, wanted, strict=True))
        piece = clip[frames, :, rows, columns]
        return piece.flip(-1) if bool(torch.rand((), generator=generator) < 0.5) else piece


def lively(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Fresh convolutions by He's rule, in place: torch's own default is √6 smaller, and learns several times more slowly here."""
    for each in vae.modules():
        if isinstance(each, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_uniform_(each.weight, nonlinearity="relu")
    return vae


class TrainableVae(nn.Module):
    """A VAE whose forward says all that its loss needs, as what spreads it over processes asks.

    Args:
        vae: unmodified, but for how its weights lie in memory.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae: AutoencoderKLWan = vae
        lay_channels_last(vae)

    def forward(self, video: Float[Tensor, "B 3 t y x"]) -> tuple[Float[Tensor, "B 3 t y x"], Float[Tensor, ""]]:
        """What comes back of a video, and latents' mean divergence from unit noise."""
        posterior = self.vae.encode(video, return_dict=False)[0]
        found = self.vae.decode(posterior.sample(), return_dict=False)[0]
        return found, posterior.kl().sum() / posterior.mean.numel()


class VaeTask(Task[TrainableVae, PieceFeed]):
    """Clips through a VAE and back.

    Args:
        model: the VAE, trained in full.
        feed: of pieces.
        held_out: whole clips to validate on, and to draw.
    """

    def __init__(self, model: TrainableVae, feed: PieceFeed, *, held_out: Sequence[UInt8[Tensor, "T 3 H W"]]) -> None:
        self.model, self.feed, self.held_out = model, feed, held_out

    def loss(self, model: nn.Module, batch: PixelBatch) -> Float32[Tensor, ""]:
        """Mean squared error of pixels, and a little of latents' divergence from unit noise."""
        found, divergence = model(batch.video)
        return mse_loss(found, batch.video) + DIVERGENCE * divergence

    def validate(self) -> dict[str, float]:
        """Fidelity of held-out clips."""
        found = [psnr(self._round_trip(clip), clip) for clip in self.held_out]
        return {"validation/psnr": sum(found) / len(found), "validation/psnr of the worst": min(found)}

    def sample(self, picture: Path) -> dict[str, float]:
        """Held-out clips, and what comes back of each."""
        write_sheet(picture, [each for clip in self.held_out[:3] for each in (clip, self._round_trip(clip))])
        return {}

    def save(self, folder: Path, state: Mapping[str, Tensor], step: int) -> None:
        """``folder/vae``, with the statistics of its latents in its configuration."""
        own = {name.removeprefix("vae."): each.contiguous() for name, each in state.items()}
        with torch.device("meta"):
            vae = AutoencoderKLWan.from_config(self.model.vae.config)
        assert isinstance(vae, AutoencoderKLWan)
        vae.load_state_dict(own, assign=True)
        with_statistics(vae, self.feed.clips)
        with replaced_folder(folder) as partial:
            vae.save_pretrained(partial / "vae", safe_serialization=True)

    def _round_trip(self, clip: UInt8[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T 3 H W"]:
        return as_bytes(decode(self.model.vae, encode(self.model.vae, as_video(clip[None]))).cpu())


@torch.no_grad()
def with_statistics(vae: AutoencoderKLWan, clips: Clips) -> None:
    """Write mean and deviation of a VAE's latents, channel by channel over some of the clips, to its configuration."""
    count = min(STATISTICS_CLIPS, len(clips))
    chosen = torch.linspace(0, len(clips) - 1, count).round().long().tolist()
    values = [vae.encode(as_video(clips[index][None]), return_dict=False)[0].mode()[0].flatten(1) for index in chosen]
    channels = torch.cat(values, dim=1)
    vae.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=channels.std(1).tolist())


def as_video(frames: UInt8[Tensor, "B T 3 H W"]) -> Float32[Tensor, "B 3 T H W"]:
    """Frames as a VAE takes them, in [-1, 1]."""
    return frames.permute(0, 2, 1, 3, 4).float() / 127.5 - 1
