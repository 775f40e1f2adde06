"""Do paired tracks carry a picture from one view to another? The conditioner alone, trained on procedural clips, says so.

It sees tokens of the source view (mean colours of little cells) and the tracks, and must say what the target view shows in the
cells that tracks reach. The same network, trained the same way on the same clips with its tracks paired at random, is the
control: all that differs is the geometry.

python examples/03_tracks_carry_information.py                 about six minutes on two cores
"""

import argparse
import math
import time
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from track2view.cameras import apply_move, parse_move
from track2view.model.conditioners.bilinear import scatter_tracks
from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, ViewCondition
from track2view.model.latents import LatentGrid, Strides
from track2view.pairing import pair_by_projection
from track2view.records import Queries
from track2view.scenes import make_camera, make_world, render_view, track_points

SIZE, CELL, FRAMES, STRIDE = (96, 168), 8, 17, 4
MOVES = ("orbit-right:20", "orbit-left:20", "dolly-in:0.4", "crane-up:0.3", "pan-left:12", "truck-right:0.3")
FPS = Fraction(16)
GRID = LatentGrid(frames=FRAMES, size=SIZE, strides=Strides(frames=STRIDE, pixels=CELL // 2, patch=(2, 2)))


@dataclass(frozen=True)
class Example:
    """One clip seen by two cameras."""

    source: Float[Tensor, "1 F h w D"]
    target: Float[Tensor, "1 F h w D"]
    condition: TrackCondition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, each network")
    parser.add_argument("--clips", type=int, default=32, help="to train on; a quarter as many are held out")
    given = parser.parse_args()
    torch.manual_seed(0)
    held_out = max(1, given.clips // 4)
    print(f"1. rendering {given.clips} clips and {held_out} others, each by two cameras")
    examples = [render(seed) for seed in range(100, 100 + given.clips + held_out)]
    trained_on, others = examples[: given.clips], examples[given.clips :]
    scores = {}
    for number, (name, change) in enumerate((("exact", lambda condition: condition), ("shuffled", shuffled)), start=2):
        print(f"{number}. training on {name} tracks for {given.seconds:g} s")
        conditioner, steps = train(trained_on, given.seconds, change)
        scores[name] = measure(conditioner, others, change)
        print(f"   {steps} steps; on clips it has not seen: {scores[name]:.2f} dB")
    print(f"4. one grey for all: {measure(None, others, shuffled):.2f} dB")
    print(f"   exact over shuffled: {scores['exact'] - scores['shuffled']:+.2f} dB")


def render(seed: int) -> Example:
    """Tokens of both views and exact tracks."""
    world = make_world(seed, frames=FRAMES, dynamic=True)
    camera = make_camera("handheld", seed, frames=FRAMES, size=SIZE)
    target = apply_move(parse_move(MOVES[seed % len(MOVES)]), camera)
    queries = Queries.grid([0, FRAMES - 1], 24, 24)
    tracks = track_points(world, camera, queries.frame, queries.pixels(SIZE))
    views = [
        tokens(torch.stack([render_view(world, path, STRIDE * frame).colour for frame in range(GRID.latent_frames)]))
        for path in (camera, target)
    ]
    return Example(source=views[0], target=views[1], condition=TrackCondition.of(pair_by_projection(tracks, camera, target), GRID))


def tokens(frames: UInt8[Tensor, "F 3 H W"]) -> Float[Tensor, "1 F h w D"]:
    """Every cell of 8 × 8 pixels as the mean colours of its four quarters."""
    quarters = interpolate(frames.float() / 255, scale_factor=2 / CELL, mode="area")
    return pixel_unshuffle(quarters, 2).permute(0, 2, 3, 1)[None]


def shuffled(condition: TrackCondition) -> TrackCondition:
    """Source tracks paired with others' targets."""
    order = torch.randperm(condition.confidence.shape[2])
    view = condition.target
    return replace(
        condition, target=ViewCondition(uv=view.uv[:, :, order], disparity=view.disparity[:, :, order], valid=view.valid[:, :, order])
    )


def train(examples: list[Example], seconds: float, change) -> tuple[TrackConditioner, int]:
    torch.manual_seed(1)
    conditioner = TrackConditioner(token_width=12, width=64, layers=2, heads=4)
    optimiser = torch.optim.AdamW(conditioner.parameters(), lr=1e-3)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        progressed = (time.perf_counter() - started) / seconds
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (0.5 + 0.5 * math.cos(math.pi * progressed))
        example = examples[int(torch.randint(len(examples), (1,)))]
        condition = change(example.condition)
        found = conditioner(example.source - 0.5, condition).target + 0.5
        loss = (found - example.target).square()[reached(condition)].mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(conditioner.parameters(), 1.0)
        optimiser.step()
        steps += 1
    return conditioner.eval(), steps


@torch.no_grad()
def measure(conditioner: TrackConditioner | None, examples: list[Example], change) -> float:
    """Peak signal-to-noise ratio over the cells that tracks reach, in dB."""
    errors = []
    for example in examples:
        condition = change(example.condition)
        found = torch.zeros_like(example.target) if conditioner is None else conditioner(example.source - 0.5, condition).target
        errors.append((found + 0.5 - example.target).square()[reached(condition)].flatten())
    return -10 * math.log10(float(torch.cat(errors).mean()))


def reached(condition: TrackCondition) -> Tensor:
    """Cells of the target that a track with a known source feature falls in."""
    alive = condition.target.valid & condition.source.valid.any(1, keepdim=True)
    ones = torch.ones(*alive.shape, 1)
    return scatter_tracks(ones, condition.target.uv, alive, (SIZE[0] // CELL, SIZE[1] // CELL))[..., 0] > 0


if __name__ == "__main__":
    main()
