"""Re-filming clips like those people make, against the exact view, beside two baselines; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/lifelike.py                    all styles of scenes/takes.py
    python benchmarks/lifelike.py --held-out 100     twelve styles, each in another world: seeds 100 to 111
    python benchmarks/lifelike.py --style dog,0      one take, as JSON

The baselines are the copy of the source, and the flat card: the source's frame as a picture on a plane that faces its camera at the
scene's median distance, seen from the commanded camera, so that rotation and zoom are right and nothing bends. All numbers are on pixels
that the source shows at the same time: PSNR, the shares of strong edges kept and not invented, and flicker beyond the exact view's.
Below the table: how well what a run says of its own places (``astray``) predicts how far beside their true places they land.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from track2view.geometry import inside, invert, pixel_centres, project, unproject
from track2view.metrics import edges_kept, flicker, psnr, ssim
from track2view.pipeline import Shot, prepare, target_camera
from track2view.records import CameraPath
from track2view.scenes import STYLES, Take, film, render_view, shown_by
from track2view.scenes.takes import world_at
from track2view.video import clip_images, read_clip, write_video
from track2view.warp import WarpRenderer

FRAMES, SIZE = 49, (360, 640)
MOVES = ("orbit-left:15", "orbit-right:15", "dolly-in:0.4", "recam-9")
LANDING_INTERVAL, HELD_OUT = 6, 12
METHODS = ("re-filmed", "flat card", "copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=int, metavar="FIRST", help="twelve styles in worlds from this seed on")
    parser.add_argument("--jobs", type=int, default=1, help="takes at once")
    parser.add_argument("--style", help="NAME,SEED")
    given = parser.parse_args()
    if given.style:
        name, seed = given.style.split(",")
        print(json.dumps(measure(name, int(seed))))
        return
    takes = held_out(given.held_out) if given.held_out is not None else [(name, 0) for name in STYLES]
    print(f"{FRAMES} frames of {SIZE[0]}×{SIZE[1]}, seeds from {takes[0][1]} on; {', '.join(MOVES)}\n")
    columns = ["take", "parallax °", "field of view: true, found", *(f"{name}: dB, SSIM, edges kept/true, flicker" for name in METHODS)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    rows = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for row in pool.map(lambda take: in_its_own_process(*take), takes):
            rows.append(row)
            print(line(row), flush=True)
    print_medians(rows)


def held_out(first: int) -> list[tuple[str, int]]:
    """Twelve styles drawn by the first of their seeds."""
    drawn = sorted(np.random.default_rng(first).permutation(len(STYLES))[:HELD_OUT])
    return [(list(STYLES)[style], first + index) for index, style in enumerate(drawn)]


def in_its_own_process(name: str, seed: int) -> dict:
    command = [sys.executable, __file__, "--style", f"{name},{seed}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def line(row: dict) -> str:
    cells = [row["name"], f"{row['parallax']:.2f}", f"{row['true_fov']:.0f}, {row['fov']:.0f} ({row['focal']})"]
    for name in METHODS:
        score = row[name]
        edges = f"{100 * score['kept']:.0f}/{100 * score['true']:.0f} %"
        cells.append(f"{score['psnr']:.1f}, {score['ssim']:.2f}, {edges}, {score['flicker']:.1f}")
    return f"| {' | '.join(cells)} |"


def print_medians(rows: list[dict]) -> None:
    gains = [row["re-filmed"]["psnr"] - row["flat card"]["psnr"] for row in rows]
    moving = [gain for gain, row in zip(gains, rows, strict=True) if STYLES[row["name"]].parallax >= 0.5]
    worst = rows[int(np.argmin(gains))]["name"]
    print(
        f"\nre-filmed minus flat card: median {np.median(gains):+.2f} dB ({np.median(moving):+.2f} over 0.5° of travel and more),",
        end=" ",
    )
    print(f"worst {min(gains):+.2f} dB ({worst})")
    predicted, actual = np.concatenate([row["landings"] for row in rows]).T
    within = np.mean((actual < 2 * predicted) & (predicted < 2 * actual))
    print(
        f"places: rank correlation of predicted and actual error {spearmanr(predicted, actual).statistic:.2f} over {len(actual)} frames,",
        f"median ratio {np.median(predicted / actual):.2f}, within a factor of two {100 * within:.0f} %",
    )
    for name in METHODS:
        middle = {key: np.nanmedian([row[name][key] for row in rows]) for key in ("psnr", "ssim", "kept", "true", "flicker")}
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in middle.items()) + " (medians)")


def measure(name: str, seed: int) -> dict:
    """One take re-filmed from its own mp4, as a user has it."""
    take = first_shot(film(STYLES[name], seed, frames=FRAMES, size=SIZE))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "take.mp4"
        write_video(file, clip_images(take.clip), take.clip.fps)
        shot = prepare(read_clip(file), use_cache=False)
    scores = [scores_of(take, shot, move) for move in MOVES]
    landings = [each for move in MOVES for each in landings_of(take, shot, move)]
    report = shot.tracking.report
    return {
        "name": name,
        "parallax": report.parallax_degrees,
        "true_fov": horizontal_degrees(take.camera),
        "fov": horizontal_degrees(shot.tracking.camera),
        "focal": "estimated" if report.focal_estimated else "assumed",
        "warnings": list(report.warnings),
        "landings": landings,
        **{method: {key: float(np.nanmean([each[method][key] for each in scores])) for key in scores[0][method]} for method in METHODS},
    }


def first_shot(take: Take) -> Take:
    """What comes before a take fades into another: the program refuses two shots in one clip, and says where to cut."""
    if take.fade is None:
        return take
    before = slice(take.fade.start)
    clip = replace(take.clip, frames=take.clip.frames[before])
    return replace(take, world=world_at(take.world, before), camera=take.camera[before], clip=clip, fade=None)


def checked(take: Take) -> list[tuple[int, int]]:
    """Neighbouring frames in the middle of a take, later, and at its end."""
    count = len(take.clip)
    return [(last - 1, last) for last in (count // 2, 3 * count // 4, count - 1)]


def scores_of(take: Take, shot: Shot, move: str) -> dict[str, dict[str, float]]:
    own = shot.tracking.camera
    target = target_camera(shot, move)
    true_target = in_true_world(take, shot, target)
    renderer = WarpRenderer(shot.scene, shot.depth, own)
    distance = median_depth(take)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for pair in checked(take):
        truth = [render_view(take.world, true_target, frame) for frame in pair]
        seen = [shown_by(take.world, take.camera, frame, true_target, each.depth) for frame, each in zip(pair, truth, strict=True)]
        chosen, exact = torch.stack(seen) & ~take.overlay, as_exposed(take, torch.stack([each.colour for each in truth]))
        made = {
            "re-filmed": [renderer.render(target, frame).colour for frame in pair],
            "flat card": [card(take, true_target, frame, distance) for frame in pair],
            "copy": [take.clip.frames[frame] for frame in pair],
        }
        for method, pictures in made.items():
            rows[method].append(compared(torch.stack(pictures), exact, chosen))
    return {method: {key: float(np.nanmean([row[key] for row in each])) for key in each[0]} for method, each in rows.items()}


def landings_of(take: Take, shot: Shot, move: str) -> list[tuple[float, float]]:
    """How far beside its place what is seen may lie as the program says, and does, on average, at a few times; shares of the height."""
    own = shot.tracking.camera
    target = target_camera(shot, move)
    true_target = in_true_world(take, shot, target)
    renderer = WarpRenderer(shot.scene, shot.depth, own, lens_deviation=shot.tracking.report.focal_deviation)
    height, pairs = take.clip.size[0], []
    for frame in range(LANDING_INTERVAL, len(take.clip), LANDING_INTERVAL):
        view = renderer.render(target, frame)
        found = landed(own, target, 1 / torch.from_numpy(shot.depth.at(frame, take.clip.size)), frame)
        true = landed(take.camera, true_target, render_view(take.world, take.camera, frame).depth, frame)
        shown = inside(found, take.clip.size)
        error = ((found - true)[shown].norm(dim=-1) / height).clamp(max=1)
        pairs.append((float(view.astray[view.seen_now].mean()) / height, float(error.mean())))
    return pairs


def landed(camera: CameraPath, target: CameraPath, depth: torch.Tensor, frame: int) -> torch.Tensor:
    """Where each of a camera's pixels comes to lie in another's picture."""
    pixels = pixel_centres(*camera.size).reshape(-1, 2).double()
    xyz = unproject(pixels, depth.reshape(-1).double(), camera.world_from_camera[frame], camera.intrinsics[frame])
    return project(xyz, invert(target.world_from_camera[frame]), target.intrinsics[frame])[0]


def compared(pictures: torch.Tensor, exact: torch.Tensor, chosen: torch.Tensor) -> dict[str, float]:
    kept, true = edges_kept(pictures[-1], exact[-1], chosen[-1])
    return {
        "psnr": psnr(pictures[-1], exact[-1], chosen[-1]),
        "ssim": ssim(pictures[-1], exact[-1], chosen[-1]),
        "kept": kept,
        "true": true,
        "flicker": flicker(pictures, exact, chosen),
    }


def as_exposed(take: Take, exact: torch.Tensor) -> torch.Tensor:
    return (exact.float() * take.exposure).round().to(torch.uint8)


def in_true_world(take: Take, shot: Shot, target: CameraPath) -> CameraPath:
    """The commanded path in the true world: the same motion and zoom relative to the source camera at every frame."""
    own = shot.tracking.camera
    step = invert(own.world_from_camera) @ target.world_from_camera
    step[:, :3, 3] *= metres_per_unit(take, shot)
    zoom = target.intrinsics[:, :2, :2] / own.intrinsics[:, :2, :2].clamp(min=1e-9)
    intrinsics = take.camera.intrinsics.clone()
    intrinsics[:, 0, 0] *= zoom[:, 0, 0]
    intrinsics[:, 1, 1] *= zoom[:, 1, 1]
    return replace(take.camera, world_from_camera=take.camera.world_from_camera @ step, intrinsics=intrinsics)


def metres_per_unit(take: Take, shot: Shot) -> float:
    """Median ratio of true to tracked depth at frame 0."""
    tracks, own = shot.tracking.tracks, shot.tracking.camera
    pixels, estimated = project(tracks.xyz_world[0].double(), own.camera_from_world[0], own.intrinsics[0])
    chosen = tracks.visible[0] & ~tracks.moving & (estimated > 0)
    column, row = pixels[chosen].long().T
    true = render_view(take.world, take.camera, 0).depth[row.clamp(0, SIZE[0] - 1), column.clamp(0, SIZE[1] - 1)]
    return float((true / estimated[chosen]).median())


def median_depth(take: Take) -> float:
    return float(render_view(take.world, take.camera, 0).depth.median())


def card(take: Take, target: CameraPath, frame: int, distance: float) -> torch.Tensor:
    """The source's frame on a plane that faces its camera, seen from the target."""
    target_from_source = invert(target.world_from_camera[frame]) @ take.camera.world_from_camera[frame]
    along = torch.tensor([[0.0, 0.0, 1 / distance]], dtype=torch.float64)
    plane = target_from_source[:3, :3] + target_from_source[:3, 3:] @ along
    homography = target.intrinsics[frame] @ plane @ torch.linalg.inv(take.camera.intrinsics[frame])
    picture = np.ascontiguousarray(take.clip.frames[frame].permute(1, 2, 0).numpy())
    moved = cv2.warpPerspective(picture, homography.numpy(), (SIZE[1], SIZE[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(moved).permute(2, 0, 1)


def horizontal_degrees(camera: CameraPath) -> float:
    return math.degrees(2 * math.atan(0.5 * camera.size[1] / float(camera.intrinsics[0, 0, 0])))


if __name__ == "__main__":
    main()
