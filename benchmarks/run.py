"""Measure tracking and rendering against exact truth on procedural clips; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/run.py              all clips, 81 frames of 480×832, then the table of stages
    python benchmarks/run.py --long       1,000 frames: time and peak memory
    python benchmarks/run.py --clip arc,0,1   one clip, as JSON

Every clip runs in a process of its own, so that peak memory is its own. Rendered clips are kept under bench/.
"""

import json
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from track2view.cameras import apply_move, parse_move
from track2view.geometry import invert, project
from track2view.metrics import path_errors, psnr, ssim, track_scores
from track2view.pipeline import default_queries, prepare, target_camera, write_run
from track2view.records import CameraPath, Clip
from track2view.scenes import make_camera, make_world, render_clip, render_view, shown_by, track_points
from track2view.trackers import SfmTracker, Tracking
from track2view.trackers.flow import neighbour_flow
from track2view.video import read_clip, write_video
from track2view.warp import DenseDepth, WarpRenderer, densify

FRAMES, SIZE = 81, (480, 832)
CLIPS = [
    *(("arc", 1, False), ("dolly", 6, False), ("handheld", 7, False), ("pan", 4, False), ("tripod", 9, False), ("arc", 10, False)),
    *(("arc", 0, True), ("dolly", 2, True), ("handheld", 3, True), ("pan", 6, True), ("tripod", 5, True), ("handheld", 8, True)),
]
CHECKED_FRAMES = (16, 32, 48, 64, 80)
ORBIT_DEGREES = 15.0


def main() -> None:
    if "--clip" in sys.argv:
        kind, seed, dynamic = sys.argv[sys.argv.index("--clip") + 1].split(",")
        print(json.dumps(measure(kind, int(seed), dynamic=dynamic == "1")))
    elif "--long" in sys.argv:
        print(json.dumps(measure_long()))
    else:
        report()


def report() -> None:
    rows = []
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {FRAMES} frames of {SIZE[0]}×{SIZE[1]}\n")
    columns = ("clip", "ATE %", "rotation °", "focal %", "APD3D", "AJ3D", "OA", "moving P/R", "parallax °")
    columns += tuple(f"{name} dB/SSIM" for name in ("exact depth", "tracked", "copy"))
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for kind, seed, dynamic in CLIPS:
        command = [sys.executable, __file__, "--clip", f"{kind},{seed},{int(dynamic)}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        moving = f"{row['precision']:.2f}/{row['recall']:.2f}" if dynamic else "–"
        warp = " | ".join(f"{row[name][0]:.1f}/{row[name][1]:.2f}" if name in row else "–" for name in ("exact", "tracked", "copy"))
        focal = f"{row['focal']:+.2f}" + ("" if row["focal_estimated"] else " (assumed)")
        ate = f"{row['ate']:.3f}" if kind not in ("pan", "tripod") else "–"
        scores = " | ".join(f"{row[name]:.0f}" for name in ("apd3d", "aj3d", "oa"))
        print(
            f"| {kind} {seed} {'dynamic' if dynamic else 'static'} | {ate} | {row['rotation']:.3f} | {focal} | {scores} | {moving} "
            f"| {row['parallax']:.2f}{' (warned)' if row['warned'] else ''} | {warp} |",
            flush=True,
        )
    print_medians(rows)
    print("\n| stage | median seconds | |\n|---|---|---|")
    for name, note in (
        ("flow", "bare dense flow, both directions"),
        ("tracking", "flow, cameras, tracks"),
        ("densify", "depth of every pixel"),
        ("frame", "one re-filmed frame"),
    ):
        print(f"| {name} | {np.median([row['seconds'][name] for row in rows if name in row['seconds']]):.2f} | {note} |")
    print(f"\ntracking / bare flow: {np.median([row['seconds']['tracking'] / row['seconds']['flow'] for row in rows]):.1f}×")
    print(f"peak memory: tracking {max(row['tracking_memory'] for row in rows):.2f} GB, all {max(row['memory'] for row in rows):.2f} GB")


def print_medians(rows: list[dict]) -> None:
    for dynamic in (False, True):
        chosen = [row for row in rows if row["dynamic"] == dynamic]
        travelling = [row for row in chosen if row["kind"] not in ("pan", "tripod")]
        middle = lambda name, among: float(np.median([row[name] for row in among]))  # noqa: E731
        tracked, copied = (np.median([row[name][0] for row in travelling]) for name in ("tracked", "copy"))
        exact = np.median([row["exact"][0] for row in travelling])
        which = "dynamic" if dynamic else "static"
        print(f"\n{which}: ATE {middle('ate', travelling):.3f} %, rotation {middle('rotation', travelling):.3f}°,", end=" ")
        print(f"|focal| {np.median([abs(row['focal']) for row in travelling]):.2f} %; warp: exact depth {exact:.1f} dB,", end=" ")
        print(f"tracked {tracked:.1f} dB, copying the source {copied:.1f} dB (medians)")


def load(kind: str, seed: int, *, dynamic: bool) -> tuple:
    """World, camera, clip, depth and moving mask, rendered once."""
    world = make_world(seed, frames=FRAMES, dynamic=dynamic)
    camera = make_camera(kind, seed, frames=FRAMES, size=SIZE)
    kept = Path("bench") / f"{kind}-{seed}-{int(dynamic)}.npz"
    if not kept.exists():
        clip, depth, solid = render_clip(world, camera)
        moves = torch.tensor([world.moves(index) for index in range(len(world.solids))])
        kept.parent.mkdir(exist_ok=True)
        np.savez(kept, frames=clip.frames.numpy(), depth=depth.numpy(), moving=moves[solid].numpy())
    with np.load(kept) as archive:
        frames, depth, moving = (torch.from_numpy(archive[name]) for name in ("frames", "depth", "moving"))
    return world, camera, Clip(frames=frames, fps=Fraction(30)), depth, moving


def measure(kind: str, seed: int, *, dynamic: bool) -> dict:
    world, camera, clip, depth, moving = load(kind, seed, dynamic=dynamic)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    neighbour_flow(clip)
    flowed = time.perf_counter()
    queries = default_queries(clip)
    tracking = SfmTracker().track(clip, queries)
    tracked = time.perf_counter()
    tracking_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    errors = path_errors(tracking.camera, camera)
    pixels = queries.pixels(SIZE)
    truth = track_points(world, camera, queries.frame, pixels)
    scores = track_scores(tracking.tracks, tracking.camera, truth, camera)
    found, true = tracking.tracks.moving, truth.moving
    row = {
        "kind": kind,
        "dynamic": dynamic,
        "ate": errors.ate_percent,
        "rotation": errors.rotation_mean,
        "focal": errors.focal_percent,
        "focal_estimated": tracking.report.focal_estimated,
        "apd3d": scores.apd3d,
        "aj3d": scores.aj3d,
        "oa": scores.occlusion_accuracy,
        "precision": float((found & true).sum() / found.sum().clamp(min=1)),
        "recall": float((found & true).sum() / true.sum().clamp(min=1)),
        "parallax": tracking.report.parallax_degrees,
        "warned": any("parallax" in warning for warning in tracking.report.warnings),
        "seconds": {"flow": flowed - started, "tracking": tracked - flowed},
        "tracking_memory": tracking_memory / 1e6,
        "before": before / 1e6,
    }
    if kind not in ("pan", "tripod"):
        row |= measure_warp(world, camera, clip, depth, moving, tracking, row["seconds"])
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return row


def measure_warp(world, camera: CameraPath, clip: Clip, depth, moving, tracking: Tracking, seconds: dict) -> dict:
    """PSNR and SSIM on the pixels that the source shows at the same time, at an orbit that reaches 15° at once and stays."""
    started = time.perf_counter()
    dense = densify(clip, tracking.flow, tracking.tracks, tracking.camera)
    seconds["densify"] = time.perf_counter() - started
    own = tracking.camera
    target = apply_move(parse_move(f"orbit-right:{ORBIT_DEGREES}"), own)
    last = invert(own.world_from_camera[-1]) @ target.world_from_camera[-1]
    target = replace(own, world_from_camera=own.world_from_camera @ last)
    step = last.clone()
    step[:3, 3] *= metres_per_unit(tracking, camera, depth)
    true_target = replace(camera, world_from_camera=camera.world_from_camera @ step)
    renderers = {
        "exact": (WarpRenderer(clip, DenseDepth.exact(disparity=1 / depth, moving=moving), camera), true_target),
        "tracked": (WarpRenderer(clip, dense, own), target),
    }
    values: dict[str, list] = {"exact": [], "tracked": [], "copy": []}
    frame_seconds = []
    for frame in CHECKED_FRAMES:
        truth = render_view(world, true_target, frame)
        seen = shown_by(world, camera, frame, true_target, truth.depth)
        for name, (renderer, path) in renderers.items():
            started = time.perf_counter()
            picture = renderer.render(path, frame).colour
            frame_seconds.append(time.perf_counter() - started)
            values[name].append((psnr(picture, truth.colour, seen), ssim(picture, truth.colour, seen)))
        values["copy"].append((psnr(clip.frames[frame], truth.colour, seen), ssim(clip.frames[frame], truth.colour, seen)))
    seconds["frame"] = float(np.median(frame_seconds))
    return {name: np.mean(each, axis=0).tolist() for name, each in values.items()}


def metres_per_unit(tracking: Tracking, camera: CameraPath, depth) -> float:
    """Median ratio of true to tracked depth at frame 0."""
    own = tracking.camera
    pixels, estimated = project(tracking.tracks.xyz_world[0].double(), own.camera_from_world[0], own.intrinsics[0])
    chosen = tracking.tracks.visible[0] & ~tracking.tracks.moving
    column, row = pixels[chosen].long().T
    true = depth[0, row.clamp(0, SIZE[0] - 1), column.clamp(0, SIZE[1] - 1)]
    return float((true / estimated[chosen]).median())


def measure_long(frames: int = 1000) -> dict:
    """A thousand frames from file to run folder: a dynamic clip played forwards and backwards, over and over."""
    *_, clip, _, _ = load("handheld", 3, dynamic=True)
    there_and_back = [abs((index + FRAMES - 1) % (2 * FRAMES - 2) - (FRAMES - 1)) for index in range(frames)]
    folder = Path("bench") / "long"
    folder.mkdir(exist_ok=True)
    write_video(folder / "clip.mp4", (clip.image(index) for index in there_and_back), clip.fps)
    del clip
    shot = prepare(read_clip(folder / "clip.mp4"), use_cache=False)
    write_run(shot, target_camera(shot, "orbit-right"), folder)
    document = json.loads((folder / "run.json").read_text())
    return {"frames": frames, "seconds": document["seconds"], "peak_gb": document["peak_memory_bytes"] / 1e9}


if __name__ == "__main__":
    main()
