"""Paired tracks of curation against exact truth on procedural pairs; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/curation.py             24 pairs, 81 frames of 480×832, through mp4 and JSON files
    python benchmarks/curation.py --from 24   the 24 after these
    python benchmarks/curation.py --pair 3    one of them, as JSON
    python benchmarks/curation.py --workers   16 pairs of 33 frames of 120×208 by one worker, and by two

Every pair is rendered, written as `track2view scenes make` writes it, and curated from the files alone. Scenes are of the test
split: no constant was chosen on them. Rendered scenes are kept under bench/.
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

from track2view.curate import PairOfViews, Rejected, curate, curate_pair, export_scene, export_scenes, true_pairs
from track2view.records import PairedTracks, Queries
from track2view.trackers import SfmTracker

FRAMES, SIZE, PAIRS, WORKERS = 81, (480, 832), 24, 2
SPLIT = "test"
FAR_PIXELS = 8.0
GRID = 24


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
    columns = ("pair", "median source px", "median target px", "> 8 px source %", "> 8 px target %", "alive across the seam %", "s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        rows = []
        for row in pool.map(in_its_own_process, range(first, first + PAIRS)):
            rows.append(row)
            print(line(row), flush=True)
    kept = [row for row in rows if "reason" not in row]
    total = {name: sum(row[name] for row in kept) for name in ("far_source", "far_target", "entries_source", "entries_target")}
    print(f"\n{len(kept)} of {len(rows)} pairs kept; over all entries of these:", end=" ")
    print(f"medians {np.median([row['source'] for row in kept]):.2f} and {np.median([row['target'] for row in kept]):.2f} px,", end=" ")
    far = [100 * total[f"far_{view}"] / total[f"entries_{view}"] for view in ("source", "target")]
    print(f"{far[0]:.2f} % and {far[1]:.2f} % off by more than 8 px,", end=" ")
    survived, continuous = (sum(row[name] for row in kept) for name in ("survived", "continuous"))
    print(f"{100 * survived / continuous:.1f} % of {continuous} continuously visible tracks alive across the seam")


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
    command = [sys.executable, __file__, "--pair", str(index)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def line(row: dict) -> str:
    if "reason" in row:
        return f"| {row['name']} | rejected: {row['reason']} | | | | | {row['seconds']:.0f} |"
    far = [100 * row[f"far_{view}"] / row[f"entries_{view}"] for view in ("source", "target")]
    alive = f"{100 * row['survived'] / row['continuous']:.1f}" if row["continuous"] else "– (none)"
    cells = (f"{row['source']:.2f}", f"{row['target']:.2f}", f"{far[0]:.2f}", f"{far[1]:.2f}", alive, f"{row['seconds']:.0f}")
    return f"| {row['name']} | {' | '.join(cells)} |"


def measure(index: int) -> dict:
    root = Path("bench/curation")
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
    return {**row, **compared(sample.pairs, truth)}


def compared(found: PairedTracks, truth: PairedTracks) -> dict:
    """Distances in pixels of entries that both call valid, and how many continuously visible tracks reach the target's frame 0.

    A track is continuously visible if truth sees it at every frame of the source, so at the shared frame too; it is alive across
    the seam if the pair still has it on both sides. Both count tracks that begin at the source's last frame.
    """
    scale = torch.tensor([SIZE[1], SIZE[0]])
    row: dict = {}
    for view in ("source", "target"):
        mine, true = getattr(found, view), getattr(truth, view)
        error = ((mine.uv - true.uv) * scale).norm(dim=-1)[mine.valid & true.valid]
        row |= {view: float(error.median()), f"far_{view}": int((error > FAR_PIXELS).sum()), f"entries_{view}": len(error)}
    begun = torch.arange(truth.confidence.shape[1]) < GRID * GRID
    continuous = truth.source.valid.all(0) & begun
    return {**row, "continuous": int(continuous.sum()), "survived": int((continuous & found.source.valid[0] & found.target.valid[0]).sum())}


if __name__ == "__main__":
    main()
