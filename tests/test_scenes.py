from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests_support import ray_blocked

from track2view.errors import UserError
from track2view.geometry import project, unproject
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath
from track2view.scenes import (
    CAMERA_KINDS,
    World,
    make_camera,
    make_rig,
    make_varied_world,
    make_world,
    render_path,
    render_view,
    render_views,
    shown_by,
    stream_pairs,
    track_points,
)

SIZE = (48, 84)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 500), st.sampled_from(CAMERA_KINDS))
def test_depth_tracks_and_visibility_agree_with_an_independent_check(seed: int, kind: str) -> None:
    check_exactness(make_world(seed, frames=9, dynamic=True), make_camera(kind, seed, frames=9, size=SIZE), seed)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 3_000_000_000), st.integers(1, 10))
def test_so_they_do_in_the_worlds_for_training(seed: int, camera: int) -> None:
    rig = make_rig(seed, frames=9, size=SIZE)
    check_exactness(make_varied_world(seed, frames=9, dynamic=True), rig[f"cam{camera:02d}"], seed)


def check_exactness(world: World, camera: CameraPath, seed: int) -> None:
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


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
@example(3)
def test_what_is_dark_has_something_between_it_and_the_light(seed: int) -> None:
    world = make_varied_world(seed, frames=2, dynamic=True)
    camera = make_rig(seed, frames=2, size=SIZE)["cam01"]
    shadowless = replace(world, light=replace(world.light, casts_shadows=False))
    view, bright = render_view(world, camera, 1), render_view(shadowless, camera, 1)
    darker = (bright.colour.int() - view.colour.int()).amax(0)
    brighter = (view.colour.int() - bright.colour.int()).amax(0) > 3
    assert float(brighter.float().mean()) < 0.01  # shadows' edges are antialiased, and may differ by their rays
    row, column = torch.randint(0, 48, (60,)), torch.randint(0, 84, (60,))
    centres = torch.stack([column, row], dim=-1).double() + 0.5
    pose, intrinsics = camera.world_from_camera[1], camera.intrinsics[1]
    points = unproject(centres, view.depth[row, column].double(), pose, intrinsics)
    open_sky = replace(world.solids[0], half_extent=torch.full((3,), 1e3, dtype=torch.float64))
    bare = replace(world, solids=(open_sky, *world.solids[1:]))
    dark_in_the_open = 0
    for point, dark in zip(points, darker[row, column], strict=True):
        start = point + 0.02 * world.light.direction
        blocked = bool(ray_blocked(bare, start, (point + 25 * world.light.direction)[None], 1, steps=6000)[0])
        dark_in_the_open += int(dark) > 6 and not blocked
    assert dark_in_the_open <= 3  # pixels that a shadow's edge goes through
    assert seed != 3 or int((darker > 20).sum()) > 100


def test_worlds_for_training_are_of_many_kinds_and_nothing_runs_into_anything() -> None:
    worlds = [make_varied_world(seed, frames=81, dynamic=True) for seed in range(30)]
    captions = " ".join(world.caption for world in worlds)
    for word in ("a room", "under a", "sliding", "crossing", "bouncing", "spinning", "circling", "striped", "chequered", "warm", "cool"):
        assert word in captions
    standing = [[each for each in world.solids if each.name not in ("room", "sky", "ground")] for world in worlds]
    assert {3, 12} <= {len(solids) for solids in standing} <= set(range(3, 13))
    for world, solids in zip(worlds, standing, strict=True):
        assert any(world.moves(index) for index in range(len(world.solids)))
        assert world.light.casts_shadows
        for index, one in enumerate(solids):
            for other in solids[:index]:
                apart = (one.world_from_solid[:, [0, 2], 3] - other.world_from_solid[:, [0, 2], 3]).norm(dim=-1).min()
                assert float(apart) > float(one.half_extent[[0, 2]].norm() + other.half_extent[[0, 2]].norm())
    still = make_varied_world(3, frames=9, dynamic=False)
    assert not any(still.moves(index) for index in range(len(still.solids)))


def test_many_pictures_at_once_are_those_of_one_at_a_time() -> None:
    world, camera = make_varied_world(8, frames=5, dynamic=True), make_rig(8, frames=5, size=SIZE)["cam03"]
    together = render_path(world, camera)
    for frame in range(5):
        alone = render_view(world, camera, frame)
        assert torch.equal(together.solid[frame], alone.solid)
        assert torch.allclose(together.depth[frame], alone.depth, rtol=1e-5)
        assert int((together.colour[frame].int() - alone.colour.int()).abs().max()) <= 1


def test_pictures_of_times_far_apart_have_each_its_own_shadows() -> None:
    world, camera = make_varied_world(8, frames=81, dynamic=True), make_rig(8, frames=81, size=SIZE)["cam03"]
    times = [0, 40, 80]
    together = render_views(world, camera, times, camera_frames=[0, 0, 0])
    for index, frame in enumerate(times):
        alone = render_view(world, camera, frame, camera_frame=0)
        assert int((together.colour[index].int() - alone.colour.int()).abs().max()) <= 1
    assert not torch.equal(together.colour[0], together.colour[2])


def test_a_stream_is_of_the_worlds_that_are_exported() -> None:
    first, second = stream_pairs("test", range(4, 6), frames=5, size=SIZE, grid=(3, 4))
    assert first.seed + 1 == second.seed
    assert first.source.shape == first.target.shape == (5, 3, *SIZE)
    assert torch.equal(first.source[0], first.target[0])
    assert not torch.equal(first.source[4], first.target[4])
    world = make_varied_world(first.seed, frames=5, dynamic=True)
    assert (first.caption, first.tracks.xyz_world.shape) == (world.caption, (5, 24, 3))
    assert torch.equal(first.target[3], render_path(world, first.target_camera).colour[3])
    pairs = pair_by_projection(first.tracks, first.source_camera, first.target_camera)
    assert torch.allclose(pairs.source.uv[0], pairs.target.uv[0], atol=1e-6)
    assert bool(pairs.source.valid[0, :12].all())
