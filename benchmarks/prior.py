"""What a depth prior adds, with exact depth put through a network's faults in its place; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/prior.py                    four clips without parallax, four with
    python benchmarks/prior.py --clip tripod,9,0  one clip, as JSON

Scale is of no account where nothing tells it, so the exact view stands as far along the orbit's chord as brings the median depth of the
tracks at frame 0 to the truth, as in ``run.py``. Where the zero of disparity is unknown too, a second exact view is of the camera that
the picture fits best: an orbit of other than 15°, whose angle is told.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from run import ORBIT_DEGREES, SIZE, load, metres_per_unit
from torch import Tensor

from track2view.cameras import apply_move, parse_move
from track2view.geometry import invert, rotation_angle
from track2view.metrics import psnr, ssim
from track2view.pipeline import default_queries
from track2view.records import CameraPath, Clip, horizontal_fov
from track2view.scenes import render_view, shown_by
from track2view.trackers import SfmTracker, Tracking
from track2view.trackers.informed import inform
from track2view.trackers.relative_depth import RelativeDepth
from track2view.warp import DenseDepth, WarpRenderer, densify

CLIPS = [
    *(("tripod", 9, False), ("pan", 4, False), ("tripod", 5, True), ("pan", 6, True)),
    *(("handheld", 7, False), ("arc", 1, False), ("handheld", 3, True), ("dolly", 2, True)),
]
NETWORK_SIZE = (180, 312)
LASTING, PASSING, GRAIN = 0.03, 0.04, 0.01
"""Deviations of the log disparity: slow over the picture, in all frames alike and in each anew, and pixel by pixel."""
CHECKED_FRAMES = (16, 48, 80)
PRIORS = ("scale unknown", "scale and shift unknown")
THROUGHOUT = ("tripod", "pan")
"""Kinds that are measured with both; the others with the second, which leaves more open."""


@dataclass(frozen=True, kw_only=True)
class FaultyTruth:
    """A depth prior that looks at the truth as a network looks at pictures: small, blurred, wavering, in no unit."""

    depth: Float32[Tensor, "T H W"]
    shifted: bool
    seed: int = 0
    name: str = "exact depth with a network's faults"

    @property
    def fingerprint(self) -> str:
        return f"{self.shifted} {self.seed}"

    def look(self, clip: Clip) -> RelativeDepth:
        random = np.random.default_rng([self.seed, 9])
        height, width = NETWORK_SIZE
        lasting, maps = self._slow(random), []
        for depth in self.depth[: len(clip)].numpy():
            sharp = cv2.resize(1 / depth, (width, height), interpolation=cv2.INTER_AREA)
            wavering = LASTING * lasting + PASSING * self._slow(random) + GRAIN * random.normal(size=NETWORK_SIZE)
            disparity = cv2.GaussianBlur(sharp, (0, 0), 1.0) * np.exp(wavering)
            shift = random.uniform(0.2, 0.95) * float(disparity.min()) if self.shifted else 0.0
            maps.append(random.uniform(4.0, 15.0) * (disparity - shift))
        return RelativeDepth(disparity=torch.from_numpy(np.stack(maps).astype(np.float32)), shifted=self.shifted)

    @staticmethod
    def _slow(random: np.random.Generator) -> Float32[np.ndarray, "h w"]:
        return cv2.resize(random.normal(size=(4, 6)).astype(np.float32), NETWORK_SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def main() -> None:
    if "--clip" in sys.argv:
        kind, seed, dynamic = sys.argv[sys.argv.index("--clip") + 1].split(",")
        print(json.dumps(measure(kind, int(seed), dynamic=dynamic == "1")))
        return
    columns = (
        "clip",
        "parallax °",
        "without",
        "scale unknown",
        "scale and shift unknown",
        "that, as the orbit it shows",
        "copying the source",
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for kind, seed, dynamic in CLIPS:
        command = [sys.executable, __file__, "--clip", f"{kind},{seed},{int(dynamic)}"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        scores = dict.fromkeys(PRIORS, "–") | {name: f"{value[0]:.1f}/{value[1]:.2f}" for name, value in row["scores"].items()}
        print(
            f"| {kind} {seed} {'dynamic' if dynamic else 'static'} | {row['parallax']:.2f} | {scores['without']} | {scores[PRIORS[0]]} "
            f"| {scores[PRIORS[1]]} | {scores['shown']} at {row['degrees']:.1f}° | {scores['copy']} |",
            flush=True,
        )


def measure(kind: str, seed: int, *, dynamic: bool) -> dict:
    """A tripod's lens is given: nothing in such a clip tells it."""
    world, camera, clip, depth, _ = load(kind, seed, dynamic=dynamic)
    fov = horizontal_fov(camera.intrinsics[0], camera.size) if kind == "tripod" else None
    found = SfmTracker(fov=fov).track(clip, default_queries(clip))
    assert found.flow is not None
    row: dict = {"parallax": found.report.parallax_degrees, "scores": {}}
    tracking, dense = found, densify(clip, found.flow, found.tracks, found.camera)
    row["scores"]["copy"] = at_orbit(world, camera, clip, tracking, None, asked(tracking, camera, depth))
    row["scores"]["without"] = at_orbit(world, camera, clip, tracking, dense, asked(tracking, camera, depth))
    for name in PRIORS if kind in THROUGHOUT else PRIORS[1:]:
        prior = FaultyTruth(depth=depth, shifted=name == PRIORS[1], seed=seed)
        tracking, aligned = inform(found, prior.look(clip), prior.name)
        dense = densify(clip, found.flow, tracking.tracks, tracking.camera, aligned)
        row["scores"][name] = at_orbit(world, camera, clip, tracking, dense, asked(tracking, camera, depth))
    there = shown(tracking, dense, camera, depth)
    row["degrees"] = float(rotation_angle(there[:3, :3]))
    row["scores"]["shown"] = at_orbit(world, camera, clip, tracking, dense, there)
    return row


def orbit(tracking: Tracking) -> Float32[Tensor, "4 4"]:
    """Source camera from target camera, in the path's own unit: 15° at once."""
    own = tracking.camera
    target = apply_move(parse_move(f"orbit-right:{ORBIT_DEGREES}"), own)
    return invert(own.world_from_camera[-1]) @ target.world_from_camera[-1]


def asked(tracking: Tracking, camera: CameraPath, depth: Tensor) -> Tensor:
    """The same in metres."""
    step = orbit(tracking)
    step[:3, 3] *= metres_per_unit(tracking, camera, depth)
    return step


def shown(tracking: Tracking, dense: DenseDepth, camera: CameraPath, depth: Tensor) -> Tensor:
    """Source camera from the camera that sees the true points where the warp puts them, in metres (perspective-n-point)."""
    own, step, points, pixels = tracking.camera.resized(SIZE), invert(orbit(tracking)), [], []
    v, u = np.meshgrid(np.arange(4, SIZE[0], 8), np.arange(4, SIZE[1], 8), indexing="ij")
    centres = np.stack([u.ravel() + 0.5, v.ravel() + 0.5, np.ones(u.size)])
    for frame in CHECKED_FRAMES:
        lens, true_lens = own.intrinsics[frame].numpy(), camera.intrinsics[frame].numpy()
        found, true = 1 / dense.at(frame, SIZE)[v, u].ravel(), depth[frame].numpy()[v, u].ravel()
        landed = lens @ (step[:3, :3].numpy() @ (np.linalg.inv(lens) @ centres * found) + step[:3, 3:].numpy())
        points.append((np.linalg.inv(true_lens) @ centres * true).T)
        pixels.append((landed[:2] / landed[2]).T)
    world, image = np.concatenate(points), np.concatenate(pixels)
    _, turn, way, _ = cv2.solvePnPRansac(world, image, true_lens, None, reprojectionError=4.0, iterationsCount=500)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = torch.from_numpy(cv2.Rodrigues(turn)[0]), torch.from_numpy(way[:, 0])
    return invert(pose)


def at_orbit(world, camera: CameraPath, clip: Clip, tracking: Tracking, dense: DenseDepth | None, there: Tensor) -> list[float]:
    """PSNR and SSIM of the warp (of a copy of the source without depth) on the pixels that the source shows at the same time."""
    own = tracking.camera
    target = replace(own, world_from_camera=own.world_from_camera @ orbit(tracking))
    true_target = replace(camera, world_from_camera=camera.world_from_camera @ there)
    renderer = None if dense is None else WarpRenderer(clip, dense, own)
    values = []
    for frame in CHECKED_FRAMES:
        truth = render_view(world, true_target, frame)
        seen = shown_by(world, camera, frame, true_target, truth.depth)
        picture = clip.frames[frame] if renderer is None else renderer.render(target, frame).colour
        values.append((psnr(picture, truth.colour, seen), ssim(picture, truth.colour, seen)))
    return np.mean(values, axis=0).tolist()


if __name__ == "__main__":
    main()
