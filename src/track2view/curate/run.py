"""Curation of a whole dataset: pairs chosen by seed, done on processes or a cluster, claimed one by one, resumed where left."""

import json
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal, cast

import cv2
import numpy as np
import torch
from tqdm import tqdm

from track2view.cameras import find_scenes
from track2view.claims import claimed
from track2view.curate.archives import find_archives, unpack
from track2view.curate.export import export_scene
from track2view.curate.pools import on_ray
from track2view.curate.stages import PairOfViews, Reason, Rejected, curate_pair
from track2view.errors import DISK_FULL, UserError, check_positive
from track2view.files import atomic_path
from track2view.progress import progress
from track2view.records import Size
from track2view.samples import find_samples, write_manifest
from track2view.scenes.content import Content
from track2view.scenes.rig import Split
from track2view.trackers import open_tracker
from track2view.workers import on_processes

SAMPLES, REJECTED, UNPACKED, CLAIMS = "samples", "rejected", "unpacked", "claims"
ELSEWHERE = "left to another run"
LOG_SECONDS = 30.0
Outcome = Reason | Literal["samples", "left to another run"]


def choose_pairs(root: Path, per_scene: int, seed: int = 0) -> Iterator[PairOfViews]:
    """``per_scene`` ordered pairs of cameras of every scene below ``root``, drawn by seed and the scene's place alone.

    Raises:
        UserError: no scenes there.
    """
    for scene in find_scenes(root):
        names = sorted(path.stem for path in (scene / "videos").glob("*.mp4"))
        possible = list(permutations(names, 2))
        random = np.random.default_rng([seed, *str(scene.relative_to(root)).encode()])
        for index in random.permutation(len(possible))[:per_scene]:
            yield PairOfViews(root=root, scene=scene, source=possible[index][0], target=possible[index][1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Curation:
    """What one job needs to know beside its pair."""

    out: Path
    tracker: str
    short_side: int | None

    def __call__(self, pair: PairOfViews) -> Outcome:
        """Make the sample, or write why there is none; on one thread, so that any number of workers gives the same bytes."""
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        with claimed(self.out / CLAIMS / f"{pair.name.replace('/', '~')}.lock") as mine:
            if not mine or self.done(pair):
                return ELSEWHERE
            self._clear_what_was_begun(pair)
            try:
                return self._made(pair)
            except OSError as error:
                if error.errno in DISK_FULL:
                    return "disk full"
                raise

    def _made(self, pair: PairOfViews) -> Outcome:
        try:
            curate_pair(pair, open_tracker(self.tracker), self.short_side).save(self.out / SAMPLES)
        except Rejected as rejection:
            return self.reject(pair.name, rejection.reason, rejection.detail)
        except Exception as error:  # a fault of one sample, whatever it is, is written down in full and does not end the run
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            return self.reject(pair.name, "failed", traceback.format_exc())
        return "samples"

    def done(self, pair: PairOfViews) -> bool:
        """Whether a pair has become a sample, or was rejected."""
        return (self.out / SAMPLES / pair.name).exists() or self._rejection(pair.name).exists()

    def reject(self, name: str, reason: Reason, detail: str) -> Reason:
        """Set something aside, with its reason."""
        with atomic_path(self._rejection(name)) as partial:
            partial.write_text(json.dumps({"name": name, "reason": reason, "detail": detail}, indent=2))
        return reason

    def _rejection(self, name: str) -> Path:
        return self.out / REJECTED / f"{name}.json"

    def _clear_what_was_begun(self, pair: PairOfViews) -> None:
        """What a killed run left of this pair; nobody else is at it, for it is claimed."""
        for left in (self.out / SAMPLES / pair.name).parent.glob(f".{Path(pair.name).name}-*.partial"):
            shutil.rmtree(left)
        for left in self._rejection(pair.name).parent.glob(f".{Path(pair.name).name}-*.partial.json"):
            left.unlink()


def curate(
    root: Path,
    out: Path,
    *,
    per_scene: int = 1,
    seed: int = 0,
    workers: int = 1,
    short_side: int | None = None,
    tracker: str = "sfm",
    ray_address: str | None = None,
) -> Counter[str]:
    """Make samples of a dataset in MultiCamVideo's layout, and their manifest; what is done already is kept.

    Any number of runs, here and on other machines that share ``out``, work beside each other.

    Args:
        root: holds scenes, or archives (tar, zip) of scenes, which are unpacked to ``out/unpacked``.
        out: gets ``samples/``, ``rejected/`` (a JSON with the reason for each) and ``manifest.parquet``.
        workers: processes, where ``ray_address`` is not given.
        ray_address: of a running Ray cluster (``"auto"``: the one this machine belongs to).

    Returns:
        How many samples, and how many rejections by reason. What a full disk stopped is counted, and tried again by the next run.

    Raises:
        UserError: no scenes there, an unknown tracker, no cluster, a number below 1.
    """
    check_positive(per_scene=per_scene, workers=workers)
    open_tracker(tracker)
    work = Curation(out=out.absolute(), tracker=tracker, short_side=short_side)
    pairs = list(_pairs(root.absolute(), work, per_scene, seed))
    left = [pair for pair in pairs if not work.done(pair)]
    pool = on_processes(work, left, workers) if ray_address is None else on_ray(work, left, ray_address)
    passing: Counter[str] = Counter()
    seconds = 0.5 if sys.stderr.isatty() else LOG_SECONDS
    bar = tqdm(desc="pairs", total=len(pairs), initial=len(pairs) - len(left), mininterval=seconds, maxinterval=seconds)
    with bar, pool as jobs:
        for pair, outcome in jobs:
            if outcome is None:
                work.reject(pair.name, "worker died", "its process was killed, or crashed; out of memory?")
            passing[outcome or "worker died"] += 1
            bar.set_postfix(dict(passing), refresh=False)
            bar.update()
    counts = Counter(json.loads(path.read_text())["reason"] for path in (out / REJECTED).glob("**/[!.]*.json"))
    counts["disk full"] = passing["disk full"]
    counts[ELSEWHERE] = sum(not work.done(pair) for pair in pairs) - passing["disk full"]
    counts["samples"] = _list_samples(out)
    return +counts


def _pairs(root: Path, work: Curation, per_scene: int, seed: int) -> Iterator[PairOfViews]:
    archives = find_archives(root)
    for archive in archives:
        folder = work.out / UNPACKED / archive.relative_to(root)
        with claimed(work.out / CLAIMS / f"{archive.name}.lock") as mine:
            if not mine:
                raise UserError(f"{archive}: another run is unpacking it; start this one when it is done")
            if wrong := unpack(archive, folder):
                work.reject(str(archive.relative_to(root)), "broken archive", wrong)
    if not archives or any(root.glob("**/cameras/camera_extrinsics.json")):
        yield from (pair for pair in choose_pairs(root, per_scene, seed) if work.out not in pair.scene.parents)
    if archives:
        yield from choose_pairs(work.out / UNPACKED, per_scene, seed)


def _list_samples(out: Path) -> int:
    path = out / "manifest.parquet"
    for left in (out / CLAIMS).glob("*.lock"):
        with claimed(left):
            pass  # a killed run's, whose sample is done: nobody will claim it again
    with claimed(out / CLAIMS / "manifest.lock") as mine:
        if mine:
            for begun in out.glob(".manifest-*.partial.parquet"):
                begun.unlink()
            write_manifest(out / SAMPLES, path)
    return len(find_samples(out / SAMPLES))


def export_scenes(
    root: Path,
    split: Split,
    indices: range,
    *,
    frames: int,
    size: Size,
    dynamic: bool = True,
    content: Content = "solids",
    depth: bool = False,
    workers: int = 1,
) -> list[Path]:
    """:func:`export_scene` of many, in processes; returns their folders."""
    check_positive(count=len(indices), frames=frames, workers=workers)
    work = Export(root=root, split=split, frames=frames, size=size, dynamic=dynamic, content=content, depth=depth)
    with on_processes(work, list(indices), workers) as jobs:
        made = dict(progress(jobs, "scenes", len(indices)))
    if died := [index for index, folder in made.items() if folder is None]:
        raise UserError(f"scenes {died}: their processes were killed (out of memory?); run the same command again with fewer --workers")
    return [cast(Path, made[index]) for index in indices]


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What one scene's job needs to know beside its number."""

    root: Path
    split: Split
    frames: int
    size: Size
    dynamic: bool
    content: Content
    depth: bool

    def __call__(self, index: int) -> Path:
        """:func:`export_scene`, on one thread."""
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        return export_scene(
            self.root,
            self.split,
            index,
            frames=self.frames,
            size=self.size,
            dynamic=self.dynamic,
            content=self.content,
            depth=self.depth,
        )
