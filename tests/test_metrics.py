import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from track2view.geometry import rigid, rotation_about
from track2view.metrics import edges_kept, flicker, path_errors, psnr, ssim, track_scores
from track2view.metrics.paths import path_length, pose_errors
from track2view.records import CameraPath, TrackSet

CORNER = [[0.0, 0, 0], [3.0, 0, 0], [3.0, 0, 4.0]]


def path(frames: int = 12) -> CameraPath:
    time = torch.linspace(0, 1, frames, dtype=torch.float64)
    poses = rigid(rotation_about("y", 20 * time), torch.stack([time, time**2, 3 * time], dim=-1))
    intrinsics = torch.tensor([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    return CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=(480, 640))


def test_psnr_and_ssim_equal_scikit_images_own_on_whole_images() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + random.integers(-20, 20, a.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(each).permute(2, 0, 1) for each in (a, b))
    assert psnr(x, y) == pytest.approx(peak_signal_noise_ratio(a, b))
    whole = structural_similarity(a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    assert ssim(x, y) == pytest.approx(whole, abs=0.02)
    mask = torch.zeros(40, 50, dtype=torch.bool)
    mask[:20] = True
    spoiled = y.clone()
    spoiled[:, 30:] = 0
    assert psnr(x, spoiled, mask) == psnr(x, y, mask)
    assert psnr(x, x) == math.inf
    assert math.isnan(psnr(x, y, torch.zeros_like(mask)))


def square(*sides: tuple[int, int]) -> torch.Tensor:
    """Bright squares, by their left and right columns, rows 16 to 48."""
    picture = torch.full((3, 64, 96), 40, dtype=torch.uint8)
    for left, right in sides:
        picture[:, 16:48, left:right] = 220
    return picture


def test_edges_that_are_torn_or_doubled_are_told_apart() -> None:
    whole = square((20, 60))
    assert edges_kept(whole, whole) == (1.0, 1.0)
    assert edges_kept(square((21, 61)), whole) == (1.0, 1.0)
    torn = whole.clone()
    torn[:, 16:48, 40:60] = 40
    kept, true = edges_kept(torn, whole)
    assert 0.5 < kept < 0.8
    assert true < 0.85
    kept, true = edges_kept(square((20, 60), (70, 80)), whole)
    assert kept == 1.0
    assert 0.5 < true < 0.8
    left = torch.zeros(64, 96, dtype=torch.bool)
    left[:, :64] = True
    assert edges_kept(square((20, 60), (70, 80)), whole, left) == (1.0, 1.0)
    assert all(math.isnan(each) for each in edges_kept(square(), square()))


def test_flicker_is_the_change_that_the_truth_does_not_have() -> None:
    still = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    brighter = still + torch.tensor([0, 10, 20], dtype=torch.uint8)[:, None, None, None]
    assert flicker(brighter, brighter) == 0.0
    assert flicker(brighter - 7, brighter) == 0.0
    assert flicker(brighter, still) == pytest.approx(10.0)
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    assert math.isnan(flicker(brighter, still, mask))
    mask[:, :, :4] = True
    spoiled = still.clone()
    spoiled[1, :, :, 4:] = 0
    assert flicker(spoiled, still, mask) == 0.0


def test_path_errors_forgive_a_similarity_and_nothing_else() -> None:
    truth = path()
    moved = rigid(rotation_about("x", torch.tensor(40.0, dtype=torch.float64)), torch.tensor([1.0, 2, 3], dtype=torch.float64))
    same = replace(truth, world_from_camera=moved @ truth.world_from_camera).scaled(3.0, "scene")
    errors = path_errors(same, truth)
    assert errors.ate < 1e-9
    assert errors.rotation_max < 1e-6
    assert errors.rpe_translation < 1e-9
    bent = truth.world_from_camera.clone()
    bent[:, :3, :3] = bent[:, :3, :3] @ rotation_about("z", torch.linspace(0, 2, 12, dtype=torch.float64))
    assert path_errors(replace(truth, world_from_camera=bent), truth).rotation_max == pytest.approx(2.0, abs=0.05)
    shifted = truth.world_from_camera.clone()
    shifted[5, 0, 3] += 0.5
    assert 1 < path_errors(replace(truth, world_from_camera=shifted), truth).ate_percent < 10
    zoomed = replace(truth, intrinsics=truth.intrinsics * torch.tensor([[1.1], [1.1], [1.0]], dtype=torch.float64))
    assert path_errors(zoomed, truth).focal_percent == pytest.approx(10.0)


def test_pose_errors_align_nothing() -> None:
    truth = path(3)
    turn = rigid(rotation_about("x", torch.tensor(1e-6, dtype=torch.float64)), torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64))
    rotation, translation = pose_errors(truth.world_from_camera @ turn, truth.world_from_camera)
    assert rotation.tolist() == pytest.approx([1e-6] * 3, rel=1e-3)  # a float32 arc cosine would say 0
    assert translation.tolist() == pytest.approx([0.5] * 3)
    corner = replace(truth, world_from_camera=rigid(torch.eye(3, dtype=torch.float64).expand(3, 3, 3), torch.tensor(CORNER).double()))
    assert path_length(corner) == pytest.approx(7.0)


def test_track_scores_by_hand() -> None:
    still = replace(path(4), world_from_camera=torch.eye(4, dtype=torch.float64).repeat(4, 1, 1))
    depth = torch.tensor([2.0, 4.0])
    xyz = torch.stack([torch.zeros(2), torch.zeros(2), depth], dim=-1).expand(4, 2, 3).clone()
    truth = TrackSet(
        xyz_world=xyz,
        visible=torch.ones(4, 2, dtype=torch.bool),
        confidence=torch.ones(4, 2),
        query_frame=torch.zeros(2, dtype=torch.int64),
    )
    perfect = track_scores(truth, still, truth, still)
    assert (perfect.apd3d, perfect.aj3d, perfect.occlusion_accuracy) == pytest.approx((100, 100, 100))
    scaled = replace(truth, xyz_world=xyz * 5)
    assert track_scores(scaled, still, truth, still).apd3d == pytest.approx(100)
    # At 256 rows the focal length is 213: 3 pixels off at any depth passes the thresholds 4, 8 and 16 of five.
    off = xyz.clone()
    off[..., 0] += 3 * depth / (400 * 256 / 480)
    assert track_scores(replace(truth, xyz_world=off), still, truth, still).apd3d == pytest.approx(60)
    blind = replace(truth, visible=torch.zeros(4, 2, dtype=torch.bool))
    scores = track_scores(blind, still, truth, still)
    assert (scores.aj3d, scores.occlusion_accuracy) == (0.0, 0.0)
