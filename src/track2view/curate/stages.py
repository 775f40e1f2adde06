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
from track2view.curate.synchronise import CERTAIN, synchronise
from track2view.errors import UserError
from track2view.pairing import join_cameras, join_views, pair_by_tracking
from track2view.records import CameraPath, Clip, PairedTracks, Queries
from track2view.samples import Sample, SampleRecord, file_sha256
from track2view.trackers import Tracker
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
    "views do not meet",
    "too little overlap",
    "broken archive",
    "disk full",
    "worker died",
    "failed",
]

GRID = 24
SAME_FRAME_LEVELS = 8.0
STATIC_LEVELS = 0.5
DUPLICATE_LEVELS = 1.0
MIN_ALIVE = 0.3
MIN_OVERLAP = 0.2
MAX_MOVING = 0.5
MIN_AGREEMENT = 0.5
LIBRARIES = ("torch", "numpy", "opencv-contrib-python-headless")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """Paired tracks, and what they say of themselves.

    Attributes:
        moving: share of tracks that no still point explains: large if the cameras are not the videos' own.
        agreement: share of points seen by both views at one time whose rays meet.
        alive: share of tracks that the source's last frame shows and that live on both sides of the seam, for certain.
        overlap: share of source entries that lie in the target, for certain.
    """

    pairs: PairedTracks
    moving: float
    agreement: float
    alive: float
    overlap: float


def curate_pair(pair: PairOfViews, tracker: Tracker, short_side: int | None = None) -> Sample:
    """All stages.

    Args:
        short_side: track at this size; the videos are kept as they are.

    Raises:
        Rejected: with the reason.
    """
    views = read_views(pair, short_side)
    check_views(views)
    tracked = track_views(views, tracker)
    check_tracks(tracked)
    return _sample(pair, views, tracked, tracker, short_side)


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


def track_views(views: Views, tracker: Tracker) -> Tracked:
    """Track through the joined clip, make its halves one world, and cut."""
    joined, camera = join_views(views.source, views.target), join_cameras(views.source_camera, views.target_camera)
    queries = Queries.grid([0, len(views.source) - 1], GRID, GRID)
    try:
        tracking = tracker.track(joined, queries, camera)
    except UserError as error:
        raise Rejected("not trackable", str(error)) from None
    synchronised = synchronise(tracking.tracks, camera)
    pairs = pair_by_tracking(synchronised.tracks, camera)
    seen = pairs.source.valid
    certain = seen & pairs.target.valid & (pairs.confidence >= CERTAIN)
    return Tracked(
        pairs=pairs,
        moving=tracking.report.share_moving,
        agreement=synchronised.agreement,
        alive=float((certain[0] & seen[-1]).sum() / seen[-1].sum().clamp(min=1)),
        overlap=float(certain.sum() / seen.sum().clamp(min=1)),
    )


def check_tracks(tracked: Tracked) -> None:
    """What the tracks tell: cameras of other videos, or in another convention; views that are not of one world; too little to learn."""
    if tracked.moving > MAX_MOVING:
        detail = f"{tracked.moving:.0%} of tracks agree with no still point: another convention, or all moves"
        raise Rejected("cameras do not match", detail)
    if tracked.agreement < MIN_AGREEMENT:
        raise Rejected("views do not meet", f"{tracked.agreement:.0%} of points that both views see lie on rays that meet")
    if tracked.alive < MIN_ALIVE:
        raise Rejected("tracks lost at the seam", f"{tracked.alive:.0%} of those the source's last frame shows live at frame 0")
    if tracked.overlap < MIN_OVERLAP:
        raise Rejected("too little overlap", f"{tracked.overlap:.0%} of what the source sees lies in the target")


def _apart(one: Clip, other: Clip, first: int, second: int) -> float:
    return float(np.abs(one.image(first % len(one)).astype(np.float32) - other.image(second % len(other))).mean())


def _sample(pair: PairOfViews, views: Views, tracked: Tracked, tracker: Tracker, short_side: int | None) -> Sample:
    own, size = (pair.scene / "scene.json").exists(), probe(pair.video(pair.source)).size
    settings = {"grid": GRID, "frames": [0, len(views.source) - 1], "short_side": short_side}
    record = SampleRecord(
        name=pair.name,
        split=pair.scene.parts[-3],
        scene=str(pair.scene.relative_to(pair.root)),
        source_name=pair.source,
        target_name=pair.target,
        caption=SceneRecord.load(pair.scene).caption if own else "",
        frames=len(views.source),
        size=size,
        fps=float(views.source.fps),
        tracks=tracked.pairs.confidence.shape[1],
        alive=round(tracked.alive, 4),
        overlap=round(tracked.overlap, 4),
        agreement=round(tracked.agreement, 4),
        source_sha256=file_sha256(pair.video(pair.source)),
        target_sha256=file_sha256(pair.video(pair.target)),
        cameras_sha256=file_sha256(pair.cameras),
        tracker=tracker.name,
        settings=json.dumps({**settings, "libraries": {name: version(name) for name in LIBRARIES}}, sort_keys=True),
        version=version("track2view"),
    )
    return Sample(
        record=record,
        source_file=pair.video(pair.source),
        target_file=pair.video(pair.target),
        source_camera=views.source_camera.resized(size),
        target_camera=views.target_camera.resized(size),
        pairs=tracked.pairs,
    )
