"""The mini on held-out procedural pairs against the exact truth, beside its controls; prints Markdown (docs/benchmarks.md records it).

track2view scenes clips mini/test --split test --count 16 --workers 2
track2view curate encode mini/test --base BASE
python benchmarks/mini.py mini/test --base BASE --adapter ADAPTER --out mini/table

Worlds, textures and trajectories of the test split occur nowhere else. Tracks are exact. `OUT/rows.csv` has every number of every pair
as soon as it is known, and what is there is not done again; `OUT/pairs.png` shows some of them.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import UInt8
from torch import Tensor

from track2view import training
from track2view.encoded import encoded_folder
from track2view.evaluate import (
    CameraErrors,
    Fidelity,
    Interval,
    Pair,
    PairScore,
    PairTruth,
    compare_many,
    copy_of_source,
    exact_warp,
    score_clip,
    score_many,
    true_pair,
)
from track2view.model.bases import load_transformer, load_vae
from track2view.model.checkpoint import load_adapter
from track2view.model.latents import as_bytes, decode, encode
from track2view.train.adapter import AdapterTask
from track2view.train.data import Example
from track2view.train.denoising import PairFeed
from track2view.train.sheet import write_sheet
from track2view.train.worlds import WorldPairs

Frames = UInt8[Tensor, "T 3 H W"]

STEPS = (25, 4)
"""Of sampling: as many as usual, and a few: the fewer, the nearer a sample is to the mean of all that could be there."""
SHOWN = 4
COLUMNS = {
    "PSNR": "psnr",
    "seen": "psnr_seen",
    "disoccluded": "psnr_disoccluded",
    "SSIM seen": "ssim_seen",
    "SSIM disoccluded": "ssim_disoccluded",
    "rotation °": "rotation",
    "translation cm": "translation",
    "of the path %": "translation_percent",
    "converged": "converged",
    "AUC at 5°": "auc",
}


DRAWN = ("warp, exact depth", *(f"mini, {steps} steps{way}" for steps in STEPS for way in ("", ", tracks shuffled")))


@dataclass(frozen=True)
class Bench:
    """What clips are made with."""

    pairs: WorldPairs
    tasks: dict[int, AdapterTask]
    """By steps of sampling."""
    vae: AutoencoderKLWan

    def through_vae(self, clip: Frames) -> Frames:
        return as_bytes(
            decode(self.vae, encode(self.vae, self.pairs.encoding.grid(len(clip), (clip.shape[2], clip.shape[3])).padded(clip)))
        )

    def sampled(self, example: Example, steps: int) -> Frames:
        return as_bytes(decode(self.vae, self.tasks[steps].latents(example)))


Method = Callable[[Bench, PairTruth, int], Frames]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=64)
    given = parser.parse_args()
    bench = loaded(given.worlds, given.base, given.adapter)
    chosen = torch.linspace(0, len(bench.pairs) - 1, given.pairs).round().long().tolist()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = Rows(given.out / "rows.csv")
    sheet: list[Frames] = []
    for number, index in enumerate(chosen):
        truth = truth_of(bench.pairs, index)
        made: dict[str, Frames] = {}
        for name, clip_of in METHODS.items():
            if name not in kept.scores or len(kept.scores[name]) <= number:
                made[name] = clip_of(bench, truth, index)
                kept.add(name, score_clip(truth, made[name]))
        if len(made) == len(METHODS) and number % max(1, given.pairs // SHOWN) == 0:
            sheet += [truth.source.colour, truth.target.colour, *(made[name] for name in DRAWN)]
            write_sheet(given.out / "pairs.png", sheet)
    table(kept.scores)


def loaded(worlds: Path, base: Path, adapter: Path) -> Bench:
    pairs = WorldPairs(worlds, encoded_folder(worlds, base))
    model, record = load_adapter(adapter, load_transformer(base, torch.float32))
    feed = PairFeed(pairs, seed=0, shift=record.shift)
    tasks = {steps: AdapterTask(model, feed, record, base, held_out=None, steps=steps, shift=record.shift) for steps in STEPS}
    return Bench(pairs, tasks, load_vae(base))


def truth_of(pairs: WorldPairs, index: int) -> PairTruth:
    pair = training.pair_of(pairs, index)
    clip, _ = pairs.pixels(index)
    return true_pair(pair, frames=len(clip), size=(clip.shape[2], clip.shape[3]))


def with_shuffled_tracks(example: Example) -> Example:
    """Each track's place in the source beside another's in the target: all points are there, none is paired."""
    target = example.condition.target
    order = torch.randperm(target.uv.shape[2], generator=torch.Generator().manual_seed(0))
    shuffled = replace(target, uv=target.uv[:, :, order], disparity=target.disparity[:, :, order], valid=target.valid[:, :, order])
    return replace(example, condition=replace(example.condition, target=shuffled))


def with_other_tracks(pairs: WorldPairs, index: int) -> Example:
    """The tracks of a pair of another world."""
    other = (index + len(pairs) // 2) % len(pairs)
    return replace(pairs[index], condition=pairs[other].condition)


def led_by(tracks: Callable[[WorldPairs, int], Example], steps: int) -> Method:
    return lambda bench, truth, index: bench.sampled(tracks(bench.pairs, index), steps)


METHODS: dict[str, Method] = {
    "truth through the VAE": lambda bench, truth, index: bench.through_vae(truth.target.colour),
    "copy of the source": lambda bench, truth, index: copy_of_source(truth),
    "warp, exact depth": lambda bench, truth, index: exact_warp(truth),
    "warp, exact depth, through the VAE": lambda bench, truth, index: bench.through_vae(exact_warp(truth)),
}
for steps in STEPS:
    METHODS[f"mini, {steps} steps"] = led_by(lambda pairs, index: pairs[index], steps)
    METHODS[f"mini, {steps} steps, tracks shuffled"] = led_by(lambda pairs, index: with_shuffled_tracks(pairs[index]), steps)
    METHODS[f"mini, {steps} steps, another pair's tracks"] = led_by(with_other_tracks, steps)


class Rows:
    """Scores by method, in the order of pairs, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.scores = path, {}
        if path.exists():
            with path.open() as file:
                for row in csv.DictReader(file):
                    self.scores.setdefault(row.pop("method"), []).append(as_score(row))

    def add(self, method: str, score: PairScore) -> None:
        self.scores.setdefault(method, []).append(score)
        row = {"method": method, **as_row(score)}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


REGIONS = ("everywhere", "seen", "disoccluded")


def as_row(score: PairScore) -> dict[str, object]:
    pair = {name: getattr(score.pair, name) for name in Pair.__slots__}
    regions = {f"{region}/{name}": getattr(getattr(score, region), name) for region in REGIONS for name in Fidelity.__slots__}
    cameras = {f"{way}/{name}": getattr(getattr(score, way), name) for way in ("camera", "rough") for name in CameraErrors.__slots__}
    return {**pair, **regions, **cameras}


def as_score(row: dict[str, str]) -> PairScore:
    def numbers(before: str) -> dict[str, float]:
        return {name.removeprefix(before): float(value) for name, value in row.items() if name.startswith(before)}

    return PairScore(
        pair=Pair(
            seed=int(row["seed"]), source=row["source"], target=row["target"], dynamic=row["dynamic"] == "True", content=row["content"]
        ),
        **{region: Fidelity(**numbers(f"{region}/")) for region in REGIONS},
        camera=CameraErrors(**numbers("camera/")),
        rough=CameraErrors(**numbers("rough/")),
    )


def table(scores: dict[str, list[PairScore]]) -> None:
    print(f"{len(scores[DRAWN[0]])} pairs; mean and 95 % interval over pairs\n")
    print(f"| clip | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    for name, each in scores.items():
        print(f"| {name} | {' | '.join(cells(score_many(each)))} |")
    for steps in STEPS:
        mini = f"mini, {steps} steps"
        for name, each in scores.items():
            if name.startswith(f"{mini},") or not name.startswith("mini"):
                print(f"| {mini} minus: {name} | {' | '.join(cells(compare_many(scores[mini], each)))} |")


def cells(means: dict[str, Interval]) -> list[str]:
    found = []
    for name in COLUMNS.values():
        each, times = means[name], 100 if name == "translation" else 1
        found.append(f"{each.mean * times:.2f} ({each.low * times:.2f} … {each.high * times:.2f})")
    return found


if __name__ == "__main__":
    main()
