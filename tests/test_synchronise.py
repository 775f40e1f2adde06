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


def exact_tracks(target: str) -> tuple[TrackSet, CameraPath]:
    """Exact joined tracks of a lively world, and its cameras."""
    rig = make_rig(4, frames=FRAMES, size=SIZE)
    joined = join_cameras(rig["cam01"], rig[target])
    queries = Queries.grid([0, FRAMES - 1], 12, 20)
    pixels = queries.pixels(SIZE)
    return track_points(there_and_back(make_world(4, frames=FRAMES, dynamic=True)), joined, queries.frame, pixels), joined


@pytest.fixture(scope="module")
def exact() -> tuple[TrackSet, CameraPath]:
    return exact_tracks("cam02")


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


def doubted(tracks: TrackSet) -> TrackSet:
    """Still tracks that the tracker is not sure of, and moving ones that it is, which proves nothing of their depth."""
    assert tracks.moving is not None
    return replace(tracks, confidence=torch.where(tracks.moving, 0.9, 0.7).expand_as(tracks.confidence).contiguous())


def test_an_entry_of_the_target_does_not_tell_whether_the_target_sees_the_point() -> None:
    tracks, joined = exact_tracks("cam05")
    assert tracks.moving is not None
    truth = pair_by_tracking(tracks, joined)
    found = pair_by_tracking(synchronise(along_rays(doubted(tracks), joined, 1.02), joined).tracks, joined)
    shares = []
    for kind in (tracks.moving, ~tracks.moving):
        for sight in (tracks.visible[FRAMES:], ~tracks.visible[FRAMES:]):
            entries = truth.target.valid & kind & sight
            assert int(entries.sum()) > 100
            shares.append(float(found.target.valid[entries].float().mean()))
    assert min(shares) > 0.97, shares
    assert max(shares) - min(shares) < 0.03, shares


def test_the_source_alone_decides_where_the_target_has_an_entry(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    lost, seen = tracks.xyz_world.clone(), tracks.visible.clone()
    lost[: FRAMES - 5, ::3], seen[: FRAMES - 5, ::3] = torch.nan, False
    found = synchronise(replace(tracks, xyz_world=lost, visible=seen), joined).tracks
    pairs = pair_by_tracking(found, joined)
    assert bool(tracks.visible[FRAMES + 5 :, ::3].any())
    assert not bool(pairs.target.valid[5:, ::3].any())
    assert not bool(found.visible[FRAMES + 5 :, ::3].any())
    assert torch.equal(pairs.target.valid[:, 1::3], pair_by_tracking(tracks, joined).target.valid[:, 1::3])
    assert bool(found.confidence.isfinite().all())


def test_what_no_view_tells_is_a_guess_and_the_source_is_kept(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    hidden = tracks.visible.clone()
    hidden[FRAMES:] = False
    found = synchronise(replace(doubted(tracks), visible=hidden), joined).tracks
    pairs = pair_by_tracking(found, joined)
    assert float(pairs.confidence[1:, tracks.moving].max()) <= 0.3 + 1e-6
    assert float(pairs.confidence[1:, ~tracks.moving].max()) < 0.5
    assert torch.equal(found.visible[:FRAMES], tracks.visible[:FRAMES])
    assert torch.allclose(found.xyz_world[FRAMES:], tracks.xyz_world[FRAMES:])
    assert torch.equal(found.confidence[:FRAMES].flip(0), found.confidence[FRAMES:])


def test_rays_that_do_not_meet_are_doubted_and_so_is_their_track(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    drifted, target = tracks.xyz_world.clone(), joined.world_from_camera[FRAMES:, None, :3, 3].float()
    wrong = torch.zeros_like(tracks.moving)
    wrong[torch.nonzero(tracks.moving)[::2, 0]] = True
    away = 0.05 * (drifted[FRAMES:] - target).norm(dim=-1, keepdim=True)
    at = torch.arange(FRAMES)[:, None] % 2 == 1
    drifted[FRAMES:] += torch.where((wrong & at)[..., None], away, 0.0)
    found = synchronise(replace(doubted(tracks), xyz_world=drifted), joined).tracks
    both = tracks.visible[:FRAMES].flip(0) & tracks.visible[FRAMES:]
    both[:5] = False  # the cameras have hardly parted
    sure = found.confidence[FRAMES:]
    assert float(sure[both & tracks.moving & ~wrong].median()) > 0.95
    assert 0.3 < float(sure[both & wrong & ~at].median()) < 0.75
    assert float(sure[both & wrong & at].median()) < 0.15
    assert float(found.visible[FRAMES:][both & wrong & at].float().mean()) < 0.2
    assert torch.allclose(sure[both & ~tracks.moving], torch.tensor(0.85), atol=1e-3)


def test_a_moving_point_is_doubted_more_the_longer_ago_its_rays_met(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    hidden = tracks.visible.clone()
    hidden[FRAMES + 12 :] = False
    pushed = along_rays(doubted(tracks), joined, 1.02)
    found = synchronise(replace(pushed, visible=hidden), joined).tracks
    told = tracks.visible[FRAMES - 12] & hidden[FRAMES + 11] & tracks.moving
    after = found.confidence[FRAMES + 12 :, told]
    assert int(told.sum()) > 5
    assert bool((after.diff(dim=0) <= 0).all())
    assert float(after[0].median()) > 0.8
    assert float(after[-1].median()) < 0.55
    told = told & tracks.visible[FRAMES - 15]
    truth = tracks.xyz_world[FRAMES + 14, told]
    carried, alone = (
        (xyz - truth).norm(dim=-1).median() for xyz in (found.xyz_world[FRAMES + 14, told], pushed.xyz_world[FRAMES - 15, told])
    )
    assert float(carried) < 0.3 * float(alone)


def test_a_still_point_is_doubted_where_it_shows_more_parallax_than_it_was_seen_with(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    hidden = tracks.visible.clone()
    hidden[FRAMES + 1 :] = False
    eye, start = joined.world_from_camera[:, None, :3, 3].float(), joined.world_from_camera[tracks.query_frame, :3, 3].float()
    ray, first = (torch.nn.functional.normalize(tracks.xyz_world - each, dim=-1) for each in (eye, start))
    sine = torch.linalg.cross(ray, first.expand_as(ray)).norm(dim=-1)
    more = (sine[FRAMES:] / torch.where(hidden, sine, 0.0).amax(0).clamp(min=1e-6))[1:]
    for doubt, least, most in ((0.98, 0.9, 0.85), (0.7, 0.45, 0.3)):
        still = replace(tracks, visible=hidden, confidence=torch.full_like(tracks.confidence, doubt))
        found = synchronise(still, joined).tracks
        in_target = pair_by_tracking(found, joined).target.valid[1:]
        sure = found.confidence[FRAMES + 1 :]
        assert float(sure[in_target & ~tracks.moving & (more < 0.8)].min()) > least
        assert float(sure[in_target & ~tracks.moving & (more > 3)].max()) < most
        assert float(sure[~in_target & ~tracks.moving].min()) > least


def test_what_the_target_alone_sees_is_where_the_target_sees_it(exact: tuple[TrackSet, CameraPath]) -> None:
    tracks, joined = exact
    assert tracks.moving is not None
    hidden, lost = tracks.visible.clone(), tracks.xyz_world.clone()
    hidden[:5], lost[:5] = False, lost[:5] + 0.3
    found = pair_by_tracking(synchronise(replace(tracks, visible=hidden, xyz_world=lost), joined).tracks, joined)
    alone = tracks.visible[-5:] & tracks.moving
    assert int(alone.sum()) > 20
    assert torch.allclose(found.target.uv[-5:][alone], pair_by_tracking(tracks, joined).target.uv[-5:][alone], atol=1e-3)


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
