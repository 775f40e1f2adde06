import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from track2view import geometry

angles = st.floats(-170, 170)
lengths = st.floats(-5, 5)


def pose(values: list[float]) -> torch.Tensor:
    rotation = torch.from_numpy(Rotation.from_euler("xyz", values[:3], degrees=True).as_matrix())
    return geometry.rigid(rotation, torch.tensor(values[3:], dtype=torch.float64))


poses = st.tuples(angles, angles, angles, lengths, lengths, lengths).map(lambda values: pose(list(values)))


@given(poses, poses)
def test_inverse_and_composition(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.allclose(geometry.invert(a) @ a, torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(geometry.invert(a @ b), geometry.invert(b) @ geometry.invert(a), atol=1e-12)


@given(poses, st.floats(0.2, 50), st.floats(0, 640), st.floats(0, 480), st.floats(200, 2000))
def test_unproject_inverts_project(world_from_camera: torch.Tensor, depth: float, u: float, v: float, focal: float) -> None:
    intrinsics = torch.tensor([[focal, 0, 320], [0, focal, 240], [0, 0, 1]], dtype=torch.float64)
    pixels = torch.tensor([[u, v]], dtype=torch.float64)
    points = geometry.unproject(pixels, torch.tensor([depth], dtype=torch.float64), world_from_camera, intrinsics)
    again, z = geometry.project(points, geometry.invert(world_from_camera), intrinsics)
    assert torch.allclose(again, pixels, atol=1e-6)
    assert math.isclose(float(z[0]), depth, rel_tol=1e-9)


@given(st.floats(0, 179))
def test_rotation_angle_is_exact_even_when_tiny(degrees: float) -> None:
    turn = geometry.rotation_about("y", torch.tensor(degrees, dtype=torch.float64))
    assert float(geometry.rotation_angle(turn)) == pytest.approx(degrees, abs=1e-9)
    tiny = geometry.rotation_about("x", torch.tensor(1e-7, dtype=torch.float64))
    assert float(geometry.rotation_angle(tiny)) == pytest.approx(1e-7, rel=1e-6)


def test_rotation_directions_by_hand() -> None:
    forward = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    ninety = torch.tensor(90.0, dtype=torch.float64)
    assert torch.allclose(geometry.rotation_about("y", ninety) @ forward, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert torch.allclose(geometry.rotation_about("x", ninety) @ forward, torch.tensor([0, -1.0, 0], dtype=torch.float64))


def test_look_at_puts_the_target_ahead_and_down_below() -> None:
    eye = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    target = torch.tensor([4.0, 0.0, -1.0], dtype=torch.float64)
    down = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    camera_from_world = geometry.invert(geometry.look_at(eye, target, down))
    seen = geometry.transform(camera_from_world, torch.stack([target, target + down]))
    assert torch.allclose(seen[0], torch.tensor([0.0, 0.0, float((target - eye).norm())], dtype=torch.float64), atol=1e-12)
    assert float(seen[1, 1]) > 0
    assert float(torch.linalg.det(camera_from_world[:3, :3])) == pytest.approx(1.0)


@given(poses, poses)
def test_interpolation_keeps_ends_and_halves_the_way(a: torch.Tensor, b: torch.Tensor) -> None:
    keys = torch.tensor([0.0, 2.0], dtype=torch.float64)
    times = torch.tensor([-1.0, 0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    way = geometry.interpolate_poses(keys, torch.stack([a, b]), times)
    for index, end in ((0, a), (1, a), (3, b), (4, b)):
        assert torch.allclose(way[index], end, atol=1e-9)
    first, second = geometry.invert(a) @ way[2], geometry.invert(way[2]) @ b
    if float(geometry.rotation_angle((geometry.invert(a) @ b)[:3, :3])) < 175:
        assert torch.allclose(first, second, atol=1e-8)


def test_smoothing_keeps_a_steady_path_and_calms_a_shaky_one() -> None:
    steady = torch.eye(4, dtype=torch.float64).repeat(40, 1, 1)
    steady[:, 0, 3] = torch.linspace(0, 2, 40, dtype=torch.float64)
    assert torch.allclose(geometry.smooth_poses(steady, 4.0), steady, atol=1e-9)
    shaky = steady.clone()
    shaky[:, 1, 3] += 0.1 * (-1.0) ** torch.arange(40)
    smooth = geometry.smooth_poses(shaky, 4.0)
    assert float(smooth[8:-8, 1, 3].abs().max()) < 0.01
    assert torch.allclose(geometry.smooth_poses(shaky[:1], 4.0), shaky[:1])
