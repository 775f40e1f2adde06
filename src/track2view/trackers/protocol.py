"""What every tracker takes and returns."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from track2view.errors import UserError
from track2view.records import CameraPath, Clip, TrackSet
from track2view.trackers.flow import NeighbourFlow


@dataclass(frozen=True, kw_only=True, slots=True)
class Queries:
    """Points to follow.

    Attributes:
        frame: the frame each point is given in.
        uv: position in that frame, [0, 1] image units.
    """

    frame: Int64[Tensor, "N"]
    uv: Float32[Tensor, "N 2"]

    def __post_init__(self) -> None:
        if self.uv.shape != (len(self.frame), 2):
            raise UserError(f"Queries.uv: expected {[len(self.frame), 2]} to match frame, got {list(self.uv.shape)}")

    @staticmethod
    def grid(frames: list[int], rows: int, columns: int) -> "Queries":
        """The centres of a rows × columns grid at each of ``frames`` (the paper: 24 × 24 at two frames, N = 1152)."""
        v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        uv = torch.stack([u, v], dim=-1).reshape(-1, 2)
        frame = torch.tensor(frames, dtype=torch.int64).repeat_interleave(len(uv))
        return Queries(frame=frame, uv=uv.repeat(len(frames), 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingReport:
    """What a person must know before trusting a result.

    Attributes:
        tracker: its name.
        focal_estimated: whether the clip told the focal length, or a prior was kept.
        horizontal_fov: degrees.
        parallax_degrees: median over tracks of the largest angle between the rays that saw one point.
        reprojection_pixels: median error of the static tracks.
        share_lost: of (track, frame) entries, not seen.
        share_moving: of tracks.
        warnings: sentences for the user.
    """

    tracker: str
    focal_estimated: bool
    horizontal_fov: float
    parallax_degrees: float
    reprojection_pixels: float
    share_lost: float
    share_moving: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """A tracker's result; ``flow`` is kept, where a tracker had it, so that a renderer need not compute it again."""

    tracks: TrackSet
    camera: CameraPath
    report: TrackingReport
    flow: NeighbourFlow | None = field(default=None, repr=False, compare=False)


@runtime_checkable
class Tracker(Protocol):
    """Follows points through a clip in 3D, and finds the camera's path where none is given."""

    @property
    def name(self) -> str:
        """For records and messages."""
        ...

    def track(self, clip: Clip, queries: Queries, camera: CameraPath | None = None) -> Tracking:
        """Track; a given ``camera`` is used as it is, not estimated."""
        ...
