"""The benchmark of anybody's clips: a file that lists which are re-filmed along which cameras; the truth is known of few or none.

The file is JSON: ``{"format": "track2view.footage/1", "cases": [{"name": …, "clip": …, "camera": …}, …]}``, with files named relative to
it. A case may have ``group``, ``caption``, ``source_camera`` (a camera file) and ``exact`` (a video of what the camera truly sees).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from track2view.cameras import is_keyframes, names_file, parse_move, read_camera
from track2view.errors import UserError, check_positive
from track2view.evaluate.benchmark import Case, Frames, Given, Made, Method, Scores
from track2view.evaluate.reconstructed import reconstruct_cameras, reconstructed_values
from track2view.files import read_json
from track2view.generation import Generator, as_trained
from track2view.metrics import flicker, psnr, ssim, steadiness
from track2view.model.diffusion import Track2ViewPipeline
from track2view.pipeline import Shot, prepare, refilm, target_camera
from track2view.records import CameraPath, Clip
from track2view.video import read_clip

FORMAT = "track2view.footage/1"
LEAST_LINES = 240
"""From which on cameras are reconstructed."""
SAME_FOCAL = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class FootageCase(Case):
    """A clip and a camera.

    Attributes:
        clip: a video, or a folder of images.
        camera: a move, a keyframe file or a camera file, as ``track2view render --camera`` takes them.
        caption: what the clip shows; empty where nobody said.
        source_camera: a camera file of the clip; None to have it found.
        exact: a video of what the camera truly sees.
    """

    clip: Path
    camera: str
    caption: str = ""
    source_camera: str | None = None
    exact: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refilmed:
    """What is known of a case of footage.

    Attributes:
        shot: the clip, tracked.
        target: the path that is asked for, in the shot's world.
        elsewhere: finds the path of the next case that has another camera; None where none has.
    """

    shot: Shot
    target: CameraPath
    elsewhere: Callable[[], CameraPath] | None


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Clips that a file lists.

    Attributes:
        file: see the module.
        frames: the first so many of each clip.
        short_side: pixels; clips are resized to it. None to take them as they are.
    """

    file: Path
    frames: int
    short_side: int | None = None

    def __post_init__(self) -> None:
        check_positive(frames=self.frames, short_side=self.short_side or 1)

    @property
    def identity(self) -> Mapping[str, object]:
        """A run may grow in cases, not change in these."""
        return {"footage": self.file.name, "frames": self.frames, "short_side": self.short_side}

    @property
    def title(self) -> str:
        """How many."""
        return f"{self.file.name}: {len({case.clip for case in self.cases})} clips, {len(self.cases)} camera paths"

    @property
    def explained(self) -> str:
        """What is measured, and how."""
        return (
            f"The first {self.frames} frames of each clip. Cameras are found by a reconstruction of the re-filmed clip alone (pycolmap's "
            f"global mapper), from {LEAST_LINES} lines up and where the focal length that is asked for stays the same; “registered” is "
            "the share of frames that it has, errors are of these, relative to the first; AUC counts the others as failed. A camera that "
            "stands or only turns cannot be reconstructed. Moves are laid over the camera that our tracker finds in the source."
        )

    @cached_property
    def cases(self) -> tuple[FootageCase, ...]:
        """In the file's order.

        Raises:
            UserError: what is wrong in the file.
        """
        document = read_json(self.file)
        if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("cases"), list):
            raise UserError(f'{self.file}: not a list of footage: expected "format": "{FORMAT}" and "cases"')
        cases = tuple(_case(entry, f"{self.file}: cases[{index}]", self.file.parent) for index, entry in enumerate(document["cases"]))
        if not cases:
            raise UserError(f"{self.file}: cases: none there")
        if len(names := {case.name for case in cases}) < len(cases):
            twice = next(name for name in sorted(names) if sum(case.name == name for case in cases) > 1)
            raise UserError(f"{self.file}: two cases are named {twice}; each needs its own name")
        return cases

    def given(self, case: FootageCase) -> Given[Refilmed]:
        """The clip, tracked."""
        clip = self._read(case.clip)
        own = None if case.source_camera is None else self._cut(read_camera(case.source_camera, clip.size), case.source_camera)
        shot = prepare(clip, source_camera=own)
        others = [other.camera for other in _after(self.cases, case) if other.camera != case.camera]
        target = self._path(shot, case.camera)
        exact = None if case.exact is None else self._read(case.exact)
        if exact is not None and (exact.size, exact.fps) != (clip.size, clip.fps):
            raise UserError(f"{case.exact}: {exact.size}, {exact.fps} frames a second; the clip has {clip.size}, {clip.fps}")
        return Given(
            source=clip.frames,
            exact=None if exact is None else exact.frames,
            fps=clip.fps,
            caption=case.caption,
            parallax=_parallax(shot, target),
            known=Refilmed(shot=shot, target=target, elsewhere=partial(self._path, shot, others[0]) if others else None),
        )

    def score(self, given: Given[Refilmed], made: Frames) -> Scores:
        """Cameras by reconstruction, steadiness beside the source's, and pictures where the exact view is there."""
        found = {"steadiness_gained": steadiness(made) - steadiness(given.source)}
        by_frame: dict[str, Sequence[float]] = {}
        target = given.known.target
        if given.exact is not None:
            alike = [ssim(own, true) for own, true in zip(made, given.exact, strict=True)]
            found |= {"psnr": psnr(made, given.exact), "ssim": sum(alike) / len(alike), "flicker": flicker(made, given.exact)}
            by_frame["psnr"] = [psnr(own, true) for own, true in zip(made, given.exact, strict=True)]
        zoomed = float((target.intrinsics / target.intrinsics[:1]).nan_to_num(1.0).sub(1).abs().max()) > SAME_FOCAL
        if made.shape[2] >= LEAST_LINES and not zoomed:
            found |= reconstructed_values(reconstruct_cameras(made, target.intrinsics[0]), target)
        return Scores(values=found, by_frame=by_frame)

    def _read(self, path: Path) -> Clip:
        clip = read_clip(path, short_side=self.short_side, frames=self.frames)
        if len(clip) < self.frames:
            raise UserError(f"{path}: {len(clip)} frames; {self.frames} are needed")
        return clip

    def _cut(self, camera: CameraPath, path: str) -> CameraPath:
        if len(camera) < self.frames:
            raise UserError(f"{path}: {len(camera)} frames; {self.frames} are needed")
        return camera[: self.frames]

    def _path(self, shot: Shot, camera: str) -> CameraPath:
        if not names_file(camera) or is_keyframes(Path(camera.partition("#")[0])):
            return target_camera(shot, camera)
        return target_camera(shot, self._cut(read_camera(camera, shot.clip.size), camera))


def copied(case: FootageCase, given: Given[Refilmed]) -> Made:
    """The source as it is: the control that ignores the camera."""
    return Made(frames=given.source)


def warped(case: FootageCase, given: Given[Refilmed]) -> Made:
    """The weight-free renderer."""
    return Made(frames=torch.stack([frame.colour for frame in refilm(given.known.shot, given.known.target)]))


def warped_elsewhere(case: FootageCase, given: Given[Refilmed]) -> Made:
    """The weight-free renderer along another case's camera: the control that follows the wrong one."""
    if given.known.elsewhere is None:
        raise UserError("no other case has another camera")
    return Made(frames=torch.stack([frame.colour for frame in refilm(given.known.shot, given.known.elsewhere())]))


METHODS: Mapping[str, Method[FootageCase, Refilmed]] = {"copy": copied, "shuffled-camera": warped_elsewhere, "warp": warped}


@dataclass(frozen=True, kw_only=True, slots=True)
class ByModel:
    """A model, as ``track2view render --renderer diffusion`` uses it, in as many steps and as strongly guided as it was made for."""

    pipe: Track2ViewPipeline
    seed: int = 0

    def __call__(self, case: FootageCase, given: Given[Refilmed]) -> Made:
        """The clip; its tracks start where the model plans it."""
        shot = given.known.shot
        settings = as_trained(self.pipe, prompt=given.caption, seed=self.seed)
        generator = Generator(model=self.pipe, settings=settings)
        planned = prepare(shot.clip, source_camera=shot.tracking.camera, queries=generator.queries(shot.clip))
        with TemporaryDirectory() as preview:
            return Made(frames=generator.refilm(planned, given.known.target, Path(preview)).frames)


def _case(entry: object, place: str, folder: Path) -> FootageCase:
    """A case as the file has it."""
    if not isinstance(entry, dict):
        raise UserError(f"{place}: expected an object, got {entry!r:.60}")
    known = {field.name: field.default is MISSING for field in fields(FootageCase) if field.name not in ("group", "source", "target")}
    for name in entry:
        if name not in known and name != "group":
            raise UserError(f"{place}: unknown field {name!r}; there are group, {', '.join(known)}")
        if not isinstance(entry[name], str) or not entry[name]:
            raise UserError(f"{place}: {name}: expected text, got {entry[name]!r:.60}")
    for name, needed in known.items():
        if needed and name not in entry:
            raise UserError(f"{place}: {name} is missing")
    if Path(entry["name"]).name != entry["name"]:
        raise UserError(f"{place}: name: expected one that a file may have, got {entry['name']!r:.60}")
    if not names_file(folder / entry["camera"]):
        try:
            parse_move(entry["camera"])
        except UserError as error:
            raise UserError(f"{place}: camera: {error}") from None
    for name in ("clip", "exact"):
        if name in entry and not (folder / entry[name]).exists():
            raise UserError(f"{place}: {name}: no such file {folder / entry[name]}")
    return FootageCase(
        name=entry["name"],
        group=entry.get("group", "clips"),
        source=entry["clip"],
        target=entry["camera"],
        clip=folder / entry["clip"],
        camera=_placed(entry["camera"], folder),
        caption=entry.get("caption", ""),
        source_camera=_placed(entry["source_camera"], folder) if "source_camera" in entry else None,
        exact=folder / entry["exact"] if "exact" in entry else None,
    )


def _placed(camera: str, folder: Path) -> str:
    """A camera file named relative to the list's folder; a move as it is."""
    return str(folder / camera) if names_file(folder / camera) else camera


def _after(cases: tuple[FootageCase, ...], case: FootageCase) -> tuple[FootageCase, ...]:
    """The others, beginning with the one that follows."""
    place = cases.index(case)
    return cases[place + 1 :] + cases[:place]


def _parallax(shot: Shot, target: CameraPath) -> float:
    apart = (shot.tracking.camera.world_from_camera[:, :3, 3] - target.world_from_camera[:, :3, 3]).norm(dim=1)
    return float((apart * shot.depth.disparity.flatten(1).double().median(dim=1).values).atan().rad2deg().mean())
