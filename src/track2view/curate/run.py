"""Curation of a whole dataset on one machine: pairs are chosen by seed, done in processes, resumed where they were left."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from track2view.curate.export import export_scene, find_scenes
from track2view.curate.stages import PairOfViews, Rejected, curate_pair
from track2view.progress import progress
from track2view.records import Size, atomic_path
from track2view.samples import write_manifest
from track2view.scenes.rig import Split
from track2view.trackers import SfmTracker

REJECTED = "rejected"


def choose_pairs(root: Path, per_scene: int, seed: int = 0) -> Iterator[PairOfViews]:
    """``per_scene`` ordered pairs of cameras of every scene below ``root``, drawn by seed and the scene's place alone."""
    for scene in find_scenes(root):
        names = sorted(path.stem for path in (scene / "videos").glob("*.mp4"))
        possible = list(permutations(names, 2))
        random = np.random.default_rng([seed, *str(scene.relative_to(root)).encode()])
        for index in random.permutation(len(possible))[:per_scene]:
            yield PairOfViews(root=root, scene=scene, source=possible[index][0], target=possible[index][1])


def curate(root: Path, out: Path, *, per_scene: int = 1, seed: int = 0, workers: int = 1, short_side: int | None = None) -> Counter[str]:
    """Make samples of a dataset in MultiCamVideo's layout, and their manifest; what is done already is kept.

    Args:
        out: gets ``samples/``, ``rejected/`` (a JSON with the reason for each) and ``manifest.parquet``.

    Returns:
        How many samples, and how many rejections by reason.

    Raises:
        UserError: no scenes there.
    """
    pairs = list(choose_pairs(root, per_scene, seed))
    left = [pair for pair in pairs if not _sample_of(out, pair).exists() and not _rejection_of(out, pair).exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        jobs = [pool.submit(_curate_one, pair, out, short_side) for pair in left]
        for job in progress(as_completed(jobs), "pairs", len(jobs)):
            job.result()
    counts = Counter(json.loads(path.read_text())["reason"] for path in (out / REJECTED).glob("**/*.json"))
    counts["samples"] = write_manifest(out / "samples", out / "manifest.parquet")
    return counts


def export_scenes(
    root: Path, split: Split, indices: range, *, frames: int, size: Size, dynamic: bool = True, workers: int = 1
) -> list[Path]:
    """:func:`export_scene` of many, in processes; returns their folders."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        jobs = [pool.submit(export_scene, root, split, index, frames=frames, size=size, dynamic=dynamic) for index in indices]
        for job in progress(as_completed(jobs), "scenes", len(jobs)):
            job.result()
    return [job.result() for job in jobs]


def _curate_one(pair: PairOfViews, out: Path, short_side: int | None) -> None:
    try:
        curate_pair(pair, SfmTracker(), short_side).save(out / "samples")
    except Rejected as rejection:
        document = {"name": pair.name, "reason": rejection.reason, "detail": rejection.detail}
        with atomic_path(_rejection_of(out, pair)) as partial:
            partial.write_text(json.dumps(document, indent=2))


def _sample_of(out: Path, pair: PairOfViews) -> Path:
    return out / "samples" / pair.name


def _rejection_of(out: Path, pair: PairOfViews) -> Path:
    return out / REJECTED / f"{pair.name}.json"


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
