"""``track2view train``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train micro, mini-vae, mini-base, mini, proof, one-gpu, paper, or an ablation such as paper-layers-2. Ctrl-C keeps what is done."""

    recipe: tyro.conf.Positional[str]
    """Which (src/track2view/recipes.py)."""
    data: tyro.conf.Positional[Path]
    """Folder that `track2view scenes clips` or `track2view curate run` wrote, encoded with the base; micro makes its own there."""
    out: tyro.conf.Positional[Path]
    """Folder for checkpoints/, model/, samples/, tensorboard/ and log.jsonl."""
    base: Path | None = None
    """Base in diffusers' Wan layout."""
    held_out: Path | None = None
    """Data of the same kind to validate on."""
    adapter: Path | None = None
    """Begin with the weights of this adapter, trained on this base or another of its width, instead of fresh ones."""
    device: str = "cpu"
    """Where to train: cpu, cuda."""
    sharding: Literal["none", "zero1", "fsdp2"] = "none"
    """What processes that torchrun starts share out: nothing, the optimiser's moments, or all weights."""
    loaders: int = 0
    """Processes that read ahead."""
    steps: int | None = None
    """Of the optimiser, instead of the recipe's."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of products, instead of the recipe's: on processors without bfloat16 its products are emulated, at a quarter of float32's rate."""
    seed: int | None = None
    """Of order, draws and new weights, instead of the recipe's."""
    resume: bool = False
    """Go on with the run in OUT."""
    dry_run: bool = False
    """Only print parameters, memory, operations and hours."""
    processes: int | None = None
    """With --dry-run: how many; by default those that the recipe is meant for."""

    def run(self) -> None:
        """Train, or estimate."""
        from track2view.recipes import recipe_named

        recipe = recipe_named(self.recipe)
        if self.steps is not None:
            recipe = replace(recipe, plan=recipe.plan.lasting(self.steps))
        if self.precision is not None:
            recipe = replace(recipe, plan=replace(recipe.plan, precision=self.precision))
        if self.seed is not None:
            recipe = replace(recipe, plan=replace(recipe.plan, seed=self.seed))
        from track2view import training

        if self.dry_run:
            print(*training.described(recipe, self.base, self.processes, self.sharding), sep="\n")
            return
        data, base, held_out = self.data, self.base, self.held_out
        if self.recipe == "micro" and base is None:
            data, base = training.make_micro_data(self.data)
            held_out = data
        training.run(
            recipe,
            data,
            self.out,
            base=base,
            held_out=held_out,
            device=self.device,
            sharding=self.sharding,
            loaders=self.loaders,
            adapter=self.adapter,
            resume=self.resume,
        )
        print(self.out / "model")
