"""Pictures of any shape at one size: what is kept of them, and of their cameras and tracks."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from track2view.errors import UserError
from track2view.framing import Framing
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, PairedTracks, TrackSet
from track2view.scenes import make_rig
from track2view.video import read_clip, write_video

FRAMES = 3
SIDES = st.integers(1, 300)


def tracks(seed: int, camera: CameraPath) -> TrackSet:
    """Points all about, before the camera and behind it, many near and beyond the picture's border."""
    generator = torch.Generator().manual_seed(seed)
    ahead = torch.rand(40, 3, generator=generator, dtype=torch.float64) * 12 - 6
    points = (camera.world_from_camera[0, :3, :3] @ ahead.T).T + camera.world_from_camera[0, :3, 3]
    return TrackSet(
        xyz_world=points.float().expand(FRAMES, -1, -1).clone(),
        visible=torch.rand(FRAMES, 40, generator=generator) < 0.8,
        confidence=torch.rand(FRAMES, 40, generator=generator),
        query_frame=torch.zeros(40, dtype=torch.int64),
    )


@given(own=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
def test_the_resized_picture_covers_with_nothing_to_spare_and_the_middle_is_kept(own: tuple[int, int], size: tuple[int, int]) -> None:
    framing = Framing.covering(own, size)
    spare = [whole - kept for whole, kept in zip(framing.resized, size, strict=True)]
    assert min(spare) == 0
    assert framing.top == spare[0] // 2
    assert framing.left == spare[1] // 2
    scale = max(kept / side for kept, side in zip(size, own, strict=True))
    assert all(abs(whole - scale * side) <= 0.5 + 1e-9 for whole, side in zip(framing.resized, own, strict=True))
    assert Framing.covering(own, own) == Framing(resized=own, top=0, left=0, size=own)


def test_a_square_video_fits_the_recipes_size() -> None:
    assert Framing.covering((1280, 1280), (480, 832)) == Framing(resized=(832, 832), top=176, left=0, size=(480, 832))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), size=st.tuples(st.integers(16, 200), st.integers(16, 200)))
def test_cropped_tracks_are_projections_with_the_cropped_cameras(seed: int, size: tuple[int, int]) -> None:
    rig = make_rig(seed, frames=FRAMES, size=(120, 208))
    source, target = rig["cam01"], rig["cam02"]
    framing, points = Framing.covering((120, 208), size), tracks(seed, source)
    found = framing.pairs(pair_by_projection(points, source, target))
    expected = pair_by_projection(points, framing.camera(source), framing.camera(target))
    assert framing.camera(source).size == size
    for one, other in ((found.source, expected.source), (found.target, expected.target)):
        clear = (other.uv.abs() > 1e-4).all(-1) & ((other.uv - 1).abs() > 1e-4).all(-1)
        assert torch.equal(one.valid[clear], other.valid[clear])
        both = one.valid & other.valid
        assert torch.allclose(one.uv[both], other.uv[both], atol=1e-5)
        assert torch.equal(one.depth, other.depth)
    assert torch.equal(found.confidence, points.confidence)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_whole_picture_leaves_tracks_and_cameras_as_they_are(seed: int) -> None:
    rig = make_rig(seed, frames=FRAMES, size=(120, 208))
    pairs = pair_by_projection(tracks(seed, rig["cam01"]), rig["cam01"], rig["cam02"])
    framing = Framing.covering((120, 208), (120, 208))
    same = framing.pairs(pairs)
    assert torch.equal(same.source.valid, pairs.source.valid)
    assert torch.equal(same.target.uv[pairs.target.valid], pairs.target.uv[pairs.target.valid])
    assert torch.equal(framing.camera(rig["cam01"]).intrinsics, rig["cam01"].intrinsics)


@pytest.mark.parametrize("size", [(32, 80), (80, 32), (96, 60)])
def test_a_dot_in_a_video_stays_under_its_track(size: tuple[int, int], tmp_path: Path) -> None:
    own, row, column = (64, 100), 30, 58
    image = torch.zeros(*own, 3, dtype=torch.uint8)
    image[row - 3 : row + 4, column - 3 : column + 4] = 255
    write_video(tmp_path / "dot.mp4", [image.numpy()] * FRAMES, Fraction(10))
    framing = Framing.covering(own, size)
    kept = framing.cut(read_clip(tmp_path / "dot.mp4", resized=framing.resized).frames)
    assert kept.shape == (FRAMES, 3, *size)
    camera = make_rig(1, frames=FRAMES, size=own)["cam01"]
    view = pair_by_projection(tracks(1, camera), camera, camera).source
    uv = torch.tensor([(column + 0.5) / own[1], (row + 0.5) / own[0]]).expand(FRAMES, 1, 2)
    view = replace(view, uv=uv, depth=torch.ones(FRAMES, 1), valid=torch.ones(FRAMES, 1, dtype=torch.bool))
    moved = framing.pairs(PairedTracks(source=view, target=view, confidence=torch.ones(FRAMES, 1))).target
    light = kept[0].float().mean(0)
    light = torch.where(light > 64, light, 0.0)
    rows, columns = (torch.arange(side) + 0.5 for side in size)
    centre = torch.stack([(light.sum(0) * columns).sum(), (light.sum(1) * rows).sum()]) / light.sum()
    assert torch.allclose(moved.uv[0, 0] * torch.tensor([size[1], size[0]]), centre, atol=0.3)


def test_a_cut_beyond_the_picture_is_refused() -> None:
    with pytest.raises(UserError, match="outside a picture"):
        Framing(resized=(10, 10), top=3, left=0, size=(8, 10))
