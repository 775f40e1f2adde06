"""The mini that comes with the package: it re-films worlds that it has never seen, by their tracks."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from track2view.evaluate import Pair, PairTruth, copy_of_source, true_pair
from track2view.metrics import psnr
from track2view.model.checkpoint import MINI
from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
from track2view.model.sampling import Guidance
from track2view.records import Clip
from track2view.scenes import split_seed, track_points
from track2view.scenes.rig import FPS

SETTINGS = DiffusionSettings(steps=12, solver="euler", guidance=Guidance(scale=1.0), window=17, overlap=9)


def unseen(index: int) -> PairTruth:
    pair = Pair(seed=split_seed("test", index), source="cam02", target="cam07")
    return true_pair(pair, frames=17, size=(64, 112))


def refilmed(pipe: Track2ViewPipeline, truth: PairTruth, led_by: PairTruth) -> float:
    """Likeness to the truth, in dB, led by the tracks and cameras of a pair."""
    queries, camera = pipe.queries(17, SETTINGS), led_by.source_camera
    tracks = track_points(led_by.world, camera, queries.frame, queries.pixels(camera.size))
    source = Clip(frames=truth.source.colour, fps=Fraction(FPS))
    made = pipe(source, tracks, camera, led_by.target_camera, replace(SETTINGS, prompt=truth.world.caption))
    return psnr(made.frames, truth.target.colour)


def test_it_follows_its_tracks_in_a_world_it_has_never_seen(tmp_path: Path) -> None:
    pipe = Track2ViewPipeline.from_pretrained(MINI / "base", MINI / "adapter", prompt_folder=tmp_path)
    truth, other = unseen(1000), unseen(1001)
    led, misled = refilmed(pipe, truth, truth), refilmed(pipe, truth, other)
    copied = psnr(copy_of_source(truth), truth.target.colour)
    assert led > misled + 1
    assert led > copied + 1
