"""How long the lens is: what the clip tells, how surely, and what is believed where it tells little."""

import math
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from test_trackers import FREE, exact_problem

from track2view.metrics import path_errors
from track2view.records import Clip, Queries
from track2view.scenes import STYLES, film, make_camera, make_world, render_clip
from track2view.trackers import SfmTracker
from track2view.trackers.bundle import BundleState, FocalPull, Observations, focal_step, residuals, solve
from track2view.trackers.focal import FocalBelief, FocalEvidence

CAMERAS = range(1, 8)


def noisy_problem(seed: int, together: float = 0.0, turn: float = 1.0) -> tuple[BundleState, Observations]:
    """Observations with errors of half a pixel, of which a share is the same for all that start in one part of the picture."""
    truth, seen = exact_problem(points=240, seed=seed)
    random = np.random.default_rng(seed + 100)
    if turn != 1.0:
        still = replace(truth, rotation=truth.rotation[:1].repeat(8, 0), centre=truth.centre * turn)
        error, _ = residuals(still, seen)
        truth, seen = still, replace(seen, pixels=seen.pixels + error)
    own = random.normal(0, 0.5, seen.pixels.shape)
    part = (seen.anchor_pixels[seen.track, 0] > 0) * 2 + (seen.anchor_pixels[seen.track, 1] > 0)
    shared = random.normal(0, 0.5, (4, 8, 2))[part, seen.frame]
    error = math.sqrt(1 - together) * own + math.sqrt(together) * shared
    return truth, replace(seen, pixels=seen.pixels + error)


def solved(truth: BundleState, seen: Observations) -> tuple[BundleState, FocalEvidence]:
    state = solve(truth, seen, free=CAMERAS, focal=FREE, scale=5.0, iterations=60)
    return state, FocalEvidence.of(state, seen, CAMERAS, 5.0)


def test_a_step_leads_to_the_solution() -> None:
    truth, seen = noisy_problem(0)
    free, _ = solved(truth, seen)
    step, _ = focal_step(free, seen, CAMERAS, 5.0)
    assert abs(step) < 1e-3
    held = FocalPull(log_focal=math.log(free.focal) + 0.01, weight=1e9)
    moved = solve(free, seen, free=CAMERAS, focal=held, scale=5.0, iterations=60)
    step, _ = focal_step(moved, seen, CAMERAS, 5.0)
    assert step == pytest.approx(-0.01, rel=0.15)


def test_a_pull_on_the_focal_length_is_weighed_with_what_views_tell() -> None:
    truth, seen = noisy_problem(1)
    free, _ = solved(truth, seen)
    information = 1 / focal_step(free, seen, CAMERAS, 5.0)[1]
    elsewhere = math.log(free.focal) + 0.02
    for weight, share in ((0.0, 0.0), (information, 0.5), (1e4 * information, 1.0)):
        pull = FocalPull(log_focal=elsewhere, weight=weight)
        found = solve(free, seen, free=CAMERAS, focal=pull, scale=5.0, iterations=60)
        assert math.log(found.focal / free.focal) == pytest.approx(0.02 * share, abs=1.5e-3)


def test_errors_are_what_is_said_of_them() -> None:
    errors = []
    for seed in range(20):
        state, evidence = solved(*noisy_problem(seed))
        errors.append(math.log(state.focal / 500) / evidence.deviation)
    assert np.mean(np.abs(errors) <= 2) >= 0.9
    assert np.sqrt(np.mean(np.square(errors))) > 0.15


def test_what_errs_together_is_no_independent_witness() -> None:
    alone, together = (np.median([solved(*noisy_problem(seed, together=share))[1].deviation for seed in range(8)]) for share in (0.0, 1.0))
    assert together > 1.5 * alone


def test_where_the_camera_stands_the_belief_stays() -> None:
    belief = FocalBelief(focal=430.0, deviation=0.42)
    truth, seen = noisy_problem(3, turn=1e-3)
    evidence = FocalEvidence.of(truth, seen, CAMERAS, 5.0)
    found = solve(truth, seen, free=CAMERAS, focal=belief.pull(evidence.noise), scale=5.0, iterations=60)
    evidence = FocalEvidence.of(found, seen, CAMERAS, 5.0)
    assert not evidence.decides(belief)
    assert evidence.left_open(belief) > 0.3
    assert abs(math.log(found.focal / belief.focal)) < 0.3
    _, moving = solved(*noisy_problem(3))
    assert moving.decides(belief)
    assert moving.left_open(belief) < 0.1


def test_a_picture_that_stands_still_tells_nothing_of_the_lens() -> None:
    """Residuals vanish there whatever the lens is."""
    truth, seen = exact_problem(points=240, seed=3)
    still = replace(truth, rotation=truth.rotation[:1].repeat(8, 0), centre=np.zeros_like(truth.centre))
    error, _ = residuals(still, seen)
    evidence = FocalEvidence.of(still, replace(seen, pixels=seen.pixels + error), CAMERAS, 5.0)
    belief = FocalBelief(focal=430.0, deviation=0.42)
    assert not evidence.decides(belief)
    assert evidence.left_open(belief) > 0.4


def test_lenses_that_people_have_are_believed_in() -> None:
    belief = FocalBelief.of_lenses(480)
    widths = [math.degrees(2 * math.atan(240 / (belief.focal * math.exp(each * belief.deviation)))) for each in (-2, 0, 2)]
    assert widths == pytest.approx([98, 53, 25], abs=2)


def test_a_lens_that_the_clip_hardly_tells_is_one_that_people_have(monkeypatch: pytest.MonkeyPatch) -> None:
    belief = FocalBelief.of_lenses(480)
    widths = [math.degrees(2 * math.atan(240 / belief.within(focal))) for focal in (10.0, 400.0, 1e5)]
    assert 20 <= widths[2] < widths[1] < widths[0] <= 110
    assert belief.within(400.0) == 400.0
    world, camera = make_world(2, frames=10, dynamic=False), make_camera("pan", 2, frames=60, size=(90, 160))[:10]
    clip, _, _ = render_clip(world, camera, Fraction(15))
    usual = SfmTracker().track(clip, Queries.grid([0], 6, 10))
    monkeypatch.setattr(FocalEvidence, "decides", lambda self, belief: False)
    assert torch.equal(SfmTracker().track(clip, Queries.grid([0], 6, 10)).camera.intrinsics, usual.camera.intrinsics)
    assert float(usual.camera.intrinsics[0, 0, 0]) != pytest.approx(160, rel=0.01)
    monkeypatch.setattr("track2view.trackers.focal.FARTHEST", 0.0)
    held = SfmTracker().track(clip, Queries.grid([0], 6, 10))
    assert float(held.camera.intrinsics[0, 0, 0]) == pytest.approx(160, rel=1e-6)
    turns = [each.camera.world_from_camera[-1, 0, 2] * each.camera.intrinsics[0, 0, 0] for each in (usual, held)]
    assert float(turns[1]) == pytest.approx(float(turns[0]), rel=0.03), "poses are found anew for the lens that is held"


def test_a_zoom_is_not_taken_for_an_approach() -> None:
    take = film(STYLES["zooming"], 1, frames=40, size=(180, 320))
    tracking = SfmTracker().track(take.clip, Queries.grid([0], 8, 14))
    zoom, true = (camera.intrinsics[:, 0, 0] / camera.intrinsics[0, 0, 0] for camera in (tracking.camera, take.camera))
    assert float((zoom / true).log().abs().max()) < 0.02
    travel = tracking.camera.world_from_camera[:, :3, 3].norm(dim=-1)
    assert float(travel.max()) < 0.05


@pytest.mark.slow
def test_an_approach_is_not_taken_for_a_zoom() -> None:
    world, camera = make_world(3, frames=40, dynamic=False), make_camera("dolly", 3, frames=40, size=(180, 320))
    tracking = SfmTracker().track(render_clip(world, camera)[0], Queries.grid([0], 8, 14))
    focal = tracking.camera.intrinsics[:, 0, 0]
    assert torch.equal(focal, focal[:1].expand(40))
    assert path_errors(tracking.camera, camera).ate_percent < 1.0


@pytest.mark.slow
def test_a_flat_picture_that_grows_may_be_either_and_a_warning_says_so() -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (480, 640, 3)).astype(np.float32)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)  # pyrefly: ignore
    frames = []
    for share in np.linspace(0, 1, 40):
        matrix = cv2.getRotationMatrix2D((320.0, 240.0), 0.0, float(1.5**share)) - [[0, 0, 160], [0, 0, 150]]
        frames.append(cv2.warpAffine(picture, matrix, (320, 180), flags=cv2.INTER_AREA))
    clip = Clip(frames=torch.from_numpy(np.stack(frames).astype(np.uint8)).permute(0, 3, 1, 2), fps=Fraction(30))
    tracking = SfmTracker().track(clip, Queries.grid([0], 8, 14))
    assert float(tracking.camera.intrinsics[-1, 0, 0] / tracking.camera.intrinsics[0, 0, 0]) == pytest.approx(1.5, rel=0.02)
    assert any("1.50 times" in each and "taken as a zoom of the lens" in each for each in tracking.report.warnings)
