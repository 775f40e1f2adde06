"""A tiny Wan2.1-VACE of random weights and of the real classes, in diffusers' layout; and one that knows what it shall make."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from track2view.model.checkpoint import MINI
from track2view.model.latents import Strides
from track2view.model.make import SIZES, new_tokenizer, new_vae

TEXT_WIDTH, TEXT_LENGTH = 32, 24


def new_vace(folder: Path, *, trained_vae: bool = False) -> Path:
    """Write one; with the mini's VAE if asked, whose pictures can be looked at."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(MINI / "base/vae") if trained_vae else new_vae(SIZES["micro"])
    transformer = WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        text_dim=TEXT_WIDTH,
        ffn_dim=96,
        num_layers=3,
        vace_layers=[0, 2],
        vace_in_channels=2 * 16 + vae.config["scale_factor_spatial"] ** 2,
    )
    tokenizer = new_tokenizer(TEXT_LENGTH)
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = WanVACEPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=vae, scheduler=scheduler, transformer=transformer)
    parts.save_pretrained(folder)
    return folder


class Knowing(WanVACETransformer3DModel):
    """Leads to latents of its own choice, whatever it starts from."""

    leads_to: Callable[[Float[Tensor, "1 C F Y X"]], Float[Tensor, "1 C F Y X"]]
    """The guide to the latents that are to be made."""

    @staticmethod
    def like(other: WanVACETransformer3DModel, leads_to: Callable[[Tensor], Tensor]) -> "Knowing":
        """In the place of another."""
        knowing = Knowing.from_config(other.config)
        assert isinstance(knowing, Knowing)
        knowing.leads_to = leads_to
        return knowing

    def forward(self, hidden_states: Tensor, timestep: Tensor, *_: Tensor, control_hidden_states: Tensor, **__: object) -> tuple[Tensor]:
        return ((hidden_states - self.leads_to(control_hidden_states)) / (timestep / 1000).reshape(-1, 1, 1, 1, 1),)


def strides_of(parts: WanVACEPipeline) -> Strides:
    return Strides.of(parts.vae.config, parts.transformer.config)
