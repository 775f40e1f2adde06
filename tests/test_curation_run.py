"""Curation as a run: killed, poisoned, crowded, on a cluster, on a full disk, from broken archives. The bytes stay the same."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from track2view.claims import claimed
from track2view.curate import choose_pairs, curate, export_scene
from track2view.curate.run import Curation
from track2view.errors import UserError
from track2view.samples import find_samples
from track2view.trackers import TRACKERS

FRAMES, SIZE, PER_SCENE = 9, (64, 112), 8
PROGRAM = [sys.executable, "-m", "track2view", "curate", "run"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for index in (1, 4):
        export_scene(root, "train", index, frames=FRAMES, size=SIZE)
    return root


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    counts = curate(data, out, per_scene=PER_SCENE, workers=2)
    assert sum(counts.values()) == 2 * PER_SCENE
    assert counts["samples"] > PER_SCENE
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_that_is_killed_ends_like_one_that_was_not(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    kill_and_finish(data, tmp_path, PER_SCENE, kills=2)
    assert files_of(tmp_path) == files_of(undisturbed)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_like_one_that_was_not(data: Path, tmp_path: Path) -> None:
    curate(data, tmp_path / "undisturbed", per_scene=20, workers=2)
    kill_and_finish(data, tmp_path / "killed", 20, kills=10)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")


def kill_and_finish(data: Path, out: Path, per_scene: int, *, kills: int) -> None:
    """Kill a run whenever it has made a sample more, and let the last one end by itself."""
    command = [*PROGRAM, str(data), str(out), "--per-scene", str(per_scene), "--workers", "2"]
    moment, done = random.Random(0), []
    for _ in range(kills):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(find_samples(out / "samples"))
        deadline = time.monotonic() + 60
        while len(find_samples(out / "samples")) == before and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        time.sleep(moment.uniform(0.0, 0.6))
        run.send_signal(signal.SIGKILL)
        run.wait()
        done.append(len(find_samples(out / "samples")))
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert done == sorted(done)
    assert done[kills // 2 - 1] < len(find_samples(out / "samples"))


@pytest.mark.slow
def test_two_runs_share_a_folder(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    command = [*PROGRAM, str(data), str(tmp_path), "--per-scene", str(PER_SCENE)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert all(run.returncode == 0 for run in runs), said
    curate(data, tmp_path, per_scene=PER_SCENE)
    assert files_of(tmp_path) == files_of(undisturbed)


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_gives_the_same_bytes(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    with cluster_of_two() as address:
        counts = curate(data, tmp_path, per_scene=PER_SCENE, ray_address=address)
    assert sum(counts.values()) == 2 * PER_SCENE
    assert files_of(tmp_path) == files_of(undisturbed)


@contextmanager
def cluster_of_two() -> Iterator[str]:
    """Two real Ray nodes of one CPU each on this machine; yields the cluster's address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def test_without_a_cluster_the_error_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no cluster answers at 127\.0\.0\.1:1"):
        curate(data, tmp_path, ray_address="127.0.0.1:1")


class Poisoned:
    name = "poisoned"

    def track(self, *_: object) -> None:
        raise RuntimeError("a fault nobody thought of")


def test_a_poisoned_sample_is_set_aside_with_its_fault(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "poisoned", Poisoned)
    pair = next(iter(choose_pairs(data, 1)))
    work = Curation(out=tmp_path, tracker="poisoned", short_side=None)
    assert work(pair) == "failed"
    assert work.done(pair)
    assert "a fault nobody thought of" in next(tmp_path.glob("rejected/**/*.json")).read_text()


def test_a_claim_is_had_by_one_and_survives_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "sample.lock"
    with claimed(lock) as first, claimed(lock) as second:
        assert (first, second) == (True, False)
    assert not lock.exists()
    lock.touch()  # what a killed process leaves
    with claimed(lock) as mine:
        assert mine


def test_a_full_disk_is_counted_and_the_next_run_goes_on(data: Path, tmp_path: Path) -> None:
    command = [*PROGRAM, str(data), str(tmp_path), "--per-scene", "2"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=True, timeout=300)
    assert "4 disk full" in full.stdout
    assert not list(tmp_path.glob("samples/**/*.mp4"))
    room = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "disk full" not in room.stdout
    assert len(list(tmp_path.glob("samples/**/sample.json"))) >= 2


def test_odd_folders_and_a_plain_locale_change_nothing(data: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "-ä b\nc", tmp_path / "--out é"
    shutil.copytree(next(data.glob("train/*/scene1")), root / "train/f24/scene1")
    command = [*PROGRAM, "--per-scene", "1", "--", root.name, out.name]
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=plain, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(find_samples(out / "samples")) == 1


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "zip"])
def test_an_archive_gives_its_samples_and_a_truncated_one_those_that_are_whole(data: Path, tmp_path: Path, suffix: str) -> None:
    packed = tmp_path / "packed" / f"part1.{suffix}"
    packed.parent.mkdir()
    if suffix == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(data.rglob("*")):
                archive.write(path, path.relative_to(data))
    else:
        with tarfile.open(packed, "w:gz" if suffix == "tar.gz" else "w") as archive:
            for path in sorted(data.rglob("*")):
                archive.add(path, path.relative_to(data), recursive=False)
    counts = curate(packed.parent, tmp_path / "whole")
    assert sum(counts.values()) == 2
    assert not counts["broken archive"]
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 3 // 4])
    if suffix == "zip":  # its table of contents is at its end: nothing can be had from it
        with pytest.raises(UserError, match="no scenes there"):
            curate(packed.parent, tmp_path / "cut")
    else:
        counts = curate(packed.parent, tmp_path / "cut")
        assert counts["broken archive"] == 1
        assert counts["samples"] >= 1
        assert "ends or breaks at" in (tmp_path / f"cut/rejected/part1.{suffix}.json").read_text()
        again = curate(packed.parent, tmp_path / "cut")
        assert again == counts
    shutil.rmtree(packed.parent)
