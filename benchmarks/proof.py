"""The controlled proof: ways to tell a model its target camera, on one base, data and budget; prints Markdown.

track2view scenes clips mini/train --count 256 --workers 2
track2view curate encode mini/train --base BASE --rendered 20 --workers 2
torchrun --standalone --nproc-per-node 2 -m track2view train proof-camera mini/train mini/proof/proof-camera-0 --base BASE --seed 0
python benchmarks/proof.py mini/proof --data mini/train --base BASE --out mini/proof-table

Runs are folders named after recipe and seed. Of each, the weights of its checkpoints at `--steps` re-film the worlds of
`track2view evaluate` (as many static as dynamic ones); rows that are there are kept, so runs can be added as they end.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from track2view import training
from track2view.evaluate.procedural import Interval, interval
from track2view.evaluate.report import COLUMNS, Column
from track2view.evaluate.row import Row
from track2view.evaluate.run import evaluate
from track2view.evaluate.worlds import METHODS, ByModel, Worlds
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import Track2ViewPipeline
from track2view.recipes import AdapterRecipe, recipe_named
from track2view.train.adapter import AdapterTask
from track2view.train.state import Checkpoint

CONTROLS = ("truth", "copy", "shuffled-camera", "warp-exact")
SHOWN = [column for column in COLUMNS if not column.value.startswith(("matched", "registered", "reconstructed", "steadiness"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=MINI / "base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=64)
    given = parser.parse_args()
    benchmark = Worlds(static=given.pairs // 4, dynamic=given.pairs - given.pairs // 4)
    methods = {name: METHODS[name] for name in CONTROLS}
    for folder in sorted(given.runs.iterdir()):
        checkpoint = folder / f"checkpoints/step-{given.steps:08d}"
        if checkpoint.exists():
            adapter = exported(checkpoint, folder.name, given.data, given.base, given.out / "adapters")
            pipe = Track2ViewPipeline.from_pretrained(given.base, adapter, prompt_folder=given.out / "prompts")
            methods[f"{folder.name}@{given.steps}"] = ByModel(pipe=pipe)
    rows = evaluate(benchmark, methods, given.out)
    table(rows)
    losses(given.runs)


def exported(checkpoint: Path, run: str, data: Path, base: Path, out: Path) -> Path:
    """The adapter of a checkpoint's average."""
    name, seed = run.rsplit("-", 1)
    folder = out / f"{run}-{checkpoint.name}"
    if not folder.exists():
        recipe = recipe_named(name)
        assert isinstance(recipe, AdapterRecipe)
        seeded = replace(recipe, plan=replace(recipe.plan, seed=int(seed)))
        task = training.build(seeded, data, base, None, torch.device("cpu"))
        assert isinstance(task, AdapterTask)
        saved = Checkpoint.load(checkpoint)
        task.save(folder, saved.average, saved.record.step)
    return folder / "adapter"


def table(rows: list[Row]) -> None:
    """Each way's mean over worlds of its mean over seeds, and what it has more than the first: worlds are drawn anew, in pairs."""
    runs: dict[str, list[str]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        way, _, step = method.partition("@")
        name = f"{way.rsplit('-', 1)[0]} at {step}" if step else method
        runs.setdefault(name, []).append(method)
    values = {name: {column.value: by_case(rows, methods, column.value) for column in SHOWN} for name, methods in runs.items()}
    columns = SHOWN
    print(f"| | seeds | {' | '.join(column.title for column in columns)} |\n|{'---|' * (2 + len(columns))}")
    for name, methods in runs.items():
        print(f"| {name} | {len(methods)} | {' | '.join(cell(interval(list(values[name][c.value].values())), c) for c in columns)} |")
    ours = [name for name in runs if name.startswith("proof at")]
    for name in runs:
        if ours and name.startswith("proof-"):
            cells = [cell(interval(list(apart(values[ours[0]][c.value], values[name][c.value]))), c) for c in columns]
            print(f"| {ours[0]} minus {name} | | {' | '.join(cells)} |")


def by_case(rows: list[Row], methods: list[str], value: str) -> dict[str, float]:
    """Of each world in which at least one seed has the number, the mean over these."""
    found: dict[str, list[float]] = {}
    for row in rows:
        number = row.values.get(value)
        if row.method in methods and number is not None:
            found.setdefault(row.case, []).append(number)
    return {case: sum(each) / len(each) for case, each in found.items()}


def apart(own: dict[str, float], other: dict[str, float]) -> Iterable[float]:
    return (own[case] - other[case] for case in own if case in other)


def cell(of: Interval, column: Column) -> str:
    mean, low, high = (f"{each * column.times:.{column.digits}f}" for each in (of.mean, of.low, of.high))
    return f"{mean} ({low} … {high}; {of.pairs})"


def losses(runs: Path) -> None:
    """Held-out losses by step, of all noise levels and of the highest, where the tracks tell most."""
    print("\n| run | step | held-out loss | at 0.9 |\n|---|---|---|---|")
    for folder in sorted(runs.iterdir()):
        for line in (folder / "log.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "validation/loss" in row:
                print(f"| {folder.name} | {row['step']} | {row['validation/loss']:.4f} | {row['validation/loss at 0.9']:.4f} |")


if __name__ == "__main__":
    main()
