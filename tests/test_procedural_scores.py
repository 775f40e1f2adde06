import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests_support import ray_blocked

from track2view.errors import UserError
from track2view.evaluate import (
    Pair,
    PairScore,
    PairTruth,
    compare_many,
    copy_of_source,
    exact_warp,
    score_clip,
    score_many,
    true_pair,
)
from track2view.geometry import inside, pixel_centres, project, unproject
from track2view.scenes import split_seed

SIZE = (48, 84)
FRAMES = 5


@pytest.fixture(scope="module")
def truth() -> PairTruth:
    """A pair of which a quarter of the last target frame is disoccluded."""
    return true_pair(Pair(seed=split_seed("validation", 107), source="cam01", target="cam05"), frames=FRAMES, size=SIZE)


@pytest.fixture(scope="module")
def scores(truth: PairTruth) -> dict[str, PairScore]:
    clips = {"truth": truth.target.colour, "warp": exact_warp(truth), "copy": copy_of_source(truth)}
    return {name: score_clip(truth, clip) for name, clip in clips.items()}


def test_what_is_seen_agrees_with_an_independent_ray_march(truth: PairTruth) -> None:
    frame = FRAMES - 1
    chosen = torch.randperm(SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(0))[:120]
    pixels = pixel_centres(*SIZE).double().reshape(-1, 2)[chosen]
    depth = truth.target.depth[frame].double().reshape(-1)[chosen]
    target, source = truth.target_camera, truth.source_camera
    points = unproject(pixels, depth, target.world_from_camera[frame], target.intrinsics[frame])
    uv, z = project(points, source.camera_from_world[frame], source.intrinsics[frame])
    blocked = ray_blocked(truth.world, source.world_from_camera[frame, :3, 3], points, frame)
    expected = (z > 0) & inside(uv, SIZE) & ~blocked
    seen = truth.seen[frame].reshape(-1)[chosen]
    assert 0.1 < float(expected.float().mean()) < 0.95
    assert bool((blocked & inside(uv, SIZE)).any())
    assert float((seen == expected).float().mean()) > 0.97


def test_regions_are_what_they_are_called(truth: PairTruth) -> None:
    """Spoil only what the source does not show: seen pixels stay perfect; the picture as a whole lies between."""
    spoiled = torch.where(truth.seen[:, None], truth.target.colour, 255 - truth.target.colour)
    score = score_clip(truth, spoiled)
    assert score.seen.psnr == math.inf
    assert score.disoccluded.psnr < score.everywhere.psnr < 30
    assert score.disoccluded.ssim < score.everywhere.ssim < score.seen.ssim
    assert score.seen.share + score.disoccluded.share == pytest.approx(1)
    whole = score.seen.share * score.seen.ssim + score.disoccluded.share * score.disoccluded.ssim
    assert score.everywhere.ssim == pytest.approx(whole, abs=1e-6)


def test_controls_stand_in_their_order(scores: dict[str, PairScore]) -> None:
    true, warp, copy = scores["truth"], scores["warp"], scores["copy"]
    assert true.everywhere.psnr == math.inf
    assert true.everywhere.ssim == pytest.approx(1)
    assert warp.seen.psnr > copy.seen.psnr + 6
    assert warp.seen.ssim > copy.seen.ssim + 0.2
    assert warp.seen.psnr > warp.disoccluded.psnr
    assert true.camera.rotation < 0.02
    assert warp.camera.converged == copy.camera.converged == 1
    assert warp.camera.rotation < 0.1 * copy.camera.rotation
    assert warp.camera.translation < 0.1 * copy.camera.translation


def test_a_copy_is_where_the_source_is(truth: PairTruth, scores: dict[str, PairScore]) -> None:
    between = truth.target_camera.world_from_camera[4, :3, 3] - truth.source_camera.world_from_camera[4, :3, 3]
    assert scores["copy"].camera.translation == pytest.approx(float(between.norm()), rel=0.02)


def test_means_and_paired_intervals(scores: dict[str, PairScore]) -> None:
    random = np.random.default_rng(0)
    base = scores["copy"]

    def shifted(index: int, by: float) -> PairScore:
        pair = replace(base.pair, seed=index)
        return replace(base, pair=pair, seen=replace(base.seen, psnr=10 + 8 * math.sin(index) + by))

    plain = [shifted(index, 0.0) for index in range(30)]
    better = [shifted(index, 1.0 + 0.2 * random.normal()) for index in range(30)]
    mean, paired = score_many(plain)["psnr_seen"], compare_many(better, plain)["psnr_seen"]
    assert mean.mean == pytest.approx(np.mean([10 + 8 * math.sin(index) for index in range(30)]))
    assert mean.low < mean.mean < mean.high
    assert paired.mean == pytest.approx(1, abs=0.15)
    assert 0.7 < paired.low < paired.mean < paired.high < 1.3
    assert mean.high - mean.low > 10 * (paired.high - paired.low)
    assert mean.pairs == 30
    lost = [replace(each, camera=replace(each.camera, converged=0.0, rotation=math.nan)) for each in plain[:10]]
    assert score_many([*lost, *plain[10:]])["rotation"].pairs == 20
    assert score_many([*lost, *plain[10:]])["converged"].mean == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="the same pairs"):
        compare_many(plain, plain[::-1])


def test_what_does_not_fit_is_refused(truth: PairTruth) -> None:
    with pytest.raises(UserError, match=r"the clip is \[4, 3, 48, 84\]"):
        score_clip(truth, truth.target.colour[:4])
    with pytest.raises(UserError, match="no camera 'cam11' in the rig"):
        true_pair(replace(truth.pair, target="cam11"), frames=2, size=SIZE)
