"""What every tracker must keep, tried on a procedural clip of which all is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from track2view.geometry import project
from track2view.records import CameraPath, Queries
from track2view.scenes import make_camera, make_world, render_clip, track_points
from track2view.trackers import Tracker, Tracking

FRAMES, SIZE, SEED = 24, (192, 336), 1
QUERY_PIXELS = 2.0
TRACK_PIXELS = 4.0
MIN_VISIBLE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of a check: what was asked, whether it holds, and what was measured."""

    what: str
    holds: bool
    measured: str


def check_tracker(tracker: Tracker) -> Iterator[Finding]:
    """Run a tracker on 24 frames of a still world, with the camera and without, and hold it to the protocol.

    Raises:
        UserError: the tracker cannot run, or its result breaks the contract.
    """
    world, camera = make_world(SEED, frames=FRAMES, dynamic=False), make_camera("arc", SEED, frames=FRAMES, size=SIZE)
    clip, _, _ = render_clip(world, camera, Fraction(15))
    queries = Queries.grid([0, FRAMES - 1], 8, 12)
    truth = track_points(world, camera, queries.frame, queries.pixels(SIZE))
    given = tracker.track(clip, queries, camera)
    same = torch.allclose(given.camera.world_from_camera, camera.world_from_camera) and given.camera.unit == camera.unit
    yield Finding(what="a given camera is used as it is", holds=same, measured=f"unit {given.camera.unit}")
    for name, tracking in (("camera given", given), ("camera found", tracker.track(clip, queries))):
        yield from _identity(name, tracking, queries)
        yield _nearness(name, tracking, truth.visible, _pixels(truth.xyz_world, camera))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(queries.frame)))
    shuffled = tracker.track(clip, Queries(frame=queries.frame[order], uv=queries.uv[order]), camera)
    moved = (_pixels(shuffled.tracks.xyz_world, camera) - _pixels(given.tracks.xyz_world, camera)[:, order]).norm(dim=-1)
    seen = shuffled.tracks.visible & given.tracks.visible[:, order]
    apart = float(moved[seen].median()) if bool(seen.any()) else float("inf")
    yield Finding(what="tracks follow their queries into another order", holds=apart < 1.0, measured=f"median {apart:.3f} px apart")
    yield _sameness(tracker, camera)


def _identity(name: str, tracking: Tracking, queries: Queries) -> Iterator[Finding]:
    pixels = _pixels(tracking.tracks.xyz_world, tracking.camera)[queries.frame, torch.arange(len(queries.frame))]
    apart = (pixels - queries.pixels(SIZE)).norm(dim=-1)
    known = apart.isfinite()
    worst = float(apart[known].quantile(0.95)) if bool(known.any()) else float("inf")
    yield Finding(
        what=f"{name}: each track passes through its query",
        holds=worst < QUERY_PIXELS,
        measured=f"{worst:.2f} px at the 95th percentile",
    )
    share = float(tracking.tracks.visible.float().mean())
    yield Finding(what=f"{name}: tracks are seen", holds=share > MIN_VISIBLE, measured=f"{share:.0%} of entries")


def _nearness(name: str, tracking: Tracking, visible: torch.Tensor, true: torch.Tensor) -> Finding:
    both = tracking.tracks.visible & visible
    error = (_pixels(tracking.tracks.xyz_world, tracking.camera) - true).norm(dim=-1)[both]
    median = float(error.median()) if len(error) else float("inf")
    return Finding(what=f"{name}: tracks are near the truth", holds=median < TRACK_PIXELS, measured=f"median {median:.2f} px")


def _sameness(tracker: Tracker, camera: CameraPath) -> Finding:
    short = camera[:8]
    clip, _, _ = render_clip(make_world(SEED, frames=8, dynamic=False), short, Fraction(15))
    one, other = (tracker.track(clip, Queries.grid([0], 4, 6), short).tracks for _ in range(2))
    equal = torch.equal(one.visible, other.visible) and torch.allclose(one.xyz_world, other.xyz_world, equal_nan=True, atol=1e-5)
    return Finding(what="the same clip gives the same tracks", holds=equal, measured="two runs")


def _pixels(xyz: torch.Tensor, camera: CameraPath) -> torch.Tensor:
    return project(xyz.double(), camera.camera_from_world, camera.intrinsics)[0]
