"""A program that keeps the tracker contract (docs/trackers.md): ``clip.npz`` in, ``tracking.npz`` out.

    track2view tracker check "command:python examples/04_a_tracker_of_your_own.py"

It wraps our default tracker, so that it runs anywhere; put your own where ``SfmTracker`` is called.
"""

import sys
from fractions import Fraction

import numpy as np
import torch

from track2view.records import CameraPath, Clip, Queries
from track2view.trackers import SfmTracker


def main(given: str, made: str) -> None:
    asked = np.load(given)
    frames = torch.from_numpy(asked["frames"]).permute(0, 3, 1, 2).contiguous()
    clip = Clip(frames=frames, fps=Fraction(float(asked["fps"])).limit_denominator(1001))
    queries = Queries(frame=torch.from_numpy(asked["query_frame"]), uv=torch.from_numpy(asked["query_uv"]))
    camera = None
    if "world_from_camera" in asked:
        poses, intrinsics = (torch.from_numpy(asked[name]) for name in ("world_from_camera", "intrinsics"))
        camera = CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=clip.size, unit="metre")
    tracking = SfmTracker().track(clip, queries, camera)
    found = tracking.camera.resized(clip.size)
    np.savez(
        made,
        xyz_world=tracking.tracks.xyz_world.numpy(),
        visible=tracking.tracks.visible.numpy(),
        confidence=tracking.tracks.confidence.numpy(),
        moving=tracking.tracks.moving.numpy(),
        world_from_camera=found.world_from_camera.numpy(),
        intrinsics=found.intrinsics.numpy(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
