from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from track2view.errors import UserError
from track2view.geometry import invert, rigid, rotation_about
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, Clip, Queries, TrackSet, ViewTracks, scale_of

FRAMES, TRACKS, SIZE = 5, 60, (48, 64)


def camera(seed: int, shift: float = 0.3) -> CameraPath:
    random = torch.Generator().manual_seed(seed)
    turns = 8 * torch.rand(FRAMES, generator=random, dtype=torch.float64)
    poses = rigid(rotation_about("y", turns), shift * torch.randn(FRAMES, 3, generator=random, dtype=torch.float64))
    intrinsics = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]], dtype=torch.float64).repeat(FRAMES, 1, 1)
    return CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=SIZE, unit="metre")


def tracks(seed: int) -> TrackSet:
    random = torch.Generator().manual_seed(seed)
    xyz = torch.randn(FRAMES, TRACKS, 3, generator=random) * torch.tensor([1.5, 1.2, 1.0]) + torch.tensor([0.0, 0.0, 3.0])
    return TrackSet(
        xyz_world=xyz,
        visible=torch.rand(FRAMES, TRACKS, generator=random) > 0.3,
        confidence=torch.rand(FRAMES, TRACKS, generator=random),
        query_frame=torch.randint(0, FRAMES, (TRACKS,), generator=random),
    )


seeds = st.integers(0, 10_000)


@given(seeds)
def test_same_camera_gives_the_same_view_and_fewer_valid_sources(seed: int) -> None:
    pairs = pair_by_projection(tracks(seed), camera(seed), camera(seed))
    assert torch.equal(pairs.source.uv, pairs.target.uv)
    assert torch.equal(pairs.source.depth, pairs.target.depth)
    assert bool((pairs.target.valid | ~pairs.source.valid).all())


@given(seeds)
def test_a_rigid_change_of_world_changes_nothing(seed: int) -> None:
    given_tracks, source, target = tracks(seed), camera(seed), camera(seed + 1)
    new_from_world = rigid(rotation_about("x", torch.tensor(33.0, dtype=torch.float64)), torch.tensor([1.0, 2, -3], dtype=torch.float64))
    moved = given_tracks.xyz_world.double() @ new_from_world[:3, :3].T + new_from_world[:3, 3]
    before = pair_by_projection(given_tracks, source, target)
    after = pair_by_projection(
        replace(given_tracks, xyz_world=moved.float()),
        source.relative_to(invert(new_from_world)),
        target.relative_to(invert(new_from_world)),
    )
    both = before.target.valid & after.target.valid
    assert float((before.target.valid != after.target.valid).float().mean()) < 0.02
    assert torch.allclose(before.target.uv[both], after.target.uv[both], atol=1e-3)


@given(seeds, st.floats(0.1, 20))
def test_scaling_the_world_scales_depth_alone(seed: int, factor: float) -> None:
    given_tracks, source, target = tracks(seed), camera(seed), camera(seed + 1)
    before = pair_by_projection(given_tracks, source, target)
    after = pair_by_projection(
        replace(given_tracks, xyz_world=given_tracks.xyz_world * factor),
        source.scaled(factor, "metre"),
        target.scaled(factor, "metre"),
    )
    both = before.target.valid & after.target.valid
    assert torch.allclose(after.target.depth[both], before.target.depth[both] * factor, rtol=1e-3, atol=1e-4)
    assert torch.allclose(after.target.uv[both], before.target.uv[both], atol=1e-3)


@given(seeds)
def test_resizing_changes_nothing_and_permuting_permutes(seed: int) -> None:
    given_tracks, source = tracks(seed), camera(seed)
    small = ViewTracks.of(given_tracks, source)
    large = ViewTracks.of(given_tracks, source.resized((480, 640)))
    both = small.valid & large.valid
    assert torch.allclose(small.uv[both], large.uv[both], atol=1e-5)
    order = torch.randperm(TRACKS, generator=torch.Generator().manual_seed(seed))
    shuffled = TrackSet(
        xyz_world=given_tracks.xyz_world[:, order],
        visible=given_tracks.visible[:, order],
        confidence=given_tracks.confidence[:, order],
        query_frame=given_tracks.query_frame[order],
    )
    assert torch.equal(ViewTracks.of(shuffled, source).uv, small.uv[:, order])


def test_cropping_moves_the_principal_point() -> None:
    cropped = camera(0).cropped(4, 10, (40, 50))
    assert cropped.intrinsics[0, 0, 2] == 22
    assert cropped.intrinsics[0, 1, 2] == 20


def test_resampling_keeps_the_ends() -> None:
    path = camera(3)
    longer = path.resampled(17)
    assert torch.allclose(longer.world_from_camera[[0, -1]], path.world_from_camera[[0, -1]], atol=1e-12)
    assert torch.allclose(longer.world_from_camera[::4], path.world_from_camera, atol=1e-9)


@settings(max_examples=20)
@given(seed=seeds)
def test_files_round_trip_exactly(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    from track2view.cameras import read_camera

    folder = tmp_path_factory.mktemp("records")
    camera(seed).save(folder / "camera.json")
    again = read_camera(folder / "camera.json")
    assert torch.equal(again.world_from_camera, camera(seed).world_from_camera)
    assert torch.equal(again.intrinsics, camera(seed).intrinsics)
    tracks(seed).save(folder / "tracks.npz")
    loaded = TrackSet.load(folder / "tracks.npz")
    assert torch.equal(loaded.xyz_world, tracks(seed).xyz_world)
    assert torch.equal(loaded.visible, tracks(seed).visible)


def test_scale_is_the_median_depth_of_what_is_seen_first() -> None:
    given_tracks, source = tracks(1), camera(1)
    view = ViewTracks.of(given_tracks, source)
    seen = view.depth[0][view.valid[0] & given_tracks.visible[0]]
    assert scale_of(given_tracks, source) == pytest.approx(float(seen.median()))


def broken(name: str) -> CameraPath:
    path = camera(0)
    poses, intrinsics = path.world_from_camera.clone(), path.intrinsics.clone()
    if name == "nan":
        poses[2, 0, 3] = float("nan")
    elif name == "mirrored":
        poses[1, :3, 0] *= -1
    elif name == "skewed":
        poses[1, :3, 0] *= 1.01
    elif name == "focal":
        intrinsics[3, 0, 0] = 0.0
    return replace(path, world_from_camera=poses, intrinsics=intrinsics)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "world_from_camera: frame 2 has a value that is not finite"),
        ("mirrored", "left-handed"),
        ("skewed", "not orthonormal"),
        ("focal", "frame 3 has a focal length of 0"),
    ],
)
def test_broken_paths_are_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        broken(name)


def test_clip_and_tracks_refuse_what_breaks_them() -> None:
    with pytest.raises(UserError, match=r"Clip\.fps"):
        Clip(frames=torch.zeros(1, 3, 4, 4, dtype=torch.uint8), fps=Fraction(0))
    with pytest.raises(UserError, match="visible"):
        replace(tracks(0), xyz_world=torch.full((FRAMES, TRACKS, 3), float("nan")))
    with pytest.raises(UserError, match="confidence"):
        replace(tracks(0), confidence=torch.full((FRAMES, TRACKS), 1.5))


def test_a_part_of_a_path_is_a_path() -> None:
    whole = replace(camera(3), fps=24.0, focal_known=False)
    zoom = torch.tensor([1.0, 1.2, 1.5, 1.7, 2.0], dtype=torch.float64)
    whole.intrinsics[:, [0, 1], [0, 1]] *= zoom[:, None]
    part = whole[1:4]
    assert torch.equal(part.world_from_camera, whole.world_from_camera[1:4])
    assert part.intrinsics[:, 0, 0].tolist() == pytest.approx([72.0, 90.0, 102.0])
    assert (len(part), part.size, part.unit, part.fps, part.focal_known) == (3, SIZE, "metre", 24.0, False)
    with pytest.raises(UserError, match="T ≥ 1"):
        whole[5:]


def test_queries_in_pixels() -> None:
    assert Queries.grid([0], rows=1, columns=2).pixels((10, 40)).tolist() == [[10.0, 5.0], [30.0, 5.0]]
