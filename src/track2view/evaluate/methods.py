"""What is evaluated: ways to make a case's clip, ours, controls, models, and folders of anybody's videos, all alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.evaluate.benchmark import Case
from track2view.evaluate.procedural import PairTruth, copy_of_source, exact_warp
from track2view.generation import rendered, resampled
from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
from track2view.model.sampling import Guidance
from track2view.pipeline import prepare, refilm
from track2view.records import CameraPath, Clip
from track2view.scenes import make_rig, track_points
from track2view.scenes.rig import FPS
from track2view.video import read_clip
from track2view.warp import exact_renderer

Frames = UInt8[Tensor, "T 3 H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A method's clip.

    Attributes:
        frames: of the case's size and length.
        note: what had to be done to make it so; empty if nothing.
    """

    frames: Frames
    note: str = ""


Method = Callable[[Case, PairTruth], Made]
"""What it cannot make it says by :class:`UserError`, in one line."""


def shown_truly(case: Case, truth: PairTruth) -> Made:
    """The exact view: what is measured of it is the floor of each measure."""
    return Made(frames=truth.target.colour)


def copied(case: Case, truth: PairTruth) -> Made:
    """The source as it is: the control that ignores the camera."""
    return Made(frames=copy_of_source(truth))


def warped_exactly(case: Case, truth: PairTruth) -> Made:
    """The weight-free renderer with exact depth."""
    return Made(frames=exact_warp(truth))


def warped_as_tracked(case: Case, truth: PairTruth) -> Made:
    """The weight-free renderer with depth by our tracker; the source camera is given, so that both paths are in one world."""
    shot = prepare(_source(truth), source_camera=truth.source_camera, use_cache=False)
    return Made(frames=torch.stack([frame.colour for frame in refilm(shot, truth.target_camera)]))


def warped_elsewhere(case: Case, truth: PairTruth) -> Made:
    """The weight-free renderer with exact depth along another camera of the rig: the control that follows the wrong one."""
    renderer = exact_renderer(truth.world, truth.source_camera, truth.source)
    return Made(frames=rendered(renderer, _elsewhere(case, truth)).colour)


METHODS: Mapping[str, Method] = {
    "truth": shown_truly,
    "copy": copied,
    "shuffled-camera": warped_elsewhere,
    "warp-tracked": warped_as_tracked,
    "warp-exact": warped_exactly,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ByModel:
    """A model, given the world's caption, exact tracks, exact depth where it reads a rendered view, and both cameras.

    Attributes:
        misled: asked for another camera of the rig: the control that tells whether it follows any.
        seed: of its noise.
    """

    pipe: Track2ViewPipeline
    misled: bool = False
    seed: int = 0

    def __call__(self, case: Case, truth: PairTruth) -> Made:
        """The clip, in as many steps and as strongly guided as the adapter asks for."""
        record, group, camera = self.pipe.record, self.pipe.strides.frames, truth.source_camera
        settings = DiffusionSettings(
            prompt=truth.world.caption,
            steps=record.steps,
            solver="euler",
            guidance=Guidance(scale=record.guidance),
            window=record.frames,
            overlap=1 + group * ((record.frames - 1) // group // 2),
            seed=self.seed,
        )
        queries = self.pipe.queries(len(camera), settings)
        tracks = track_points(truth.world, camera, queries.frame, queries.pixels(camera.size))
        target = _elsewhere(case, truth) if self.misled else truth.target_camera
        guide = None
        if self.pipe.model.conditioner.reads_rendered:
            guide = rendered(exact_renderer(truth.world, camera, truth.source), target)
        return Made(frames=self.pipe(_source(truth), tracks, camera, target, settings, rendered=guide).frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class Videos:
    """Clips that anybody made: ``<case>.mp4`` in a folder."""

    folder: Path

    def __call__(self, case: Case, truth: PairTruth) -> Made:
        """The video, brought to the case's size and rate where it has others, which is told."""
        path, wanted = self.folder / f"{case.name}.mp4", truth.target_camera
        if not path.exists():
            raise UserError(f"{path.name}: no such video in {self.folder}")
        clip = read_clip(path)
        notes, own, rate = [], clip.frames, Fraction(FPS)
        if clip.fps != rate:
            times = [min(round(frame / rate * clip.fps), len(clip) - 1) for frame in range(len(wanted))]
            if len(clip) / clip.fps < (len(wanted) - Fraction(1, 2)) / rate:
                raise UserError(f"{path.name}: {len(clip)} frames at {float(clip.fps):g} a second; {len(wanted)} at {FPS:g} are needed")
            own = own[times]
            notes.append(f"{float(clip.fps):g} frames a second, read at {FPS:g}")
        if len(own) != len(wanted):
            raise UserError(f"{path.name}: {len(own)} frames; {len(wanted)} are needed")
        if clip.size != wanted.size:
            notes.append(f"{clip.size[0]}×{clip.size[1]}, resized to {wanted.size[0]}×{wanted.size[1]}")
        return Made(frames=resampled(own, wanted.size), note="; ".join(notes))


def _source(truth: PairTruth) -> Clip:
    return Clip(frames=truth.source.colour, fps=Fraction(FPS))


def _elsewhere(case: Case, truth: PairTruth) -> CameraPath:
    """The path of the rig's next camera, neither the source's nor the one that is asked for."""
    rig = make_rig(case.pair.seed, frames=len(truth.target_camera), size=truth.target_camera.size)
    names = list(rig)
    following = names[names.index(case.pair.target) + 1 :] + names
    return rig[next(name for name in following if name not in (case.pair.source, case.pair.target))]
