"""The mini that comes with the package: it re-films worlds that it has never seen, by their tracks."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from jaxtyping import UInt8
from torch import Tensor

from track2view.errors import Notice
from track2view.evaluate import Pair, PairTruth, copy_of_source, true_pair
from track2view.generation import Generator, resampled
from track2view.metrics import psnr
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.sampling import Guidance
from track2view.model.settings import DiffusionSettings
from track2view.pipeline import prepare
from track2view.records import Clip
from track2view.scenes import split_seed, track_points
from track2view.scenes.rig import FPS

SETTINGS = DiffusionSettings(steps=4, solver="euler", guidance=Guidance(scale=1.0), window=17, overlap=9)


def unseen(index: int) -> PairTruth:
    pair = Pair(seed=split_seed("test", index), source="cam02", target="cam07")
    return true_pair(pair, frames=17, size=(64, 112))


def sampled(pipe: Track2ViewPipeline, truth: PairTruth, led_by: PairTruth) -> UInt8[Tensor, "T 3 H W"]:
    """A pair's source, led by the tracks and cameras of the same or of another."""
    queries, camera = pipe.queries(17, SETTINGS), led_by.source_camera
    tracks = track_points(led_by.world, camera, queries.frame, queries.pixels(camera.size))
    source = Clip(frames=truth.source.colour, fps=Fraction(FPS))
    return pipe(source, tracks, camera, led_by.target_camera, replace(SETTINGS, prompt=truth.world.caption)).frames


def test_it_follows_its_tracks_in_a_world_it_has_never_seen(tmp_path: Path) -> None:
    pipe = Track2ViewPipeline.from_pretrained(MINI / "base", MINI / "adapter", prompt_folder=tmp_path)
    truth, other = unseen(1000), unseen(1001)
    led, misled = (psnr(sampled(pipe, truth, led_by), truth.target.colour) for led_by in (truth, other))
    copied = psnr(copy_of_source(truth), truth.target.colour)
    assert led > misled + 1
    assert led > copied + 1


def test_larger_clips_are_made_at_the_size_it_was_trained_on_and_enlarged(tmp_path: Path) -> None:
    pipe = Track2ViewPipeline.from_pretrained(MINI / "base", MINI / "adapter", prompt_folder=tmp_path)
    small, large = unseen(1000), true_pair(unseen(1000).pair, frames=17, size=(128, 224))
    generator = Generator(model=pipe, settings=replace(SETTINGS, prompt=large.world.caption))
    source = Clip(frames=large.source.colour, fps=Fraction(FPS))
    queries = generator.queries(source)
    tracks = track_points(large.world, large.source_camera, queries.frame, queries.pixels(source.size))
    shot = prepare(source, source_camera=large.source_camera, tracks=tracks, use_cache=False)
    with pytest.warns(Notice, match="made at 64×112"):
        made = generator.refilm(shot, large.target_camera, tmp_path / "out")
    assert made.size == source.size
    assert psnr(resampled(made.frames, (64, 112)), sampled(pipe, small, small)) > 24
