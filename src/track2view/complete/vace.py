"""The completion renderer, top to bottom: a warp with holes in, the same without holes out, by Wan2.1-VACE's public weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from track2view.complete.control import Control, grown
from track2view.complete.give_back import given_back
from track2view.errors import UserError
from track2view.model.bases import check_base, load_vae, whole
from track2view.model.cost import Shape, completion_memory_needed
from track2view.model.diffusion import Rendered
from track2view.model.dual_view import attention_backends
from track2view.model.folders import loaded, read_config
from track2view.model.latents import LatentGrid, decode
from track2view.model.room import MemoryMode, OnDevice, check_room, keep_blocks, offload_blocks, told_how_to_fit
from track2view.model.sampling import SOLVERS, denoise, noise_like, shifted_sigmas
from track2view.model.settings import DiffusionSettings, Preview, Remembering, check_windows, plan_windows
from track2view.model.text import PromptCache, encoder_parameters
from track2view.records import Size

BLOCKS = ("blocks", "vace_blocks")
SMALL_WIDTH, SMALL_SIDE, LARGE_SIDE = 1536, 480, 720
"""Short sides of the pictures that VACE 1.3B (of that width) and 14B know."""
SMALL_SHIFT, LARGE_SHIFT = 3.0, 5.0
"""Of noise levels, up to 480 lines and beyond (diffusers' own advice for Wan)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicAdvice:
    """How VACE's makers sample it, and in as many steps as diffusers' own example does."""

    frames: int = 81
    steps: int = 30
    guidance: float = 5.0


class CompletionPipeline:
    """VACE and a text encoder; made by :meth:`from_pretrained`, called with a warp.

    Args:
        parts: diffusers' pipeline, of which a transformer and a VAE are needed; it prepares what the model reads.
    """

    def __init__(self, base: Path, parts: WanVACEPipeline, prompts: PromptCache, device: torch.device) -> None:
        self.base, self.parts, self.prompts, self.device = base, parts, prompts, device
        self.strides = check_base(base, WanVACETransformer3DModel)
        self._offloaded = False

    @property
    def transformer(self) -> WanVACETransformer3DModel:
        """The base's."""
        return self.parts.transformer

    @property
    def vae(self) -> AutoencoderKLWan:
        """The base's."""
        return self.parts.vae

    @staticmethod
    def from_pretrained(
        base: Path | str,
        *,
        lora: Path | str | None = None,
        lora_weight: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        prompt_folder: Path | None = None,
    ) -> "CompletionPipeline":
        """Load from local folders.

        Args:
            base: Wan2.1-VACE in diffusers' layout.
            lora: a file of LoRA weights of the same base or of its text-to-video sibling (few-step ones mostly), under diffusers' names,
                Wan's own, or those of Kohya's scripts.
            lora_weight: how much of it is added.
            dtype: of the transformer; the VAE stays in float32.
            prompt_folder: where encoded prompts are kept; ``base/prompts`` by default.

        Raises:
            UserError: what is missing, or does not fit together.
        """
        base = Path(base)
        strides = check_base(base, WanVACETransformer3DModel)
        vae = load_vae(base, WanVACETransformer3DModel)
        takes, expected = read_config(base / "transformer").get("vace_in_channels"), 2 * vae.config["z_dim"] + strides.pixels**2
        if takes != expected:
            raise UserError(
                f"{base}: its parts do not fit: the guide takes {takes!r:.20} channels (transformer/config.json: vace_in_channels), "
                f"latents and masks of this VAE have {expected}"
            )
        transformer = whole(WanVACETransformer3DModel, base / "transformer", dtype).eval().requires_grad_(False)
        parts = WanVACEPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=None, transformer=transformer)  # pyrefly: ignore
        if lora is not None:
            _add_lora(parts, Path(lora), lora_weight)
        transformer.set_attention_backend(attention_backends(device, dtype)[0])
        return CompletionPipeline(base, parts, PromptCache(base, prompt_folder or base / "prompts", dtype), torch.device(device))

    @property
    def short_side(self) -> int:
        """Of the largest pictures that the model knows, in pixels."""
        config = self.transformer.config
        return SMALL_SIDE if config["num_attention_heads"] * config["attention_head_dim"] <= SMALL_WIDTH else LARGE_SIDE

    def check(self, frames: int, size: Size, settings: DiffusionSettings) -> None:
        """Refuse early what cannot be made of a clip of so many frames of a size.

        Raises:
            UserError: a clip shorter than one latent group, a window or overlap that is not whole latents of this base, or a clip that
                would not fit in memory, with what would.
        """
        least = 1 + self.strides.frames
        if frames < least:
            raise UserError(f"the clip has {frames} frames; completion needs at least {least} (one latent group)")
        check_windows(settings, self.strides)
        grid = LatentGrid(frames=min(frames, settings.window), size=size, strides=self.strides)

        def needed(mode: MemoryMode) -> float:
            return completion_memory_needed(
                Shape.of(self.transformer),
                len(self.transformer.config["vace_layers"]),
                grid,
                mode,
                parameters=self.transformer.num_parameters(),
                encoder_parameters=0 if self.device.type == "cuda" and mode == "low" else encoder_parameters(self.base),
                at_once=2 if settings.batched else 1,
                bytes_per_value=self.transformer.dtype.itemsize,
                vae_width=self.vae.config["base_dim"],
            )

        check_room(needed, settings.memory, self.transformer.dtype, self.device)

    def __call__(
        self, rendered: Rendered, settings: DiffusionSettings | None = None, preview: Preview | None = None
    ) -> UInt8[Tensor, "T 3 H W"]:
        """The warp's clip, where what it does not show is generated and what it shows is as it was, to the last bit.

        A window is guided by its own warp and the last frames of the window before; nothing else that was made is read again.

        Args:
            preview: see :func:`track2view.model.sampling.denoise`; if it stops a window, later ones are not begun.

        Raises:
            UserError: what :meth:`check` refuses.
        """
        settings = settings or DiffusionSettings()
        frames, size = len(rendered.colour), (rendered.colour.shape[2], rendered.colour.shape[3])
        self.check(frames, size, settings)
        with told_how_to_fit(settings.memory, self.transformer.dtype, self.device):
            return self._completed(rendered, settings, preview)

    @torch.no_grad()
    def _completed(self, rendered: Rendered, settings: DiffusionSettings, preview: Preview | None) -> UInt8[Tensor, "T 3 H W"]:
        texts = self.prompts.encode([settings.prompt, settings.negative_prompt], self.device if settings.memory != "low" else "cpu")
        texts = [text.to(self.device, self.transformer.dtype) for text in texts]
        stopped = Remembering(preview)
        done = rendered.colour[:0]
        for number, window in enumerate(plan_windows(len(rendered.colour), settings, self.strides)):
            part, known = slice(window.start, window.stop), len(done) - window.start
            unknown = grown(~rendered.shown[part])
            unknown[:known] = False
            colour = torch.cat([done[window.start :], rendered.colour[part][known:]])
            grid = LatentGrid(frames=len(window), size=(colour.shape[2], colour.shape[3]), strides=self.strides)
            made = self._made(Control.of(colour, unknown, grid), grid, texts, settings, settings.seed + number, stopped)
            new = slice(window.start + known, window.stop)
            done = torch.cat([done, given_back(made[known:], Rendered(colour=rendered.colour[new], shown=rendered.shown[new]))])
            if stopped.stopped:
                break
        return done

    def _made(
        self,
        control: Control,
        grid: LatentGrid,
        texts: list[Float[Tensor, "1 L E"]],
        settings: DiffusionSettings,
        seed: int,
        preview: Preview,
    ) -> UInt8[Tensor, "T 3 H W"]:
        """A window as the model makes it, what it should keep included."""
        guide = self.guide(control, settings.memory).to(self.device, self.transformer.dtype)
        self._onto_device(settings.memory)

        def velocity(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
            passes = [texts[:branches]] if settings.batched else [[text] for text in texts[:branches]]
            return tuple(each for together in passes for each in at_once(latents.to(guide.dtype), timestep, together))

        def at_once(latents: Tensor, timestep: Tensor, together: list[Tensor]) -> tuple[Tensor, ...]:
            count = len(together)
            given, guided = (each.expand(count, -1, -1, -1, -1) for each in (latents, guide))
            out = self.transformer(given, timestep.expand(count), torch.cat(together), control_hidden_states=guided, return_dict=False)[0]
            return out.chunk(count)

        shape = (1, self.transformer.config["in_channels"], grid.latent_frames, *grid.latent_size)
        shift = settings.shift or (SMALL_SHIFT if min(grid.size) <= SMALL_SIDE else LARGE_SHIFT)
        latents = denoise(
            velocity,
            noise_like(shape, seed).to(self.device),
            shifted_sigmas(settings.steps, shift),
            solver=SOLVERS[settings.solver],
            guidance=settings.guidance,
            preview=preview,
        )
        if settings.memory == "balanced" and self.device.type != "cpu":
            nn.Module.to(self.transformer, "cpu")
        with OnDevice(self.vae, self.device, leave=settings.memory != "fast"):
            return grid.cut(decode(self.vae, latents, tiled=settings.memory != "fast")).cpu()

    @torch.no_grad()
    def guide(self, control: Control, memory: MemoryMode = "balanced") -> Float[Tensor, "1 C F Y X"]:
        """What the transformer is guided by: latents of the picture with grey holes, of nothing (what is generated), and the mask."""
        with OnDevice(self.vae, self.device, leave=memory != "fast"):
            self.vae.disable_tiling()
            video, holes = control.video.to(self.device), control.holes.to(self.device)
            latents = self.parts.prepare_video_latents(video, holes, [[]], device=self.device)  # pyrefly: ignore
        masks = self.parts.prepare_masks(control.sampled, [[]])  # pyrefly: ignore
        guide = torch.cat([latents.float().cpu(), masks], dim=1)
        if not bool(guide.isfinite().all()):
            raise UserError("the VAE encoded the warp to values that are not numbers; load it in float32")
        return guide

    def _onto_device(self, memory: MemoryMode) -> None:
        if (memory == "low") != self._offloaded:
            if self._offloaded:
                keep_blocks(block for name in BLOCKS for block in getattr(self.transformer, name))
            else:
                offload_blocks(self.transformer, BLOCKS, self.device)
            self._offloaded = not self._offloaded
        if not self._offloaded:
            nn.Module.to(self.transformer, self.device)


def _add_lora(parts: WanVACEPipeline, path: Path, weight: float) -> None:
    """Add a file's LoRA to the transformer's own weights, for good."""
    if not path.is_file():
        raise UserError(f"{path}: no such LoRA file (.safetensors)")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors are read; other files of weights are pickles, which can run any code")
    folder, options = str(path.parent), {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
    state = loaded(lambda: WanVACEPipeline.lora_state_dict(folder, **options), path)
    assert isinstance(state, dict)
    known = {name for name, _ in parts.transformer.named_modules()}
    strange = [name for name in sorted(state) if name.removeprefix("transformer.").rpartition(".lora_")[0] not in known - {""}]
    if strange or not state:
        what = f"has {strange[0]!r}, which this base has no place for" if state else "holds no LoRA"
        raise UserError(f"{path}: {what}; give one that was made for Wan 2.1 of the same size")

    def add() -> None:
        parts.load_lora_weights(state)
        parts.fuse_lora(components=["transformer"], lora_scale=weight)
        parts.unload_lora_weights()

    loaded(add, path)
