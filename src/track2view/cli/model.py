"""``track2view model``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """Make a random base and adapter in the real layout, for trials: OUT/base and OUT/adapter."""

    size: tyro.conf.Positional[Literal["micro", "small", "mini"]]
    """How large."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    timestep: Literal["segmented", "shared"] = "segmented"
    """One timestep a view, or one for both."""
    rope: Literal["sequential", "synchronised"] = "sequential"
    """Positions of the source after the target's in time, or at the same time."""
    attention: Literal["joint", "cached-source"] = "joint"
    """All tokens see all, or the source sees itself alone and is computed once."""
    vae: Path | None = None
    """Folder of a VAE to take instead of a random one."""
    seed: int = 0
    """Of the weights."""

    def run(self) -> None:
        """Write them."""
        from track2view.model.dual_view import DualViewModes
        from track2view.model.make import new_model

        modes = DualViewModes(timestep=self.timestep, rope=self.rope, attention=self.attention)
        new_model(self.size, self.out, modes=modes, seed=self.seed, vae=self.vae)
        print(f"{self.out / 'base'}\n{self.out / 'adapter'}")


@dataclass(frozen=True, kw_only=True)
class ImportModel:
    """Make a base and adapter of other people's published weights: OUT/base and OUT/adapter."""

    kind: tyro.conf.Positional[Literal["recammaster"]]
    """Whose."""
    checkpoint: tyro.conf.Positional[Path]
    """Their file, .ckpt or .safetensors."""
    base: tyro.conf.Positional[Path]
    """Folder of the Wan model that they trained, in diffusers' layout."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""

    def run(self) -> None:
        """Write them."""
        from track2view.model.recammaster import convert_recammaster

        convert_recammaster(self.checkpoint, self.base, self.out)
        print(f"{self.out / 'base'}\n{self.out / 'adapter'}")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Print what a base and adapter are, and what a video costs with them."""

    folder: tyro.conf.Positional[Path]
    """Folder that holds base/ and adapter/, or a base that holds adapter/."""
    size: tuple[int, int] = (480, 832)
    """Height and width of the video."""
    frames: int = 81
    """Of the video."""
    steps: int = 50
    """Denoising steps."""
    tflops: float = 500.0
    """What the device computes in a second, in 10¹² operations, for the floor of the time."""

    def run(self) -> None:
        """Print it."""
        from track2view.model.info import describe, find_model

        base, adapter = find_model(self.folder)
        print(describe(base, adapter, frames=self.frames, size=self.size, steps=self.steps, tflops=self.tflops))


@dataclass(frozen=True, kw_only=True)
class ExportComfy:
    """Write an adapter's LoRA under ComfyUI's names. (Its track conditioner has no place there.)"""

    adapter: tyro.conf.Positional[Path]
    """Adapter folder."""
    out: tyro.conf.Positional[Path]
    """File to write, .safetensors."""

    def run(self) -> None:
        """Write it."""
        from track2view.model.checkpoint import export_comfy

        export_comfy(self.adapter, self.out)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Bases and adapters of the diffusion renderer."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[NewModel, tyro.conf.subcommand("new")]
        | Annotated[ImportModel, tyro.conf.subcommand("import")]
        | Annotated[ModelInfo, tyro.conf.subcommand("info")]
        | Annotated[ExportComfy, tyro.conf.subcommand("export-comfy")]
    ]

    def run(self) -> None:
        """Run the subcommand."""
        self.do.run()
