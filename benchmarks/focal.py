"""How far the focal length that is found is off, in its own deviations; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/focal.py             40 clips: lifelike takes through lenses of 28 to 95°, and those of run.py
    python benchmarks/focal.py --seed 20   the same in other worlds, through other lenses

An error of at most two reported deviations is expected in 19 of 20 clips.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from track2view.records import CameraPath, Clip
from track2view.scenes import STYLES, film, make_camera, make_world, render_clip
from track2view.trackers.camera_motion import estimate
from track2view.trackers.flow import neighbour_flow

FRAMES, SIZE = 49, (270, 480)
WIDEST, NARROWEST = 95.0, 28.0
MOVES = ("arc", "dolly", "handheld", "pan")
GOLDEN = 0.618034
LIFELIKE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{FRAMES} frames of {SIZE[0]}×{SIZE[1]}, seed {given.seed}\n")
    print("| clip | true ° | found ° | log error | reported deviation | errors in deviations | said to be |\n|---|---|---|---|---|---|---|")
    errors = []
    for name, camera, clip in clips(given.seed):
        flow = neighbour_flow(clip)
        motion = estimate(flow, None)
        shrunk = flow.size[1] / SIZE[1]
        true = float(camera.intrinsics[0, 0, 0]) * shrunk
        error = math.log(motion.focal / true)
        errors.append(error / motion.focal_deviation)
        said = "estimated" if motion.focal_estimated else "assumed"
        print(
            f"| {name} | {degrees(true, flow.size[1]):.0f} | {degrees(motion.focal, flow.size[1]):.0f} | {error:+.3f} "
            f"| {motion.focal_deviation:.3f} | {errors[-1]:+.1f} | {said} |",
            flush=True,
        )
    within = float(np.mean(np.abs(errors) <= 2))
    print(f"\nwithin two deviations: {100 * within:.0f} % of {len(errors)}; median {np.median(np.abs(errors)):.2f} deviations")


def clips(seed: int) -> Iterator[tuple[str, CameraPath, Clip]]:
    """Names, cameras and clips; a lens that zooms is left out."""
    styles = [name for name, style in STYLES.items() if style.zoom == 1 and not style.faded]
    for number in range(LIFELIKE):
        name = styles[number % len(styles)]
        wide = NARROWEST * (WIDEST / NARROWEST) ** ((GOLDEN * (number + seed + 1)) % 1)
        take = film(replace(STYLES[name], field_of_view=wide), seed + number // len(styles), frames=FRAMES, size=SIZE)
        yield name, take.camera, take.clip
    for number in range(2 * len(MOVES)):
        kind, dynamic = MOVES[number % len(MOVES)], number >= len(MOVES)
        world = make_world(seed + number, frames=FRAMES, dynamic=dynamic)
        camera = make_camera(kind, seed + number, frames=FRAMES, size=SIZE)
        frames = render_clip(world, camera)[0].frames
        yield f"{kind}, {'dynamic' if dynamic else 'static'}", camera, Clip(frames=frames, fps=Fraction(30))


def degrees(focal: float, width: int) -> float:
    return math.degrees(2 * math.atan(0.5 * width / focal))


if __name__ == "__main__":
    main()
