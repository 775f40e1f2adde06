"""Cameras found by matching pixels with an exact rendering, at a size at which that works."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from test_render_compare import SEED, TURN, WAY, displaced, fov

from track2view.errors import UserError
from track2view.evaluate import camera_errors, match_cameras
from track2view.geometry import rigid, rotation_about
from track2view.metrics.paths import pose_errors
from track2view.records import CameraPath
from track2view.scenes import World, make_rig, make_varied_world, render_path

SIZE = (128, 224)


@pytest.fixture(scope="module")
def world() -> World:
    return make_varied_world(SEED, frames=2, dynamic=True)


@pytest.fixture(scope="module")
def commanded() -> CameraPath:
    return make_rig(SEED, frames=2, size=SIZE)["cam05"]


@pytest.mark.parametrize("degraded", [False, True])
def test_an_injected_offset_is_found(world: World, commanded: CameraPath, degraded: bool) -> None:
    true = displaced(commanded, TURN, WAY)
    frames = render_path(world, true).colour
    if degraded:
        blurred = (cv2.GaussianBlur(frame.permute(1, 2, 0).numpy(), (0, 0), 1.0) for frame in frames)
        coded = (cv2.imdecode(cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR) for each in blurred)
        frames = torch.from_numpy(np.stack(list(coded))).permute(0, 3, 1, 2).contiguous()
    found = match_cameras(world, frames, commanded, [1])
    rotation, translation = pose_errors(found.world_from_camera, true.world_from_camera[1:])
    assert bool(found.converged.all())
    assert float(rotation) < (0.1 if degraded else 0.005)
    assert float(translation) < (0.02 if degraded else 0.001)
    errors = camera_errors(found, commanded)
    assert errors.rotation == pytest.approx(float(TURN.norm()), rel=0.02)
    assert errors.translation == pytest.approx(float(WAY.norm()), rel=0.2 if degraded else 0.02)


def test_what_moves_does_not_move_the_camera(commanded: CameraPath) -> None:
    """A large thing slides past in a way that the world does not know of."""
    world = make_varied_world(SEED, frames=2, dynamic=False)
    none = torch.zeros(3, dtype=torch.float64)
    ahead = commanded.world_from_camera[0] @ rigid(torch.eye(3, dtype=torch.float64), torch.tensor([0.1, 0.0, 2.2], dtype=torch.float64))
    turns = rotation_about("y", torch.tensor([0.0, 5.0], dtype=torch.float64))
    ball = replace(
        world.solids[-1],
        shape="ellipsoid",
        half_extent=torch.full((3,), 0.7, dtype=torch.float64),
        world_from_solid=ahead @ rigid(turns, torch.zeros(2, 3, dtype=torch.float64)),
    )
    known = replace(world, solids=(*world.solids, ball))
    further = ball.world_from_solid @ rigid(rotation_about("y", torch.tensor(3.0, dtype=torch.float64)), none)
    filmed = replace(world, solids=(*world.solids, replace(ball, world_from_solid=further)))
    found = match_cameras(known, render_path(filmed, commanded).colour, commanded, [1])
    rotation, translation = pose_errors(found.world_from_camera, commanded.world_from_camera[1:])
    assert bool(found.converged.all())
    assert float(rotation) < 0.01
    assert float(translation) < 0.004


def test_what_the_source_does_not_show_is_left_out(world: World, commanded: CameraPath) -> None:
    """Two thirds of the picture lie outside the source view, and are the world from another camera."""
    true = displaced(commanded, torch.tensor([0.0, 0.4, 0.0], dtype=torch.float64), WAY / 4)
    source = displaced(commanded, torch.tensor([0.0, -0.62 * fov(commanded), 0.0], dtype=torch.float64), 0 * WAY)
    frames, wrong = render_path(world, true).colour, render_path(world, displaced(commanded, 2 * TURN, 3 * WAY)).colour
    frames[..., SIZE[1] // 3 + 2 :] = wrong[..., SIZE[1] // 3 + 2 :]
    found = match_cameras(world, frames, commanded, [1], source=source)
    rotation, _ = pose_errors(found.world_from_camera, true.world_from_camera[1:])
    assert bool(found.converged.all())
    assert float(rotation) < 0.05


def test_a_scrap_tells_no_camera(world: World, commanded: CameraPath) -> None:
    frames = render_path(world, commanded).colour
    scrap = torch.full_like(frames, 120)
    scrap[..., 60:76, 100:116] = frames[..., 60:76, 100:116]
    assert not bool(match_cameras(world, scrap, commanded, [1]).converged.any())


@pytest.mark.parametrize("kind", ["another world", "nothing"])
def test_a_picture_of_something_else_does_not_look_like_success(world: World, commanded: CameraPath, kind: str) -> None:
    other = render_path(make_varied_world(SEED + 1, frames=2, dynamic=True), make_rig(SEED + 1, frames=2, size=SIZE)["cam01"]).colour
    frames = other if kind == "another world" else torch.full_like(other, 120)
    found = match_cameras(world, frames, commanded, [1])
    errors = camera_errors(found, commanded)
    assert (errors.converged, errors.auc) == (0, 0)
    assert math.isnan(errors.rotation)


def test_clip_and_cameras_must_fit(world: World, commanded: CameraPath) -> None:
    frames = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"commanded: a camera for pictures of \[32, 56\]"):
        match_cameras(world, frames, commanded.resized((32, 56)), [1])
    with pytest.raises(UserError, match=r"at: expected frames in 0 … 1, got \[\]"):
        match_cameras(world, frames, commanded, [])
