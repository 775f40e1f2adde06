"""A base and an adapter described in words and numbers, from their configurations alone: no weights are read."""

from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from track2view.files import standing_folder
from track2view.model.bases import check_base
from track2view.model.checkpoint import AdapterRecord
from track2view.model.conditioners import CONDITIONERS, Conditioner
from track2view.model.cost import Flops, Shape, conditioner_flops, memory_needed, remember_flops, step_flops, video_flops
from track2view.model.folders import outlined
from track2view.model.latents import LatentGrid
from track2view.model.room import MEMORY_MODES
from track2view.model.text import encoder_parameters
from track2view.records import Size

BRANCHES = 2


def find_model(folder: Path) -> tuple[Path, Path]:
    """Base and adapter of a folder that holds both, or of a base that holds its adapter."""
    base = folder / "base" if (folder / "base").is_dir() else folder
    return base, folder / "adapter"


def describe(base: Path, adapter: Path, *, frames: int, size: Size, steps: int, tflops: float) -> str:
    """Parameters, modes, memory, operations per step and the least time of a guided video.

    Raises:
        UserError: what is missing or of another kind.
    """
    strides = check_base(base)
    adapter = standing_folder(adapter)
    record = AdapterRecord.load(adapter / "track2view.json")
    transformer = outlined(base / "transformer", WanTransformer3DModel.from_config)
    conditioner = outlined(adapter / "conditioner", CONDITIONERS[record.conditioner].from_config)
    vae = outlined(base / "vae", AutoencoderKLWan.from_config)
    parameters_of_encoder = encoder_parameters(base)
    assert isinstance(transformer, WanTransformer3DModel)
    assert isinstance(conditioner, Conditioner)
    assert isinstance(vae, AutoencoderKLWan)
    shape, grid = Shape.of(transformer, conditioner, record.lora_rank), LatentGrid(frames=frames, size=size, strides=strides)
    tokens = grid.token_grid[0] * grid.token_grid[1] * grid.token_grid[2]
    tracks = len(record.queries)
    parameters = [sum(each.numel() for each in module.parameters()) for module in (transformer, conditioner)]
    step, once = step_flops(shape, record.modes, tokens, BRANCHES), conditioner_flops(shape, grid.token_grid, tracks)
    video = video_flops(shape, record.modes, grid.token_grid, tracks, steps, BRANCHES)
    lines = [
        f"base       {base}: {parameters[0] / 1e6:,.1f} M parameters, {shape.blocks} blocks of width {shape.width}",
        f"           text encoder {parameters_of_encoder / 1e6:,.1f} M parameters, gone before denoising begins",
        f"adapter    {adapter}: conditioner {parameters[1] / 1e6:,.1f} M parameters, LoRA rank {record.lora_rank}",
        f"trained    on {record.base}, recipe {record.recipe or 'unknown'}, step {record.step}",
        f"modes      timestep {record.modes.timestep}, rope {record.modes.rope}, attention {record.modes.attention}",
        f"tracks     {tracks}: {record.queries.rows} × {record.queries.columns} at frames {list(record.queries.frames)} of each window",
        f"latents    one frame, then {strides.frames} each, of {strides.pixels}×{strides.pixels} pixels; "
        f"{strides.patch[0]}×{strides.patch[1]} of them a token",
        f"video      {frames} frames of {size[0]}×{size[1]}: {tokens:,} tokens a view",
        f"a step     {_flops(step)} with guidance: attention {step.attention / step.total:.0%}, linear {step.linear / step.total:.0%}",
        f"once       conditioner {_flops(once)}, {once.total / video.total:.2%} of {steps} steps",
    ]
    if record.modes.attention == "cached-source":
        lines.append(f"           source pass {_flops(remember_flops(shape, tokens, BRANCHES))}")
    lines.append(
        f"floor      {video.total / (tflops * 1e12):,.1f} s a video at {tflops:g} TFLOP/s, {step.total / (tflops * 1e9):,.1f} ms a step"
    )
    for name, value_bytes in (("bfloat16", 2), ("float32", 4)):
        needs = [
            memory_needed(
                shape,
                record.modes,
                grid,
                mode,
                parameters=sum(parameters),
                encoder_parameters=0 if mode == "low" else parameters_of_encoder,
                bytes_per_value=value_bytes,
                vae_width=vae.config["base_dim"],
                tracks=tracks,
            )
            for mode in MEMORY_MODES
        ]
        lines.append(
            f"memory     {name}, estimated: "
            + ", ".join(f"{mode} {need / 1e9:.1f} GB" for mode, need in zip(MEMORY_MODES, needs, strict=True))
        )
    return "\n".join(lines)


def _flops(flops: Flops) -> str:
    for unit, name in ((1e12, "TFLOP"), (1e9, "GFLOP")):
        if flops.total >= unit:
            return f"{flops.total / unit:,.1f} {name}"
    return f"{flops.total / 1e6:,.1f} MFLOP"
