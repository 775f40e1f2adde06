import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import ray_blocked

from track2view.errors import UserError
from track2view.geometry import project
from track2view.scenes import CAMERA_KINDS, make_camera, make_world, render_view, shown_by, track_points

SIZE = (48, 84)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 500), st.sampled_from(CAMERA_KINDS))
def test_depth_tracks_and_visibility_agree_with_an_independent_check(seed: int, kind: str) -> None:
    world = make_world(seed, frames=9, dynamic=True)
    camera = make_camera(kind, seed, frames=9, size=SIZE)
    pixels = torch.rand(40, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * torch.tensor([84.0, 48.0])
    tracks = track_points(world, camera, torch.full((40,), 4), pixels)
    seen, depth = project(tracks.xyz_world[4].double(), camera.camera_from_world[4], camera.intrinsics[4])
    assert torch.allclose(seen, pixels, atol=1e-2)
    view = render_view(world, camera, 4)
    column, row = pixels.long().T
    exact = view.depth[row.clamp(max=47), column.clamp(max=83)]
    assert float(((exact - depth).abs() < 0.1 * depth).float().mean()) > 0.8
    for frame in (0, 4, 8):
        blocked = ray_blocked(world, camera.world_from_camera[frame, :3, 3], tracks.xyz_world[frame].double(), frame)
        uv, z = project(tracks.xyz_world[frame].double(), camera.camera_from_world[frame], camera.intrinsics[frame])
        inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] <= 84) & (uv[:, 1] <= 48)
        assert float((tracks.visible[frame] == (inside & ~blocked)).float().mean()) > 0.97


def test_what_is_rendered_is_seen_and_moves_only_where_it_should() -> None:
    world = make_world(5, frames=20, dynamic=True)
    camera = make_camera("tripod", 5, frames=20, size=SIZE)
    first, last = render_view(world, camera, 0), render_view(world, camera, 19)
    moving = torch.tensor([world.moves(index) for index in range(len(world.solids))])
    changed = (first.colour.int() - last.colour.int()).abs().amax(0) > 12
    touched = moving[first.solid] | moving[last.solid]
    assert float(changed[touched].float().mean()) > 0.4
    margin = torch.nn.functional.max_pool2d(touched[None].float(), 3, 1, 1)[0] > 0
    assert float(changed[~margin].float().mean()) < 0.01
    assert float(shown_by(world, camera, 0, camera, first.depth).float().mean()) > 0.995


def test_worlds_and_cameras_follow_their_seed() -> None:
    views = [render_view(make_world(seed, frames=3, dynamic=True), make_camera("arc", seed, frames=3, size=SIZE), 1) for seed in (4, 4, 6)]
    assert torch.equal(views[0].colour, views[1].colour)
    assert not torch.equal(views[0].colour, views[2].colour)
    assert "sliding" in make_world(4, frames=3, dynamic=True).caption
    with pytest.raises(UserError, match="unknown camera kind"):
        make_camera("helicopter", 0, frames=3, size=SIZE)


def test_pictures_are_antialiased() -> None:
    """A picture rendered large and shrunk equals the one rendered small, but for rounding at edges."""
    world = make_world(2, frames=2, dynamic=False)
    small = render_view(world, make_camera("arc", 2, frames=2, size=SIZE), 0).colour.float()
    large = render_view(world, make_camera("arc", 2, frames=2, size=(192, 336)), 0).colour.float()
    shrunk = torch.nn.functional.avg_pool2d(large[None], 4)[0]
    assert float((small - shrunk).abs().mean()) < 5.0
