"""A method that is a folder of anybody's videos, one for each case."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from track2view.errors import UserError
from track2view.evaluate.benchmark import Case, Given, Made
from track2view.generation import resampled
from track2view.video import read_clip


@dataclass(frozen=True, kw_only=True, slots=True)
class Videos:
    """Clips that anybody made: ``<case>.mp4`` in a folder."""

    folder: Path

    def __call__(self, case: Case, given: Given) -> Made:
        """The video, brought to the case's size and rate where it has others, which is told."""
        path = self.folder / f"{case.name}.mp4"
        wanted, size = len(given.source), (given.source.shape[2], given.source.shape[3])
        if not path.exists():
            raise UserError(f"{path.name}: no such video in {self.folder}")
        clip = read_clip(path)
        notes, own, rate = [], clip.frames, float(given.fps)
        if clip.fps != given.fps:
            times = [min(round(frame / given.fps * clip.fps), len(clip) - 1) for frame in range(wanted)]
            if len(clip) / clip.fps < (wanted - Fraction(1, 2)) / given.fps:
                raise UserError(f"{path.name}: {len(clip)} frames at {float(clip.fps):g} a second; {wanted} at {rate:g} are needed")
            own = own[times]
            notes.append(f"{float(clip.fps):g} frames a second, read at {rate:g}")
        if len(own) != wanted:
            raise UserError(f"{path.name}: {len(own)} frames; {wanted} are needed")
        if clip.size != size:
            notes.append(f"{clip.size[0]}×{clip.size[1]}, resized to {size[0]}×{size[1]}")
        return Made(frames=resampled(own, size), note="; ".join(notes))
