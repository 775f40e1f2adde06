from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from track2view.cameras import read_camera, write_multicam
from track2view.errors import UserError
from track2view.geometry import project, rotation_angle
from track2view.scenes import focal_of, make_rig, make_world, render_view, split_seed

SIZE = (54, 96)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3_000_000_000))
def test_ten_cameras_share_their_first_frame_and_then_part(seed: int) -> None:
    rig = make_rig(seed, frames=21, size=SIZE)
    assert list(rig) == [f"cam{number:02d}" for number in range(1, 11)]
    first = rig["cam01"]
    for camera in rig.values():
        assert torch.allclose(camera.world_from_camera[0], first.world_from_camera[0], atol=1e-12)
        assert torch.equal(camera.intrinsics, first.intrinsics)
        travelled = float((camera.world_from_camera[:, :3, 3] - camera.world_from_camera[0, :3, 3]).norm(dim=-1).max())
        assert travelled > 0.05 or camera.rotation_span > 2.0
    last = [camera.world_from_camera[-1] for camera in rig.values()]
    apart = [
        float((one[:3, 3] - other[:3, 3]).norm()) + float(rotation_angle(one[:3, :3].T @ other[:3, :3]))
        for index, one in enumerate(last)
        for other in last[:index]
    ]
    assert min(apart) > 1e-3


def test_rigs_follow_their_seed_and_use_all_focal_lengths() -> None:
    one, same, other = (make_rig(seed, frames=9, size=SIZE) for seed in (5, 5, 6))
    assert all(torch.equal(one[name].world_from_camera, same[name].world_from_camera) for name in one)
    assert not torch.equal(one["cam01"].world_from_camera, other["cam01"].world_from_camera)
    assert {focal_of(seed) for seed in range(60)} == {18, 24, 35, 50}


@pytest.mark.parametrize("seed", range(6))
def test_cameras_stay_in_the_room_and_see_things(seed: int) -> None:
    world = make_world(seed, frames=9, dynamic=True)
    for name, camera in make_rig(seed, frames=9, size=SIZE).items():
        view = render_view(world, camera, 8)
        assert float((view.depth > 0.3).float().mean()) > 0.99, name
        assert len(view.solid.unique()) > 1, name


def test_splits_share_neither_scenes_nor_trajectories() -> None:
    seeds = {split: {split_seed(split, index) for index in (0, 1, 999_999_999)} for split in ("train", "validation", "test")}
    assert not (seeds["train"] & seeds["validation"])
    assert not (seeds["train"] & seeds["test"])
    assert not (seeds["validation"] & seeds["test"])
    with pytest.raises(UserError, match="scene -1"):
        split_seed("test", -1)


def test_the_datasets_own_file_is_written_and_read_exactly(tmp_path: Path) -> None:
    rig = make_rig(11, frames=9, size=(1280, 1280))
    path = tmp_path / "train" / f"f{focal_of(11)}_aperture5" / "scene1" / "cameras" / "camera_extrinsics.json"
    write_multicam(rig, path)
    for name, camera in rig.items():
        read = read_camera(f"{path}#{name}", (1280, 1280))
        assert torch.allclose(read.world_from_camera, camera.world_from_camera, atol=1e-9)
        assert torch.allclose(read.intrinsics, camera.intrinsics, atol=1e-9)
        assert read.fps == camera.fps == 15.0
    with pytest.raises(UserError, match="in metres"):
        write_multicam({"cam01": rig["cam01"].scaled(0.1, "scene")}, path)


def test_the_file_and_the_real_one_mean_the_same_directions(tmp_path: Path, shared: Path) -> None:
    """A camera of ours that pans right as the real cam01 … moves image points as its file says, through the one reader."""
    real = {name: read_camera(f"{shared}/multicam_camera_extrinsics.json#{name}") for name in ("cam01", "cam03", "cam05", "cam07")}
    write_multicam(real, tmp_path / "camera_extrinsics.json")
    for name, camera in real.items():
        again = read_camera(f"{tmp_path}/camera_extrinsics.json#{name}")
        ahead = camera.world_from_camera[0, :3, 3] + 5 * camera.world_from_camera[0, :3, 2]
        for path in (camera, again):
            before, _ = project(ahead[None], path.camera_from_world[0], path.intrinsics[0])
            after, depth = project(ahead[None], path.camera_from_world[-1], path.intrinsics[-1])
            expected, expected_depth = project(ahead[None], camera.camera_from_world[-1], camera.intrinsics[-1])
            assert torch.allclose(after, expected, atol=1e-6)
            assert torch.allclose(depth, expected_depth, atol=1e-9)
            assert float((after - before).norm()) > 1 or abs(float(depth) - 5.0) > 0.5, name
