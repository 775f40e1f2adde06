"""Named camera moves: each a small motion of the camera in its own axes, laid over the source's path.

Angles are in degrees and lengths in distances to the pivot, what the clip is about, so one command behaves alike on any clip.
Poses here are ``base_from_moved``: where the moved camera stands, seen from the camera it is laid over.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.cameras.raw import described, tensor
from track2view.errors import UserError
from track2view.files import read_json, read_text
from track2view.geometry import interpolate_poses, look_at, rigid, rotation_about, smooth_poses
from track2view.records import CameraPath

Easing = Literal["smooth", "linear", "in", "out"]
RelativeTo = Literal["source", "first-frame"]
Poses = Float64[Tensor, "T 4 4"]
Progress = Float64[Tensor, "T"]

EASINGS: dict[str, Callable[[Progress], Progress]] = {
    "smooth": lambda s: s * s * (3 - 2 * s),
    "linear": lambda s: s,
    "in": lambda s: s * s,
    "out": lambda s: s * (2 - s),
}
RECAM_METRES_TO_PIVOT = 4.0
RECAM_SHARE = 160.0 / 161.0
SMOOTHING_SECONDS = 0.5
DOWN = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraMove:
    """One or more moves, one after the other.

    Attributes:
        steps: (name, amount) of each; every step takes the same time.
        easing: how each step starts and stops.
        relative_to: laid over the source's own path, or over its first camera held still.
    """

    steps: tuple[tuple[str, float], ...]
    easing: Easing = "smooth"
    relative_to: RelativeTo = "source"

    @property
    def name(self) -> str:
        """Short name for files and reports."""
        return "+".join(name for name, _ in self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A family of moves: what it does, the amount it takes by default, and how far it has gone at each progress."""

    help: str
    unit: str
    default: float
    path: Callable[[Progress, float], tuple[Poses, Progress]]


def _turn(axis: str, sign: float) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        return rigid(rotation_about(axis, sign * amount * progress), torch.zeros(len(progress), 3, dtype=torch.float64)), torch.ones_like(
            progress
        )

    return path


def _travel(x: float, y: float, z: float) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    direction = torch.tensor([x, y, z], dtype=torch.float64)

    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        turn = torch.eye(3, dtype=torch.float64).expand(len(progress), 3, 3)
        return rigid(turn, amount * progress[:, None] * direction), torch.ones_like(progress)

    return path


def _orbit(axis: str, sign: float) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    """Around the point at distance 1 ahead, looking at it."""

    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        turn = rotation_about(axis, sign * amount * progress)
        return rigid(turn, _pivot() - turn @ _pivot()), torch.ones_like(progress)

    return path


def _look_from(position: Callable[[Progress, float], Float64[Tensor, "T 3"]]) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    """Along ``position``, looking at the point at distance 1 ahead of the start."""

    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        return look_at(position(progress, amount), _pivot().expand(len(progress), 3), DOWN), torch.ones_like(progress)

    return path


def _line(x: float, y: float, z: float) -> Callable[[Progress, float], Float64[Tensor, "T 3"]]:
    direction = torch.tensor([x, y, z], dtype=torch.float64)
    return lambda progress, amount: amount * progress[:, None] * direction


def _spiral(sign: float) -> Callable[[Progress, float], Float64[Tensor, "T 3"]]:
    def position(progress: Progress, amount: float) -> Float64[Tensor, "T 3"]:
        angle = 2 * math.pi * progress
        return amount * torch.stack([sign * torch.sin(angle), torch.cos(angle) - 1, 0.5 * (1 - torch.cos(angle))], dim=-1)

    return position


def _zoom(inward: bool) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        return torch.eye(4, dtype=torch.float64).repeat(len(progress), 1, 1), amount ** (progress if inward else -progress)

    return path


def _dolly_zoom(sign: float) -> Callable[[Progress, float], tuple[Poses, Progress]]:
    """Travel towards the point at distance 1, the focal length shrinking so that it keeps its size."""

    def path(progress: Progress, amount: float) -> tuple[Poses, Progress]:
        poses, _ = _travel(0, 0, sign)(progress, amount)
        return poses, 1 - sign * amount * progress

    return path


def _pivot() -> Float64[Tensor, "3"]:
    return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def _hold(progress: Progress, amount: float) -> tuple[Poses, Progress]:
    return torch.eye(4, dtype=torch.float64).repeat(len(progress), 1, 1), torch.ones_like(progress)


MOVES: dict[str, _Kind] = {
    "static": _Kind(help="hold the first camera: a stabiliser", unit="", default=0.0, path=_hold),
    "smooth": _Kind(help="the source's own path, smoothed", unit="seconds", default=SMOOTHING_SECONDS, path=_hold),
    "pan-right": _Kind(help="turn right on the spot", unit="degrees", default=15.0, path=_turn("y", 1)),
    "pan-left": _Kind(help="turn left on the spot", unit="degrees", default=15.0, path=_turn("y", -1)),
    "tilt-up": _Kind(help="turn up on the spot", unit="degrees", default=10.0, path=_turn("x", 1)),
    "tilt-down": _Kind(help="turn down on the spot", unit="degrees", default=10.0, path=_turn("x", -1)),
    "roll-right": _Kind(help="roll clockwise", unit="degrees", default=10.0, path=_turn("z", 1)),
    "roll-left": _Kind(help="roll counter-clockwise", unit="degrees", default=10.0, path=_turn("z", -1)),
    "dolly-in": _Kind(help="travel forwards", unit="distances", default=0.3, path=_travel(0, 0, 1)),
    "dolly-out": _Kind(help="travel backwards", unit="distances", default=0.3, path=_travel(0, 0, -1)),
    "truck-right": _Kind(help="travel right", unit="distances", default=0.2, path=_travel(1, 0, 0)),
    "truck-left": _Kind(help="travel left", unit="distances", default=0.2, path=_travel(-1, 0, 0)),
    "pedestal-up": _Kind(help="travel up", unit="distances", default=0.15, path=_travel(0, -1, 0)),
    "pedestal-down": _Kind(help="travel down", unit="distances", default=0.15, path=_travel(0, 1, 0)),
    "orbit-right": _Kind(help="circle to the right about the scene's middle", unit="degrees", default=15.0, path=_orbit("y", -1)),
    "orbit-left": _Kind(help="circle to the left about the scene's middle", unit="degrees", default=15.0, path=_orbit("y", 1)),
    "orbit-up": _Kind(help="circle over the scene's middle", unit="degrees", default=12.0, path=_orbit("x", -1)),
    "orbit-down": _Kind(help="circle under the scene's middle", unit="degrees", default=12.0, path=_orbit("x", 1)),
    "crane-up": _Kind(help="rise, looking at the scene's middle", unit="distances", default=0.25, path=_look_from(_line(0, -1, 0))),
    "crane-down": _Kind(help="sink, looking at the scene's middle", unit="distances", default=0.25, path=_look_from(_line(0, 1, 0))),
    "zoom-in": _Kind(help="lengthen the focal length", unit="times", default=1.5, path=_zoom(True)),
    "zoom-out": _Kind(help="shorten the focal length", unit="times", default=1.5, path=_zoom(False)),
    "dolly-zoom-in": _Kind(help="travel forwards while zooming out", unit="distances", default=0.3, path=_dolly_zoom(1)),
    "dolly-zoom-out": _Kind(help="travel backwards while zooming in", unit="distances", default=0.3, path=_dolly_zoom(-1)),
    "spiral-right": _Kind(
        help="one turn of a circle, clockwise from the top, looking at the scene's middle",
        unit="distances",
        default=0.12,
        path=_look_from(_spiral(1)),
    ),
    "spiral-left": _Kind(help="the same, counter-clockwise", unit="distances", default=0.12, path=_look_from(_spiral(-1))),
}
MOVES |= {f"arc-{way}": replace(MOVES[f"orbit-{way}"], help=f"the same as orbit-{way}") for way in ("right", "left", "up", "down")}


def _recam_kinds() -> dict[str, _Kind]:
    """ReCamMaster's ten presets (design section 8), at constant speed; amounts are metres to the pivot, 4 in the original."""
    degrees = lambda turn, amount: lambda progress, _: turn(RECAM_SHARE * progress, amount)  # noqa: E731
    metres = lambda kind, amount: lambda progress, pivot: kind(RECAM_SHARE * progress, amount / pivot)  # noqa: E731
    rise = math.cos(math.radians(30.0))
    right, left = _look_from(_line(1, 0, 2 * (1 - rise))), _look_from(_line(-1, 0, 2 * (1 - rise)))
    entries = (
        ("pan right 20°", degrees(_turn("y", 1), 20.0)),
        ("pan left 20°", degrees(_turn("y", -1), 20.0)),
        ("tilt up 10°", degrees(_turn("x", 1), 10.0)),
        ("tilt down 10°", degrees(_turn("x", -1), 10.0)),
        ("dolly in 2 m", metres(_travel(0, 0, 1), 2.0)),
        ("dolly out 2 m", metres(_travel(0, 0, -1), 2.0)),
        ("rise 1 m, looking at the middle", metres(_look_from(_line(0, -1, 0)), 1.0)),
        ("sink 1 m, looking at the middle", metres(_look_from(_line(0, 1, 0)), 1.0)),
        ("arc left 30°", metres(left, 2.0)),
        ("arc right 30°", metres(right, 2.0)),
    )
    return {
        f"recam-{index}": _Kind(help=f"ReCamMaster: {what}", unit="metres to the scene's middle", default=RECAM_METRES_TO_PIVOT, path=path)
        for index, (what, path) in enumerate(entries, start=1)
    }


MOVES |= _recam_kinds()


def parse_move(text: str, amount: float | None = None, easing: Easing = "smooth", relative_to: RelativeTo = "source") -> CameraMove:
    """Read ``NAME``, ``NAME:AMOUNT`` or several of these joined by ``+``.

    Args:
        text: e.g. ``"orbit-right"`` or ``"dolly-in:0.3+pan-left:20"``.
        amount: for every step that names none; each move has a default of its own.
        easing: how steps start and stop (ReCamMaster's presets run at constant speed).
        relative_to: what the move is laid over.

    Raises:
        UserError: an unknown move (the nearest names are suggested) or an amount that is no number or out of range.
    """
    steps = []
    for part in text.split("+"):
        name, _, given = part.strip().partition(":")
        if name not in MOVES:
            near = difflib.get_close_matches(name, MOVES, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "`track2view cameras list` shows all"
            raise UserError(f"unknown camera move {name!r}, and no file of that name; {hint}")
        try:
            value = float(given) if given else MOVES[name].default if amount is None else amount
        except ValueError:
            raise UserError(f"camera move {name}: expected a number after the colon, got {given!r}") from None
        steps.append((name, _checked(name, value)))
    return CameraMove(steps=tuple(steps), easing=easing, relative_to=relative_to)


def apply_move(move: CameraMove, source: CameraPath, pivot: float = 1.0) -> CameraPath:
    """The target path of a move.

    Args:
        move: what to do.
        source: the clip's own camera.
        pivot: how far what the move turns about is, in the source path's unit.
    """
    held = move.relative_to == "first-frame" or any(name == "static" for name, _ in move.steps)
    base = source.world_from_camera[:1].expand(len(source), 4, 4) if held else source.world_from_camera
    intrinsics = (source.intrinsics[:1].expand(len(source), 3, 3) if held else source.intrinsics).clone()
    for name, amount in move.steps:
        if name == "smooth":
            base = smooth_poses(base, amount * (source.fps or 30.0))
    poses, zoom = _joined(move, len(source))
    poses[:, :3, 3] *= pivot
    intrinsics[:, [0, 1], [0, 1]] *= zoom[:, None]
    return replace(source, world_from_camera=base @ poses, intrinsics=intrinsics)


def read_keyframes(path: Path, source: CameraPath, unit_length: float = 1.0) -> CameraPath:
    """A path through keyframes: a ``track2view.keyframes/1`` JSON file (see ``docs/cameras.md``).

    Positions are in scene units and rotations (pitch up, yaw right, roll clockwise) in degrees, in the axes of the base
    camera; between keyframes poses follow SE(3) geodesics, and zoom factors change by a constant factor per second.

    Raises:
        UserError: another file, or a keyframe that is none.
    """
    document = read_json(path)
    try:
        keys, easing, relative_to = _keyframes(document)
        times = tensor([key.get("time") for key in keys], (None,), "time")
        position = tensor([key.get("position", [0, 0, 0]) for key in keys], (None, 3), "position")
        turns = tensor([key.get("rotation", [0, 0, 0]) for key in keys], (None, 3), "rotation")
        zoom = tensor([key.get("zoom", 1.0) for key in keys], (None,), "zoom")
    except UserError as error:
        raise UserError(f"{path}: not a keyframe file ({error}); docs/cameras.md shows one") from None
    order = times.argsort(stable=True)
    times, position, turns, zoom = times[order], position[order], turns[order], zoom[order]
    if not bool(torch.isfinite(torch.cat([times, position.flatten(), turns.flatten(), zoom])).all()) or bool((times.diff() <= 0).any()):
        raise UserError(f"{path}: keyframes need finite numbers and increasing times")
    if float(times[0]) < 0 or float(times[-1]) > 1:
        raise UserError(f"{path}: keyframe times run from 0 (first frame) to 1 (last), got {times[0]:g} to {times[-1]:g}")
    if bool((zoom <= 0).any()):
        raise UserError(f"{path}: zoom must be positive, got {zoom.min():g}")
    turn = rotation_about("y", turns[:, 1]) @ rotation_about("x", turns[:, 0]) @ rotation_about("z", turns[:, 2])
    moment = easing(torch.linspace(0, 1, len(source), dtype=torch.float64))
    poses = interpolate_poses(times, rigid(turn, position * unit_length), moment)
    factor = torch.exp(_interpolated(moment, times, zoom.log()))
    held = relative_to == "first-frame"
    intrinsics = (source.intrinsics[:1].expand(len(source), 3, 3) if held else source.intrinsics).clone()
    intrinsics[:, [0, 1], [0, 1]] *= factor[:, None]
    base = source.world_from_camera[:1] if held else source.world_from_camera
    try:
        return replace(source, world_from_camera=base @ poses, intrinsics=intrinsics)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def is_keyframes(path: Path) -> bool:
    """Whether a file says that it holds keyframes.

    Raises:
        UserError: it cannot be read.
    """
    return path.suffix == ".json" and '"track2view.keyframes/' in read_text(path)


def _keyframes(document: object) -> tuple[list[dict], Callable[[Progress], Progress], str]:
    keys = document.get("keyframes") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise UserError(f"keyframes: expected a list of objects, got {described(document if keys is None else keys)}")
    if (kind := document.get("format")) != "track2view.keyframes/1":
        raise UserError(f'format: expected "track2view.keyframes/1", got {described(kind)}')
    if (easing := document.get("easing", "linear")) not in list(EASINGS):
        raise UserError(f"easing: expected {', '.join(EASINGS)}, got {described(easing)}")
    if (relative_to := document.get("relative_to", "source")) not in ("source", "first-frame"):
        raise UserError(f'relative_to: expected "source" or "first-frame", got {described(relative_to)}')
    return keys, EASINGS[easing], relative_to


def _joined(move: CameraMove, frames: int) -> tuple[Poses, Progress]:
    """All steps one after the other, each starting where the last one ended."""
    whole = torch.linspace(0, len(move.steps), frames, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    zoom = torch.ones(frames, dtype=torch.float64)
    for index, (name, amount) in enumerate(move.steps):
        easing = "linear" if name.startswith(("recam-", "spiral-")) else move.easing
        progress = EASINGS[easing]((whole - index).clamp(0.0, 1.0))
        step, factor = MOVES[name].path(progress, amount)
        poses, zoom = poses @ step, zoom * factor
    return poses, zoom


def _interpolated(times: Progress, key_times: Float64[Tensor, "K"], values: Float64[Tensor, "K"]) -> Progress:
    if len(key_times) == 1:
        return values.expand(len(times)).clone()
    right = torch.searchsorted(key_times, times.clamp(key_times[0], key_times[-1]), right=True).clamp(1, len(key_times) - 1)
    left = right - 1
    share = (times.clamp(key_times[0], key_times[-1]) - key_times[left]) / (key_times[right] - key_times[left])
    return values[left] + share * (values[right] - values[left])


def _checked(name: str, amount: float) -> float:
    if not math.isfinite(amount):
        raise UserError(f"camera move {name}: the amount must be finite, got {amount}")
    if name.startswith(("zoom", "recam")) and amount <= 0:
        raise UserError(f"camera move {name}: the amount ({MOVES[name].unit}) must be positive, got {amount:g}")
    if name.startswith("dolly-zoom-in") and amount >= 1:
        raise UserError(f"camera move {name}: {amount:g} would travel past the scene's middle; stay below 1")
    return amount
