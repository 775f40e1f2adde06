"""Recipes compared: each is trained with several seeds, then all re-film the same worlds, and tables say what differs.

What is done already is kept, so runs may be added one by one, and each goes on where it was stopped.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from track2view import training
from track2view.errors import UserError
from track2view.evaluate.procedural import Interval, interval
from track2view.evaluate.report import COLUMNS, Column, write_report
from track2view.evaluate.row import Row
from track2view.evaluate.run import evaluate
from track2view.evaluate.worlds import METHODS, ByModel, Worlds
from track2view.files import atomic_path
from track2view.model.diffusion import Track2ViewPipeline
from track2view.recipes import AdapterRecipe, recipe_named
from track2view.train.adapter import AdapterTask
from track2view.train.processes import processes
from track2view.train.state import Checkpoint, RunRecord, checkpoints

CONTROLS = ("truth", "copy", "shuffled-camera", "warp-exact")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeededRun:
    """A recipe with a seed, and its folder, named after both."""

    recipe: AdapterRecipe
    folder: Path

    @staticmethod
    def of(name: str, seed: int, out: Path) -> "SeededRun":
        """By the recipe's name.

        Raises:
            UserError: no such recipe, or one that trains no adapter.
        """
        recipe = recipe_named(name)
        if not isinstance(recipe, AdapterRecipe):
            raise UserError(f"recipe {name} trains no adapter, which an ablation compares")
        return SeededRun(recipe=replace(recipe, plan=replace(recipe.plan, seed=seed)), folder=out / f"{name}-{seed}")

    @property
    def finished(self) -> int | None:
        """How many steps it has taken, if these are all that it was to take."""
        there = checkpoints(self.folder / "checkpoints")
        if not there:
            return None
        record = RunRecord.load(there[-1])
        return record.step if record.step == record.schedule["steps"] else None

    def exported(self, step: int, data: Path, base: Path) -> Path | None:
        """A folder with the adapter of a checkpoint's average, and its base where that is trained too; None without such a checkpoint."""
        checkpoint = self.folder / f"checkpoints/step-{step:08d}"
        if not checkpoint.exists():
            return None
        folder = self.folder / f"exported/{checkpoint.name}"
        if not folder.exists():
            task = training.build(self.recipe, data, base, None, torch.device("cpu"))
            assert isinstance(task, AdapterTask)
            saved = Checkpoint.load(checkpoint)
            task.save(folder, saved.average, saved.record.step)
        return folder


def ablate(
    runs: Sequence[SeededRun],
    benchmark: Worlds,
    data: Path,
    out: Path,
    *,
    base: Path,
    held_out: Path | None,
    device: str,
    steps: int | None,
    command: str,
) -> Path:
    """Train what is not trained, evaluate every run that ``out`` holds, and write ``out/evaluation/table.md`` and ``report.html``.

    Under torchrun its processes share each training, and then the worlds.

    Args:
        steps: evaluate the checkpoints after so many steps; the last ones by default.

    Returns:
        The path of the table.

    Raises:
        UserError: what cannot be trained, or is not there.
    """
    for run in runs:
        if run.finished != run.recipe.plan.steps:
            training.run(run.recipe, data, run.folder, base=base, held_out=held_out, device=device, resume=True)
    place = out / "evaluation"
    found = list(_runs_in(out))
    with processes(device) as here:
        if here.first:
            for run, done in found:
                run.exported(steps or done, data, base)
        here.wait()
        methods = {name: METHODS[name] for name in CONTROLS}
        for run, done in found:
            if folder := run.exported(steps or done, data, base):
                own = folder / "base" if (folder / "base").exists() else base
                pipe = Track2ViewPipeline.from_pretrained(own, folder / "adapter", device=device, prompt_folder=place / "prompts")
                methods[f"{run.folder.name}@{steps or done}"] = ByModel(pipe=pipe)
        evaluate(benchmark, methods, place)
        here.wait()
        if here.first:
            rows = evaluate(benchmark, methods, place)
            write_report(place / "report.html", benchmark, rows, place, command)
            with atomic_path(place / "table.md") as partial:
                partial.write_text("\n".join([*table(rows), "", *losses([run for run, _ in found]), ""]))
        here.wait()
    return place / "table.md"


def table(rows: Sequence[Row]) -> Iterable[str]:
    """In Markdown: each recipe's mean over worlds of its mean over seeds; then the first one's minus each other's, world by world.

    Intervals are of worlds drawn anew, in pairs for differences.
    """
    recipes: dict[str, list[str]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        run, _, step = method.partition("@")
        recipes.setdefault(f"{run.rsplit('-', 1)[0]} at {step}" if step else method, []).append(method)
    columns = [column for column in COLUMNS if any(row.values.get(column.value) is not None for row in rows)]
    values = {name: {column: by_case(rows, methods, column.value) for column in columns} for name, methods in recipes.items()}
    yield f"| | seeds | {' | '.join(column.title for column in columns)} |"
    yield "|---" * (2 + len(columns)) + "|"
    for name, methods in recipes.items():
        cells = (_cell(interval(list(values[name][column].values())), column) for column in columns)
        yield f"| {name} | {len(methods)} | {' | '.join(cells)} |"
    first, *others = [name for name in recipes if " at " in name] or [""]
    for other in others:
        apart = ((_difference(values[first][column], values[other][column]), column) for column in columns)
        yield f"| {first} minus {other} | | {' | '.join(_cell(of, column) for of, column in apart)} |"


def by_case(rows: Sequence[Row], methods: Sequence[str], value: str) -> Mapping[str, float]:
    """Of each world in which a seed has the number, the mean over the seeds that do."""
    found: dict[str, list[float]] = {}
    for row in rows:
        number = row.values.get(value)
        if row.method in methods and number is not None:
            found.setdefault(row.case, []).append(number)
    return {case: sum(each) / len(each) for case, each in found.items()}


def losses(runs: Sequence[SeededRun]) -> Iterable[str]:
    """In Markdown: held-out losses by step, of all noise levels and of the highest, where the camera tells most."""
    yield "| run | step | held-out loss | at 0.9 |"
    yield "|---|---|---|---|"
    for run in runs:
        for line in (run.folder / "log.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "validation/loss" in row:
                yield f"| {run.folder.name} | {row['step']} | {row['validation/loss']:.4f} | {row['validation/loss at 0.9']:.4f} |"


def _runs_in(out: Path) -> Iterable[tuple[SeededRun, int]]:
    """Finished ones and their steps, a recipe's own before its variants."""
    for folder in sorted(out.iterdir()) if out.is_dir() else []:
        name, _, seed = folder.name.rpartition("-")
        if (folder / "checkpoints").is_dir() and seed.isdecimal():
            run = SeededRun.of(name, int(seed), out)
            if done := run.finished:
                yield run, done


def _difference(own: Mapping[str, float], other: Mapping[str, float]) -> Interval:
    return interval([own[case] - other[case] for case in own if case in other])


def _cell(of: Interval, column: Column) -> str:
    if of.pairs == 0:
        return "–"
    mean, low, high = (f"{each * column.times:.{column.digits}f}" for each in (of.mean, of.low, of.high))
    return f"{mean} ({low} … {high}; {of.pairs})"
