"""Shots that change by a cut, a fade or a wipe are told with their times; a flash is none of these."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TrueShot
from torch import Tensor

from track2view.errors import UserError
from track2view.metrics import path_errors
from track2view.records import Clip, Queries
from track2view.scenes import make_camera, make_world, render_clip
from track2view.trackers import SfmTracker
from track2view.trackers.flashes import flashes
from track2view.trackers.flow import neighbour_flow
from track2view.trackers.shots import ShotChange, shot_changes
from track2view.video import read_clip

BEGINS, LENGTH = 14, 9


def changes(frames: Tensor) -> list[ShotChange]:
    return shot_changes(neighbour_flow(Clip(frames=frames, fps=Fraction(30))))


def share_of_second(frames: int) -> Tensor:
    """0 before ``BEGINS``, 1 from ``BEGINS + LENGTH`` on."""
    return ((torch.arange(frames) - BEGINS + 1) / (LENGTH + 1)).clamp(0, 1)


def faded(first: Tensor, second: Tensor) -> Tensor:
    share = share_of_second(len(first))[:, None, None, None]
    return ((1 - share) * first + share * second).round().to(torch.uint8)


def wiped(first: Tensor, second: Tensor) -> Tensor:
    width = first.shape[-1]
    new = torch.arange(width) < share_of_second(len(first))[:, None] * width
    return torch.where(new[:, None, None], second, first)


@pytest.mark.parametrize(("kind", "mixed"), [("fade", faded), ("wipe", wiped)])
def test_a_gradual_change_is_found_with_its_time(kind: str, mixed: object, arc: TrueShot, lively: TrueShot) -> None:
    frames = mixed(arc.clip.frames, lively.clip.frames)  # type: ignore[operator]
    (change,) = changes(frames)
    assert change.kind == kind
    assert change.begins == pytest.approx(BEGINS, abs=1)
    assert change.ends == pytest.approx(BEGINS + LENGTH, abs=1)
    with pytest.raises(UserError, match=r"another from 0\.4\d to 0\.7\d s \(frames .*use --end 0\.4\d or --start 0\.7\d, counted"):
        SfmTracker().track(Clip(frames=frames, fps=Fraction(30)), Queries.grid([0], 4, 4))


def test_a_fade_from_black_is_found(arc: TrueShot) -> None:
    (change,) = changes(faded(torch.zeros_like(arc.clip.frames), arc.clip.frames))
    assert (change.kind, change.begins) == ("fade", pytest.approx(BEGINS, abs=1))


def test_a_cut_is_a_cut(arc: TrueShot, lively: TrueShot) -> None:
    found = changes(torch.cat([arc.clip.frames[:17], lively.clip.frames[:17]]))
    assert found == [ShotChange(kind="cut", begins=17, ends=17)]


def lit_up(frames: Tensor, at: range) -> Tensor:
    lit = frames.clone()
    lit[at.start : at.stop] = (lit[at.start : at.stop].float() * 0.2 + 210).clamp(max=255).to(torch.uint8)
    return lit


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_flash_is_no_change_and_the_camera_is_found_across_it(length: int, arc: TrueShot) -> None:
    at = range(18, 18 + length)
    frames = lit_up(arc.clip.frames, at)
    assert changes(frames) == []
    tracking = SfmTracker().track(Clip(frames=frames, fps=Fraction(30)), Queries.grid([0, 39], 10, 16))
    errors = path_errors(tracking.camera, arc.camera)
    assert errors.ate_percent < 0.5
    assert errors.rotation_mean < 0.3
    assert tracking.tracks.visible.float().mean() > 0.6


def test_a_flash_is_found_where_it_is(arc: TrueShot) -> None:
    grey = neighbour_flow(arc.clip).grey
    assert flashes(grey) == []
    grey[10:12] = 250
    assert flashes(grey) == [(9, 12)]


def test_a_large_thing_that_passes_is_no_wipe() -> None:
    world, camera = make_world(8, frames=60, dynamic=True), make_camera("handheld", 8, frames=60, size=(192, 336))
    assert changes(render_clip(world, camera)[0].frames) == []


def test_flow_goes_on_as_if_there_had_been_no_flash(arc: TrueShot) -> None:
    lit = neighbour_flow(Clip(frames=lit_up(arc.clip.frames[10:20], range(4, 6)), fps=Fraction(30)))
    plain = neighbour_flow(Clip(frames=arc.clip.frames[10:20], fps=Fraction(30)))
    assert np.abs(lit.grey[4:6].astype(int) - plain.grey[4:6]).mean() < 8
    assert lit.forward[3:6, ..., 2].mean() > 0.7


def test_one_shot_is_one_shot(arc: TrueShot, lively: TrueShot) -> None:
    for shot in (arc, lively):
        assert changes(shot.clip.frames) == []
        assert changes(shot.clip.frames.flip(0)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bear", "cat", "diner", "gallery", "pavement", "pstudio", "reader", "taxi"])
def test_all_real_shots_are_one_shot_at_length(shared: Path, name: str) -> None:
    clip = read_clip(shared / f"{name}.mp4", short_side=192, frames=90)
    assert changes(replace(clip, audio=None).frames) == []


@pytest.mark.parametrize("name", ["cat", "diner", "gallery", "pavement"])
def test_real_shots_are_one_shot(shared: Path, name: str) -> None:
    clip = read_clip(shared / f"{name}.mp4", short_side=144, frames=60)
    assert changes(replace(clip, audio=None).frames) == []
