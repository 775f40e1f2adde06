"""From two synchronised videos to a sample: read, check, track through the shared frame, cut, check again.

Every stage takes what the one before gave, and gives more, or raises :class:`Rejected` with a reason that is counted.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from track2view.cameras import read_camera
from track2view.curate.export import SceneRecord
from track2view.errors import UserError
from track2view.pairing import join_cameras, join_views, pair_by_tracking
from track2view.records import CameraPath, Clip, PairedTracks
from track2view.samples import Sample, SampleRecord, file_sha256
from track2view.trackers import Queries, Tracker
from track2view.video import probe, read_clip

Reason = Literal[
    "unreadable video",
    "missing camera",
    "frames disagree",
    "views disagree",
    "static clip",
    "first frames differ",
    "duplicate views",
    "not trackable",
    "tracks lost at the seam",
    "cameras do not match",
    "too little overlap",
]

GRID = 24
SAME_FRAME_LEVELS = 8.0
STATIC_LEVELS = 0.5
DUPLICATE_LEVELS = 1.0
MIN_ALIVE = 0.3
MIN_OVERLAP = 0.2
MAX_MOVING = 0.5


class Rejected(Exception):  # noqa: N818
    """A pair that gives no sample, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOfViews:
    """Two cameras of one scene, by name."""

    root: Path
    scene: Path
    source: str
    target: str

    @property
    def name(self) -> str:
        """The sample's folder."""
        return f"{self.scene.relative_to(self.root)}/{self.source}-{self.target}"

    def video(self, camera: str) -> Path:
        """A camera's video."""
        return self.scene / "videos" / f"{camera}.mp4"

    @property
    def cameras(self) -> Path:
        """The scene's cameras."""
        return self.scene / "cameras" / "camera_extrinsics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """What was read of a pair."""

    source: Clip
    target: Clip
    source_camera: CameraPath
    target_camera: CameraPath


def curate_pair(pair: PairOfViews, tracker: Tracker, short_side: int | None = None) -> Sample:
    """All stages.

    Args:
        short_side: track at this size; the videos are kept as they are.

    Raises:
        Rejected: with the reason.
    """
    views = read_views(pair, short_side)
    check_views(views)
    pairs, moving = track_views(views, tracker)
    alive, overlap = check_tracks(pairs, moving)
    return _sample(pair, views, pairs, tracker, alive=alive, overlap=overlap, short_side=short_side)


def read_views(pair: PairOfViews, short_side: int | None = None) -> Views:
    """Both clips and both cameras."""
    clips, cameras = [], []
    for name in (pair.source, pair.target):
        try:
            clips.append(read_clip(pair.video(name), short_side=short_side))
        except UserError as error:
            raise Rejected("unreadable video", str(error)) from None
    for name, clip in zip((pair.source, pair.target), clips, strict=True):
        try:
            camera = read_camera(f"{pair.cameras}#{name}", clip.size)
        except UserError as error:
            raise Rejected("missing camera", str(error)) from None
        if len(camera) != len(clip):
            raise Rejected("frames disagree", f"{name} has {len(clip)} frames, its camera {len(camera)}")
        cameras.append(camera)
    source, target = clips
    if (len(source), source.size, source.fps) != (len(target), target.size, target.fps):
        raise Rejected("views disagree", f"{len(source)} frames of {source.size} and {len(target)} of {target.size}")
    return Views(source=source, target=target, source_camera=cameras[0], target_camera=cameras[1])


def check_views(views: Views) -> None:
    """What the pictures alone tell: clips in which nothing moves, views that do not begin together, or never part."""
    for name, clip in (("source", views.source), ("target", views.target)):
        if (change := _apart(clip, clip, 0, -1)) < STATIC_LEVELS:
            raise Rejected("static clip", f"the {name}'s first and last frame differ by {change:.2f} levels")
    if (apart := _apart(views.source, views.target, 0, 0)) > SAME_FRAME_LEVELS:
        raise Rejected("first frames differ", f"by {apart:.1f} levels; synchronised views share frame 0")
    if (apart := _apart(views.source, views.target, -1, -1)) < DUPLICATE_LEVELS:
        raise Rejected("duplicate views", f"the last frames differ by {apart:.2f} levels")


def track_views(views: Views, tracker: Tracker) -> tuple[PairedTracks, float]:
    """Paired tracks, and the share of them that no still point explains: large if the cameras are not the videos' own."""
    joined, camera = join_views(views.source, views.target), join_cameras(views.source_camera, views.target_camera)
    queries = Queries.grid([0, len(views.source) - 1], GRID, GRID)
    try:
        tracking = tracker.track(joined, queries, camera)
    except UserError as error:
        raise Rejected("not trackable", str(error)) from None
    return pair_by_tracking(tracking.tracks, camera), tracking.report.share_moving


def check_tracks(pairs: PairedTracks, moving: float) -> tuple[float, float]:
    """Shares of tracks alive across the seam, and of source entries that the target sees; refused where low."""
    if moving > MAX_MOVING:
        raise Rejected("cameras do not match", f"{moving:.0%} of tracks agree with no still point: another convention, or all moves")
    seen = pairs.source.valid
    begun = seen[-1]
    alive = float((seen[0] & begun).sum() / begun.sum().clamp(min=1))
    overlap = float((pairs.target.valid & seen).sum() / seen.sum().clamp(min=1))
    if alive < MIN_ALIVE:
        raise Rejected("tracks lost at the seam", f"{alive:.0%} of those the source's last frame shows live at frame 0")
    if overlap < MIN_OVERLAP:
        raise Rejected("too little overlap", f"{overlap:.0%} of what the source sees lies in the target")
    return alive, overlap


def _apart(one: Clip, other: Clip, first: int, second: int) -> float:
    return float(np.abs(one.image(first % len(one)).astype(np.float32) - other.image(second % len(other))).mean())


def _sample(
    pair: PairOfViews, views: Views, pairs: PairedTracks, tracker: Tracker, *, alive: float, overlap: float, short_side: int | None
) -> Sample:
    own, size = (pair.scene / "scene.json").exists(), probe(pair.video(pair.source)).size
    record = SampleRecord(
        name=pair.name,
        split=pair.scene.relative_to(pair.root).parts[0],
        scene=str(pair.scene.relative_to(pair.root)),
        source_name=pair.source,
        target_name=pair.target,
        caption=SceneRecord.load(pair.scene).caption if own else "",
        frames=len(views.source),
        size=size,
        fps=float(views.source.fps),
        tracks=pairs.confidence.shape[1],
        alive=round(alive, 4),
        overlap=round(overlap, 4),
        source_sha256=file_sha256(pair.video(pair.source)),
        target_sha256=file_sha256(pair.video(pair.target)),
        cameras_sha256=file_sha256(pair.cameras),
        tracker=tracker.name,
        settings=json.dumps({"grid": GRID, "frames": [0, len(views.source) - 1], "short_side": short_side}, sort_keys=True),
        version=version("track2view"),
    )
    return Sample(
        record=record,
        source_file=pair.video(pair.source),
        target_file=pair.video(pair.target),
        source_camera=views.source_camera.resized(size),
        target_camera=views.target_camera.resized(size),
        pairs=pairs,
    )
