import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import RigidTransform
from torch import Tensor

from track2view.errors import UserError
from track2view.evaluate import camera_errors, estimate_cameras
from track2view.geometry import rigid, rotation_about
from track2view.metrics.paths import path_length, pose_errors
from track2view.records import CameraPath
from track2view.scenes import World, make_rig, make_varied_world, render_path, split_seed

SIZE = (48, 84)
SEED = split_seed("validation", 107)


@pytest.fixture(scope="module")
def world() -> World:
    return make_varied_world(SEED, frames=3, dynamic=True)


@pytest.fixture(scope="module")
def commanded() -> CameraPath:
    return make_rig(SEED, frames=3, size=SIZE)["cam05"]


def displaced(camera: CameraPath, rotation: Tensor, translation: Tensor) -> CameraPath:
    """Turned by a rotation vector in degrees and moved by metres, in its own axes."""
    step = RigidTransform.from_exp_coords(torch.cat([torch.deg2rad(rotation), translation]).numpy())
    return replace(camera, world_from_camera=camera.world_from_camera @ torch.from_numpy(step.as_matrix()))


TURN = torch.tensor([0.6, -1.5, 0.8], dtype=torch.float64)
WAY = torch.tensor([0.08, -0.03, 0.06], dtype=torch.float64)


def test_an_injected_offset_is_found(world: World, commanded: CameraPath) -> None:
    true = displaced(commanded, TURN, WAY)
    fit = estimate_cameras(world, render_path(world, true).colour, commanded, [2])
    assert bool(fit.converged.all())
    assert fit.frames == (2,)
    rotation, translation = pose_errors(fit.world_from_camera, true.world_from_camera[2:])
    assert float(rotation.max()) < 0.02 * float(TURN.norm())
    assert float(translation.max()) < 0.02 * float(WAY.norm())
    errors = camera_errors(fit, commanded)
    assert errors.rotation == pytest.approx(float(TURN.norm()), rel=0.02)
    assert errors.translation == pytest.approx(float(WAY.norm()), rel=0.02)
    assert errors.translation_percent == pytest.approx(100 * errors.translation / path_length(commanded))
    assert errors.auc == pytest.approx(1 - errors.rotation / 5)


def test_neither_tint_nor_blur_moves_the_camera(world: World, commanded: CameraPath) -> None:
    true = displaced(commanded, TURN, WAY)
    frames = render_path(world, true).colour[1:].float()
    tinted = frames * torch.tensor([0.7, 0.85, 0.6])[:, None, None] + torch.tensor([40.0, 5.0, 20.0])[:, None, None]
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(tinted, (2, 2, 2, 2), mode="replicate"), 5, 1)
    still = torch.cat([torch.zeros_like(frames[:1]), blurred]).round().clamp(0, 255).to(torch.uint8)
    fit = estimate_cameras(world, still, commanded, [2])
    assert bool(fit.converged.all())
    rotation, translation = pose_errors(fit.world_from_camera, true.world_from_camera[2:])
    assert float(rotation.max()) < 0.05
    assert float(translation.max()) < 0.01


def test_of_a_picture_that_is_blurred_and_blotched_the_camera_is_found_roughly(world: World, commanded: CameraPath) -> None:
    for turn in (TURN, 2 * TURN):
        true = displaced(commanded, turn, WAY)
        colour = render_path(world, true).colour.numpy().astype(float)
        blotches = gaussian_filter(np.random.default_rng(0).normal(size=colour.shape), (0, 0, 2, 2))
        spoilt = gaussian_filter(colour, (0, 0, 1.5, 1.5)) + 16 * blotches / blotches.std()
        fit = estimate_cameras(world, torch.from_numpy(spoilt.clip(0, 255).astype(np.uint8)), commanded, [2])
        assert not bool(fit.converged.any())
        assert bool(fit.roughly.all())
        rotation, _ = pose_errors(fit.world_from_camera, true.world_from_camera[2:])
        assert float(rotation / fit.deviation) < 3, "as far off as it says"
        strict, rough = (camera_errors(each, commanded) for each in (fit, replace(fit, converged=fit.roughly)))
        assert math.isnan(strict.rotation)
        assert strict.converged == strict.auc == 0
        assert rough.converged == 1
        assert rough.rotation == pytest.approx(float(turn.norm()), abs=0.5)


def test_what_moves_does_not_move_the_camera(commanded: CameraPath) -> None:
    """A large thing that spins: its outline stays, its texture slides along, here by an angle that the world does not know of."""
    world = make_varied_world(SEED, frames=3, dynamic=False)
    ahead = commanded.world_from_camera[0] @ rigid(torch.eye(3, dtype=torch.float64), torch.tensor([0.1, 0.0, 2.6], dtype=torch.float64))
    turns = rotation_about("y", torch.tensor([0.0, 5.0, 10.0], dtype=torch.float64))
    ball = replace(
        world.solids[-1],
        shape="ellipsoid",
        half_extent=torch.full((3,), 0.55, dtype=torch.float64),
        world_from_solid=ahead @ rigid(turns, torch.zeros(3, 3, dtype=torch.float64)),
    )
    known = replace(world, solids=(*world.solids, ball))
    further = ball.world_from_solid @ rigid(
        rotation_about("y", torch.tensor(3.0, dtype=torch.float64)), torch.zeros(3, dtype=torch.float64)
    )
    filmed = replace(world, solids=(*world.solids, replace(ball, world_from_solid=further)))
    fit = estimate_cameras(known, render_path(filmed, commanded).colour, commanded, [1])
    rotation, translation = pose_errors(fit.world_from_camera, commanded.world_from_camera[1:2])
    assert bool(fit.converged.all())
    assert float(rotation) < 0.005
    assert float(translation) < 0.001
    assert float(fit.used) < 0.8


def test_what_the_source_does_not_show_is_left_out(world: World, commanded: CameraPath) -> None:
    """Two thirds of the picture lie outside the source view, and are something else altogether."""
    true = displaced(commanded, torch.tensor([0.0, 0.4, 0.0], dtype=torch.float64), WAY / 4)
    source = displaced(commanded, torch.tensor([0.0, -0.62 * fov(commanded), 0.0], dtype=torch.float64), 0 * WAY)
    frames = render_path(world, true).colour
    frames[..., SIZE[1] // 3 + 2 :] = torch.randint(0, 255, (), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames[..., SIZE[1] // 3 + 2 :] = frames[..., : SIZE[1] - SIZE[1] // 3 - 2].flip(-2)
    fit = estimate_cameras(world, frames, commanded, [2], source=source)
    rotation, _ = pose_errors(fit.world_from_camera, true.world_from_camera[2:])
    assert float(fit.used.max()) < 0.5
    assert bool(fit.converged.all())
    assert float(rotation.max()) < 0.05


def fov(camera: CameraPath) -> float:
    return math.degrees(2 * math.atan(camera.size[1] / 2 / float(camera.intrinsics[0, 0, 0])))


def test_what_is_beyond_the_first_fit_is_searched_for(world: World, commanded: CameraPath) -> None:
    true = displaced(commanded, torch.tensor([0.0, -13.0, 0.0], dtype=torch.float64), 0 * WAY)
    fit = estimate_cameras(world, render_path(world, true).colour, commanded, [2])
    errors = camera_errors(fit, commanded)
    assert errors.converged == 1
    assert errors.rotation == pytest.approx(13, abs=0.02)
    assert errors.auc == 0


@pytest.mark.parametrize("kind", ["another world", "nothing"])
def test_a_picture_of_something_else_does_not_look_like_success(world: World, commanded: CameraPath, kind: str) -> None:
    other = render_path(make_varied_world(SEED + 1, frames=3, dynamic=True), make_rig(SEED + 1, frames=3, size=SIZE)["cam01"]).colour
    frames = other if kind == "another world" else torch.full_like(other, 120)
    errors = camera_errors(estimate_cameras(world, frames, commanded, [2]), commanded)
    assert (errors.converged, errors.auc) == (0, 0)
    assert all(math.isnan(each) for each in (errors.rotation, errors.translation, errors.translation_percent))


def test_clip_and_cameras_must_fit(world: World, commanded: CameraPath) -> None:
    frames = torch.zeros(3, 3, *SIZE, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"commanded: a camera for pictures of \[32, 56\]"):
        estimate_cameras(world, frames, commanded.resized((32, 56)), [1])
    with pytest.raises(UserError, match="source: 2 frames"):
        estimate_cameras(world, frames, commanded, [1], source=commanded[:2])
    with pytest.raises(UserError, match=r"at: expected frames in 0 … 2, got \[3\]"):
        estimate_cameras(world, frames, commanded, [3])
