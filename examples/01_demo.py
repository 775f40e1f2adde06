"""The main job on one clip: re-film it, and, where the clip is our own procedural one, measure the result.

python examples/01_demo.py                        a procedural clip, compared with the exact target view
python examples/01_demo.py CLIP CAMERA            any other clip
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from track2view.geometry import invert, project
from track2view.metrics import psnr, ssim
from track2view.pipeline import Shot, prepare, target_camera, write_run
from track2view.records import CameraPath
from track2view.scenes import STYLES, film, render_view, shown_by
from track2view.video import clip_images, read_clip, write_video

SEED = 3
COMPARED = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("camera", nargs="?", default="orbit-right")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=352)
    given = parser.parse_args()
    out = Path("demo")
    if given.clip:
        shot = prepare(read_clip(given.clip))
        print(write_run(shot, target_camera(shot, given.camera), out / f"{given.clip.stem}-{given.camera}"))
        return

    frames, size = given.frames, (given.height, 2 * round(given.height * 8 / 9))
    print("1. filming someone who walks by, hand-held")
    take = film(STYLES["walking"], SEED, frames=frames, size=size)
    world, true_source, exact = take.world, take.camera, take.clip
    write_video(out / "source.mp4", clip_images(exact), exact.fps)

    started = time.perf_counter()
    clip = read_clip(out / "source.mp4")
    print("2. tracking the mp4 (no ground truth is used) and finding its depth")
    shot = prepare(clip, use_cache=False)
    print("3. re-filming it: orbit-right, 15 degrees")
    target = target_camera(shot, "orbit-right", amount=15.0)
    output = write_run(shot, target, out / "orbit-right")
    print(f"   {output}, {time.perf_counter() - started:.0f} s")

    print("4. comparing with the exact view from the same path")
    true_target = carried_to_truth(
        shot.tracking.camera, target, true_source, scale_to_truth(shot, render_view(world, true_source, 0).depth)
    )
    refilmed, copied, similarity, copied_similarity = [], [], [], []
    result = read_clip(output)
    for frame in range(frames - 1, 0, -max(1, frames // COMPARED)):
        truth = render_view(world, true_target, frame)
        seen = shown_by(world, true_source, frame, true_target, truth.depth)
        refilmed.append(psnr(result.frames[frame], truth.colour, seen))
        copied.append(psnr(exact.frames[frame], truth.colour, seen))
        similarity.append(ssim(result.frames[frame], truth.colour, seen))
        copied_similarity.append(ssim(exact.frames[frame], truth.colour, seen))
    count = len(refilmed)
    print(f"   on pixels the source shows:  PSNR {sum(refilmed) / count:.2f} dB, SSIM {sum(similarity) / count:.3f}")
    print(f"   copying the source instead:  PSNR {sum(copied) / count:.2f} dB, SSIM {sum(copied_similarity) / count:.3f}")
    print(f"   look at {out}/orbit-right/compare.mp4 and overview.png")


def scale_to_truth(shot: Shot, depth: torch.Tensor) -> float:
    """Metres per scene unit: median ratio of true to tracked depth at frame 0."""
    tracks, camera = shot.tracking.tracks, shot.tracking.camera
    pixels, own = project(tracks.xyz_world[0].double(), camera.camera_from_world[0], camera.intrinsics[0])
    chosen = tracks.visible[0] & ~tracks.moving
    column, row = pixels[chosen].long().T
    height, width = depth.shape
    return float((depth[row.clamp(0, height - 1), column.clamp(0, width - 1)] / own[chosen]).median())


def carried_to_truth(source: CameraPath, target: CameraPath, true_source: CameraPath, scale: float) -> CameraPath:
    """The commanded path in the true world: the same motion relative to the source camera at every frame."""
    step = invert(source.world_from_camera) @ target.world_from_camera
    step[:, :3, 3] *= scale
    return replace(true_source, world_from_camera=true_source.world_from_camera @ step)


if __name__ == "__main__":
    main()
