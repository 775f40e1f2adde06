"""Trackers that live in environments of their own: a program, ``clip.npz`` in, ``tracking.npz`` out (docs/trackers.md).

Neural trackers pin dependencies that conflict with each other's and with ours; none of them is imported here.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from track2view.errors import UserError
from track2view.files import read_arrays
from track2view.records import CameraPath, Clip, Queries, TrackSet, horizontal_fov, scale_of
from track2view.trackers.protocol import Tracking, TrackingReport

CONTRACT = "track2view.tracker/1"
REQUIRED = ("xyz_world", "visible", "confidence", "world_from_camera", "intrinsics")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalTracker:
    """A program as a tracker: it is called with two paths, the clip's and that of the file it must write.

    Attributes:
        name: for records and messages.
        command: program and leading arguments.
    """

    name: str
    command: tuple[str, ...]

    def track(self, clip: Clip, queries: Queries, camera: CameraPath | None = None) -> Tracking:
        """Run the program; see :class:`track2view.trackers.Tracker`.

        Raises:
            UserError: it cannot be started, fails (its last line on stderr is the message), or writes what breaks the contract.
        """
        with tempfile.TemporaryDirectory(prefix="track2view-") as folder:
            given, made = Path(folder) / "clip.npz", Path(folder) / "tracking.npz"
            write_request(given, clip, queries, camera)
            try:
                done = subprocess.run(
                    [*self.command, str(given), str(made)],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    check=False,
                )
            except OSError as error:
                raise UserError(
                    f"tracker {self.name}: {self.command[0]} cannot be started ({error.strerror}); see docs/trackers.md"
                ) from None
            if done.returncode or not made.exists():
                said = done.stderr.strip().splitlines()[-1:] or ["it said nothing on stderr"]
                raise UserError(f"tracker {self.name}: ended with code {done.returncode} and without a result: {said[0]}")
            tracks, found = read_answer(made, self.name, clip, queries, camera)
        if camera is None:
            scale = scale_of(tracks, found)
            tracks, found = replace(tracks, xyz_world=tracks.xyz_world / scale), found.scaled(1 / scale, "scene")
        report = TrackingReport(
            tracker=self.name,
            focal_estimated=camera is not None and camera.focal_known,
            horizontal_fov=horizontal_fov(found.intrinsics[0], found.size),
            parallax_degrees=float("nan"),
            reprojection_pixels=float("nan"),
            share_lost=1.0 - float(tracks.visible.float().mean()),
            share_moving=float(tracks.moving.float().mean()) if tracks.moving is not None else 0.0,
        )
        return Tracking(tracks=tracks, camera=found, report=report)


def write_request(path: Path, clip: Clip, queries: Queries, camera: CameraPath | None) -> None:
    """Write ``clip.npz``: what a program is asked."""
    arrays = {
        "frames": clip.frames.permute(0, 2, 3, 1).numpy(),
        "fps": np.float64(float(clip.fps)),
        "query_frame": queries.frame.numpy(),
        "query_uv": queries.uv.numpy(),
    }
    if camera is not None:
        given = camera.resized(clip.size)
        arrays |= {"world_from_camera": given.world_from_camera.numpy(), "intrinsics": given.intrinsics.numpy()}
    with path.open("wb") as file:
        np.savez(file, contract=CONTRACT, **arrays)  # pyrefly: ignore


def read_answer(path: Path, name: str, clip: Clip, queries: Queries, camera: CameraPath | None) -> tuple[TrackSet, CameraPath]:
    """Read ``tracking.npz`` and hold it to the contract.

    Raises:
        UserError: a field that is missing, of another shape, or not of these queries.
    """
    try:
        arrays = read_arrays(path)
    except UserError as error:
        raise UserError(f"tracker {name}: tracking.npz cannot be read ({error})") from None
    if missing := [field for field in REQUIRED if field not in arrays]:
        raise UserError(f"tracker {name}: tracking.npz lacks {', '.join(missing)}")
    frames, count = len(clip), len(queries.frame)
    shapes = {"xyz_world": (frames, count, 3), "visible": (frames, count), "confidence": (frames, count), "moving": (count,)}
    for field, shape in {**shapes, "world_from_camera": (frames, 4, 4), "intrinsics": (frames, 3, 3)}.items():
        if field in arrays and arrays[field].shape != shape:
            raise UserError(f"tracker {name}: tracking.npz: {field}: expected {list(shape)}, got {list(arrays[field].shape)}")
    for field in (*shapes, "world_from_camera", "intrinsics"):
        if field in arrays and arrays[field].dtype.kind not in "biuf":
            raise UserError(f"tracker {name}: tracking.npz: {field}: expected numbers, got {arrays[field].dtype}")
    try:
        return _answer(arrays, clip, queries, camera)
    except UserError as error:
        raise UserError(f"tracker {name}: tracking.npz: {error}") from None


def _answer(arrays: dict[str, np.ndarray], clip: Clip, queries: Queries, camera: CameraPath | None) -> tuple[TrackSet, CameraPath]:
    found = CameraPath(
        world_from_camera=_tensor(arrays["world_from_camera"], np.float64),
        intrinsics=_tensor(arrays["intrinsics"], np.float64),
        size=clip.size,
        unit="scene" if camera is None else camera.unit,
        fps=float(clip.fps),
    )
    moving = _tensor(arrays["moving"], np.bool_) if "moving" in arrays else None
    tracks = TrackSet(
        xyz_world=_tensor(arrays["xyz_world"], np.float32),
        visible=_tensor(arrays["visible"], np.bool_),
        confidence=_tensor(arrays["confidence"], np.float32),
        query_frame=queries.frame.clone(),
        moving=moving,
    )
    if camera is not None:
        found = camera.resized(clip.size)
    return tracks, found


def _tensor(array: np.ndarray, kind: type[np.generic]) -> torch.Tensor:
    """Of the kind we compute with, whatever kind, byte order and layout a program wrote."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is infinite, and found as such
        return torch.from_numpy(np.ascontiguousarray(array.astype(kind)))


def adapter(name: str, script: str) -> ExternalTracker:
    """A tracker whose script ships with us and whose environment is the user's: ``TRACK2VIEW_<NAME>_PYTHON`` names its Python."""
    variable = f"TRACK2VIEW_{name.upper().replace('-', '_')}_PYTHON"
    python = os.environ.get(variable)
    if python is None:
        raise UserError(f"tracker {name}: {variable} is not set; it names the Python of the environment that docs/trackers.md installs")
    return ExternalTracker(name=name, command=(python, str(Path(__file__).with_name("adapters") / script)))


def program(command: str) -> ExternalTracker:
    """Any program that keeps the contract, as one line of shell words; ``python`` alone is this Python."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--tracker command: {error} in {command!r}") from None
    if not words:
        raise UserError("--tracker command: names no program; give command:PROGRAM [ARGUMENTS]")
    return ExternalTracker(name=Path(words[-1]).stem, command=(sys.executable if words[0] == "python" else words[0], *words[1:]))
