"""Training an adapter (paper section 3.4): the conditioner in full and LoRA on a frozen base, or all weights of a small one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from track2view.files import replaced_folder
from track2view.model.bases import write_base
from track2view.model.checkpoint import AdapterRecord, save_adapter
from track2view.model.diffusion import velocity_of
from track2view.model.dual_view import DualViewModel
from track2view.model.latents import as_bytes, decode
from track2view.model.parallel import whole_state
from track2view.model.sampling import Guidance, denoise, euler, noise_like, shifted_sigmas
from track2view.train.data import Example, Examples
from track2view.train.denoising import NoisyBatch, PairFeed, TrackChoice, fixed_batches, fixed_losses, read, with_choice
from track2view.train.objective import flow_matching_loss
from track2view.train.sheet import write_sheet
from track2view.train.task import Task

Score = Callable[[int, UInt8[Tensor, "T 3 H W"]], dict[str, float]]
"""Measures of a sampled clip against what is known of the held-out example of that number."""
Pixels = Callable[[int], tuple[UInt8[Tensor, "T 3 H W"], UInt8[Tensor, "T 3 H W"]]]
"""Source and target clips of the held-out example of that number."""


class AdapterTask(Task[DualViewModel, PairFeed]):
    """Pairs of views through a dual-view model.

    Args:
        model: what is trained of it asks for gradients.
        feed: of pairs.
        record: what the adapter says of itself; its step is filled in.
        base: folder of the base; written beside the adapter where the base itself is trained.
        held_out: examples to validate on; None for none.
        validated, sampled: numbers of those that losses and clips are measured on.
        vae: decodes sampled clips; None draws none.
        pixels: what to draw beside them.
        score: of sampled clips.
        steps, shift: of sampling.
        tracks: which of an example's the model reads.
    """

    def __init__(
        self,
        model: DualViewModel,
        feed: PairFeed,
        record: AdapterRecord,
        base: Path,
        *,
        held_out: Examples | None,
        validated: Sequence[int] = (),
        sampled: Sequence[int] = (),
        vae: AutoencoderKLWan | None = None,
        pixels: Pixels | None = None,
        score: Score | None = None,
        steps: int = 25,
        shift: float = 5.0,
        tracks: TrackChoice = "all",
    ) -> None:
        self.model, self.feed, self.record, self.base = model, feed, record, base
        self.held_out, self.validated, self.sampled = held_out, validated, sampled
        self.vae, self.pixels, self.score, self.steps, self.shift, self.tracks = vae, pixels, score, steps, shift, tracks

    def loss(self, model: nn.Module, batch: NoisyBatch) -> Float32[Tensor, ""]:
        """Flow matching on the target's tokens."""
        return flow_matching_loss(self._velocity(model, batch), batch.velocity)

    def validate(self) -> dict[str, float]:
        """Losses on held-out pairs, whole, at fixed noise."""
        if self.held_out is None or not len(self.validated):
            return {}
        batches = fixed_batches(self.held_out, self.validated, self.tracks, self.feed.reads)
        return fixed_losses(lambda batch: self._velocity(self.model, batch.to(self._device)), batches)

    @torch.no_grad()
    def sample(self, picture: Path) -> dict[str, float]:
        """Held-out pairs sampled in full: rows of source, truth and sample, and their scores' means."""
        if self.held_out is None or self.vae is None or self.pixels is None or not len(self.sampled):
            return {}
        rows, scores = [], []
        for index in self.sampled:
            source, target = self.pixels(index)
            made = as_bytes(decode(self.vae, self.latents(self.held_out[index])))[: len(target)]
            rows += [source, target, made]
            scores.append(self.score(index, made) if self.score is not None else {})
        write_sheet(picture, rows)
        return {f"sampled/{name}": float(torch.tensor([each[name] for each in scores]).nanmean()) for name in scores[0]}

    @torch.no_grad()
    def latents(self, example: Example, *, seed: int = 0) -> Float[Tensor, "1 C F Y X"]:
        """An example's target, sampled in full."""
        device = self._device
        source, text = example.source.float()[None].to(device), example.text[None].to(device)
        conditioning = self.model.condition(source, read(with_choice(example, self.tracks), self.feed.reads).to(device))
        velocity = velocity_of(self.model, source, conditioning, (text,), batched=False)
        noise = noise_like(tuple(source.shape), seed).to(device)
        return denoise(velocity, noise, shifted_sigmas(self.steps, self.shift), solver=euler, guidance=Guidance(scale=1.0)).cpu()

    def save(self, folder: Path, state: Mapping[str, Tensor], step: int) -> None:
        """``folder/adapter``, and ``folder/base`` where the base is trained too."""
        record = replace(self.record, step=step)
        ours = {name: each for name, each in state.items() if _is_ours(name)}
        save_adapter(folder / "adapter", ours, record, self.model.conditioner.config)
        if len(ours) < len(state):
            own = {name: state.get(name, each) for name, each in whole_state(dict(self.model.named_parameters())).items()}
            weights = {name.replace(".block.", "."): each for name, each in own.items() if not _is_ours(name)}
            with replaced_folder(folder / "base") as partial:
                write_base(partial, self.base, self.model.transformer, weights)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @staticmethod
    def _velocity(model: nn.Module, batch: NoisyBatch) -> Any:
        return model(batch.latents, batch.timestep, (batch.text,), batch.source, batch.condition)[0]


def _is_ours(name: str) -> bool:
    """Whether a parameter belongs to an adapter, by its name in a dual-view model."""
    return name.startswith("conditioner.") or name == "view_embedding" or ".lora_" in name
