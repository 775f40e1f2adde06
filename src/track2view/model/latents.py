"""Pixels, latents and tokens of a Wan video model: their arithmetic, and the VAE with its config's statistics."""

from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import pad

from track2view.errors import UserError
from track2view.records import Size

FRAME_STRIDE = 4
PIXELS_PER_TOKEN = 16
PIXELS_PER_LATENT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentGrid:
    """How a clip of any length and size lies in the model's grid.

    The first latent frame holds one frame, every further one four: time is padded to 4k + 1 frames by holding the last.
    Rows and columns are padded to multiples of 16 at the bottom and right by repeating the border. Decoding cuts both off.

    Attributes:
        frames: of the clip, in pixels.
        size: (H, W) of the clip.
    """

    frames: int
    size: Size

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.size) < PIXELS_PER_TOKEN:
            raise UserError(
                f"LatentGrid: {self.frames} frames of {self.size[1]}×{self.size[0]}; the model needs one frame and 16 pixels a side"
            )

    @property
    def latent_frames(self) -> int:
        """F: 1 + the groups of four that the further frames fill."""
        return 1 + -(-(self.frames - 1) // FRAME_STRIDE)

    @property
    def padded_frames(self) -> int:
        """4k + 1 frames that the VAE sees."""
        return 1 + FRAME_STRIDE * (self.latent_frames - 1)

    @property
    def padded_size(self) -> Size:
        """(H, W) that the VAE sees."""
        height, width = (-(-side // PIXELS_PER_TOKEN) * PIXELS_PER_TOKEN for side in self.size)
        return height, width

    @property
    def latent_size(self) -> Size:
        """(H, W) of latents."""
        return self.padded_size[0] // PIXELS_PER_LATENT, self.padded_size[1] // PIXELS_PER_LATENT

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(F, h, w) of tokens of one view."""
        return self.latent_frames, self.padded_size[0] // PIXELS_PER_TOKEN, self.padded_size[1] // PIXELS_PER_TOKEN

    def padded(self, frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "1 3 t y x"]:
        """Frames as the VAE takes them: in [-1, 1], padded in time and space."""
        video = frames.permute(1, 0, 2, 3)[None].float() / 127.5 - 1
        below, right = self.padded_size[0] - self.size[0], self.padded_size[1] - self.size[1]
        return pad(video, (0, right, 0, below, 0, self.padded_frames - self.frames), mode="replicate")

    def cut(self, video: Float[Tensor, "1 3 t y x"]) -> UInt8[Tensor, "T 3 H W"]:
        """The inverse of :meth:`padded`, rounded to 8 bits."""
        inside = video[0, :, : self.frames, : self.size[0], : self.size[1]]
        return ((inside.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 0, 2, 3).contiguous()

    def uv_in_padded(self, uv: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Image units of the clip as image units of the padded picture, which the token grid covers."""
        height, width = self.padded_size
        return uv * torch.tensor([self.size[1] / width, self.size[0] / height], dtype=uv.dtype, device=uv.device)


@torch.no_grad()
def encode(vae: AutoencoderKLWan, video: Float[Tensor, "B 3 t y x"]) -> Float[Tensor, "B C F Y X"]:
    """Latents of unit variance by the config's statistics: the posterior's mode, no noise.

    Always of whole pictures, in training as in inference: tiles give other latents.

    Raises:
        UserError: not a number in them (a broken VAE, or half precision where it does not carry).
    """
    vae.disable_tiling()
    latents = vae.encode(video.to(vae.device, vae.dtype), return_dict=False)[0].mode().float()
    mean, deviation = _statistics(vae, latents.device)
    normalised = (latents - mean) / deviation
    if not bool(normalised.isfinite().all()):
        raise UserError("the VAE encoded the clip to values that are not numbers; load it in float32")
    return normalised


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Float[Tensor, "B C F Y X"], *, tiled: bool = False) -> Float[Tensor, "B 3 t y x"]:
    """The inverse of :func:`encode`, in [-1, 1].

    Args:
        tiled: in overlapping tiles, which takes less memory and gives a slightly different picture.
    """
    if tiled:
        vae.enable_tiling()
    else:
        vae.disable_tiling()
    mean, deviation = _statistics(vae, latents.device)
    return vae.decode((latents.float() * deviation + mean).to(vae.device, vae.dtype), return_dict=False)[0].float().clamp(-1, 1)


def _statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[Float[Tensor, "1 C 1 1 1"], Float[Tensor, "1 C 1 1 1"]]:
    mean, deviation = (torch.tensor(vae.config[name], device=device).reshape(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, deviation
