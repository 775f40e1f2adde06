"""Several cameras on one timeline: all film the whole clip, and a cut chooses whose picture is shown from when on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from track2view.errors import UserError
from track2view.records import CameraPath


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A camera, a move's name or a file, and the second from which on it is shown."""

    camera: str
    seconds: float


def parse_cuts(texts: Sequence[str]) -> list[Cut]:
    """Read ``CAMERA@SECONDS`` each.

    Raises:
        UserError: another form, a first one that does not begin at 0, or times that do not increase.
    """
    cuts: list[Cut] = []
    for text in texts:
        camera, found, given = text.rpartition("@")
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not found or not camera or not math.isfinite(seconds):
            raise UserError(f"--cut {text}: expected CAMERA@SECONDS, such as orbit-left@0 or static@2.5")
        if not cuts and seconds != 0:
            raise UserError(f"--cut {text}: the first camera begins at 0")
        if cuts and seconds <= cuts[-1].seconds:
            raise UserError(f"--cut {text}: begins no later than {cuts[-1].camera} before it")
        cuts.append(Cut(camera=camera, seconds=seconds))
    return cuts


def cut_between(paths: Sequence[CameraPath], cuts: Sequence[Cut], fps: float) -> CameraPath:
    """One path of each camera's frames from its cut to the next, to the nearest frame.

    Args:
        paths: of the cuts' cameras, all of one length and picture.
        fps: of the clip.

    Raises:
        UserError: a cut after the last frame, or two within one.
    """
    frames = len(paths[0])
    starts = [round(each.seconds * fps) for each in cuts]
    for cut, start, after in zip(cuts, starts, [*starts[1:], frames], strict=True):
        if start >= min(after, frames):
            raise UserError(f"--cut {cut.camera}@{cut.seconds:g}: shows no frame; the clip is {frames / fps:.2f} s long")
    parts = [path[slice(*span)] for path, span in zip(paths, zip(starts, [*starts[1:], frames], strict=True), strict=True)]
    return replace(
        paths[0],
        world_from_camera=torch.cat([each.world_from_camera for each in parts]),
        intrinsics=torch.cat([each.intrinsics for each in parts]),
    )
