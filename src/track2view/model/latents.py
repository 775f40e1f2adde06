"""Pixels, latents and tokens of a Wan video model: their arithmetic, and the VAE with its config's statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import pad

from track2view.errors import UserError
from track2view.records import Size

FRAMES_AT_ONCE = 4
"""After the first frame, diffusers' VAE encodes so many at a time, whatever its config; what is left over it drops."""
MOST_STAGES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Strides:
    """What a latent and a token of a base stand for.

    Attributes:
        frames: of every latent frame but the first, which holds one.
        pixels: of a latent, along each side.
        patch: rows and columns of latents in a token, which is one latent frame deep.
    """

    frames: int
    pixels: int
    patch: tuple[int, int]

    def __post_init__(self) -> None:
        if not _are_counts(self.frames, self.pixels):
            raise UserError(f"strides: expected whole frames and pixels from 1, got {self.frames!r:.20} and {self.pixels!r:.20}")
        if not (isinstance(self.patch, tuple) and len(self.patch) == 2 and _are_counts(*self.patch)):
            raise UserError(f"strides: patch: expected rows and columns from 1, got {self.patch!r:.60}")

    @property
    def token_size(self) -> Size:
        """(H, W) of a token, in pixels."""
        return self.pixels * self.patch[0], self.pixels * self.patch[1]

    @staticmethod
    def of(vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> "Strides":
        """Read off the two configurations of a base.

        A Wan VAE halves the picture between its stages (and packs it first, with ``patch_size``) and time where
        ``temperal_downsample`` says so. ``scale_factor_spatial`` and ``scale_factor_temporal`` say again what comes of it; diffusers
        counts latents and lays tiles by these.

        Raises:
            UserError: a field that no such model has, or that another one contradicts, by name.
        """
        stages, halved, packed = vae["dim_mult"], vae["temperal_downsample"], vae["patch_size"]
        if not (isinstance(stages, list | tuple) and 1 <= len(stages) <= MOST_STAGES):
            raise UserError(f"vae/config.json: dim_mult: expected 1 to {MOST_STAGES} numbers, got {stages!r:.60}")
        if not (isinstance(halved, list | tuple) and len(halved) == len(stages) - 1 and all(isinstance(each, bool) for each in halved)):
            raise UserError(
                f"vae/config.json: temperal_downsample: expected true or false {len(stages) - 1} times, once between any two stages of "
                f"dim_mult, got {halved!r:.60}"
            )
        if packed is not None and not _are_counts(packed):
            raise UserError(f"vae/config.json: patch_size: expected a number from 1, or none, got {packed!r:.60}")
        frames, pixels = 2 ** sum(halved), 2 ** (len(stages) - 1) * (packed or 1)
        if frames > FRAMES_AT_ONCE:
            raise UserError(f"vae/config.json: temperal_downsample: {frames} frames a latent; diffusers encodes {FRAMES_AT_ONCE} at a time")
        for name, made, by in (("scale_factor_temporal", frames, "temperal_downsample"), ("scale_factor_spatial", pixels, "dim_mult")):
            if vae[name] != made:
                raise UserError(f"vae/config.json: {name}: expected {made}, which {by} comes to, got {vae[name]!r:.60}")
        patch = transformer["patch_size"]
        if not (isinstance(patch, list | tuple) and len(patch) == 3 and _are_counts(*patch) and patch[0] == 1):
            raise UserError(f"transformer/config.json: patch_size: expected one latent frame, rows and columns, got {patch!r:.60}")
        return Strides(frames=frames, pixels=pixels, patch=(patch[1], patch[2]))


def _are_counts(*values: object) -> bool:
    return all(type(each) is int and each > 0 for each in values)


WAN_STRIDES = Strides(frames=4, pixels=8, patch=(2, 2))
"""Those of Wan 2.1, for where no base is at hand to be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentGrid:
    """How a clip of any length and size lies in the model's grid.

    The first latent frame holds one frame, every further one ``strides.frames`` (s): time is padded to s·k + 1 frames by holding the
    last. Rows and columns are padded to whole tokens at the bottom and right by repeating the border. Decoding cuts both off.

    Attributes:
        frames: of the clip, in pixels.
        size: (H, W) of the clip.
        strides: of the base.
    """

    frames: int
    size: Size
    strides: Strides

    def __post_init__(self) -> None:
        height, width = self.strides.token_size
        if self.frames < 1 or self.size[0] < height or self.size[1] < width:
            raise UserError(
                f"LatentGrid: {self.frames} frames of {self.size[1]}×{self.size[0]}; "
                f"the model needs one frame and a token's {width}×{height} pixels"
            )

    @property
    def latent_frames(self) -> int:
        """F: 1 + the groups that the further frames fill."""
        return 1 + -(-(self.frames - 1) // self.strides.frames)

    @property
    def padded_frames(self) -> int:
        """Those that the latents hold."""
        return 1 + self.strides.frames * (self.latent_frames - 1)

    @property
    def padded_size(self) -> Size:
        """(H, W) that the VAE sees."""
        height, width = (-(-side // token) * token for side, token in zip(self.size, self.strides.token_size, strict=True))
        return height, width

    @property
    def latent_size(self) -> Size:
        """(H, W) of latents."""
        return self.padded_size[0] // self.strides.pixels, self.padded_size[1] // self.strides.pixels

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(F, h, w) of tokens of one view."""
        (height, width), (rows, columns) = self.latent_size, self.strides.patch
        return self.latent_frames, height // rows, width // columns

    def padded(self, frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "1 3 t y x"]:
        """Frames as the VAE takes them: in [-1, 1], padded in time and space."""
        video = frames.permute(1, 0, 2, 3)[None].float() / 127.5 - 1
        below, right = self.padded_size[0] - self.size[0], self.padded_size[1] - self.size[1]
        return pad(video, (0, right, 0, below, 0, self.padded_frames - self.frames), mode="replicate")

    def cut(self, video: Float[Tensor, "1 3 t y x"]) -> UInt8[Tensor, "T 3 H W"]:
        """The inverse of :meth:`padded`, rounded to 8 bits."""
        return as_bytes(video[:, :, : self.frames, : self.size[0], : self.size[1]])

    def uv_in_padded(self, uv: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Image units of the clip as image units of the padded picture, which the token grid covers."""
        height, width = self.padded_size
        return uv * torch.tensor([self.size[1] / width, self.size[0] / height], dtype=uv.dtype, device=uv.device)


def as_bytes(video: Float[Tensor, "1 3 T H W"]) -> UInt8[Tensor, "T 3 H W"]:
    """Frames of a video in [-1, 1], rounded to 8 bits."""
    return ((video[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 0, 2, 3).contiguous()


def lay_channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Convolutions' weights channels last, in place: oneDNN then reorders nothing, and a CPU takes two thirds of the time."""
    layouts = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
    for each in vae.modules():
        for kind, layout in layouts.items():
            if isinstance(each, kind) and max(each.kernel_size) > 1:
                each.weight.data = each.weight.data.contiguous(memory_format=layout)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKLWan, video: Float[Tensor, "B 3 t y x"]) -> Float[Tensor, "B C F Y X"]:
    """Latents of unit variance by the config's statistics: the posterior's mode, no noise.

    Always of whole pictures, in training as in inference: tiles give other latents.

    Args:
        video: of as many frames as latents hold, in [-1, 1].

    Raises:
        UserError: not a number in them (a broken VAE, or half precision where it does not carry).
    """
    vae.disable_tiling()
    further = video.shape[2] - 1
    # latents do not see later frames, so those that fill up the last four change nothing
    filled = pad(video, (0, 0, 0, 0, 0, -further % FRAMES_AT_ONCE), mode="replicate")
    latents = vae.encode(filled.to(vae.device, vae.dtype), return_dict=False)[0].mode().float()
    latents = latents[:, :, : 1 + further // vae.config["scale_factor_temporal"]]
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
