"""How fast worlds are rendered, beside a training step on as many pictures; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/scenes.py           on the CPU
    python benchmarks/scenes.py --cuda    on a GPU

A training step is one forward and one backward pass of the medium model (benchmarks/model.py) over one pair of views, random
weights, without LoRA's or the optimiser's cost: what a trainer waits for at least.
"""

import sys
import time
from collections.abc import Callable

import torch
from model import MEDIUM, make

from track2view.model.dual_view import DualViewModes
from track2view.model.latents import WAN_STRIDES, LatentGrid
from track2view.scenes import make_rig, make_varied_world, render_path, stream_pairs

SEEDS = range(8)
SIZES = ((128, 224), (480, 832))
FRAMES = {"cpu": 4, "cuda": 292}
STEP_FRAMES, STEP_SIZE = 33, (128, 224)
"""What a step trains on: one pair of views of this size."""


def main() -> None:
    device = "cuda" if "--cuda" in sys.argv else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{name}; {len(SEEDS)} worlds, cam02 of each\n\n| size | frames a second | ms a frame | |\n|---|---|---|---|")
    for size in SIZES:
        seconds = [rendering(seed, size, device) for seed in SEEDS]
        mean = sum(seconds) / len(seconds)
        spread = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f} ms, by world"
        print(f"| {size[0]}×{size[1]} | {1 / mean:.1f} | {1000 * mean:.1f} | {spread} |", flush=True)
    print(f"\nA pair of views, {STEP_FRAMES} frames of {STEP_SIZE[0]}×{STEP_SIZE[1]}, with its tracks: ", end="", flush=True)
    streamed = timed(lambda: list(stream_pairs("train", range(2), frames=STEP_FRAMES, size=STEP_SIZE, device=device)), device) / 2
    step = training_step(device)
    print(
        f"{streamed:.2f} s; a training step of the medium model on it: {step:.2f} s; rendering's share {streamed / (streamed + step):.0%}"
    )


def rendering(seed: int, size: tuple[int, int], device: str) -> float:
    """Seconds a frame."""
    frames = FRAMES[device]
    world = make_varied_world(seed, frames=frames, dynamic=True).to(device)
    camera = make_rig(seed, frames=frames, size=size)["cam02"]
    render_path(world, camera[:1])
    return timed(lambda: render_path(world, camera), device) / frames


def training_step(device: str) -> float:
    """Seconds of a forward and a backward pass."""
    case = make(MEDIUM, LatentGrid(frames=STEP_FRAMES, size=STEP_SIZE, strides=WAN_STRIDES), DualViewModes(), device, torch.float32)
    for each in case.model.conditioner.parameters():
        each.requires_grad_(True)

    def step() -> None:
        velocity = case.model(case.latents, torch.tensor([500.0], device=device), case.texts[:1], case.source, case.condition)[0]
        velocity.square().mean().backward()

    step()
    return timed(step, device)


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that work takes, once it is warm."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
