"""Lists of footage (:mod:`track2view.evaluate.footage`), made of what people have: a folder of clips, MultiCamVideo, RealCam-Vid."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from track2view.cameras import find_scenes, names_file
from track2view.cameras.formats import unpickled_realcam
from track2view.errors import UserError
from track2view.evaluate.footage import FORMAT
from track2view.files import atomic_path

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
REALCAM = Path(__file__).with_name("realcam_vid.json")
"""Two of ReCamMaster's moves for each of 200 clips of each kind, drawn once; RealCam-Vid names no target cameras, nor does the paper."""


def list_folder(folder: Path, cameras: Sequence[str], out: Path) -> int:
    """Every video of a folder along every camera; how many cases.

    Args:
        cameras: moves and camera files, as ``track2view render --camera`` takes them.

    Raises:
        UserError: no video there.
    """
    videos = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEOS)
    if not videos:
        raise UserError(f"{folder}: no videos there ({', '.join(VIDEOS)})")
    return _write(
        out,
        [
            {"name": f"{video.stem}-{_slug(camera)}", "clip": _beside(out, video), "camera": _camera(out, camera)}
            for video in videos
            for camera in cameras
        ],
    )


def list_multicam(root: Path, out: Path, *, seed: int = 0) -> int:
    """Of every scene in MultiCamVideo's layout one of its cameras re-filmed from another, both drawn; how many cases.

    Raises:
        UserError: no scenes there, or one with fewer than two videos.
    """
    cases = []
    for index, scene in enumerate(find_scenes(root)):
        videos = sorted((scene / "videos").glob("*.mp4"))
        if len(videos) < 2:
            raise UserError(f"{scene}: {len(videos)} videos; two are needed")
        source, target = (videos[number] for number in np.random.default_rng([seed, index]).choice(len(videos), 2, replace=False))
        cameras = _beside(out, scene / "cameras/camera_extrinsics.json")
        place = "-".join(scene.resolve().parts[-2:])
        cases.append(
            {
                "name": f"{place}-{source.stem}-{target.stem}",
                "clip": _beside(out, source),
                "camera": f"{cameras}#{target.stem}",
                "source_camera": f"{cameras}#{source.stem}",
                "exact": _beside(out, target),
            }
        )
    return _write(out, cases)


def list_realcam(archive: Path, videos: Path, out: Path) -> int:
    """The first 200 clips of RealEstate10K and of MiraData in RealCam-Vid's test set, each along two moves; how many cases.

    The archive is a pickle, which runs whatever code it holds: only for one that you trust. Camera files are written beside ``out``.

    Args:
        videos: the folder that the archive's video_path are relative to.

    Raises:
        UserError: another archive, or a clip that is not there.
    """
    drawn: dict[str, list[list[str]]] = json.loads(REALCAM.read_text())
    found = sorted(unpickled_realcam(archive), key=lambda each: str(each[0]["video_path"]))
    cases = []
    for kind, moves in drawn.items():
        own = [each for each in found if str(each[0].get("dataset_source", "")).startswith(kind)]
        for (entry, camera), pair in zip(own, moves, strict=False):
            video = videos / str(entry["video_path"])
            if not video.exists():
                raise UserError(f"{video}: no such clip; {archive} names it")
            name = f"{kind}-{video.stem}"
            camera.save(out.parent / f"{out.stem}-cameras" / f"{name}.json")
            caption = str(entry.get("long_caption") or entry.get("short_caption") or "")
            about = {"group": kind, "clip": _beside(out, video), "source_camera": f"{out.stem}-cameras/{name}.json"}
            about |= {"caption": caption} if caption else {}
            cases += [{"name": f"{name}-{move}", **about, "camera": move} for move in pair]
    if not cases:
        raise UserError(f"{archive}: no entry whose dataset_source begins with {' or '.join(drawn)}")
    return _write(out, cases)


def _write(out: Path, cases: list[dict[str, str]]) -> int:
    with atomic_path(out) as partial:
        partial.write_text(json.dumps({"format": FORMAT, "cases": cases}, indent=1))
    return len(cases)


def _beside(out: Path, path: Path) -> str:
    return os.path.relpath(path.resolve(), out.parent.resolve())


def _camera(out: Path, camera: str) -> str:
    path, mark, part = camera.partition("#")
    return f"{_beside(out, Path(path))}{mark}{part}" if names_file(camera) else camera


def _slug(camera: str) -> str:
    name = Path(camera).stem if names_file(camera) else camera
    return re.sub(r"[^\w.+-]+", "-", name)
