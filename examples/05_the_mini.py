"""The mini that comes with the package re-films a procedural clip it has never seen, beside the weight-free warp and the exact view.

python examples/05_the_mini.py                             numbers, and demo/mini.png
python examples/05_the_mini.py --world 3 --camera cam05    another of the worlds that no training sees, another camera

The picture's rows: the source; what the other camera truly sees; the weight-free warp, given exact depth; the mini, given exact tracks
and both cameras; the mini, given those of another world.
"""

import argparse
from fractions import Fraction
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from track2view.evaluate import Pair, PairTruth, copy_of_source, exact_warp, score_clip, true_pair
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.sampling import Guidance
from track2view.model.settings import DiffusionSettings
from track2view.records import Clip
from track2view.scenes import split_seed, track_points
from track2view.scenes.rig import FPS
from track2view.train.sheet import write_sheet

PICTURE = Path("demo/mini.png")
ENLARGED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=0)
    parser.add_argument("--camera", default="cam07", help="cam01 to cam10 of the world's rig; the source is cam02")
    parser.add_argument("--steps", type=int, help="of denoising; by default what the mini is meant for")
    given = parser.parse_args()
    pipe = Track2ViewPipeline.from_pretrained(MINI / "base", MINI / "adapter", prompt_folder=PICTURE.parent / "prompts")
    steps = given.steps or pipe.record.steps
    truth, other = (unseen(pipe, world, given.camera) for world in (given.world, given.world + 1))
    print(f"the mini re-films a world it has never seen: {truth.world.caption}")
    made = {
        "copy of the source": copy_of_source(truth),
        "warp, exact depth": exact_warp(truth),
        "mini": refilmed(pipe, truth, truth, steps),
        "mini, misled": refilmed(pipe, truth, other, steps),
    }
    for name, clip in made.items():
        score = score_clip(truth, clip)
        camera = f"camera off by {score.camera.rotation:.2f}°" if score.camera.converged else "too unlike the world to find its camera"
        print(f"  {name:20} seen {score.seen.psnr:5.2f} dB, never seen {score.disoccluded.psnr:5.2f} dB, {camera}")
    rows = [truth.source.colour, truth.target.colour, *list(made.values())[1:]]
    write_sheet(PICTURE, [clip.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3) for clip in rows])
    print(f"{PICTURE}: source, exact view, warp, mini, mini misled by the tracks of another world")


def unseen(pipe: Track2ViewPipeline, index: int, camera: str) -> PairTruth:
    """Of the split that is for tests alone, at the mini's own length and size."""
    pair = Pair(seed=split_seed("test", index), source="cam02", target=camera)
    return true_pair(pair, frames=pipe.record.frames, size=pipe.record.size)


def refilmed(pipe: Track2ViewPipeline, truth: PairTruth, led_by: PairTruth, steps: int) -> UInt8[Tensor, "T 3 H W"]:
    """The source of a pair, led by the tracks and cameras of the same or of another pair."""
    settings = DiffusionSettings(
        prompt=truth.world.caption,
        steps=steps,
        solver="euler",
        guidance=Guidance(scale=pipe.record.guidance),
        window=pipe.record.frames,
        overlap=pipe.record.frames // 2 + 1,
    )
    queries, camera = pipe.queries(pipe.record.frames, settings), led_by.source_camera
    tracks = track_points(led_by.world, camera, queries.frame, queries.pixels(camera.size))
    source = Clip(frames=truth.source.colour, fps=Fraction(FPS))
    return pipe(source, tracks, camera, led_by.target_camera, settings).frames


if __name__ == "__main__":
    main()
