from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TrueShot
from scipy.spatial.transform import Rotation

from track2view.cameras import read_camera
from track2view.errors import UserError
from track2view.geometry import project
from track2view.metrics import path_errors, track_scores
from track2view.records import Clip, Queries
from track2view.scenes import make_camera, make_world, render_clip, track_points
from track2view.trackers import SfmTracker
from track2view.trackers.bundle import BundleState, FocalPull, Observations, resect, residuals, solve, triangulate, world_directions
from track2view.trackers.flow import EDGE_WINDOW, follow, neighbour_flow
from track2view.trackers.growth import keyframes_of
from track2view.trackers.moving_things import Ground, ImageTracks, View, group, movers, place
from track2view.trackers.passing import moves_after_all
from track2view.trackers.rigid import rigid_thing
from track2view.video import read_clip

FREE = FocalPull(log_focal=0.0, weight=0.0)
"""Nothing is believed of the focal length."""


def exact_problem(cameras: int = 8, points: int = 60, seed: int = 0) -> tuple[BundleState, Observations]:
    """Noise-free observations of random points, every track anchored in frame 0 or 4."""
    random = np.random.default_rng(seed)
    state = BundleState(
        rotation=Rotation.from_rotvec(np.linspace(0, 0.3, cameras)[:, None] * [0.2, 1.0, 0.1]).as_matrix(),
        centre=np.linspace(0, 0.6, cameras)[:, None] * [1.0, 0.2, 0.4],
        inverse_depth=random.uniform(0.3, 1.5, points),
        focal=500.0,
    )
    anchor = np.where(np.arange(points) % 2, 4, 0)
    blank = Observations.of(random.uniform(-200, 200, (cameras, points, 2)).astype(np.float32), np.ones((cameras, points), bool), anchor)
    error, in_front = residuals(state, blank)
    return state, replace(blank, pixels=blank.pixels + error).where(in_front)


def test_bundle_adjustment_recovers_an_exact_problem_and_its_focal_length() -> None:
    truth, seen = exact_problem()
    random = np.random.default_rng(1)
    noise = Rotation.from_rotvec(0.01 * random.normal(size=(8, 3)))
    start = replace(
        truth,
        rotation=np.concatenate([truth.rotation[:1], noise[1:].as_matrix() @ truth.rotation[1:]]),
        centre=truth.centre + np.r_[np.zeros((1, 3)), 0.02 * random.normal(size=(7, 3))],
        inverse_depth=truth.inverse_depth * np.exp(0.1 * random.normal(size=60)),
        focal=460.0,
    )
    found = solve(start, seen, free=range(1, 8), focal=FREE, scale=20.0, iterations=80)
    error, _ = residuals(found, seen)
    assert np.abs(error).max() < 0.1
    assert found.focal == pytest.approx(500, rel=5e-3)
    turned = Rotation.from_matrix(found.rotation @ truth.rotation.transpose(0, 2, 1)).magnitude()
    assert np.degrees(turned.max()) < 0.1


def test_a_third_of_wild_tracks_does_not_bend_the_path() -> None:
    truth, seen = exact_problem(points=90)
    wild = seen.track % 3 == 0
    spoiled = replace(seen, pixels=seen.pixels + wild[:, None] * (seen.frame[:, None] * np.array([6.0, -4.0])))
    found = solve(truth, spoiled, free=range(1, 8), focal=None, scale=0.5, iterations=30)
    turned = Rotation.from_matrix(found.rotation @ truth.rotation.transpose(0, 2, 1)).magnitude()
    assert np.degrees(turned.max()) < 0.05


def test_triangulation_and_resection_of_exact_points() -> None:
    truth, seen = exact_problem()
    inverse_depth, information = triangulate(truth, seen, np.ones(60), 1.0)
    assert np.allclose(inverse_depth, truth.inverse_depth, rtol=1e-3)
    assert (information > 0).all()
    directions = world_directions(truth, seen) + truth.inverse_depth[:, None] * truth.centre[seen.anchor]
    chosen = seen.frame == 6
    track = seen.track[chosen]
    rotation, centre = resect(np.eye(3), np.zeros(3), directions[track], truth.inverse_depth[track], seen.pixels[chosen], 500.0, 1.0)
    assert np.allclose(rotation, truth.rotation[6], atol=1e-5)
    assert np.allclose(centre, truth.centre[6], atol=1e-4)


def test_flow_tracks_follow_the_truth_and_end_behind_things(lively: TrueShot) -> None:
    flow = neighbour_flow(lively.clip)
    queries = Queries.grid([20], 12, 20)
    points = queries.pixels((192, 336)).float().numpy()
    followed, visible = follow(flow, 20, points, range(40))
    truth = track_points(lively.world, lively.camera, queries.frame, torch.from_numpy(points).double())
    uv, _ = project(truth.xyz_world.double(), lively.camera.camera_from_world, lively.camera.intrinsics)
    error = np.linalg.norm(followed - uv.numpy(), axis=-1)
    both = visible & truth.visible.numpy()
    assert np.median(error[both]) < 0.3
    assert np.percentile(error[both], 90) < 2.0
    assert (visible == truth.visible.numpy()).mean() > 0.75
    assert visible[20].all()


def test_a_smaller_window_keeps_tracks_beside_edges(lively: TrueShot) -> None:
    flow = neighbour_flow(lively.clip)
    queries = Queries.grid([20], 24, 40)
    points = queries.pixels((192, 336)).float().numpy()
    _, sure = follow(flow, 20, points, range(40))
    followed, visible = follow(flow, 20, points, range(40), EDGE_WINDOW)
    truth = track_points(lively.world, lively.camera, queries.frame, torch.from_numpy(points).double())
    uv, _ = project(truth.xyz_world.double(), lively.camera.camera_from_world, lively.camera.intrinsics)
    seen = truth.visible.numpy()
    won = visible & ~sure
    error = np.linalg.norm(followed - uv.numpy(), axis=-1)[won & seen]
    assert visible[sure].all()
    assert (visible & seen).sum() > 1.01 * (sure & seen).sum()
    assert seen[won].mean() > 0.8
    assert np.percentile(error, 80) < 4.0


@pytest.mark.parametrize("turn", [0.0, 40.0])
def test_flow_tracks_do_not_drift_while_the_picture_grows_and_turns(turn: float) -> None:
    frames, size = 40, 240
    noise = np.random.default_rng(0).uniform(0, 255, (2 * size, 2 * size, 3)).astype(np.float32)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)  # pyrefly: ignore
    middle = np.array([size / 2, size / 2])

    def place(frame: int) -> np.ndarray:
        """Picture to frame: grows by half over the clip, about the middle."""
        share = frame / (frames - 1)
        matrix = cv2.getRotationMatrix2D((float(size), float(size)), turn * share, 0.8 * 1.5**share)
        matrix[:, 2] += middle - size
        return matrix

    images = [cv2.warpAffine(picture, place(frame), (size, size), flags=cv2.INTER_AREA) for frame in range(frames)]
    clip = Clip(frames=torch.from_numpy(np.stack(images).astype(np.uint8)).permute(0, 3, 1, 2), fps=Fraction(30))
    start = (middle + np.random.default_rng(1).uniform(-70, 70, (200, 2))).astype(np.float32)
    points, visible = follow(neighbour_flow(clip), 0, start, range(frames))
    half = 0.5
    whole = cv2.invertAffineTransform(place(0))
    last = (np.c_[(np.c_[start - half, np.ones(200)] @ whole.T), np.ones(200)] @ place(frames - 1).T) + half
    error = np.linalg.norm(points[-1] - last, axis=1)[visible[-1]]
    inside = ((last > 8) & (last < size - 8)).all(1)
    assert visible[-1, inside].mean() > 0.9
    assert np.median(error) < 0.3


@pytest.mark.parametrize(("frames", "interval"), [(2, 1), (60, 1), (61, 2), (81, 2), (240, 2), (241, 3), (1000, 9)])
def test_of_longer_clips_fewer_frames_are_solved_for(frames: int, interval: int) -> None:
    keyframes = keyframes_of(frames)
    assert keyframes[0] == 0
    assert keyframes[-1] == frames - 1
    assert set(np.diff(keyframes[:-1])) <= {interval}
    assert np.diff(keyframes)[-1] <= interval


@pytest.fixture(scope="module")
def arc_tracking(arc: TrueShot):
    queries = Queries.grid([0, 39], 16, 28)
    return queries, SfmTracker().track(arc.clip, queries)


def test_the_tracker_finds_a_still_scene(arc: TrueShot, arc_tracking: tuple) -> None:
    queries, tracking = arc_tracking
    errors = path_errors(tracking.camera, arc.camera)
    assert errors.rotation_mean < 0.2
    assert errors.ate_percent < 1.0
    assert abs(errors.focal_percent) < 5.0
    assert tracking.report.parallax_degrees > 2
    pixels = queries.pixels((192, 336))
    truth = track_points(arc.world, arc.camera, queries.frame, pixels)
    scores = track_scores(tracking.tracks, tracking.camera, truth, arc.camera)
    assert scores.apd3d > 60
    assert scores.occlusion_accuracy > 75
    assert float(tracking.tracks.moving.float().mean()) < 0.1
    depth = (tracking.tracks.xyz_world[0] @ torch.eye(3))[:, 2][tracking.tracks.visible[0]]
    assert float(depth.median()) == pytest.approx(1.0, abs=0.05)


def test_a_given_camera_is_used_as_it_is(arc: TrueShot) -> None:
    queries = Queries.grid([0], 10, 16)
    tracking = SfmTracker().track(arc.clip, queries, arc.camera)
    assert torch.equal(tracking.camera.world_from_camera, arc.camera.world_from_camera)
    truth = track_points(arc.world, arc.camera, queries.frame, queries.pixels((192, 336)))
    still = tracking.tracks.visible & truth.visible
    error = (tracking.tracks.xyz_world - truth.xyz_world).norm(dim=-1) / truth.xyz_world.norm(dim=-1).clamp(min=1)
    assert float(error[still].median()) < 0.03


def test_moving_things_are_found_and_stand_on_the_ground(lively: TrueShot) -> None:
    queries = Queries.grid([0, 20, 39], 16, 28)
    tracking = SfmTracker().track(lively.clip, queries)
    truth = track_points(lively.world, lively.camera, queries.frame, queries.pixels((192, 336)))
    assert truth.moving is not None
    found = tracking.tracks.moving
    recall = float((found & truth.moving).sum() / truth.moving.sum())
    precision = float((found & truth.moving).sum() / found.sum())
    assert recall > 0.85
    assert precision > 0.7
    assert path_errors(tracking.camera, lively.camera).rotation_mean < 0.3
    assert bool(tracking.tracks.xyz_world.isfinite().all())


@pytest.mark.parametrize("kind", ["pan", "tripod"])
def test_without_parallax_rotations_are_right_and_a_warning_says_so(kind: str) -> None:
    world = make_world(4, frames=40, dynamic=False)
    camera = make_camera(kind, 4, frames=40, size=(192, 336))
    clip, _, _ = render_clip(world, camera)
    tracking = SfmTracker().track(clip, Queries.grid([0], 8, 14))
    assert path_errors(tracking.camera, camera).rotation_mean < (0.5 if kind == "pan" else 0.2)
    assert any("parallax too low" in warning for warning in tracking.report.warnings)
    depth = tracking.tracks.xyz_world[0, :, 2]
    assert float(depth.std() / depth.mean()) < 0.1


def test_a_shot_change_is_refused_with_its_time(arc: TrueShot, lively: TrueShot) -> None:
    frames = torch.cat([arc.clip.frames[:15], lively.clip.frames[:15]])
    with pytest.raises(UserError, match=r"shot changes at 0\.50 s"):
        SfmTracker().track(Clip(frames=frames, fps=Fraction(30)), Queries.grid([0], 4, 4))


def test_blank_frames_and_single_frames_are_refused(arc: TrueShot) -> None:
    black = Clip(frames=torch.zeros(5, 3, 64, 64, dtype=torch.uint8), fps=Fraction(25))
    with pytest.raises(UserError, match="blank"):
        SfmTracker().track(black, Queries.grid([0], 4, 4))
    with pytest.raises(UserError, match="one frame"):
        SfmTracker().track(replace(arc.clip, frames=arc.clip.frames[:1]), Queries.grid([0], 4, 4))
    with pytest.raises(UserError, match="--fov"):
        SfmTracker(fov=200.0)


def test_tracks_group_by_place_and_motion() -> None:
    time = np.linspace(0, 1, 20)[:, None, None]
    random = np.random.default_rng(0)
    left = np.array([0.2, 0.3]) + 0.03 * random.random((30, 2)) + time * [0.2, 0.0]
    right = np.array([0.7, 0.3]) + 0.03 * random.random((30, 2)) - time * [0.2, 0.0]
    stray = np.array([[0.5, 0.9]]) + time * [0.0, -0.1]
    points = np.concatenate([left, right, stray], axis=1).astype(np.float32)
    label = group(ImageTracks(points=points, visible=np.ones((20, 61), bool)))
    assert len(set(label[:30])) == len(set(label[30:60])) == 1
    assert label[0] != label[30]
    assert label[60] == -1


def test_a_splinter_of_a_thing_is_put_back() -> None:
    """Twelve tracks at one spot are each other's nearest neighbours: alone, they would stand on ground of their own."""
    time = np.linspace(0, 1, 30)[:, None, None]
    random = np.random.default_rng(0)
    thing = np.array([0.2, 0.3]) + 0.1 * random.random((80, 2)) + time * [0.2, 0.0]
    splinter = np.array([0.34, 0.35]) + 1e-4 * random.random((12, 2)) + time * [0.2, 0.0]
    passing = np.array([0.38, 0.35]) + 1e-3 * random.random((12, 2)) - time * [0.2, 0.0]
    points = np.concatenate([thing, splinter, passing], axis=1).astype(np.float32)
    label = group(ImageTracks(points=points, visible=np.ones(points.shape[:2], bool)))
    assert (label[:92] == label[0]).all()
    assert (label[92:] == label[92]).all()
    assert label[92] != label[0]


def test_a_mover_stands_on_the_ground_also_when_its_foot_leaves_the_image() -> None:
    frames, height, bottom = 40, 1.5, 0.45
    depth = np.linspace(5.0, 2.4, frames)
    across, up = np.meshgrid(np.linspace(-0.3, 0.3, 12), np.linspace(0.0, 1.2, 25))
    card = np.stack([across.ravel(), height - up.ravel()], axis=-1)
    points = (card / depth[:, None, None]).astype(np.float32)
    visible = points[..., 1] < bottom
    assert not visible[-1].all()
    x, z = np.meshgrid(np.linspace(-4, 4, 60), np.linspace(2, 12, 60))
    on_image = np.stack([x / z, height / z], axis=-1).reshape(-1, 2)
    shown = (np.abs(on_image[:, 0]) < 0.5) & (on_image[:, 1] < bottom)
    disparity = (1 / z.ravel())[shown]
    disparity[::7] *= 4  # points that a mover dragged along look far too near
    ground = Ground(points=on_image[shown].astype(np.float32), disparity=disparity.astype(np.float32))
    moving = ImageTracks(points=points, visible=visible)
    label = group(moving)
    assert (label == label[0]).all()
    placed = place(moving, label, movers(moving, label), [ground] * frames, View(focal=1.0, bottom=bottom, pixels=480.0))
    assert np.abs(placed.disparity * depth[:, None] - 1).max() < 0.06


def test_what_is_seen_for_moments_beside_a_mover_is_still_where_something_still_is() -> None:
    """Most of what is about moves, before a wall and a near thing."""
    random, kind = np.random.default_rng(0), np.arange(400) % 6
    around = random.uniform(-0.1, 0.1, (200, 2)).astype(np.float32)
    aside = np.array([0.5, 0.0], np.float32)
    points = np.concatenate([around, around + aside])
    told, moving = np.where(kind == 0, 1.0, 0.5), (kind > 1) & (np.arange(400) < 200)
    asked = random.uniform(-0.05, 0.05, (6, 2)).astype(np.float32)
    disparity = np.array([0.5, 1.0, 1.1, 1.5, 0.3, 0.7])
    expected = [False, False, False, True, True, True]
    assert moves_after_all(asked, disparity, points, told, moving).tolist() == expected
    assert not moves_after_all(asked + aside, disparity, points, told, moving).any(), "nothing moves there"
    assert not moves_after_all(asked, disparity, points, told, np.ones(400, bool)).any(), "nothing is still to compare it with"
    assert not moves_after_all(asked[:0], disparity[:0], points, told, moving).any()


def test_limbs_that_stay_beside_each_other_are_one_thing_and_what_passes_is_not() -> None:
    time = np.linspace(0, 1, 40)[:, None, None]
    random = np.random.default_rng(0)
    body = np.array([0.0, 0.0]) + random.uniform(-0.05, 0.05, (60, 2)) + time * [0.1, 0.0]
    swing = 0.04 * np.sin(12 * time) * [1.0, 0.0]
    leg = np.array([0.0, 0.09]) + random.uniform(-0.03, 0.03, (40, 2)) + time * [0.1, 0.0] + swing
    passing = np.array([0.4, 0.0]) + random.uniform(-0.05, 0.05, (40, 2)) - time * [0.7, 0.0]
    stray = np.array([[0.06, 0.0]]) + time * [0.1, 0.0]
    points = np.concatenate([body, leg, passing, stray], axis=1).astype(np.float32)
    label = np.repeat([0, 1, 2, -1], [60, 40, 40, 1])
    mover = movers(ImageTracks(points=points, visible=np.ones(points.shape[:2], bool)), label)
    assert (mover[:100] == mover[0]).all()
    assert (mover[100:140] == mover[100]).all()
    assert mover[100] != mover[0]
    assert mover[140] == mover[0], "a stray beside a thing throughout is a part of it"


def flat_ground(bottom: float = 0.45, height: float = 1.5) -> Ground:
    """A floor below the camera, seen from two units away on."""
    x, z = np.meshgrid(np.linspace(-4, 4, 60), np.linspace(2, 12, 60))
    on_image = np.stack([x / z, height / z], axis=-1).reshape(-1, 2)
    shown = (np.abs(on_image[:, 0]) < 0.5) & (on_image[:, 1] < bottom)
    return Ground(points=on_image[shown].astype(np.float32), disparity=(1 / z.ravel())[shown].astype(np.float32))


def placed_disparity(points: np.ndarray, ground: Ground) -> np.ndarray:
    """Where one thing is put, by its points over time."""
    moving = ImageTracks(points=points.astype(np.float32), visible=np.ones(points.shape[:2], bool))
    label = np.zeros(points.shape[1], int)
    return place(moving, label, label, [ground] * len(points), View(focal=1.0, bottom=0.5, pixels=480.0)).disparity


def test_what_spreads_its_arms_does_not_come_nearer() -> None:
    """Its picture grows, and the ground under it stays where it is."""
    random, frames = np.random.default_rng(0), 40
    parts = random.uniform([-0.1, 0.1], [0.1, 0.3], (80, 2))
    grown = np.linspace(1.0, 1.8, frames)[:, None, None] * (parts - [0.0, 0.3]) + [0.0, 0.3]
    grown += 0.01 * random.normal(size=grown.shape).cumsum(0) / frames  # nothing rigid
    disparity = np.median(placed_disparity(grown, flat_ground()), axis=1)
    assert disparity == pytest.approx(np.full(frames, disparity[0]), rel=0.05)


def test_what_stands_over_no_ground_is_as_far_as_the_ground_beside_it() -> None:
    ground = flat_ground()
    hidden = ground.points[:, 1] > 0.30
    above = Ground(points=ground.points[~hidden], disparity=ground.disparity[~hidden])
    parts = np.random.default_rng(0).uniform([-0.1, 0.12], [0.1, 0.32], (80, 2))
    disparity = placed_disparity(np.repeat(parts[None], 40, 0), above)
    foot = parts[:, 1].max()
    assert np.median(disparity) == pytest.approx(foot / 1.5, rel=0.15)


def test_a_thing_is_no_deeper_than_it_is_wide() -> None:
    """Noise in a rigid thing's shape, told by a turn of few degrees, must not pull it apart."""
    random, frames = np.random.default_rng(1), 40
    on_thing = random.uniform(-0.25, 0.25, (200, 3)) * [1.0, 1.0, 8.0]
    turned = Rotation.from_rotvec(np.linspace(0, 25, frames)[:, None] * [0.0, 1.0, 0.0], degrees=True).as_matrix()
    in_camera = np.einsum("tij,nj->tni", turned, on_thing) + np.array([0.0, 0.9, 6.0])
    points = in_camera[..., :2] / in_camera[..., 2:]
    disparity = placed_disparity(points, flat_ground())
    for frame in (0, 20, 39):
        width = np.ptp(np.percentile(points[frame], [5, 95], axis=0), axis=0).min()
        assert np.ptp(1 / disparity[frame]) * np.median(disparity[frame]) < 1.05 * width


def test_a_rigid_thing_shows_its_shape_and_motion_up_to_its_size() -> None:
    random, frames, focal = np.random.default_rng(1), 40, 500.0
    on_thing = random.uniform(-0.5, 0.5, (200, 3))
    turned = Rotation.from_rotvec(np.linspace(0, 50, frames)[:, None] * [0.0, 1.0, 0.0], degrees=True).as_matrix()
    middle = np.stack([np.linspace(-1, 1, frames), np.zeros(frames), np.linspace(5, 3, frames)], axis=-1)
    in_camera = np.einsum("tij,nj->tni", turned, on_thing) + middle[:, None]
    pixels = focal * in_camera[..., :2] / in_camera[..., 2:] + random.normal(0, 0.1, (frames, 200, 2))
    pixels[:, :40] += 30 * random.random((frames, 40, 2))  # hair, leaves: nothing rigid
    visible = random.random((frames, 200)) < 0.8
    thing = rigid_thing(pixels.astype(np.float32), visible, focal)
    assert thing is not None
    assert not thing.agrees[:40].any()
    assert thing.agrees[40:].mean() > 0.95
    found = thing.in_camera[:, thing.agrees]
    scale = np.median(in_camera[:, thing.agrees, 2] / found[..., 2])
    assert np.abs(scale * found - in_camera[:, thing.agrees]).max() < 0.1
    assert rigid_thing(random.uniform(0, 300, (frames, 200, 2)).astype(np.float32), visible, focal) is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("taxi", 0.35), ("reader", 0.35)])
def test_rotations_on_real_clips_against_a_second_opinion(name: str, limit: float, shared: Path) -> None:
    clip = read_clip(shared / f"{name}.mp4", short_side=480, frames=81)
    other = read_camera(shared / f"{name}.vipe.npz")[:81]
    tracking = SfmTracker().track(clip, Queries.grid([0], 8, 14))
    still = replace(other, world_from_camera=torch.eye(4, dtype=torch.float64).repeat(81, 1, 1))
    error, identity = path_errors(tracking.camera, other).rotation_mean, path_errors(still, other).rotation_mean
    print(f"{name}: {error:.3f}° from ViPE, identity {identity:.3f}°")
    assert error < identity
    assert error <= limit
