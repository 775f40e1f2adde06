"""Training a small base from nothing: text to video on single clips, all weights of an unmodified Wan transformer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import Float32
from torch import Tensor, nn

from track2view.files import replaced_folder
from track2view.model.bases import write_base
from track2view.model.latents import as_bytes, decode
from track2view.model.sampling import Guidance, denoise, euler, noise_like, shifted_sigmas
from track2view.train.data import ClipExamples
from track2view.train.denoising import ClipFeed, NoisyBatch, fixed_batches, fixed_losses
from track2view.train.objective import flow_matching_loss
from track2view.train.sheet import write_sheet
from track2view.train.task import Task


class BaseTask(Task[WanTransformer3DModel, ClipFeed]):
    """Single clips through a text-to-video transformer.

    Args:
        model: the transformer, trained in full.
        feed: of clips.
        base: folder that holds the VAE, the text encoder and the tokenizer it goes with.
        held_out: clips to validate on.
        validated, sampled: numbers of those that losses are measured on, and whose captions are sampled.
        vae: decodes sampled clips.
        steps, shift, guidance: of sampling.
    """

    def __init__(
        self,
        model: WanTransformer3DModel,
        feed: ClipFeed,
        base: Path,
        *,
        held_out: ClipExamples,
        validated: Sequence[int],
        sampled: Sequence[int],
        vae: AutoencoderKLWan,
        steps: int = 25,
        shift: float = 5.0,
        guidance: float = 3.0,
    ) -> None:
        self.model, self.feed, self.base = model, feed, base
        self.held_out, self.validated, self.sampled = held_out, validated, sampled
        self.vae, self.steps, self.shift, self.guidance = vae, steps, shift, Guidance(scale=guidance)

    def loss(self, model: nn.Module, batch: NoisyBatch) -> Float32[Tensor, ""]:
        """Flow matching."""
        return flow_matching_loss(_velocity(model, batch.latents, batch.timestep, batch.text), batch.velocity)

    def validate(self) -> dict[str, float]:
        """Losses on held-out clips at fixed noise."""

        def velocity(batch: NoisyBatch) -> Tensor:
            placed = batch.to(self._device)
            return _velocity(self.model, placed.latents, placed.timestep, placed.text)

        return fixed_losses(velocity, fixed_batches(self.held_out, self.validated))

    @torch.no_grad()
    def sample(self, picture: Path) -> dict[str, float]:
        """Clips that the model makes of held-out captions; nothing is known to measure them by."""
        rows = []
        for index in self.sampled:
            example = self.held_out[index]
            texts = [each[None].to(self._device) for each in (example.text, self.held_out.text_of(""))]

            def velocity(latents: Tensor, timestep: Tensor, branches: int, texts: list[Tensor] = texts) -> tuple[Tensor, ...]:
                return tuple(_velocity(self.model, latents, timestep, text) for text in texts[:branches])

            noise = noise_like((1, *example.latents.shape), index).to(self._device)
            made = denoise(velocity, noise, shifted_sigmas(self.steps, self.shift), solver=euler, guidance=self.guidance)
            rows.append(as_bytes(decode(self.vae, made)))
        write_sheet(picture, rows)
        return {}

    def save(self, folder: Path, state: Mapping[str, Tensor], step: int) -> None:
        """``folder/base``, in Wan's layout."""
        with replaced_folder(folder / "base") as partial:
            write_base(partial, self.base, self.model, state)

    @property
    def _device(self) -> torch.device:
        return self.model.device


def _velocity(model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Any:
    return model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
