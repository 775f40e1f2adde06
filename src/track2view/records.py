"""The records that everything else passes around: frozen, checked where they are made, trusted afterwards.

Shape legend: T frames, N tracks, H W pixels. Conventions: see :mod:`track2view.geometry` and ``docs/conventions.md``.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.files import atomic_path, read_arrays
from track2view.geometry import inside, interpolate_poses, invert, project, rotation_angle

Size = tuple[int, int]
Unit = Literal["scene", "metre"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioSource:
    """Where a clip's sound can be copied from: a file, the span of it in seconds on the file's own clock, the stream's index."""

    path: Path
    start: float
    end: float
    track: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A video at a constant frame rate.

    Attributes:
        frames: RGB, uint8, T ≥ 1.
        fps: exact frame rate.
        audio: sound to pass through when the clip, or one synchronised with it, is written.
    """

    frames: UInt8[Tensor, "T 3 H W"]
    fps: Fraction
    audio: AudioSource | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
            raise UserError(f"Clip.frames: expected uint8 [T, 3, H, W] with T ≥ 1, got {self.frames.dtype} {list(shape)}")
        if self.fps <= 0:
            raise UserError(f"Clip.fps: expected a positive rate, got {self.fps}")

    def __len__(self) -> int:
        return self.frames.shape[0]

    @property
    def size(self) -> Size:
        """(H, W) in pixels."""
        return self.frames.shape[2], self.frames.shape[3]

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame ``index`` as the contiguous H×W×3 array that OpenCV and PyAV work on."""
        return np.ascontiguousarray(self.frames[index].permute(1, 2, 0).numpy())


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraPath:
    """A pinhole camera at every frame.

    Attributes:
        world_from_camera: poses, OpenCV axes, rotations orthonormal with determinant +1.
        intrinsics: [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels of ``size``, per frame: zooms are paths too.
        size: (H, W) in pixels.
        unit: "metre", or "scene": the median depth of the tracks visible at frame 0 is 1.
        fps: frames per second where known.
        focal_known: False where the file had no focal length, and that of ``intrinsics`` is a guess (zooms over time are not).
    """

    world_from_camera: Float64[Tensor, "T 4 4"]
    intrinsics: Float64[Tensor, "T 3 3"]
    size: Size
    unit: Unit = "scene"
    fps: float | None = None
    focal_known: bool = True

    def __post_init__(self) -> None:
        poses, intrinsics = self.world_from_camera, self.intrinsics
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) < 1:
            raise UserError(f"world_from_camera: expected [T, 4, 4] with T ≥ 1, got {list(poses.shape)}")
        if intrinsics.shape != (len(poses), 3, 3):
            raise UserError(f"intrinsics: expected [{len(poses)}, 3, 3] to match world_from_camera, got {list(intrinsics.shape)}")
        _reject_frames("world_from_camera", ~poses.isfinite().flatten(1).all(1), "has a value that is not finite")
        _reject_frames("intrinsics", ~intrinsics.isfinite().flatten(1).all(1), "has a value that is not finite")
        last_row = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        _reject_frames("world_from_camera", (poses[:, 3] != last_row).any(1), "has a last row other than 0 0 0 1")
        rotation = poses[:, :3, :3]
        off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
        _reject_frames("world_from_camera", off > 1e-4, "has a rotation that is not orthonormal (off by {value:.2g})", off)
        _reject_frames(
            "world_from_camera",
            torch.linalg.det(rotation) < 0,
            "has a left-handed rotation (determinant -1): an axis is mirrored; flip one axis of the poses",
        )
        focal = intrinsics[:, [0, 1], [0, 1]].amin(1)
        _reject_frames("intrinsics", focal <= 0, "has a focal length of {value:g}; it must be positive", focal)
        last_row = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        _reject_frames("intrinsics", (intrinsics[:, 2] != last_row).any(1), "has a last row other than 0 0 1")
        if min(self.size) < 1:
            raise UserError(f"size: expected positive (H, W), got {self.size}")
        if self.unit not in ("scene", "metre"):
            raise UserError(f'unit: expected "scene" or "metre", got {self.unit!r}')
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UserError(f"fps: expected a positive rate, got {self.fps:g}")

    def __len__(self) -> int:
        return len(self.world_from_camera)

    def __getitem__(self, frames: slice) -> "CameraPath":
        """The path through some of its frames."""
        return replace(self, world_from_camera=self.world_from_camera[frames], intrinsics=self.intrinsics[frames])

    @property
    def camera_from_world(self) -> Float64[Tensor, "T 4 4"]:
        return invert(self.world_from_camera)

    @property
    def rotation_span(self) -> float:
        """Largest rotation in degrees away from frame 0."""
        start = self.world_from_camera[:1, :3, :3].mT
        return float(rotation_angle(start @ self.world_from_camera[:, :3, :3]).max())

    def resized(self, size: Size) -> "CameraPath":
        """The same cameras for images resized to ``size``."""
        scale = torch.tensor([size[1] / self.size[1], size[0] / self.size[0], 1.0], dtype=torch.float64)
        return replace(self, intrinsics=scale[:, None] * self.intrinsics, size=size)

    def cropped(self, top: int, left: int, size: Size) -> "CameraPath":
        """The same cameras for images cropped to ``size`` from (``top``, ``left``)."""
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 2] -= left
        intrinsics[:, 1, 2] -= top
        return replace(self, intrinsics=intrinsics, size=size)

    def relative_to(self, world_from_new: Float64[Tensor, "4 4"]) -> "CameraPath":
        """The same cameras in another world frame."""
        return replace(self, world_from_camera=invert(world_from_new) @ self.world_from_camera)

    def scaled(self, factor: float, unit: Unit) -> "CameraPath":
        """The same cameras with lengths multiplied by ``factor`` and called ``unit``."""
        poses = self.world_from_camera.clone()
        poses[:, :3, 3] *= factor
        return replace(self, world_from_camera=poses, unit=unit)

    def at(self, own: Float64[Tensor, "T"], times: Float64[Tensor, "S"]) -> "CameraPath":
        """The path at other times than its ``own``, which increase; poses along SE(3), intrinsics linearly."""
        entries = self.intrinsics.flatten(1).numpy()
        columns = [np.interp(times.numpy(), own.numpy(), entries[:, entry]) for entry in range(9)]
        intrinsics = torch.from_numpy(np.stack(columns, axis=1)).unflatten(1, (3, 3))
        return replace(self, world_from_camera=interpolate_poses(own, self.world_from_camera, times), intrinsics=intrinsics)

    def resampled(self, frames: int) -> "CameraPath":
        """The same path in ``frames`` frames, end points kept."""
        own = torch.arange(len(self), dtype=torch.float64)
        return replace(self.at(own, torch.linspace(0, len(self) - 1, frames, dtype=torch.float64)), fps=None)

    def with_fov(self, degrees: float) -> "CameraPath":
        """The same path with a focal length that makes frame 0 ``degrees`` wide; zooms over time are kept."""
        focal = 0.5 * self.size[1] / math.tan(math.radians(degrees) / 2)
        intrinsics = self.intrinsics.clone()
        intrinsics[:, [0, 1], [0, 1]] *= focal / float(intrinsics[0, 0, 0])
        return replace(self, intrinsics=intrinsics, focal_known=True)

    def save(self, path: Path) -> None:
        """Write ``track2view.camera/1`` JSON (design section 7); numbers round-trip exactly."""
        document = {
            "format": "track2view.camera/1",
            "unit": self.unit,
            "size": list(self.size),
            "fps": self.fps,
            "world_from_camera": self.world_from_camera.tolist(),
            "intrinsics": self.intrinsics.tolist(),
            **({} if self.focal_known else {"focal_known": False}),
        }
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(document))


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

    def pixels(self, size: Size) -> Float64[Tensor, "N 2"]:
        """Position in a frame of ``size``."""
        return self.uv.double() * torch.tensor([size[1], size[0]], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackSet:
    """3D point tracks in the world of a :class:`CameraPath`.

    Attributes:
        xyz_world: positions; static tracks are finite in all frames, NaN only where a position is truly unknown.
        visible: seen by the source camera.
        confidence: in [0, 1].
        query_frame: the frame each track starts from.
        moving: tracks that do not belong to the static scene.
    """

    xyz_world: Float32[Tensor, "T N 3"]
    visible: Bool[Tensor, "T N"]
    confidence: Float32[Tensor, "T N"]
    query_frame: Int[Tensor, "N"]
    moving: Bool[Tensor, "N"] | None = None

    def __post_init__(self) -> None:
        if self.xyz_world.ndim != 3 or self.xyz_world.shape[2] != 3:
            raise UserError(f"TrackSet.xyz_world: expected [T, N, 3], got {list(self.xyz_world.shape)}")
        frames, tracks = self.xyz_world.shape[:2]
        for name, value in (("visible", self.visible), ("confidence", self.confidence)):
            if value.shape != (frames, tracks):
                raise UserError(f"TrackSet.{name}: expected {[frames, tracks]} to match xyz_world, got {list(value.shape)}")
        for name, value in (("query_frame", self.query_frame), ("moving", self.moving)):
            if value is not None and value.shape != (tracks,):
                raise UserError(f"TrackSet.{name}: expected {[tracks]} to match xyz_world, got {list(value.shape)}")
        if tracks and not bool(((self.confidence >= 0) & (self.confidence <= 1)).all()):
            raise UserError("TrackSet.confidence: has values outside [0, 1]")
        if tracks and not bool(((self.query_frame >= 0) & (self.query_frame < frames)).all()):
            raise UserError(f"TrackSet.query_frame: has values outside the {frames} frames")
        if bool((self.visible & ~self.xyz_world.isfinite().all(-1)).any()):
            raise UserError("TrackSet.visible: a track is visible where its position is not finite")

    def save(self, path: Path) -> None:
        """Write ``.npz``."""
        arrays = {name: getattr(self, name) for name in ("xyz_world", "visible", "confidence", "query_frame", "moving")}
        with atomic_path(path) as partial:
            np.savez_compressed(partial, **{k: v.numpy() for k, v in arrays.items() if v is not None})

    @staticmethod
    def load(path: Path) -> "TrackSet":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: not a tracks file, or a field that is missing, misshapen or of another type.
        """
        if not path.exists():
            raise UserError(f"{path}: no such tracks file; `track2view track CLIP` makes one")
        fields = _fields(
            path,
            {
                "xyz_world": ("float32", "T N 3"),
                "visible": ("bool", "T N"),
                "confidence": ("float32", "T N"),
                "query_frame": ("int64", "N"),
                "moving": ("bool", "N"),
            },
            "a tracks file (`track2view track CLIP` makes one)",
            optional={"moving"},
        )
        try:
            return TrackSet(**fields)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewTracks:
    """Tracks as one camera sees them.

    Attributes:
        uv: [0, 1] image units, u right, v down; pixel i's centre is (i + 0.5) / W.
        depth: along the camera's z.
        valid: finite, in front of the camera and inside the image (in the source: also visible).
    """

    uv: Float32[Tensor, "T N 2"]
    depth: Float32[Tensor, "T N"]
    valid: Bool[Tensor, "T N"]

    def __post_init__(self) -> None:
        if self.depth.ndim != 2 or self.uv.shape != (*self.depth.shape, 2) or self.valid.shape != self.depth.shape:
            raise UserError(
                f"ViewTracks: shapes disagree: uv {list(self.uv.shape)}, depth {list(self.depth.shape)}, valid {list(self.valid.shape)}"
            )
        uv, depth = self.uv[self.valid], self.depth[self.valid]
        if not bool(((uv >= 0) & (uv <= 1)).all()) or not bool(((depth > 0) & depth.isfinite()).all()):
            raise UserError("ViewTracks.valid: a valid entry lies outside the image, behind the camera or nowhere")

    @staticmethod
    def of(tracks: TrackSet, camera: CameraPath) -> "ViewTracks":
        """Project tracks into a camera; validity here is geometry alone, not visibility."""
        if len(camera) != tracks.xyz_world.shape[0]:
            raise UserError(f"the camera path has {len(camera)} frames, the tracks have {tracks.xyz_world.shape[0]}")
        device = tracks.xyz_world.device
        pixels, depth = project(tracks.xyz_world.double(), camera.camera_from_world.to(device), camera.intrinsics.to(device))
        finite = pixels.isfinite().all(-1) & depth.isfinite()
        valid = finite & (depth > 1e-9) & inside(pixels, camera.size)
        size = torch.tensor([camera.size[1], camera.size[0]], dtype=torch.float64, device=device)
        return ViewTracks(uv=(pixels / size).float(), depth=depth.float(), valid=valid)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTracks:
    """The same scene points in the source and the target view: column n is one point in both, at every time."""

    source: ViewTracks
    target: ViewTracks
    confidence: Float32[Tensor, "T N"]

    def __post_init__(self) -> None:
        shape = self.confidence.shape
        if not bool(((self.confidence >= 0) & (self.confidence <= 1)).all()):
            raise UserError("PairedTracks.confidence: has values outside [0, 1]")
        for name, view in (("source", self.source), ("target", self.target)):
            if view.depth.shape != shape:
                raise UserError(f"PairedTracks.{name}: expected {list(shape)} to match confidence, got {list(view.depth.shape)}")

    def save(self, path: Path) -> None:
        """Write ``.npz``: source_uv, source_depth, source_valid, the same of the target, confidence."""
        views = {"source": self.source, "target": self.target}
        arrays = {f"{name}_{field}": getattr(view, field).numpy() for name, view in views.items() for field in ("uv", "depth", "valid")}
        with atomic_path(path) as partial:
            np.savez_compressed(partial, **arrays, confidence=self.confidence.numpy())

    @staticmethod
    def load(path: Path) -> "PairedTracks":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: not such a file, or a field that is missing, misshapen or of another type.
        """
        kinds = {"uv": ("float32", "T N 2"), "depth": ("float32", "T N"), "valid": ("bool", "T N")}
        wanted = {f"{view}_{name}": kind for view in ("source", "target") for name, kind in kinds.items()}
        fields = _fields(path, {"confidence": ("float32", "T N"), **wanted}, "a file of paired tracks")
        try:
            source, target = (ViewTracks(**{name: fields[f"{view}_{name}"] for name in kinds}) for view in ("source", "target"))
            return PairedTracks(source=source, target=target, confidence=fields["confidence"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def scale_of(tracks: TrackSet, camera: CameraPath) -> float:
    """Median depth of the tracks visible at frame 0 (the length that unit "scene" calls 1); 1 where none is visible."""
    pixels, depth = project(tracks.xyz_world[0].double(), camera.camera_from_world[0], camera.intrinsics[0])
    seen = depth[tracks.visible[0] & (depth > 1e-9) & inside(pixels, camera.size)]
    return float(seen.median()) if len(seen) else 1.0


def horizontal_fov(intrinsics: Float[Tensor, "3 3"], size: Size) -> float:
    """Horizontal field of view in degrees."""
    return math.degrees(2 * math.atan(size[1] / (2 * float(intrinsics[0, 0]))))


def _fields(path: Path, wanted: dict[str, tuple[str, str]], what: str, optional: Collection[str] = ()) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file by name, each of the type and the shape that is asked for ("T N 3": letters are any length)."""
    try:
        arrays = read_arrays(path)
    except UserError as error:
        raise UserError(f"{path}: not {what}: {str(error).removeprefix(f'{path}: ')}") from None
    if missing := sorted(wanted.keys() - arrays.keys() - set(optional)):
        raise UserError(f"{path}: not {what}, lacks {', '.join(missing)}")
    fields, lengths = {}, {}
    for name, (kind, dimensions) in wanted.items():
        if name not in arrays:
            continue
        array, axes = arrays[name], dimensions.split()
        if array.dtype != np.dtype(kind):
            raise UserError(f"{path}: {name}: expected {kind}, got {array.dtype}")
        shape = [int(axis) if axis.isdecimal() else lengths.get(axis, axis) for axis in axes]
        if len(shape) != array.ndim or any(isinstance(want, int) and want != got for want, got in zip(shape, array.shape, strict=True)):
            raise UserError(f"{path}: {name}: expected [{', '.join(map(str, shape))}], got {list(array.shape)}")
        lengths |= dict(zip(axes, array.shape, strict=True))
        fields[name] = torch.from_numpy(array)
    return fields


def _reject_frames(field: str, bad: Bool[Tensor, "T"], what: str, values: Float64[Tensor, "T"] | None = None) -> None:
    if bool(bad.any()):
        frame = int(bad.nonzero()[0, 0])
        value = 0.0 if values is None else float(values[frame])
        raise UserError(f"{field}: frame {frame} {what.format(value=value)}")
