"""Two synchronised views through one pass of tracking, against the exact tracks of procedural worlds."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from track2view.errors import UserError
from track2view.pairing import join_cameras, join_views, pair_by_projection, pair_by_tracking
from track2view.records import CameraPath, Clip, Queries
from track2view.scenes import World, make_rig, make_world, render_clip, track_points
from track2view.trackers import SfmTracker

FRAMES, SIZE = 25, (120, 208)


def there_and_back(world: World) -> World:
    """The world as the joined clip shows it: backwards, then forwards."""
    solids = (replace(each, world_from_solid=torch.cat([each.world_from_solid.flip(0), each.world_from_solid])) for each in world.solids)
    return replace(world, solids=tuple(solids))


@pytest.fixture(scope="module")
def views() -> tuple[World, Clip, Clip, CameraPath, CameraPath]:
    world = make_world(4, frames=FRAMES, dynamic=True)
    rig = make_rig(4, frames=FRAMES, size=SIZE)
    source, target = rig["cam01"], rig["cam02"]
    clips = [render_clip(world, camera, Fraction(15))[0] for camera in (source, target)]
    return world, clips[0], clips[1], source, target


def test_the_seam_shows_one_frame_twice_to_the_pixel(views: tuple[World, Clip, Clip, CameraPath, CameraPath]) -> None:
    _, source, target, source_camera, target_camera = views
    joined, camera = join_views(source, target), join_cameras(source_camera, target_camera)
    assert len(joined) == len(camera) == 2 * FRAMES
    assert torch.equal(joined.frames[FRAMES - 1], joined.frames[FRAMES])
    assert torch.allclose(camera.world_from_camera[FRAMES - 1], camera.world_from_camera[FRAMES], atol=1e-12)
    assert torch.equal(joined.frames[0], source.frames[-1])
    assert torch.equal(joined.frames[-1], target.frames[-1])


def test_exact_tracks_cut_in_two_are_the_projections_of_one_point(views: tuple[World, Clip, Clip, CameraPath, CameraPath]) -> None:
    world, _, _, source, target = views
    joined = join_cameras(source, target)
    queries = Queries.grid([0, FRAMES - 1], 8, 12)
    pixels = queries.pixels(SIZE)
    tracks = track_points(there_and_back(world), joined, queries.frame, pixels)
    fading = torch.linspace(1, 0.1, 2 * FRAMES)[:, None].expand_as(tracks.confidence)
    tracks = replace(tracks, confidence=fading.contiguous())
    pairs = pair_by_tracking(tracks, joined)
    forwards = replace(
        tracks,
        xyz_world=tracks.xyz_world[FRAMES:],
        visible=tracks.visible[:FRAMES].flip(0),
        confidence=tracks.confidence[:FRAMES].flip(0),
        query_frame=tracks.query_frame % FRAMES,
    )
    expected = pair_by_projection(forwards, source, target)
    for found, wanted in ((pairs.source, expected.source), (pairs.target, expected.target)):
        assert torch.equal(found.valid, wanted.valid)
        assert torch.allclose(found.uv[found.valid], wanted.uv[found.valid], atol=1e-5)
        assert torch.allclose(found.depth[found.valid], wanted.depth[found.valid], atol=1e-4)
    assert torch.equal(pairs.confidence, expected.confidence)
    assert torch.allclose(pairs.source.uv[0], pairs.target.uv[0], atol=1e-5)


def test_the_default_tracker_pairs_two_views_of_known_cameras(views: tuple[World, Clip, Clip, CameraPath, CameraPath]) -> None:
    world, source, target, source_camera, target_camera = views
    joined = join_cameras(source_camera, target_camera)
    queries = Queries.grid([0, FRAMES - 1], 10, 16)
    tracking = SfmTracker().track(join_views(source, target), queries, joined)
    pairs = pair_by_tracking(tracking.tracks, joined)
    pixels = queries.pixels(SIZE)
    truth = pair_by_tracking(track_points(there_and_back(world), joined, queries.frame, pixels), joined)
    for found, wanted in ((pairs.source, truth.source), (pairs.target, truth.target)):
        both = found.valid & wanted.valid & pairs.source.valid
        error = ((found.uv - wanted.uv) * torch.tensor([SIZE[1], SIZE[0]])).norm(dim=-1)[both]
        assert float(error.median()) < 1.0
        assert float((error > 8).float().mean()) < 0.1


def test_what_is_not_synchronised_is_refused(views: tuple[World, Clip, Clip, CameraPath, CameraPath]) -> None:
    world, source, target, source_camera, target_camera = views
    with pytest.raises(UserError, match="disagree in frames: 25 and 20"):
        join_views(source, replace(target, frames=target.frames[:20]))
    with pytest.raises(UserError, match="disagree in rate"):
        join_views(source, replace(target, fps=Fraction(30)))
    with pytest.raises(UserError, match="disagree in unit"):
        join_cameras(source_camera, replace(target_camera, unit="scene"))
    with pytest.raises(UserError, match="25 frames are not two views"):
        pair_by_tracking(track_points(world, source_camera, torch.tensor([0]), torch.tensor([[9.0, 9.0]]).double()), source_camera)
