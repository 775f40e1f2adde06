"""Two eyes: a re-filmed clip for each, side by side in one video."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from track2view.errors import UserError
from track2view.folders import written_whole
from track2view.geometry import rigid
from track2view.pipeline import Shot, refilm
from track2view.preflight import check_disk, make_folder
from track2view.records import CameraPath
from track2view.video import VideoWriter

DISTANCE = 0.04
"""Between the eyes by default, in distances to what the clip is about."""
OWN_PATH = "pan-right:0"
"""A move that does nothing: the clip's own path."""


def split_stereo(camera: str) -> tuple[str, float | None]:
    """A camera without its part ``stereo`` or ``stereo:DISTANCE``, and the distance between the eyes, in distances to what the clip is
    about; None without such a part. ``stereo`` alone is the clip's own path.

    Raises:
        UserError: a distance that is no positive number.
    """
    parts = camera.split("+")
    asked = [each for each in parts if each.partition(":")[0].strip() == "stereo"]
    if not asked:
        return camera, None
    given = asked[0].partition(":")[2]
    try:
        distance = float(given) if given else DISTANCE
    except ValueError:
        distance = 0.0
    if len(asked) > 1 or not 0 < distance < float("inf"):
        raise UserError(f"camera {camera}: expected one stereo:DISTANCE between the eyes, in distances to what the clip is about")
    return "+".join(each for each in parts if each not in asked) or OWN_PATH, distance


def eyes(middle: CameraPath, distance: float) -> tuple[CameraPath, CameraPath]:
    """The left and the right eye, looking along with the path between them: so that a point at depth z is f · distance / z apart.

    Args:
        distance: between the eyes, in the path's unit.
    """
    aside = torch.tensor([distance / 2, 0.0, 0.0], dtype=torch.float64)
    left, right = (rigid(torch.eye(3, dtype=torch.float64), sign * aside) for sign in (-1, 1))
    return replace(middle, world_from_camera=middle.world_from_camera @ left), replace(
        middle, world_from_camera=middle.world_from_camera @ right
    )


def write_stereo(
    shot: Shot, middle: CameraPath, distance: float, out: Path | str, *, settings: dict[str, object] | None = None, device: str = "cpu"
) -> Path:
    """Render both eyes and write a folder: ``output.mp4`` with the left one's picture left of the right one's and the clip's sound, the
    cameras, the tracks and ``run.json``.

    Args:
        distance: between the eyes, in distances to what the clip is about.

    Returns:
        The path of ``output.mp4``.

    Raises:
        UserError: a folder that cannot be written to, or too little room.
    """
    clip, tracking, out = shot.clip, shot.tracking, Path(out)
    make_folder(out)
    check_disk(clip, out)
    cameras = eyes(middle, distance * shot.pivot)
    with written_whole(out) as folder:
        coverage = np.zeros((len(clip), 2))
        with VideoWriter(folder / "output.mp4", clip.fps, audio=clip.audio) as output:
            for frame, views in enumerate(zip(*(refilm(shot, each, device) for each in cameras), strict=True)):
                output.add(np.concatenate([shot.finished(view.image, frame) for view in views], axis=1))
                coverage[frame] = [float(view.seen.float().mean()) for view in views]
        tracking.tracks.save(folder / "tracks.npz")
        for name, camera in zip(("source", "left", "right"), (tracking.camera, *cameras), strict=True):
            camera.save(folder / f"{name}_camera.json")
        document = {"settings": settings or {}, "eye_distance": distance * shot.pivot, "seen": coverage.mean(0).round(4).tolist()}
        (folder / "run.json").write_text(json.dumps(document, indent=2))
    return out / "output.mp4"
