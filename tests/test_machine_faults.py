"""Faults of the machine, as a user meets them: full disks, signals, two runs at once, odd names, closed streams.

Whatever happens, a result is whole, and the same bytes as that of a run that nothing disturbed.
"""

import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cache import small_disk

from track2view import cli, pipeline
from track2view.errors import UserError
from track2view.trackers import SfmTracker
from track2view.video import read_clip

PROGRAM = [sys.executable, "-m", "track2view"]
RESULTS = (
    "output.mp4",
    "compare.mp4",
    "tracks.npz",
    "source_camera.json",
    "target_camera.json",
    "overview.png",
    "guide.mp4",
    "guide_mask.mp4",
    "depth/00007.png",
    "reference.png",
    "scene.glb",
)
NAMES = sorted({*(name.partition("/")[0] for name in RESULTS), "run.json"})


def result(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that knows the tracks of ``short_file``."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def undisturbed(short_file: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nothing disturbs gives."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [*PROGRAM, "render", str(short_file), "--camera", "orbit-left", "--fov", "60", "--out", "run"]
    done = subprocess.run(command, cwd=folder, env=environment(TRACK2VIEW_CACHE=str(kept)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return result(folder / "run")


@pytest.fixture
def command(short_file: Path, undisturbed: dict[str, bytes], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same run, in a folder of its own; its tracks are known."""
    assert undisturbed
    monkeypatch.setenv("TRACK2VIEW_CACHE", str(kept))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return [*PROGRAM, "render", str(short_file), "--camera", "orbit-left", "--fov", "60", "--out", "run"]


def test_kept_tracks_give_the_same_bytes(command: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
    assert '"tracks_reused": true' in (tmp_path / "run" / "run.json").read_text()
    assert result(tmp_path / "run") == undisturbed


def test_two_runs_in_one_folder_take_turns(command: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Each has to make its tracks, and to write them to the same cache too."""
    runs = [
        subprocess.Popen(command, env=environment(TRACK2VIEW_CACHE="both"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert all("waiting for its end" in line for text in said for line in text.splitlines())
    assert result(tmp_path / "run") == undisturbed
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == NAMES
    assert len(list((tmp_path / "both").iterdir())) == 1


def test_a_run_at_work_is_waited_for_and_left_alone(command: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    begun = tmp_path / "run" / ".track2view-other.partial"
    begun.mkdir(parents=True)
    handle = os.open(begun.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr is not None
        assert "another run is writing to it" in second.stderr.readline()
        assert begun.exists()
        os.close(handle)
    assert second.returncode == 0
    assert result(begun.parent) == undisturbed
    assert not begun.exists()


@pytest.mark.parametrize("room", [0, 12_000, 40_000])
def test_a_disk_that_fills_leaves_what_was_there(room: int, short_file: Path, kept: Path, command: list[str], tmp_path: Path) -> None:
    """A file-size limit makes every larger write fail, as a full disk does."""
    assert command
    shot = pipeline.prepare(read_clip(short_file), tracker=SfmTracker(fov=60.0))
    run = tmp_path / "run"
    pipeline.write_run(shot, pipeline.target_camera(shot, "static"), run)
    before = result(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UserError, match=f"^{run}: disk full"):
            pipeline.write_run(shot, pipeline.target_camera(shot, "orbit-left"), run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result(run) == before
    assert sorted(path.name for path in run.iterdir()) == NAMES


def test_a_read_only_folder_is_one_line(command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "size=40m"):
        arguments = [*command[3:-1], "disk/run"]
        cli.main(arguments)
        before = result(tmp_path / "disk" / "run")
        capfd.readouterr()
        subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2
        assert capfd.readouterr().err == (
            "track2view: disk/run: cannot be written to (Read-only file system); choose another folder with --out\n"
        )
        assert result(tmp_path / "disk" / "run") == before


NAME = "-a \x1b[31m\"'\n ünï\u202e日本.mp4"


def test_odd_names_in_a_poor_locale(command: list[str], short_file: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Spaces, quotes, newlines, escape sequences, a leading dash, other scripts; and an encoding that has none of them."""
    shutil.copy(short_file, tmp_path / NAME)
    poor = environment(PYTHONIOENCODING="ascii")
    arguments = ["render", "--camera", "orbit-left", "--fov", "60", "--", NAME]
    done = subprocess.run([*PROGRAM, *arguments], env=poor, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"out/-a \\x1b[31m\"'\\n ")
    assert done.stdout.count(b"\n") == 1
    (run,) = (tmp_path / "out").iterdir()
    assert run.name == f"{Path(NAME).stem}-orbit-left"
    assert result(run) == undisturbed


def test_names_that_are_no_text(command: list[str], short_file: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """In a locale without encoding, every name beyond ASCII is none."""
    poor = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    shutil.copy(short_file, os.fsencode(tmp_path) + b"/\xff.mp4")
    done = subprocess.run(
        [*PROGRAM, "render", b"./\xff.mp4", "--camera", "orbit-left", "--fov", "60"], env=poor, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert done.stdout.startswith(b"out/\\udcff-orbit-left/output.mp4")


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "> /dev/full"])
def test_closed_streams_make_no_difference(streams: str, command: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", f'exec "$@" {streams}', "sh", *command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert result(tmp_path / "run") == undisturbed


def test_a_reader_that_went_away_stops_no_render(command: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*command[:-4], "static", "--fov", "60", "--out", "runs"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert result(tmp_path / "runs" / "orbit-left") == undisturbed
    assert (tmp_path / "runs" / "static" / "run.json").exists()


@pytest.mark.parametrize("arguments", [["cameras", "list"], ["--help"], ["render", "--help"]])
def test_a_listing_without_reader_or_errors_without_reader(arguments: list[str]) -> None:
    for streams in ("| head -c 0", "2>&1 | head -c 0"):
        done = subprocess.run(["bash", "-c", f'"$@" {streams}', "sh", *PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("home", [None, "/proc/nobody"])
def test_no_home(home: str | None, command: list[str], kept: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    bare = {name: value for name, value in environment().items() if name not in ("HOME", "TRACK2VIEW_CACHE", "XDG_CACHE_HOME")}
    given = {"TRACK2VIEW_CACHE": str(kept)} if home is None else {"HOME": home}
    done = subprocess.run(command, env={**bare, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == (home is not None), done.stderr
    assert result(tmp_path / "run") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


LINE = "track2view: interrupted; what is done is kept, run the same command to go on\n"


def stop(command: list[str], number: signal.Signals, due: Callable[[], bool]) -> tuple[int, str]:
    """Send a signal to a run once it is due; its exit code, and what it said."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not due():
            time.sleep(0.01)
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
    return process.returncode, errors


def check_going_on(command: list[str], undisturbed: dict[str, bytes]) -> None:
    """What was stopped goes on to the same bytes as if it had not been, and nothing half-written remains."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert result(Path("run")) == undisturbed
    assert sorted(path.name for path in Path("run").iterdir()) == NAMES
    assert len(list(Path("own").iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "code", "said", "moment"),
    [
        (signal.SIGTERM, 143, LINE, "run"),
        (signal.SIGHUP, 129, LINE, "own/*.npz"),
        (signal.SIGINT, 130, LINE, "run/.track2view-*.partial/.output*"),
        (signal.SIGKILL, -9, "", "run/.track2view-*.partial/.output*"),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"],
)
def test_going_on_after_an_interruption(
    number: signal.Signals,
    code: int,
    said: str,
    moment: str,
    command: list[str],
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it tracks, once tracks are kept, and while it renders."""
    monkeypatch.setenv("TRACK2VIEW_CACHE", "own")
    assert stop(command, number, lambda: any(Path().glob(moment))) == (code, said)
    assert list(Path("run").iterdir()) == [] or number == signal.SIGKILL
    assert any(Path("own").glob("*.npz")) == (moment != "run")
    check_going_on(command, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(35))
def test_going_on_after_many_interruptions(
    seed: int, command: list[str], undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACK2VIEW_CACHE", "own")
    random.seed(seed)
    number = random.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
    due = time.monotonic() + random.uniform(0.3, 7.0)
    code, said = stop(command, number, lambda: time.monotonic() > due)
    assert (code, said) in [(128 + number, LINE), (-number, ""), (0, "")]
    check_going_on(command, undisturbed)
