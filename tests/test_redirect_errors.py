"""Camera errors of other papers, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import rotation_about
from track2view.metrics import path_errors, redirect_errors
from track2view.records import CameraPath


def path(*places: tuple[float, float, float], yaw: tuple[float, ...] = ()) -> Tensor:
    """Poses at places, turned by degrees."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(places), 1, 1)
    poses[:, :3, 3] = torch.tensor(places, dtype=torch.float64)
    for index, degrees in enumerate(yaw):
        poses[index, :3, :3] = rotation_about("y", torch.tensor(degrees, dtype=torch.float64))
    return poses


def test_numbers_worked_out_by_hand() -> None:
    asked = path((0, 0, 0), (1, 0, 0), (2, 0, 0), yaw=(0, 10, 20))
    found = path((0, 0, 0), (0.5, 0, 0), (1, 0.25, 0), yaw=(0, 11, 18))
    errors = redirect_errors(found, asked)
    assert errors.rotation == pytest.approx(1.0)
    assert errors.rotation_sum == pytest.approx(math.radians(3))
    # by the second frame the scale is 2: what was found is (1, 0, 0), (2, 0.5, 0)
    assert errors.first_two == pytest.approx(0.5 / 3)
    assert errors.translation_sum == pytest.approx(0.25)
    # least squares: (0.5 + 2) / (0.25 + 1.0625) = 40/21: (20/21, 0), (40/21, 10/21)
    assert errors.translation == pytest.approx((1 / 21 + math.hypot(2 / 21, 10 / 21)) / 3)
    furthest = math.hypot(1, 0.25)
    apart = [abs(0.5 / furthest - 0.5), math.hypot(1 / furthest - 1, 0.25 / furthest)]
    assert errors.by_furthest == pytest.approx(sum(apart) / 3)
    turned = [2 * math.sqrt(2) * math.sin(math.radians(degrees) / 2) for degrees in (1, 2)]
    assert errors.camera_motion == pytest.approx(sum(math.hypot(*each) for each in zip(turned, apart, strict=True)))


def test_a_ten_thousandth_of_a_radian_is_not_nothing() -> None:
    asked = path((0, 0, 0), (1, 0, 0))
    found = path((0, 0, 0), (1, 0, 0), yaw=(0, math.degrees(1e-4)))
    assert redirect_errors(found, asked).rotation_sum == pytest.approx(1e-4, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_neither_scale_nor_where_the_world_begins_tells(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    poses = path(*torch.randn(5, 3, generator=random, dtype=torch.float64).tolist(), yaw=(0, 3, 5, 9, 4))
    elsewhere = path((4, 5, 6), yaw=(33,))[0]
    other = elsewhere @ poses
    other[:, :3, 3] *= scale
    errors = redirect_errors(other, poses)
    values = (errors.rotation, errors.translation, errors.first_two, errors.by_furthest, errors.camera_motion)
    assert values == pytest.approx((0, 0, 0, 0, 0), abs=1e-6)


def test_an_offset_of_turns_is_found_in_full() -> None:
    asked = path(*[(0.1 * index, 0, 0) for index in range(9)], yaw=tuple(2.0 * index for index in range(9)))
    for slope in (0.5, 1.0, 2.0):
        found = path(*[(0.1 * index, 0, 0) for index in range(9)], yaw=tuple((2.0 + slope) * index for index in range(9)))
        assert redirect_errors(found, asked).rotation == pytest.approx(4 * slope)


def test_what_stands_has_no_scale() -> None:
    pan, travelled = path((1, 2, 3), (1, 2, 3), yaw=(0, 20)), path((0, 0, 0), (1, 0, 0), yaw=(0, 20))
    errors = redirect_errors(travelled, pan)
    assert errors.rotation == pytest.approx(0, abs=1e-9)
    assert errors.translation is errors.first_two is errors.by_furthest is errors.camera_motion is errors.translation_sum is None
    for rounding in (0.0, 1e-9):
        shaken = path((1, 2, 3), (1, 2 + rounding, 3), yaw=(0, 20))
        stood = redirect_errors(shaken, travelled)
        assert stood.translation == pytest.approx(0.5)
        assert stood.by_furthest == pytest.approx(0.5)
        assert stood.first_two is stood.translation_sum is None


def test_the_other_way_is_no_smaller_error_than_standing() -> None:
    """A scale below 0 would turn a path around."""
    asked, back = path((0, 0, 0), (1, 0, 0), (2, 0, 0)), path((0, 0, 0), (-1, 0, 0), (-2, 0, 0))
    assert redirect_errors(back, asked).translation == pytest.approx(1.0)


def test_paths_of_other_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="2 and 3 frames"):
        redirect_errors(path((0, 0, 0), (1, 0, 0)), path((0, 0, 0), (1, 0, 0), (2, 0, 0)))
    with pytest.raises(UserError, match="two at least"):
        redirect_errors(path((0, 0, 0)), path((0, 0, 0)))


def test_evo_finds_the_same() -> None:
    """An oracle that is no dependency, for it is GPL: `pip install evo` beside to run this."""
    metrics = pytest.importorskip("evo.core.metrics")
    trajectory = pytest.importorskip("evo.core.trajectory")
    random = torch.Generator().manual_seed(3)
    found, asked = (
        path(*torch.randn(7, 3, generator=random, dtype=torch.float64).cumsum(0).tolist(), yaw=(0, 4, 3, 9, 12, 11, 15)) for _ in range(2)
    )
    found = found @ path((0, 0, 0), yaw=(7,))[0]
    own, wanted = (trajectory.PosePath3D(poses_se3=list((torch.linalg.inv(each[0]) @ each).numpy())) for each in (found, asked))
    turned = metrics.APE(metrics.PoseRelation.rotation_angle_deg)
    turned.process_data((wanted, own))
    assert redirect_errors(found, asked).rotation == pytest.approx(turned.get_statistic(metrics.StatisticsType.mean), abs=1e-6)
    whole = CameraPath(world_from_camera=found, intrinsics=torch.eye(3, dtype=torch.float64).repeat(7, 1, 1), size=(2, 2), unit="metre")
    true = replace(whole, world_from_camera=asked)
    aligned = trajectory.PosePath3D(poses_se3=list(found.numpy()))
    aligned.align(truth := trajectory.PosePath3D(poses_se3=list(asked.numpy())), correct_scale=True)
    apart = metrics.APE(metrics.PoseRelation.translation_part)
    apart.process_data((truth, aligned))
    assert path_errors(whole, true).ate == pytest.approx(apart.get_statistic(metrics.StatisticsType.rmse), abs=1e-6)
