"""Cameras of a clip by structure from motion: found of what travels, not of what does not, and a row for each."""

from dataclasses import replace

import pytest
import torch

from track2view.errors import UserError
from track2view.evaluate import reconstruct_cameras, reconstructed_errors
from track2view.geometry import rigid, rotation_about
from track2view.records import CameraPath
from track2view.scenes import World, make_rig, make_varied_world, render_path, split_seed

FRAMES, SIZE = 6, (240, 416)
SEED = split_seed("validation", 0)


@pytest.fixture(scope="module")
def world() -> World:
    return make_varied_world(SEED, frames=FRAMES, dynamic=False)


@pytest.fixture(scope="module")
def camera() -> CameraPath:
    return make_rig(SEED, frames=FRAMES, size=SIZE)["cam01"]


def test_of_a_camera_that_travels_every_frame_is_found(world: World, camera: CameraPath) -> None:
    frames = render_path(world, camera).colour
    found = reconstruct_cameras(frames, camera.intrinsics[0])
    assert bool(found.converged.all())
    right = reconstructed_errors(found, camera)
    assert right.registered == 1
    assert right.errors is not None
    assert right.errors.rotation < 0.1
    assert right.errors.translation is not None
    travelled = float((camera.world_from_camera[-1, :3, 3] - camera.world_from_camera[0, :3, 3]).norm())
    assert right.errors.translation < 0.02 * travelled
    degrees = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    turning = rigid(rotation_about("y", degrees), torch.zeros(FRAMES, 3, dtype=torch.float64))
    asked = replace(camera, world_from_camera=camera.world_from_camera @ turning)
    wrong = reconstructed_errors(found, asked)
    assert wrong.errors is not None
    assert wrong.errors.rotation == pytest.approx(float(degrees.mean()), abs=0.1)
    assert wrong.auc == pytest.approx(1 - float(degrees.mean()) / 5, abs=0.02)
    some = replace(found, converged=found.converged & (torch.arange(FRAMES) > 2))
    half = reconstructed_errors(some, asked)
    assert half.registered == 0.5
    assert half.errors is not None
    assert half.errors.rotation == pytest.approx(1.0, abs=0.1), "in terms of the first that is registered"
    assert half.auc == pytest.approx((1 + 0.8 + 0.6) / FRAMES, abs=0.02), "frames that are not registered are never within"
    again = reconstruct_cameras(frames, camera.intrinsics[0])
    assert torch.equal(found.world_from_camera, again.world_from_camera)


def test_a_frame_that_shows_nothing_is_not_registered(world: World, camera: CameraPath) -> None:
    frames = render_path(world, camera).colour
    frames[2] = 128
    found = reconstruct_cameras(frames, camera.intrinsics[0])
    assert found.converged.tolist() == [True, True, False, True, True, True]
    errors = reconstructed_errors(found, camera).errors
    assert errors is not None
    assert errors.rotation < 0.1


@pytest.mark.parametrize("kind", ["grey", "still"])
def test_of_what_has_no_baseline_nothing_is_claimed(world: World, camera: CameraPath, kind: str) -> None:
    frames = render_path(world, camera[:1]).colour.repeat(4, 1, 1, 1)
    found = reconstruct_cameras(frames if kind == "still" else torch.full_like(frames, 128), camera.intrinsics[0])
    errors = reconstructed_errors(found, camera[:4])
    assert (errors.registered, errors.auc, errors.errors) == (0, 0, None)


def test_two_frames_are_too_few(camera: CameraPath) -> None:
    with pytest.raises(UserError, match=r"needs three frames, the clip has 2"):
        reconstruct_cameras(torch.zeros(2, 3, *SIZE, dtype=torch.uint8), camera.intrinsics[0])
