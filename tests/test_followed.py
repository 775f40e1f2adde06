"""Points followed in a clip against exact tracks: what is injected is found."""

import math

import pytest
import torch
from torch import Tensor

from track2view.evaluate.benchmark import Given
from track2view.evaluate.followed import follow_errors
from track2view.evaluate.procedural import PairTruth
from track2view.evaluate.worlds import Worlds
from track2view.scenes import render_views

BENCHMARK = Worlds(static=1, dynamic=2, frames=9)
ONE_PIXEL = 4.0
"""Of the 64 rows of these clips, at the size in whose pixels points are followed."""


@pytest.fixture(scope="module", params=range(3))
def given(request: pytest.FixtureRequest) -> Given[PairTruth]:
    return BENCHMARK.given(BENCHMARK.cases[request.param])


def errors(given: Given[PairTruth], made: Tensor) -> dict[str, float]:
    return follow_errors(given.known.world, made, given.known.target_camera)


def test_the_exact_view_keeps_its_tracks(given: Given[PairTruth]) -> None:
    found = errors(given, given.known.target.colour)
    assert found["tracks_kept"] > 70
    assert found["track_error"] < 2
    assert math.isnan(found["moving_tracks_kept"]) is not given.known.pair.dynamic


def test_what_is_shifted_is_found_as_far_away_as_it_is(given: Given[PairTruth]) -> None:
    exact = given.known.target.colour
    own = errors(given, exact)
    for pixels in (1, 2):
        shifted = exact.clone()
        shifted[1:, :, :, pixels:] = exact[1:, :, :, :-pixels]
        found = errors(given, shifted)
        assert found["track_error"] == pytest.approx(pixels * ONE_PIXEL, abs=own["track_error"])
        assert found["tracks_kept"] < own["tracks_kept"] - 15


def test_another_camera_and_noise_keep_few(given: Given[PairTruth]) -> None:
    own = errors(given, given.known.target.colour)
    noise = torch.randint(0, 256, given.source.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for made in (given.source, noise):
        assert errors(given, made)["tracks_kept"] < own["tracks_kept"] - 20


def test_what_stands_though_it_moves_is_told_by_what_moves() -> None:
    given = BENCHMARK.given(BENCHMARK.cases[1])
    truth, count = given.known, len(given.source)
    own = errors(given, truth.target.colour)
    frozen = render_views(truth.world, truth.target_camera, [0] * count, camera_frames=list(range(count))).colour
    found = errors(given, frozen)
    assert found["moving_tracks_kept"] < own["moving_tracks_kept"] - 15
    assert own["tracks_kept"] - found["tracks_kept"] < 0.5 * (own["moving_tracks_kept"] - found["moving_tracks_kept"])


def test_a_single_frame_has_no_tracks(given: Given[PairTruth]) -> None:
    camera = given.known.target_camera
    found = follow_errors(
        given.known.world,
        given.source[:1],
        type(camera)(world_from_camera=camera.world_from_camera[:1], intrinsics=camera.intrinsics[:1], size=camera.size),
    )
    assert all(math.isnan(each) for each in found.values())
