"""The halves of a joined clip made one world, on exact tracks that were spoilt in known ways."""

from dataclasses import replace

import pytest
import torch
from test_pairing import there_and_back

from track2view.curate.synchronise import synchronise
from track2view.pairing import join_cameras, pair_by_tracking
from track2view.records import CameraPath, Queries, TrackSet
from track2view.scenes import make_rig, make_world, track_points

FRAMES, SIZE = 21, (120, 208)


@pytest.fixture(scope="module")
def exact() -> tuple[TrackSet, CameraPath]:
    """Exact joined tracks of a lively world, and its cameras."""
    rig = make_rig(4, frames=FRAMES, size=SIZE)
    joined = join_cameras(rig["cam01"], rig["cam02"])
    queries = Queries.grid([0, FRAMES - 1], 12, 20)
    pixels = queries.pixels(SIZE)
    return track_points(there_and_back(make_world(4, frames=FRAMES, dynamic=True)), joined, queries.frame, pixels), joined


def along_rays(tracks: TrackSet, joined: CameraPath, factor: float) -> TrackSet:
    """Moving points pushed away from the camera that sees them: their pixels stay, their depth is wrong."""
    assert tracks.moving is not None
    eye = joined.world_from_camera[:, None, :3, 3].float()
    pushed = eye + factor * (tracks.xyz_world - eye)
    return replace(tracks, xyz_world=torch.where(tracks.moving[None, :, None], pushed, tracks.xyz_world))


def test_exact_tracks_stay_as_they_are(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    found = synchronise(tracks, joined)
    assert found.agreement > 0.99
    seen = found.tracks.visible
    assert float((seen == tracks.visible).float().mean()) > 0.99
    assert torch.allclose(found.tracks.xyz_world[seen], tracks.xyz_world[seen], atol=2e-2)


def test_moving_points_that_both_views_see_are_triangulated(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    found = synchronise(along_rays(tracks, joined, 1.02), joined).tracks
    assert tracks.moving is not None
    both = tracks.visible[:FRAMES].flip(0) & tracks.visible[FRAMES:] & tracks.moving & found.visible[FRAMES:]
    both[:10] = False  # the cameras have hardly parted
    assert int(both.sum()) > 20
    before = (along_rays(tracks, joined, 1.02).xyz_world[FRAMES:] - tracks.xyz_world[FRAMES:]).norm(dim=-1)[both]
    after = (found.xyz_world[FRAMES:] - tracks.xyz_world[FRAMES:]).norm(dim=-1)[both]
    assert float(after.median()) < 0.2 * float(before.median())


def test_what_no_view_tells_is_unknown_and_the_source_is_kept(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    hidden = tracks.visible.clone()
    hidden[FRAMES:] = False
    found = synchronise(replace(tracks, visible=hidden), joined).tracks
    pairs = pair_by_tracking(found, joined)
    assert not bool(pairs.target.valid[1:, tracks.moving].any())
    assert bool(pairs.target.valid[:, ~tracks.moving].any())
    assert torch.equal(found.visible[:FRAMES], tracks.visible[:FRAMES])


def test_what_one_half_shows_at_the_shared_frame_the_other_does_too(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    lost, xyz = tracks.visible.clone(), tracks.xyz_world.clone()
    lost[FRAMES:, ::2], xyz[FRAMES:, ::2] = False, 99.0
    lost[:FRAMES, 1::2], xyz[:FRAMES, 1::2] = False, 99.0
    found = synchronise(replace(tracks, visible=lost, xyz_world=xyz), joined).tracks
    shown = tracks.visible[FRAMES - 1]
    assert torch.equal(found.visible[FRAMES - 1], shown)
    assert torch.equal(found.visible[FRAMES], shown)
    for frame in (FRAMES - 1, FRAMES):
        assert torch.allclose(found.xyz_world[frame, shown], tracks.xyz_world[frame, shown], atol=2e-2)


def test_points_of_another_world_do_not_meet(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    xyz = tracks.xyz_world.clone()
    xyz[FRAMES:] = xyz[FRAMES:].roll(7, dims=1)
    everything_moves = replace(tracks, xyz_world=xyz, visible=torch.ones_like(tracks.visible), moving=torch.ones_like(tracks.moving))
    assert synchronise(everything_moves, joined).agreement < 0.3


def test_cameras_that_only_turn_tell_nothing_of_rays_and_lose_nothing() -> None:
    rig = make_rig(4, frames=9, size=SIZE)["cam01"]
    turning = replace(rig, world_from_camera=rig.world_from_camera[:1].repeat(9, 1, 1))
    joined = join_cameras(turning, turning)
    queries = Queries.grid([0], 6, 10)
    world = there_and_back(make_world(4, frames=9, dynamic=True))
    tracks = track_points(world, joined, queries.frame, queries.pixels(SIZE))
    noise = 0.03 * torch.randn(tracks.xyz_world.shape, generator=torch.Generator().manual_seed(0))
    assert tracks.moving is not None
    shaky = replace(tracks, xyz_world=torch.where(tracks.moving[None, :, None], tracks.xyz_world + noise, tracks.xyz_world))
    assert synchronise(shaky, joined).agreement == 1.0
    found = synchronise(tracks, joined)
    assert found.agreement == 1.0
    assert float((found.tracks.visible == tracks.visible).float().mean()) > 0.99
