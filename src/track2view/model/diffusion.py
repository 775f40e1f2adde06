"""The diffusion renderer, top to bottom: a clip, its tracks and a target camera in, the clip seen from there out."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from track2view.errors import UserError, notice
from track2view.model.bases import load_transformer, load_vae
from track2view.model.checkpoint import AdapterRecord, load_adapter, lora_as_base, save_adapter
from track2view.model.conditioners.protocol import Conditioning, Given, Known, RenderedView
from track2view.model.cost import Shape, memory_needed
from track2view.model.dual_view import DualViewModel, Memory, attention_backends
from track2view.model.latents import LatentGrid, Strides, decode, encode
from track2view.model.parallel import trainable_parameters, whole_state
from track2view.model.room import MemoryMode, OnDevice, check_room, told_how_to_fit
from track2view.model.sampling import SOLVERS, Velocity, denoise, noise_like, shifted_sigmas
from track2view.model.settings import DiffusionSettings, Preview, Remembering, check_windows, plan_windows
from track2view.model.text import PromptCache, encoder_parameters, load_text_encoder
from track2view.records import CameraPath, Clip, Queries, Size, TrackSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A clip by a renderer without weights, of a clip's size and length.

    Attributes:
        shown: pixels that it has from the clip.
    """

    colour: UInt8[Tensor, "T 3 H W"]
    shown: Bool[Tensor, "T H W"]


class Track2ViewPipeline:
    """Base, adapter and text encoder together; made by :meth:`from_pretrained`, called with a clip, tracks and cameras."""

    def __init__(
        self, base: Path, model: DualViewModel, vae: AutoencoderKLWan, record: AdapterRecord, prompts: PromptCache, device: torch.device
    ) -> None:
        self.base, self.model, self.vae, self.record, self.prompts, self.device = base, model, vae, record, prompts, device
        self.strides = Strides.of(vae.config, model.transformer.config)

    @staticmethod
    def from_pretrained(
        base: Path | str,
        adapter: Path | str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        prompt_folder: Path | None = None,
    ) -> "Track2ViewPipeline":
        """Load from local folders.

        Args:
            base: in diffusers' Wan layout.
            adapter: a Track2View adapter; ``base/adapter`` by default, where :meth:`save_pretrained` puts it.
            dtype: of the transformer; the VAE and the conditioner stay in float32.
            prompt_folder: where encoded prompts are kept; ``base/prompts`` by default.

        Raises:
            UserError: what is missing, or does not fit together.
        """
        base = Path(base)
        transformer = load_transformer(base, dtype)
        model, record = load_adapter(Path(adapter) if adapter else base / "adapter", transformer)
        lora_as_base(transformer)
        transformer.set_attention_backend(attention_backends(device, dtype)[0])
        prompts = PromptCache(base, prompt_folder or base / "prompts", dtype)
        return Track2ViewPipeline(base, model, load_vae(base), record, prompts, torch.device(device))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a base that plain diffusers loads too, and the adapter in ``folder/adapter``."""
        folder = Path(folder)
        save_adapter(folder / "adapter", whole_state(trainable_parameters(self.model)), self.record, self.model.conditioner.config)
        transformer = load_transformer(self.base, self.model.transformer.dtype)
        tokenizer, encoder = load_text_encoder(self.base, torch.float32, "cpu")
        WanPipeline(
            tokenizer=tokenizer,  # pyrefly: ignore
            text_encoder=encoder,
            vae=self.vae,
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),  # pyrefly: ignore
            transformer=transformer,
        ).save_pretrained(folder)

    def queries(self, frames: int, settings: DiffusionSettings) -> Queries:
        """Where in a clip the adapter wants tracks to start: its plan, in every window.

        Raises:
            UserError: a window or overlap that is not whole latents of this base.
        """
        starts = {frame for window in plan_windows(frames, settings, self.strides) for frame in self._planned(window)}
        return Queries.grid(sorted(starts), self.record.queries.rows, self.record.queries.columns)

    def __call__(
        self,
        clip: Clip,
        tracks: TrackSet,
        source_camera: CameraPath,
        target_camera: CameraPath,
        settings: DiffusionSettings | None = None,
        preview: Preview | None = None,
        rendered: Rendered | None = None,
    ) -> Clip:
        """The clip as seen along ``target_camera``.

        Args:
            tracks: in the world of both cameras; of each window, those that start where the adapter's plan says, or all if none do.
            preview: see :func:`track2view.model.sampling.denoise`; if it stops a window, later ones are not begun.
            rendered: the clip along ``target_camera`` by a renderer without weights, for an adapter that reads one
                (:attr:`Conditioner.reads_rendered`).

        Raises:
            UserError: what :meth:`check` refuses, tracks or cameras of another length, or no tracks seen where the conditioner reads
                them (before anything is computed).
        """
        settings = settings or DiffusionSettings()
        self.check(len(clip), clip.size, settings)
        for name, frames in (("tracks", tracks.xyz_world), ("source camera", source_camera), ("target camera", target_camera)):
            if len(frames) != len(clip):
                raise UserError(f"the clip has {len(clip)} frames, the {name} {len(frames)}; give what belongs to this clip")
        windows = []
        for window in plan_windows(len(clip), settings, self.strides):
            grid = LatentGrid(frames=len(window), size=clip.size, strides=self.strides)
            part = slice(window.start, window.stop)
            known = Known(
                tracks=self._cut(tracks, window),
                source=source_camera[part],
                target=target_camera[part],
                grid=grid,
                rendered=None if rendered is None else self._encoded(rendered, part, grid, settings.memory),
            )
            given = self.model.conditioner.given(known)
            windows.append(_Window(frames=window, grid=grid, given=given))
        if not any(window.given.alive for window in windows):
            raise UserError("no track is visible in the source view; track more points, or check the source camera")
        with told_how_to_fit(settings.memory, self.model.transformer.dtype, self.device):
            return self._refilmed(clip, windows, settings, preview)

    def check(self, frames: int, size: Size, settings: DiffusionSettings) -> None:
        """Refuse early what cannot be made of a clip of so many frames of a size.

        Raises:
            UserError: a clip shorter than one latent group, a window or overlap that is not whole latents of this base, or a clip
                that would not fit in memory, with what would.
        """
        least = 1 + self.strides.frames
        if frames < least:
            raise UserError(f"the clip has {frames} frames; the diffusion renderer needs at least {least} (one latent group)")
        check_windows(settings, self.strides)
        self._check_memory(frames, size, settings)

    @torch.no_grad()
    def _refilmed(self, clip: Clip, windows: "list[_Window]", settings: DiffusionSettings, preview: Preview | None) -> Clip:
        texts = self.prompts.encode([settings.prompt, settings.negative_prompt], self.device if settings.memory != "low" else "cpu")
        texts = tuple(text.to(self.device, self.model.transformer.dtype) for text in texts)
        done: list[UInt8[Tensor, "t 3 H W"]] = []
        tail: Float[Tensor, "1 3 t y x"] | None = None
        stopped = Remembering(preview)
        for number, window in enumerate(windows):
            frames, grid = window.frames, window.grid
            known = 0 if number == 0 else sum(map(len, done)) - frames.start
            if not window.given.alive:
                notice(f"frames {frames.start} to {frames.stop - 1}: no track is seen there; only the source itself leads the result")
            with self._vae_on_device(settings.memory):
                source = encode(self.vae, grid.padded(clip.frames[frames.start : frames.stop]))
                beginning = None if tail is None else encode(self.vae, tail[:, :, -known:])
            latents = self._denoised(source, beginning, window.given, texts, replace(settings, seed=settings.seed + number), stopped)
            with self._vae_on_device(settings.memory):
                video = decode(self.vae, latents, tiled=settings.memory != "fast")
            tail = video[:, :, : len(frames)]
            done.append(grid.cut(video)[known:].cpu())
            if stopped.stopped:
                break
        return replace(clip, frames=torch.cat(done))

    def _denoised(
        self,
        source: Float[Tensor, "1 C F Y X"],
        beginning: Float[Tensor, "1 C f Y X"] | None,
        given: Given,
        texts: tuple[Float[Tensor, "1 L E"], ...],
        settings: DiffusionSettings,
        preview: Preview,
    ) -> Float[Tensor, "1 C F Y X"]:
        self._onto_device(settings.memory)
        dtype = self.model.transformer.dtype
        source = source.to(self.device, dtype)
        conditioning = self.model.condition(source, given.to(self.device))
        velocity = velocity_of(self.model, source, conditioning, texts, batched=settings.batched)
        noise = noise_like(tuple(source.shape), settings.seed).to(self.device)
        latents = denoise(
            velocity,
            noise,
            shifted_sigmas(settings.steps, settings.shift or self.record.shift),
            solver=SOLVERS[settings.solver],
            guidance=settings.guidance,
            preview=preview,
            beginning=beginning,
        )
        if settings.memory == "balanced" and self.device.type != "cpu":
            self.model.to("cpu")
        return latents

    def _onto_device(self, memory: MemoryMode) -> None:
        if memory == "low":
            self.model.offload_blocks(self.device)
        else:
            self.model.keep_blocks()
            self.model.to(self.device)

    def _vae_on_device(self, memory: MemoryMode) -> OnDevice:
        return OnDevice(self.vae, self.device, leave=memory != "fast")

    def _planned(self, window: range) -> list[int]:
        return [window[frame] for frame in self.record.queries.frames]

    def _encoded(self, rendered: Rendered, part: slice, grid: LatentGrid, memory: MemoryMode) -> RenderedView:
        with self._vae_on_device(memory):
            return RenderedView.of(rendered.colour[part], rendered.shown[part], grid, partial(encode, self.vae))

    def _cut(self, tracks: TrackSet, window: range) -> TrackSet:
        """The window's tracks."""
        planned = torch.isin(tracks.query_frame, torch.tensor(self._planned(window)))
        chosen = planned if bool(planned.any()) else torch.ones_like(planned)
        frames = slice(window.start, window.stop)
        return TrackSet(
            xyz_world=tracks.xyz_world[frames, chosen],
            visible=tracks.visible[frames, chosen],
            confidence=tracks.confidence[frames, chosen],
            query_frame=(tracks.query_frame[chosen] - window.start).clamp(0, len(window) - 1),
        )

    def _check_memory(self, frames: int, size: Size, settings: DiffusionSettings) -> None:
        grid = LatentGrid(frames=min(frames, settings.window), size=size, strides=self.strides)
        on_gpu = self.device.type == "cuda"

        def needed(mode: MemoryMode) -> float:
            return memory_needed(
                Shape.of(self.model.transformer, self.model.conditioner, self.record.lora_rank),
                self.model.modes,
                grid,
                mode,
                parameters=sum(each.numel() for each in self.model.parameters()),
                encoder_parameters=0 if on_gpu and mode == "low" else encoder_parameters(self.base),
                at_once=2 if settings.batched else 1,
                bytes_per_value=self.model.transformer.dtype.itemsize,
                vae_width=self.vae.config["base_dim"],
                tracks=len(self.record.queries),
            )

        check_room(needed, settings.memory, self.model.transformer.dtype, self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """Frames of a clip that are made together, and what the conditioner reads of them."""

    frames: range
    grid: LatentGrid
    given: Given


def velocity_of(
    model: DualViewModel,
    source: Float[Tensor, "B C F Y X"],
    conditioning: Conditioning,
    texts: tuple[Float[Tensor, "B L E"], ...],
    *,
    batched: bool,
) -> Velocity:
    """The model as the sampler calls it; a source that can be remembered is, once per text."""
    dtype, memories = source.dtype, None
    if model.modes.attention == "cached-source":
        memories = [model.remember(source, text, conditioning) for text in texts]
    if not batched:

        def velocity(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
            kept = None if memories is None else memories[:branches]
            return model(latents.to(dtype), timestep, texts[:branches], source if memories is None else None, conditioning, kept)

        return velocity

    def velocity_at_once(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
        twice = [torch.cat([each] * branches) for each in (latents.to(dtype), timestep, source)]
        kept = None if memories is None else [_joined(memories[:branches])]
        both = model(
            twice[0],
            twice[1],
            (torch.cat(texts[:branches]),),
            twice[2] if memories is None else None,
            conditioning.repeated(branches),
            kept,
        )[0]
        return tuple(both.chunk(branches))

    return velocity_at_once


def _joined(memories: list[list[Memory]]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.cat([key for key, _ in block]), torch.cat([value for _, value in block])) for block in zip(*memories, strict=True)]
