"""Evaluating: every case by every method, scored; each row is kept as soon as it is known."""

import csv
import fcntl
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from track2view.claims import claimed
from track2view.errors import UserError, notice
from track2view.evaluate.benchmark import AnyCase, Benchmark, Given, Known, Made, Measure, Method
from track2view.evaluate.published import INCEPTION
from track2view.evaluate.row import Row
from track2view.evaluate.sets import POOL, Inception, keep_features
from track2view.files import atomic_path, read_json
from track2view.metrics import steadiness
from track2view.progress import progress
from track2view.records import Clip
from track2view.video import clip_images, write_video

FORMAT = "track2view.benchmark/2"
NAME = "benchmark.json"
ROWS = "rows.jsonl"
CLAIMS = ".claims"


def evaluate(
    benchmark: Benchmark[AnyCase, Known],
    methods: Mapping[str, Method[AnyCase, Known]],
    out: Path,
    measures: Mapping[str, Measure[Known]] | None = None,
    inception: Inception | None = None,
) -> list[Row]:
    """Make and score every clip that ``out`` does not have; what a method cannot make is a row with its reason, and is tried anew.

    ``out`` gets ``rows.jsonl``, and at the end ``rows.csv``, ``rows.parquet`` and ``clips/<method>/<case>.mp4``. Any number of runs, here
    and on other machines that share ``out``, work beside each other, each on another case; what others still work at is told, and is not
    among the rows.

    Args:
        measures: beside the benchmark's own scores, by name.
        inception: keeps features of all frames in ``out/features`` (:func:`track2view.evaluate.sets.set_distances`).

    Raises:
        UserError: ``out`` holds rows of another benchmark, or without one of the measures; or other runs have left nothing to do, and
            nothing done.
    """
    measures = measures or {}
    _begin(benchmark, out)
    done = [row for row in read_rows(out) if row.values]
    for name in (*measures, *([] if inception is None else [INCEPTION.name])):
        if lacking := next((row for row in done if name not in row.measures), None):
            raise UserError(f"{out}: has no scores by {name} of {lacking.case} by {lacking.method}; give another folder")
    for case in progress(benchmark.cases, "evaluating", len(benchmark.cases)):
        with claimed(out / CLAIMS / f"{case.name}.lock") as mine:
            if mine:
                there = {row.method for row in read_rows(out) if row.case == case.name and not row.reason}
                _evaluate_case(benchmark, case, {name: methods[name] for name in methods if name not in there}, out, measures, inception)
    rows = {(row.case, row.method): row for row in read_rows(out)}
    kept = [rows[case.name, name] for name in methods for case in benchmark.cases if (case.name, name) in rows]
    if lacking := len(methods) * len(benchmark.cases) - len(kept):
        notice(f"{out}: {lacking} clips are another run's, which has not ended; run the same command again for tables with all of them")
    if not kept:
        raise UserError(f"{out}: another run is at all of it; start this one again when it has ended")
    _write_tables(kept, out)
    return kept


def _evaluate_case(
    benchmark: Benchmark[AnyCase, Known],
    case: AnyCase,
    methods: Mapping[str, Method[AnyCase, Known]],
    out: Path,
    measures: Mapping[str, Measure[Known]],
    inception: Inception | None,
) -> None:
    if not methods:
        return
    try:
        given = benchmark.given(case)
    except UserError as error:
        for name in methods:
            _keep_row(out, _row(case, name, reason=str(error)))
        return
    for name, method in methods.items():
        row, made = _tried(benchmark, case, given, name, method, measures)
        if made is not None:
            _keep_clip(out / "clips" / name / f"{case.name}.mp4", made, given)
            if inception is not None:
                keep_features(inception, out, case.name, name, made.frames)
                keep_features(inception, out, case.name, POOL, given.source if given.exact is None else given.exact)
        _keep_row(out, replace(row, measures=(*measures, *([] if inception is None else [INCEPTION.name]))))


def read_rows(out: Path) -> list[Row]:
    """Those of a run, the newest of a clip last; a last line that is not whole is not read: somebody writes it, or was killed."""
    path = out / ROWS
    if not path.exists():
        return []
    text = path.read_text()
    rows: list[dict[str, Any]] = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    for row in rows:
        row["measures"] = tuple(row["measures"])
    return [Row(**row) for row in rows]


def _begin(benchmark: Benchmark[AnyCase, Known], out: Path) -> None:
    """A folder of one benchmark: it may grow in cases and methods, and in nothing else."""
    now = json.loads(json.dumps({"format": FORMAT, **benchmark.identity}))
    path = out / NAME
    if path.exists():
        there = read_json(path)
        if not isinstance(there, dict) or there.get("format") != FORMAT:
            raise UserError(f"{path}: not an evaluation of this version of track2view; give another folder")
        for name in now | there:
            if there.get(name) != now.get(name):
                raise UserError(f"{out}: holds rows of {name} {there.get(name)}, now {now.get(name)}; give another folder")
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(now))


def _keep_row(out: Path, row: Row) -> None:
    """Append a row; what is left of a line of somebody who was killed in the midst of it goes."""
    with (out / ROWS).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(row)).encode() + b"\n")


def _tried(
    benchmark: Benchmark[AnyCase, Known],
    case: AnyCase,
    given: Given[Known],
    name: str,
    method: Method[AnyCase, Known],
    measures: Mapping[str, Measure[Known]],
) -> tuple[Row, Made | None]:
    started = time.perf_counter()
    try:
        made = method(case, given)
    except UserError as error:
        seconds = time.perf_counter() - started
        return _row(case, name, parallax=given.parallax, seconds=seconds, reason=str(error)), None
    seconds = time.perf_counter() - started
    scores = benchmark.score(given, made.frames)
    found = {**scores.values, "steadiness": steadiness(made.frames)}
    for measure in measures.values():
        found |= measure(made.frames, given)
    values = {key: _finite(value) for key, value in found.items()}
    by_frame = {key: [_finite(value) for value in each] for key, each in scores.by_frame.items()}
    return _row(case, name, parallax=given.parallax, seconds=seconds, note=made.note, values=values, by_frame=by_frame), made


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(case: AnyCase, method: str, **found: Any) -> Row:
    return Row(case=case.name, method=method, group=case.group, source=case.source, target=case.target, **found)


def _keep_clip(path: Path, made: Made, given: Given[Known]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip_images(Clip(frames=made.frames, fps=given.fps)), given.fps, crf=4)


def _write_tables(rows: list[Row], out: Path) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row.values))
    flat = [
        {
            **{key: value for key, value in asdict(row).items() if key not in ("values", "by_frame", "measures")},
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
