"""Workers: a job that kills its process is found, and none outlives what started it, however that ends."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from track2view.curate import export_scene
from track2view.errors import UserError
from track2view.workers import on_processes

MARK = "TRACK2VIEW_TEST_MARK"
BEFORE_OUR_CODE = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)*EOFError: Ran out of input\n")
"""What Python says in a worker whose parent was killed before it had sent what the worker starts with."""
NOISE = ("Traceback", "resource_tracker", "multiprocessing", "Exception ignored", "leaked")


def doubled(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_a_job_that_kills_its_process_is_found_and_the_others_are_done() -> None:
    with on_processes(doubled, list(range(8)), 2) as jobs:
        assert dict(jobs) == {number: None if number == 3 else 2 * number for number in range(8)}


def refused(number: int) -> int:
    raise UserError(f"{number} will not do")


def test_what_a_job_raises_is_raised() -> None:
    with pytest.raises(UserError, match="1 will not do"), on_processes(refused, [1], 2) as jobs:
        list(jobs)


def asleep(seconds: int) -> int:
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"], check=False)
    return seconds


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def survivors(mark: str, seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_a_block_that_is_left_early_takes_its_workers_and_their_programs_along(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"left-{os.getpid()}"
    before = marked(mark)
    monkeypatch.setenv(MARK, mark)
    with suppress(KeyboardInterrupt), on_processes(asleep, [0, 100, 100], 2) as jobs:
        next(jobs)
        raise KeyboardInterrupt
    others = [each for each in survivors(mark, 2.0) if "resource_tracker" not in " ".join(each.cmdline())]
    assert others == before == []


SLEEPERS = """
from test_workers import asleep
from track2view.workers import on_processes
if __name__ == "__main__":
    with on_processes(asleep, [100, 100], 2) as jobs:
        list(jobs)
"""


def test_workers_in_the_midst_of_long_jobs_end_with_their_killed_parent_and_so_do_their_programs(tmp_path: Path) -> None:
    mark, script = f"sleepers-{os.getpid()}", tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths, MARK: mark})
    deadline = time.monotonic() + 60
    while sum("time.sleep(100)" in " ".join(each.cmdline()) for each in marked(mark)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.wait()
    left = survivors(mark, 5.0)
    for each in left:
        each.kill()
    assert not left


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    export_scene(root, "train", 1, frames=9, size=(64, 112))
    return root


def to_parent(number: int) -> Callable[[subprocess.Popen[str]], None]:
    return lambda run: run.send_signal(number)


def to_group(number: int) -> Callable[[subprocess.Popen[str]], None]:
    return lambda run: os.killpg(run.pid, number)


WAYS = {
    "killed": (to_parent(signal.SIGKILL), -signal.SIGKILL, None),
    "Ctrl-C": (to_group(signal.SIGINT), 130, "interrupted"),
    "SIGINT": (to_parent(signal.SIGINT), 130, "interrupted"),
    "SIGTERM": (to_parent(signal.SIGTERM), 143, "interrupted"),
    "SIGTERM to all": (to_group(signal.SIGTERM), 143, "interrupted"),
}


def run_and_end(data: Path, out: Path, way: str, moment: float) -> None:
    """Start a curation with two workers, end it ``moment`` seconds after its first worker has started, and look at what is left."""
    send, code, word = WAYS[way]
    mark = f"{way}-{moment}-{out.name}"
    command = [sys.executable, "-m", "track2view", "curate", "run", str(data), str(out), "--per-scene", "90", "--workers", "2"]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, MARK: mark}, start_new_session=True
    )
    while not psutil.Process(run.pid).children() and run.poll() is None:
        time.sleep(0.01)
    time.sleep(moment)
    assert run.poll() is None
    send(run)
    said = run.communicate(timeout=20)[1]
    left = survivors(mark, 5.0 if word is None else 2.0)
    assert not left, (way, moment, [each.cmdline() for each in left])
    assert run.returncode == code, said
    ours = BEFORE_OUR_CODE.sub("", said) if word is None else said
    assert not any(each in ours for each in NOISE), said
    if word is not None:
        assert said.strip().splitlines()[-1].startswith(f"track2view: {word}"), said
    assert not list(out.glob("rejected/**/*.json")), "a worker that was ended is no rejected sample"


@pytest.mark.parametrize(
    ("way", "moment"), [("killed", 0.05), ("Ctrl-C", 0.1), pytest.param("SIGINT", 2.0, marks=pytest.mark.slow), ("SIGTERM", 4.0)]
)
def test_no_worker_outlives_its_parent(way: str, moment: float, data: Path, tmp_path: Path) -> None:
    run_and_end(data, tmp_path, way, moment)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_worker_outlives_its_parent_whenever_it_ends(way: str, data: Path, tmp_path: Path) -> None:
    chance = random.Random(way)
    for number in range(20):
        run_and_end(data, tmp_path / str(number), way, chance.uniform(0.0, 8.0))
