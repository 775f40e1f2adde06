"""How fast the mini trains, where its time goes, and how far that is from bare products; prints Markdown (docs/benchmarks.md records it).

python benchmarks/training.py           the mini's VAE, base and adapter, on two cores, on made-up data of their shapes
python benchmarks/training.py --cuda    the same on a GPU
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from track2view import training
from track2view.model.conditioners.tracks import TrackCondition, ViewCondition
from track2view.model.latents import LatentGrid, Strides
from track2view.model.make import SIZES, new_transformer, new_vae
from track2view.model.parallel import trainable_parameters
from track2view.recipes import mini, mini_base, mini_vae
from track2view.train.objective import flow_matching_loss
from track2view.train.vae import TrainableVae

GRID = LatentGrid(frames=17, size=(64, 112), strides=Strides(frames=4, pixels=4, patch=(2, 2)))
GEMM = (4096, 1024, 1024)


@dataclass(frozen=True)
class Stage:
    """One stage of the mini: what it computes in a step, in parts."""

    name: str
    model: nn.Module
    batch: int
    half: bool
    forward: Callable[[], Tensor]
    part: Callable[[], object] | None = None
    compiles: Callable[[], object] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    device = "cuda" if given.cuda else "cpu"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}\n")
    ceiling = {half: gemm(half, given.repeats, device) for half in (False, True)}
    print(f"bare products of {GEMM}: float32 {ceiling[False] / 1e12:.2f}, bfloat16 {ceiling[True] / 1e12:.2f} TFLOP/s\n")
    print("| stage | batch | s a step | examples/s | forward | of it conditioner | backward | optimiser | TFLOP/s | of bare products |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for make in (vae_stage, base_stage, adapter_stage):
        stage = make(device)
        flops = flops_of(stage, device)
        row(stage, stage.name, flops, device, ceiling, given.repeats)
        if stage.compiles is not None:
            stage.compiles()
            row(stage, f"{stage.name}, compiled", flops, device, ceiling, given.repeats)


def flops_of(stage: Stage, device: str) -> int:
    with FlopCounterMode(display=False) as counter, torch.autocast(device, torch.bfloat16, enabled=stage.half):
        stage.forward().backward()
    return counter.get_total_flops()


def row(stage: Stage, name: str, flops: int, device: str, ceiling: dict[bool, float], repeats: int) -> None:
    optimiser = AdamW(trainable_parameters(stage.model).values(), lr=0.0)

    def forward() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=stage.half):
            return stage.forward()

    times: dict[str, list[float]] = {"forward": [], "backward": [], "optimiser": []}
    for _ in range(repeats + 1):
        marks = [now(device)]
        loss = forward()
        marks.append(now(device))
        loss.backward()
        marks.append(now(device))
        nn.utils.clip_grad_norm_(trainable_parameters(stage.model).values(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        marks.append(now(device))
        for kind, begun, ended in zip(times, marks[:-1], marks[1:], strict=True):
            times[kind].append(ended - begun)
    median = {kind: statistics.median(each[1:]) for kind, each in times.items()}
    part = "–"
    if stage.part is not None:
        spent = []
        for _ in range(repeats):
            begun = now(device)
            with torch.autocast(device, torch.bfloat16, enabled=stage.half):
                stage.part()
            spent.append(now(device) - begun)
        part = f"{statistics.median(spent):.3f}"
    step = sum(median.values())
    rate = flops / step
    print(
        f"| {name} | {stage.batch} | {step:.3f} | {stage.batch / step:.2f} | {median['forward']:.3f} | {part} | "
        f"{median['backward']:.3f} | {median['optimiser']:.3f} | {rate / 1e12:.3f} | {rate / ceiling[stage.half]:.0%} |",
        flush=True,
    )


def vae_stage(device: str) -> Stage:
    recipe = mini_vae()
    model = TrainableVae(new_vae(SIZES["mini"])).to(device).train()
    video = torch.rand(recipe.plan.micro_batch, 3, recipe.frames, *recipe.size, device=device) * 2 - 1

    def forward() -> Tensor:
        found, divergence = model(video)
        return (found - video).abs().mean() + 1e-5 * divergence

    return Stage("mini-vae", model, recipe.plan.micro_batch, recipe.plan.precision == "bfloat16", forward)


def base_stage(device: str) -> Stage:
    recipe, size = mini_base(), SIZES["mini"]
    model = new_transformer(size).to(device).train()
    batch = recipe.plan.micro_batch
    latents, text, time_ = noise(batch, device), torch.randn(batch, size.text_length, size.text_width, device=device), times(batch, device)

    def forward() -> Tensor:
        return flow_matching_loss(model(latents, time_, text, return_dict=False)[0], latents)

    def compiles() -> object:
        return model.compile_repeated_blocks(fullgraph=True)

    return Stage("mini-base", model, batch, recipe.plan.precision == "bfloat16", forward, compiles=compiles)


def adapter_stage(device: str) -> Stage:
    recipe, size = mini(), SIZES["mini"]
    model = training.new_adapter(new_transformer(size), replace(recipe, all_weights=False)).to(device).train()
    batch, tracks = recipe.plan.micro_batch, len(recipe.queries)
    latents, source = noise(batch, device), noise(batch, device)
    text, time_ = torch.randn(batch, size.text_length, size.text_width, device=device), times(batch, device)

    def view() -> ViewCondition:
        shape = (batch, GRID.latent_frames, tracks)
        uv = torch.rand(*shape, 2, device=device)
        return ViewCondition(uv=uv, disparity=torch.rand(shape, device=device), valid=torch.rand(shape, device=device) < 0.7)

    confidence = torch.ones(batch, GRID.latent_frames, tracks, device=device)
    condition = TrackCondition(source=view(), target=view(), confidence=confidence)

    def forward() -> Tensor:
        return flow_matching_loss(model(latents, time_, (text,), source, condition)[0], latents)

    def conditioner() -> object:
        return model.condition(source, condition)

    return Stage("mini", model, batch, recipe.plan.precision == "bfloat16", forward, conditioner, model.compile_blocks)


def noise(batch: int, device: str) -> Tensor:
    return torch.randn(batch, 16, GRID.latent_frames, *GRID.latent_size, device=device)


def times(batch: int, device: str) -> Tensor:
    return torch.rand(batch, device=device) * 1000


def gemm(half: bool, repeats: int, device: str) -> float:
    """Operations a second of a product like the mini's largest."""
    rows, inner, columns = GEMM
    kind = torch.bfloat16 if half else torch.float32
    one, other = torch.randn(rows, inner, dtype=kind, device=device), torch.randn(inner, columns, dtype=kind, device=device)
    spent = []
    for _ in range(4 * repeats):
        begun = now(device)
        one @ other
        spent.append(now(device) - begun)
    return 2 * rows * inner * columns / min(spent)


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
