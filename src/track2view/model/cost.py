"""What a video costs: floating-point operations by formula (checked against torch's counter), and memory by estimate."""

from dataclasses import dataclass

from diffusers.configuration_utils import ConfigMixin

from track2view.errors import UserError
from track2view.model.conditioners import Conditioner
from track2view.model.dual_view import DualViewModes
from track2view.model.latents import LatentGrid
from track2view.model.room import MemoryMode
from track2view.model.text import MAX_TOKENS

LIBRARIES_BYTES = 1.5e9
VAE_COPIES = 6
TILE_PIXELS = 256 * 256


COUNTS_OF_BASE = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "in_channels", "text_dim")
COUNTS_OF_CONDITIONER = ("width", "layers", "bands")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes that a model's cost depends on.

    Those of the conditioner are 0 for one that does not have them (of camera poses): its own cost is next to nothing.
    """

    blocks: int
    width: int
    feed_forward: int
    patch_values: int
    text_width: int
    conditioner_width: int
    conditioner_layers: int
    conditioner_bands: int
    lora_rank: int = 0

    @staticmethod
    def of(transformer: ConfigMixin, conditioner: Conditioner | None = None, lora_rank: int = 0) -> "Shape":
        """Read off the configurations of a Wan transformer and, where there is one, of a conditioner; ``lora_rank`` where LoRA layers
        run beside the weights they adapt.

        Raises:
            UserError: a configuration that no network has.
        """
        base, own = transformer.config, {} if conditioner is None else conditioner.config
        patch = base["patch_size"]
        counts = {name: base[name] for name in COUNTS_OF_BASE} | {name: own[name] for name in COUNTS_OF_CONDITIONER if name in own}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"config.json: {name}: expected a positive whole number, got {value}")
        return Shape(
            blocks=base["num_layers"],
            width=base["num_attention_heads"] * base["attention_head_dim"],
            feed_forward=base["ffn_dim"],
            patch_values=base["in_channels"] * patch[0] * patch[1] * patch[2],
            text_width=base["text_dim"],
            conditioner_width=own.get("width", 0),
            conditioner_layers=own.get("layers", 0),
            conditioner_bands=own.get("bands", 0),
            lora_rank=lora_rank,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Floating-point operations (a multiplication and an addition are two)."""

    attention: float
    linear: float

    @property
    def total(self) -> float:
        return self.attention + self.linear

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(attention=self.attention + other.attention, linear=self.linear + other.linear)

    def __mul__(self, times: float) -> "Flops":
        return Flops(attention=self.attention * times, linear=self.linear * times)


def block_flops(shape: Shape, asking: int, seen: int, *, remembered: int = 0) -> Flops:
    """One block: ``asking`` tokens go on, ``seen`` (these and others) are projected to keys, ``remembered`` come as keys."""
    width, hidden = shape.width, shape.feed_forward
    attention = 4 * asking * (seen + remembered + MAX_TOKENS) * width
    square = _adapted(shape, width, width)
    linear = (4 * asking + 2 * seen) * square + asking * (_adapted(shape, width, hidden) + _adapted(shape, hidden, width))
    return Flops(attention=attention, linear=linear)


def text_flops(shape: Shape) -> Flops:
    """Embedding a prompt."""
    return Flops(attention=0.0, linear=2 * MAX_TOKENS * (shape.text_width * shape.width + shape.width**2))


def _adapted(shape: Shape, inputs: int, outputs: int) -> float:
    """One token through a linear layer and the LoRA beside it."""
    return 2 * inputs * outputs + 2 * shape.lora_rank * (inputs + outputs)


def _text_keys(shape: Shape) -> float:
    """A prompt's keys and values in one block, for one view."""
    return 2 * MAX_TOKENS * _adapted(shape, shape.width, shape.width)


def step_flops(shape: Shape, modes: DualViewModes, tokens: int, branches: int = 2) -> Flops:
    """One denoising step over ``tokens`` per view, with the exact savings: the first block's self-attention is shared by
    branches, the last block leaves out the source's queries, a cached source costs nothing."""
    cached = modes.attention == "cached-source"
    seen, remembered = (tokens, tokens) if cached else (2 * tokens, 0)
    usual = block_flops(shape, seen, seen, remembered=remembered)
    last = block_flops(shape, tokens, seen, remembered=remembered)
    total = (usual * (shape.blocks - 1) + last + text_flops(shape)) * branches
    if not cached:
        once = Flops(attention=4 * seen * seen * shape.width, linear=4 * seen * _adapted(shape, shape.width, shape.width))
        total = total + once * -(branches - 1)
    text_keys = (shape.blocks - 1) * (1 if cached else 2) + 1
    ends = 2 * (seen + branches * tokens) * shape.patch_values * shape.width
    return total + Flops(attention=0.0, linear=ends + branches * text_keys * _text_keys(shape))


def remember_flops(shape: Shape, tokens: int, branches: int = 2) -> Flops:
    """The source's pass through all blocks, once per clip, camera and text."""
    once = block_flops(shape, tokens, tokens) * (shape.blocks - 1) + block_flops(shape, 0, tokens) + text_flops(shape)
    ends = 2 * tokens * shape.patch_values * shape.width + (shape.blocks - 1) * _text_keys(shape)
    return (once + Flops(attention=0.0, linear=ends)) * branches


def conditioner_flops(shape: Shape, grid: tuple[int, int, int], tracks: int) -> Flops:
    """The conditioner, once per clip and camera."""
    frames, tokens, width = grid[0], grid[0] * grid[1] * grid[2], shape.conditioner_width
    per_point = 2 * 4 * shape.conditioner_bands * width + 16 * width**2
    per_point += shape.conditioner_layers * 24 * width**2
    per_point += 2 * (2 * 2 * shape.conditioner_bands * width + 2 * width**2)
    per_point += 3 * 2 * grid[1] * grid[2] * width
    projections = 3 * 2 * tokens * shape.width * width
    attention = shape.conditioner_layers * 4 * frames * width
    return Flops(attention=float(tracks * frames * attention), linear=float(tracks * frames * per_point + projections))


def video_flops(shape: Shape, modes: DualViewModes, grid: tuple[int, int, int], tracks: int, steps: int, branches: int = 2) -> Flops:
    """A whole video but for its VAE and text encoder."""
    tokens = grid[0] * grid[1] * grid[2]
    once = remember_flops(shape, tokens, branches) if modes.attention == "cached-source" else Flops(attention=0.0, linear=0.0)
    return step_flops(shape, modes, tokens, branches) * steps + once + conditioner_flops(shape, grid, tracks)


def conditioner_memory_needed(shape: Shape, grid: tuple[int, int, int], tracks: int) -> float:
    """Bytes at the conditioner's peak where no gradients are kept: one layer's activations, shares of cells, both contexts."""
    frames, rows, columns = grid
    cells, width = rows * columns, shape.conditioner_width
    return tracks * frames * (24 * width + 2 * 4 * cells) + 4 * frames * cells * (2 * shape.width + 2 * width)


def memory_needed(
    shape: Shape,
    modes: DualViewModes,
    grid: LatentGrid,
    mode: MemoryMode,
    *,
    parameters: int,
    encoder_parameters: int,
    bytes_per_value: int,
    tracks: int,
    vae_width: int = 96,
    at_once: int = 1,
) -> float:
    """Bytes at the peak of a video, by estimate: the text encoder alone, or weights, activations of one block and remembered
    sources, or the VAE, which encodes whole pictures and decodes tiles.

    Args:
        encoder_parameters: of the text encoder, where it runs on the same device.
        at_once: guidance branches that share a pass.
        tracks: that the conditioner reads.
    """
    frames, rows, columns = grid.token_grid
    tokens = frames * rows * columns
    weights = parameters * bytes_per_value / (shape.blocks if mode == "low" else 1)
    cached = modes.attention == "cached-source"
    seen = at_once * (tokens if cached else 2 * tokens)
    activations = seen * (24 * shape.width + (4 * shape.width + 2 * shape.feed_forward) * bytes_per_value)
    remembered = 2 * 2 * shape.blocks * tokens * shape.width * bytes_per_value if cached else 0
    conditioner = conditioner_memory_needed(shape, grid.token_grid, tracks)
    denoising = weights + remembered + max(activations, conditioner)
    return peak(grid, mode, denoising=denoising, encoder=encoder_parameters * bytes_per_value, vae_width=vae_width)


def completion_memory_needed(
    shape: Shape,
    hints: int,
    grid: LatentGrid,
    mode: MemoryMode,
    *,
    parameters: int,
    encoder_parameters: int,
    bytes_per_value: int,
    vae_width: int = 96,
    at_once: int = 1,
) -> float:
    """Bytes at the peak of a completed video, by estimate, as :func:`memory_needed`.

    Args:
        hints: layers that the guide speaks to; what it says to all is kept through a pass.
        at_once: guidance branches that share a pass.
    """
    frames, rows, columns = grid.token_grid
    tokens = frames * rows * columns
    weights = parameters * bytes_per_value / (shape.blocks + hints if mode == "low" else 1)
    activations = at_once * tokens * (24 * shape.width + ((6 + hints) * shape.width + 2 * shape.feed_forward) * bytes_per_value)
    denoising = weights + activations
    return peak(grid, mode, denoising=denoising, encoder=encoder_parameters * bytes_per_value, vae_width=vae_width)


def peak(grid: LatentGrid, mode: MemoryMode, *, denoising: float, encoder: float, vae_width: int) -> float:
    """Bytes where the text encoder, what denoises and the VAE, which encodes whole pictures and decodes tiles, take turns; in "fast"
    mode the latter two are there together."""
    height, width = grid.padded_size
    pixels = height * width if mode == "fast" else min(TILE_PIXELS, height * width)
    picture = VAE_COPIES * grid.strides.frames * vae_width * 4
    decoding = picture * pixels + 2 * 3 * 4 * grid.padded_frames * height * width
    encoding = picture * height * width
    own = denoising + max(encoding, decoding) if mode == "fast" else max(denoising, encoding, decoding)
    return LIBRARIES_BYTES + max(encoder, own)
