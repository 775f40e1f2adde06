"""Evaluating: every case by every method, scored against the exact truth; each row is kept as soon as it is known."""

import csv
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from track2view.errors import UserError
from track2view.evaluate.benchmark import Benchmark, Case
from track2view.evaluate.methods import Made, Method
from track2view.evaluate.perception import Measure
from track2view.evaluate.procedural import PairTruth, score_clip, true_pair
from track2view.evaluate.published import INCEPTION
from track2view.evaluate.row import Row
from track2view.evaluate.sets import EXACT, Inception, keep_features
from track2view.files import atomic_path, read_record, write_record
from track2view.metrics import flicker, steadiness
from track2view.progress import progress
from track2view.records import Clip
from track2view.scenes.rig import FPS
from track2view.video import clip_images, write_video

FORMAT = "track2view.benchmark/1"
NAME = "benchmark.json"
ROWS = "rows.jsonl"


def evaluate(
    benchmark: Benchmark,
    methods: Mapping[str, Method],
    out: Path,
    measures: Mapping[str, Measure] | None = None,
    inception: Inception | None = None,
) -> list[Row]:
    """Make and score every clip that ``out`` does not have; what a method cannot make is a row with its reason, and is tried anew.

    ``out`` gets ``rows.jsonl``, and at the end ``rows.csv``, ``rows.parquet`` and ``clips/<method>/<case>.mp4``.

    Args:
        measures: beside those of pictures and cameras, by the name of what they need.
        inception: keeps features of all frames in ``out/features`` (:func:`track2view.evaluate.sets.set_distances`).

    Raises:
        UserError: ``out`` holds rows of another benchmark, or without one of the measures.
    """
    measures = measures or {}
    _begin(benchmark, out)
    rows = {(row.case, row.method): row for row in read_rows(out) if not row.reason}
    taken = (*measures, *([] if inception is None else [INCEPTION.name]))
    for name in taken:
        if lacking := next((row for row in rows.values() if row.values and name not in row.measures), None):
            raise UserError(f"{out}: has no scores by {name} of {lacking.case} by {lacking.method}; give another folder")
    for case in progress(benchmark.cases, "evaluating", len(benchmark.cases)):
        left = [name for name in methods if (case.name, name) not in rows]
        if not left:
            continue
        truth = true_pair(case.pair, frames=benchmark.frames, size=benchmark.size)
        for name in left:
            row, made = _row(case, truth, name, methods[name], measures)
            if made is not None:
                _keep_clip(out / "clips" / name / f"{case.name}.mp4", made)
                if inception is not None:
                    keep_features(inception, out, case.name, name, made.frames)
                    keep_features(inception, out, case.name, EXACT, truth.target.colour)
            rows[case.name, name] = row = replace(row, measures=taken)
            with (out / ROWS).open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    kept = [rows[case.name, name] for name in methods for case in benchmark.cases]
    _write_tables(kept, out)
    return kept


def read_rows(out: Path) -> list[Row]:
    """Those of a run, the newest of a clip last; of one that was killed, a last line that is not whole is cut off."""
    path = out / ROWS
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    for row in rows:
        row["measures"] = tuple(row["measures"])
    return [Row(**row) for row in rows]


def _begin(benchmark: Benchmark, out: Path) -> None:
    """A folder of one benchmark: it may grow in worlds and methods, and in nothing else."""
    if (out / NAME).exists():
        there = read_record(out / NAME, Benchmark, FORMAT, what="an evaluation", maker="track2view evaluate")
        for name in ("frames", "size", "content"):
            if getattr(there, name) != getattr(benchmark, name):
                raise UserError(f"{out}: holds rows of {name} {getattr(there, name)}, now {getattr(benchmark, name)}; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_record(out / NAME, benchmark, FORMAT)


def _row(case: Case, truth: PairTruth, name: str, method: Method, measures: Mapping[str, Measure]) -> tuple[Row, Made | None]:
    started = time.perf_counter()
    made: Made | None = None
    reason = ""
    try:
        made = method(case, truth)
    except UserError as error:
        reason = str(error)
    seconds = time.perf_counter() - started
    values: dict[str, float | None] = {}
    if made is not None:
        score = score_clip(truth, made.frames)
        found = {**score.values, "seen": score.seen.share, "flicker": flicker(made.frames, truth.target.colour)}
        found["steadiness"] = steadiness(made.frames)
        for measure in measures.values():
            found |= measure(made.frames, truth.source.colour, truth.world.caption)
        values = {key: value if math.isfinite(value) else None for key, value in found.items()}
    row = Row(
        case=case.name,
        method=name,
        dynamic=case.pair.dynamic,
        source=case.pair.source,
        target=case.pair.target,
        parallax=parallax(truth),
        seconds=seconds,
        reason=reason,
        note="" if made is None else made.note,
        values=values,
    )
    return row, made


def _keep_clip(path: Path, made: Made) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip_images(Clip(frames=made.frames, fps=Fraction(FPS))), Fraction(FPS), crf=4)


def parallax(truth: PairTruth) -> float:
    """Mean angle between the rays from both cameras to what the source shows, degrees."""
    source, target = truth.source_camera.world_from_camera, truth.target_camera.world_from_camera
    apart = (source[:, :3, 3] - target[:, :3, 3]).norm(dim=1)
    depth = truth.source.depth.flatten(1).double().quantile(0.5, dim=1)
    return float((apart / depth).atan().rad2deg().mean())


def _write_tables(rows: list[Row], out: Path) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row.values))
    flat = [
        {
            **{key: value for key, value in asdict(row).items() if key not in ("values", "measures")},
            **{key: row.values.get(key) for key in names},
        }
        for row in rows
    ]
    with atomic_path(out / "rows.parquet") as partial:
        parquet.write_table(pyarrow.Table.from_pylist(flat), partial)
    with atomic_path(out / "rows.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
