"""Every reader on a few mutated inputs, on what broke one before, and on what is whole; and the harness on what must be found."""

import ast
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from corpus import CRASHES, Seed
from fuzzing.containers import ESCAPE
from fuzzing.judge import CANARY, SECONDS, Limits, Verdict, judge
from fuzzing.mutate import mutated
from fuzzing.readers import READERS
from fuzzing.run import Report, crashes, fuzz, prepared, summed_up

from track2view.errors import UserError, notice

PLAIN = [Seed(f"{index}.txt", {"": b"a"}) for index in range(3)]


@pytest.fixture(scope="module")
def fresh() -> Iterator[ProcessPoolExecutor]:
    """A process as a user's: without pytest's runtime type checks, which turn one error into another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def read_whole(name: str) -> Report:
    """A reader on its seeds."""
    reader, seeds = prepared(name)
    return summed_up(name, seeds, judge(reader.read, seeds))


def read_crashes(name: str) -> Report:
    """A reader on what broke one before."""
    reader, seeds = prepared(name)
    cases = crashes(name, seeds)
    return summed_up(name, cases, judge(reader.read, cases))


def shown(report: Report) -> str:
    return "\n".join(fault.title for fault in report.faults)


@pytest.mark.parametrize("name", READERS)
def test_mutated_inputs_are_read_or_refused_in_one_line(name: str, fresh: ProcessPoolExecutor) -> None:
    report = fresh.submit(fuzz, name, READERS[name].few).result()
    assert report.inputs == READERS[name].few
    assert not report.faults, shown(report)


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_whole(name: str, fresh: ProcessPoolExecutor) -> None:
    report = fresh.submit(read_whole, name).result()
    assert report.counts == {"ok": report.inputs}, f"{report.counts} {report.refusals}\n{shown(report)}"


@pytest.mark.parametrize("name", sorted(each.name for each in CRASHES.iterdir() if each.is_dir()))
def test_what_broke_a_reader_once_does_not_again(name: str, fresh: ProcessPoolExecutor) -> None:
    report = fresh.submit(read_crashes, name).result()
    assert not report.faults, shown(report)


def fail(path: Path) -> None:
    raise ValueError(f"{path}: no")


def refuse(path: Path) -> None:
    notice("all is well")
    raise UserError(f"{path}: a line")


def ramble(path: Path) -> None:
    error = UserError(f"{path}: a line")
    error.args = (f"{path}: a line\nand another",)  # which the class itself does not let through
    raise error


def sleep(path: Path) -> None:
    time.sleep(60)


def allocate(path: Path) -> None:
    np.empty(2 << 30, np.uint8)


def hide_allocation(path: Path) -> None:
    try:
        np.empty(1 << 50, np.uint8)
    except MemoryError:
        raise UserError(f"{path}: too large") from None


def nest(path: Path) -> None:
    try:
        ast.literal_eval("-" * 9000 + "1")
    except MemoryError:
        raise UserError(f"{path}: nested too deeply") from None


def abort(path: Path) -> None:
    os.abort()


def leave(path: Path) -> None:
    path.parent.with_name("stray").write_text("")


def overwrite(path: Path) -> None:
    (path.parents[2] / CANARY).write_text("dead")


def delete(path: Path) -> None:
    (path.parents[2] / CANARY).unlink()


def leave_temporary(path: Path) -> None:
    tempfile.mkstemp()


def escape(path: Path) -> None:
    Path(ESCAPE).write_text("")


def leave_running(path: Path) -> None:
    subprocess.Popen(["sleep", "60"])


def allocate_elsewhere(path: Path) -> None:
    subprocess.run([sys.executable, "-c", "bytearray(b'a') * (3 << 29)"], check=True)


def judged(read: Callable[[Path], object]) -> list[Verdict]:
    """Verdicts of three inputs, of which only the middle one meets ``read``."""
    middle = lambda path: read(path) if path.name == PLAIN[1].name else None  # noqa: E731
    return list(judge(middle, PLAIN, Limits(seconds=1 if read is sleep else SECONDS)))


@pytest.mark.parametrize(
    ("read", "kind", "what"),
    [
        (fail, "exception", "ValueError"),
        (refuse, "refused", ""),
        (ramble, "exception", "UserError (not one line)"),
        (sleep, "hang", "over 1 s"),
        (allocate, "memory", "2.0 GB"),
        (hide_allocation, "memory", "UserError"),
        (nest, "refused", ""),
        (abort, "died", "SIGABRT"),
        (leave, "escape", ""),
        (overwrite, "escape", ""),
        (delete, "escape", ""),
        (leave_temporary, "escape", ""),
        (escape, "escape", ""),
        (leave_running, "escape", ""),
        (allocate_elsewhere, "memory", "1.5 GB"),
    ],
)
def test_what_an_input_does_is_found_and_the_next_is_read(
    read: Callable[[Path], object], kind: str, what: str, fresh: ProcessPoolExecutor
) -> None:
    first, middle, last = fresh.submit(judged, read).result()
    assert (first.kind, middle.kind, last.kind) == ("ok", kind, "ok")
    assert middle.what == what
    assert middle.warned == ()


def test_hangs_are_named_by_where_they_hang(fresh: ProcessPoolExecutor) -> None:
    middle = fresh.submit(judged, sleep).result()[1]
    assert "in sleep" in middle.trace


def test_faults_are_grouped_and_the_smallest_example_kept() -> None:
    inputs = [Seed("a", {"": bytes(size)}) for size in (5, 3, 4, 9)]
    verdicts = [Verdict("exception", "KeyError", "x.py:f"), Verdict("exception", "KeyError", "x.py:f"), Verdict("ok"), Verdict("hang")]
    report = summed_up("tracks", inputs, verdicts)
    assert report.counts == {"exception": 2, "ok": 1, "hang": 1}
    assert [(fault.count, fault.example.size) for fault in report.faults] == [(2, 3), (1, 9)]


def test_mutations_are_the_same_again_and_unlike_each_other() -> None:
    seeds = [Seed("a.json", {"": b'{"a": [1, 2, {"b": "c"}]}'}), Seed("b", {"x.txt": b"1 2 3\n4 5 6", "y.npy": bytes(100)})]
    made = [mutated(seeds, "0 test", index) for index in range(100)]
    assert made == [mutated(seeds, "0 test", index) for index in range(100)]
    assert len({str(each) for each in made}) > 80
    assert sum(each == seeds[index % 2] for index, each in enumerate(made)) < 10
