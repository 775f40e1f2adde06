"""Paired tracks of curation against exact truth on procedural pairs; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/curation.py             24 pairs, 81 frames of 480×832, through mp4 and JSON files
    python benchmarks/curation.py --small     the same cameras of the same worlds, 33 frames of 160×276
    python benchmarks/curation.py --from 24   the 24 after these
    python benchmarks/curation.py --pair 3    one of them, as JSON
    python benchmarks/curation.py --workers   16 pairs of 33 frames of 120×208 by one worker, and by two

Every pair is rendered, written as `track2view scenes make` writes it, and curated from the files alone. Scenes are of the test
split: no constant was chosen on them. Distances are pixels of 480 lines. Rendered scenes are kept under bench/.
"""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from track2view.curate import PairOfViews, Rejected, curate, curate_pair, export_scene, export_scenes, true_pairs
from track2view.curate.synchronise import CERTAIN
from track2view.records import PairedTracks, Queries
from track2view.trackers import SfmTracker

SMALL = "--small" in sys.argv
FRAMES, SIZE = (33, (160, 276)) if SMALL else (81, (480, 832))
PAIRS, WORKERS = 24, 2
SPLIT = "test"
FAR_PIXELS = 8.0
GRID = 24
BANDS = {"≥ 0.9": (0.9, 1.01), "0.5 to 0.9": (0.5, 0.9), "< 0.5": (0.0, 0.5)}


def main() -> None:
    if "--pair" in sys.argv:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        print(json.dumps(measure(int(sys.argv[sys.argv.index("--pair") + 1]))))
        return
    if "--workers" in sys.argv:
        compare_workers()
        return
    first = int(sys.argv[sys.argv.index("--from") + 1]) if "--from" in sys.argv else 0
    target = [f"target {name}: %, px, > 8 px %" for name in BANDS]
    columns = ("pair", "source px", "source > 8 px %", *target, "alive across the seam %", "s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    rows = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for row in pool.map(in_its_own_process, range(first, first + PAIRS)):
            rows.append(row)
            print(line(row), flush=True)
    summarise([row for row in rows if "reason" not in row])


def summarise(kept: list[dict]) -> None:
    """Over the entries of all pairs: distances by confidence, and who has a place in the target."""

    def total(name: str) -> float:
        return sum(row[name] for row in kept)

    far, alive = total("far_source") / total("entries_source"), total("survived") / total("continuous")
    print(f"\n{len(kept)} pairs kept. Source: {np.median([row['source'] for row in kept]):.2f} px (median of the pairs' medians),", end=" ")
    print(f"{100 * far:.2f} % off by more than 8 px. Alive across the seam: {100 * alive:.1f} % of {total('continuous')}.")
    print("\n| confidence | of target entries % | mean confidence | within 8 px % | px (median of the pairs' medians) |")
    print("|---|---|---|---|---|")
    entries = sum(total(f"entries_{band}") for band in BANDS)
    for band in BANDS:
        count, median = total(f"entries_{band}"), np.median([row[band] for row in kept if row[f"entries_{band}"]])
        mean, near = total(f"confidence_{band}") / count, 1 - total(f"far_{band}") / count
        print(f"| {band} | {100 * count / entries:.1f} | {mean:.2f} | {100 * near:.1f} | {median:.2f} |")
    print("\n| truly in the target's picture: valid % | target sees it | target does not | entries |\n|---|---|---|---|")
    for of, where in (("shown", "source shows it"), ("all", "at any time")):
        for kind in ("still", "moving"):
            counts = [total(f"{of}_{kind}_{sight}") for sight in ("seen", "hidden")]
            valid = [total(f"valid_{of}_{kind}_{sight}") for sight in ("seen", "hidden")]
            shares = " | ".join(f"{100 * each / count:.1f}" for each, count in zip(valid, counts, strict=True))
            print(f"| {kind}, {where} | {shares} | {counts[0]} and {counts[1]} |")


def compare_workers() -> None:
    """Wall seconds of the same run, processes and imports included, with one worker and with two."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        export_scenes(data, "train", range(2), frames=33, size=(120, 208), workers=WORKERS)
        seconds = []
        for workers in (1, 2):
            started = time.perf_counter()
            counts = curate(data, Path(folder) / f"out{workers}", per_scene=8, workers=workers)
            seconds.append(time.perf_counter() - started)
        print(f"{sum(counts.values())} pairs: {seconds[0]:.0f} s and {seconds[1]:.0f} s, {seconds[0] / seconds[1]:.2f}×")


def in_its_own_process(index: int) -> dict:
    command = [sys.executable, __file__, "--pair", str(index), *(["--small"] if SMALL else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def line(row: dict) -> str:
    if "reason" in row:
        return f"| {row['name']} | rejected: {row['reason']} | | | | | | {row['seconds']:.0f} |"
    bands = []
    entries = sum(row[f"entries_{band}"] for band in BANDS)
    for band in BANDS:
        count = row[f"entries_{band}"]
        bands.append(f"{100 * count / entries:.0f}, {row[band]:.2f}, {100 * row[f'far_{band}'] / count:.1f}" if count else "–")
    alive = f"{100 * row['survived'] / row['continuous']:.1f}" if row["continuous"] else "– (none)"
    cells = (f"{row['source']:.2f}", f"{100 * row['far_source'] / row['entries_source']:.2f}", *bands, alive, f"{row['seconds']:.0f}")
    return f"| {row['name']} | {' | '.join(cells)} |"


def measure(index: int) -> dict:
    root = Path("bench/curation-small" if SMALL else "bench/curation")
    names = np.random.default_rng([index, 7]).permutation(10)[:2] + 1
    source, target = (f"cam{number:02d}" for number in names)
    scene = export_scene(root / f"{index}", SPLIT, index, frames=FRAMES, size=SIZE, cameras=(source, target))
    pair = PairOfViews(root=root / f"{index}", scene=scene, source=source, target=target)
    row: dict = {"name": f"{scene.parent.name.split('_')[0]} scene{index} {source}→{target}"}
    started = time.perf_counter()
    try:
        sample = curate_pair(pair, SfmTracker())
    except Rejected as rejection:
        return {**row, "reason": str(rejection), "seconds": time.perf_counter() - started}
    row["seconds"] = time.perf_counter() - started
    truth = true_pairs(scene, source, target, Queries.grid([FRAMES - 1, 0], GRID, GRID))
    moving, target_sees = what_the_target_sees(scene, source, target)
    return {**row, **compared(sample.pairs, truth), **who_is_valid(sample.pairs, truth, moving, target_sees)}


def compared(found: PairedTracks, truth: PairedTracks) -> dict:
    """Distances of entries that both call valid, and how many continuously visible tracks reach the target's frame 0.

    A track is continuously visible if truth sees it at every frame of the source, so at the shared frame too; it is alive across
    the seam if the pair has it on both sides for certain. Both count tracks that begin at the source's last frame.
    """
    scale = torch.tensor([SIZE[1], SIZE[0]]) * (480 / SIZE[0])
    source, target = (
        ((mine.uv - true.uv) * scale).norm(dim=-1) for mine, true in ((found.source, truth.source), (found.target, truth.target))
    )
    both = found.source.valid & truth.source.valid
    row: dict = {
        "source": float(source[both].median()),
        "far_source": int((source[both] > FAR_PIXELS).sum()),
        "entries_source": int(both.sum()),
    }
    both = found.target.valid & truth.target.valid
    for band, (least, most) in BANDS.items():
        within = both & (found.confidence >= least) & (found.confidence < most)
        row |= {band: float(target[within].median()), f"confidence_{band}": float(found.confidence[within].sum())}
        row |= {f"far_{band}": int((target[within] > FAR_PIXELS).sum()), f"entries_{band}": int(within.sum())}
    continuous = truth.source.valid.all(0) & (torch.arange(truth.confidence.shape[1]) < GRID * GRID)
    alive = found.source.valid[0] & found.target.valid[0] & (found.confidence[0] >= CERTAIN)
    return {**row, "continuous": int(continuous.sum()), "survived": int((continuous & alive).sum())}


def what_the_target_sees(scene: Path, source: str, target: str) -> tuple[Bool[Tensor, "N"], Bool[Tensor, "T N"]]:
    """Of the benchmark's queries: which move, and when nothing stands between them and the target's camera."""
    with np.load(scene / "truth" / "tracks.npz") as truth:
        last = (truth["query_camera"] == source) & (truth["query_frame"] == FRAMES - 1)
        mine = np.r_[np.flatnonzero(last), np.flatnonzero(truth["query_frame"] == 0)]
        visible = truth["visible"][truth["cameras"].tolist().index(target)]
        return torch.from_numpy(truth["moving"][mine]), torch.from_numpy(visible[:, mine])


def who_is_valid(found: PairedTracks, truth: PairedTracks, moving: Bool[Tensor, "N"], target_sees: Bool[Tensor, "T N"]) -> dict:
    """Entries whose true place is in the target's picture, and how many of them the pair calls valid there.

    Counted where the pair's source shows the point at that time, and at all times.
    """
    row: dict = {}
    for kind, of_kind in (("still", ~moving), ("moving", moving)):
        for sight, in_sight in (("seen", target_sees), ("hidden", ~target_sees)):
            entries = truth.target.valid & of_kind & in_sight
            for of, wanted in (("all", entries), ("shown", entries & found.source.valid)):
                row |= {f"{of}_{kind}_{sight}": int(wanted.sum()), f"valid_{of}_{kind}_{sight}": int((wanted & found.target.valid).sum())}
    return row


if __name__ == "__main__":
    main()
