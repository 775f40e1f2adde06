"""How sure depth is: what is told twice is believed, what sways is not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from track2view.trackers.bundle import BundleState, Observations, residuals
from track2view.trackers.certainty import Halves, looseness, rim_of

FRAMES, FOCAL = 24, 500.0


def a_view(
    random: np.random.Generator, *, travel: float, relief: float, sway: float, noise: float = 0.1
) -> tuple[BundleState, Observations]:
    """A camera that goes sideways before a wall with hills; every point of it drifts in the picture, with its neighbours, as it will."""
    u, v = np.meshgrid(np.linspace(-300, 300, 24), np.linspace(-160, 160, 14))
    at = np.stack([u.ravel(), v.ravel()], axis=1)
    state = BundleState(
        rotation=np.repeat(np.eye(3)[None], FRAMES, 0),
        centre=np.linspace(0, travel, FRAMES)[:, None] * np.array([1.0, 0.2, 0.0]),
        inverse_depth=1 + relief * np.sin(at[:, 0] / 90) * np.cos(at[:, 1] / 90),
        focal=FOCAL,
    )
    points = np.repeat(at[None].astype(np.float32), FRAMES, 0)
    seen = Observations.of(points, np.ones(points.shape[:2], bool), np.zeros(len(at), int))
    error, _ = residuals(state, seen)
    phase = random.uniform(0, 2 * np.pi) + at[:, 0] / 120
    drift = sway * np.sin(2 * np.pi * seen.frame / FRAMES + phase[seen.track])
    moved = drift[:, None] * np.array([1.0, 0.0]) + random.normal(0, noise, error.shape)
    return state, replace(seen, pixels=seen.pixels + error + moved)


def told(state: BundleState, seen: Observations) -> tuple[Halves, np.ndarray, np.ndarray]:
    """Both halves, their variance, and what is believed."""
    points = seen.anchor_pixels.astype(np.float32)
    halves = Halves.of(state, seen, np.ones(len(points)), 1.0)
    variance = halves.variance(points)
    return halves, variance, halves.believed(points, variance)[0]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), relief=st.floats(0.1, 0.4))
def test_relief_that_both_halves_tell_is_kept(seed: int, relief: float) -> None:
    state, seen = a_view(np.random.default_rng(seed), travel=0.2, relief=relief, sway=0.0)
    _, _, guess = told(state, seen)
    assert np.corrcoef(guess, state.inverse_depth)[0, 1] > 0.95
    assert 0.6 < np.ptp(guess) / np.ptp(state.inverse_depth) < 1.1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), sway=st.floats(0.5, 1.0))
def test_sway_is_not_taken_for_relief(seed: int, sway: float) -> None:
    state, seen = a_view(np.random.default_rng(seed), travel=0.004, relief=0.0, sway=sway)
    halves, variance, guess = told(state, seen)
    raw = np.clip(halves.inverse_depth[2], *np.percentile(halves.inverse_depth[2], [2, 98]))
    assert np.std(guess) < 0.25 * np.std(raw)
    assert np.median(np.sqrt(variance)) > sway


def test_steady_tracks_are_as_sure_as_the_least_deviation_allows() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.2, relief=0.2, sway=0.0, noise=0.02)
    _, variance, _ = told(state, seen)
    assert np.median(np.sqrt(variance)) < 0.5


def test_each_half_is_of_its_own_views() -> None:
    """What jumps in the middle of the clip is far for one half and near for the other."""
    state, seen = a_view(np.random.default_rng(0), travel=0.2, relief=0.0, sway=0.0, noise=0.0)
    late = seen.frame > FRAMES // 2
    halves, _, _ = told(state, replace(seen, pixels=seen.pixels - late[:, None] * np.array([20.0, 4.0])))
    first, second, _ = np.median(halves.inverse_depth, axis=1)
    assert first == pytest.approx(1.0, abs=0.02)
    assert second > 1.15


def test_a_camera_that_stands_tells_nothing() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.0, relief=0.3, sway=0.3)
    halves, variance, guess = told(state, seen)
    assert np.ptp(guess) < 1e-3
    assert halves.relief(guess, variance) < 1e-6


def test_a_blank_wall_holds_no_track_and_a_corner_does() -> None:
    picture = np.full((80, 80), 128, np.uint8)
    picture[:, 40:] += 2
    picture[40:60, 10:30] = np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8)
    blank, edge, textured = looseness(picture, np.array([[10, 10], [40, 20], [20, 50]], np.float32))
    assert textured < 2
    assert blank > 100
    assert edge > 100


def test_relief_is_what_is_told_beyond_the_guess() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.2, relief=0.3, sway=0.0)
    halves, variance, _ = told(state, seen)
    true = np.var(state.inverse_depth)
    assert halves.relief(np.ones(len(state.inverse_depth)), variance) == pytest.approx(true, rel=0.2)
    assert halves.relief(state.inverse_depth, variance) < 0.02 * true


def test_a_zoom_makes_all_less_sure() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.2, relief=0.2, sway=0.0)
    points, start = seen.anchor_pixels.astype(np.float32), np.ones(len(state.inverse_depth))
    steady, zooming = (
        Halves.of(state, seen, start, 1.0, rim=rim).variance(points) for rim in (0.0, rim_of(np.array([500.0, 800.0]), (360, 640)))
    )
    assert (zooming > 1.5 * steady).all()
    assert rim_of(np.array([500.0, 800.0]), (360, 640)) == pytest.approx(192)


def test_relief_that_moves_tracks_by_less_than_all_of_them_err_is_flat() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=4e-4, relief=0.3, sway=0.0, noise=0.002)
    _, _, guess = told(state, seen)
    assert np.std(guess) < 0.02 * np.std(state.inverse_depth)


def test_the_less_of_the_picture_holds_the_camera_the_less_is_believed() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.02, relief=0.3, sway=0.0)
    points, start = seen.anchor_pixels.astype(np.float32), np.ones(len(state.inverse_depth))
    spreads = []
    for held in (1.0, 0.25, 0.04):
        halves = Halves.of(state, seen, start, 1.0, held=held)
        spreads.append(float(np.std(halves.believed(points, halves.variance(points))[0])))
    assert spreads[0] == spreads[1]
    assert spreads[2] < 0.5 * spreads[0]


def test_what_is_far_from_the_middle_is_less_sure() -> None:
    state, seen = a_view(np.random.default_rng(0), travel=0.2, relief=0.3, sway=0.0)
    halves, variance, _ = told(state, seen)
    middle = np.ones(len(state.inverse_depth))
    nearer = np.where(np.arange(len(middle)) < 20, 1.5, 1.0)
    ratio = halves.shared_error(variance, nearer) / halves.shared_error(variance, middle)
    assert (ratio[:20] > 1.5).all()
    assert np.allclose(ratio[20:], 1.0)
