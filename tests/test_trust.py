"""What a run says of its own places: as far beside the truth as it says, and one line where that will show."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TrueShot

import track2view as t2v
from track2view.cameras import apply_move, parse_move
from track2view.errors import Notice
from track2view.geometry import pixel_centres, project, unproject
from track2view.pipeline import ASTRAY_BAR, ASTRAY_COLOUR, Shot
from track2view.records import CameraPath, Clip
from track2view.video import read_clip
from track2view.warp import DenseDepth, WarpRenderer


def unsure(shot: TrueShot, deviation: float) -> DenseDepth:
    """True depth that is said to be that unsure."""
    return replace(DenseDepth.exact(1 / shot.depth, shot.moving), deviation=torch.full_like(shot.depth, deviation))


def test_pixels_are_astray_as_far_as_an_error_of_their_depth_carries_them(lively: TrueShot) -> None:
    target = apply_move(parse_move("orbit-right+dolly-in:0.2"), lively.camera, float(lively.depth[0].median()))
    view = WarpRenderer(lively.clip, unsure(lively, 0.02), lively.camera).render(target, 39)
    pose, matrix = lively.camera.world_from_camera[39], lively.camera.intrinsics[39]
    pixels = pixel_centres(192, 336).reshape(-1, 2).double()
    place = [
        project(unproject(pixels, lively.depth[39].reshape(-1).double() / wrong, pose, matrix), target.camera_from_world[39], matrix)[0]
        for wrong in (1.0, 1.02)
    ]
    column, row = place[0].long().T
    inside = (place[0] >= 0).all(1) & (column < 336) & (row < 192)
    found = view.astray[row[inside], column[inside]]
    told = view.seen_now[row[inside], column[inside]]
    moved = (place[1] - place[0]).norm(dim=1)[inside].float()
    assert float((found / moved)[told & (moved > 0.2)].median()) == pytest.approx(1.0, abs=0.05)
    assert float(((found / moved)[told & (moved > 0.2)] - 1).abs().quantile(0.7)) < 0.1, "but for what something nearer hides"
    assert not view.astray[~view.seen].any()


def test_pixels_are_astray_as_far_as_another_lens_carries_them(lively: TrueShot) -> None:
    target = apply_move(parse_move("orbit-right:25+dolly-in:0.2"), lively.camera, float(lively.depth[0].median()))
    renderer = WarpRenderer(lively.clip, unsure(lively, 0.0), lively.camera, lens_deviation=0.2)
    view = renderer.render(target, 39)
    pixels, pose = pixel_centres(192, 336).reshape(-1, 2).double(), lively.camera.world_from_camera[39]
    place = []
    for longer in (1.0, math.exp(0.2)):
        matrix = lively.camera.intrinsics[39].clone()
        matrix[[0, 1], [0, 1]] *= longer
        xyz = unproject(pixels, lively.depth[39].reshape(-1).double(), pose, matrix)
        place.append(project(xyz, target.camera_from_world[39], matrix)[0])
    column, row = place[0].long().T
    inside = (place[0] >= 0).all(1) & (column < 336) & (row < 192)
    found, told = view.astray[row[inside], column[inside]], view.seen_now[row[inside], column[inside]]
    moved = (place[1] - place[0]).norm(dim=1)[inside].float()
    assert float(moved[told].median()) > 1.0
    assert float((found / moved)[told & (moved > 0.5)].median()) == pytest.approx(1.0, abs=0.05)
    same = renderer.render(lively.camera, 20)
    assert float(same.astray[same.seen_now].max()) < 1e-2, "no lens parts cameras that coincide"


def test_known_depth_and_cameras_that_coincide_put_nothing_astray(lively: TrueShot) -> None:
    target = apply_move(parse_move("orbit-right"), lively.camera, float(lively.depth[0].median()))
    assert float(WarpRenderer(lively.clip, unsure(lively, 0.0), lively.camera).render(target, 39).astray.max()) == 0
    same = WarpRenderer(lively.clip, unsure(lively, 0.5), lively.camera).render(lively.camera, 20)
    assert float(same.astray[same.seen_now].max()) < 1e-3


def test_a_still_camera_leaves_depth_unsure(arc: TrueShot) -> None:
    """What cannot be seen is said to be unsure by as much as scenes are deep, or nearly."""
    picture = arc.clip.frames[:1]
    shaken = [torch.roll(picture, (step % 2, step % 3), (-2, -1)) for step in range(10)]
    shot = t2v.prepare(Clip(frames=torch.cat(shaken), fps=arc.clip.fps), use_cache=False)
    assert float(shot.depth.deviation.median()) > 0.08


@pytest.fixture(scope="module")
def short_shot(short_file: Path) -> Shot:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return t2v.prepare(read_clip(short_file), use_cache=False)


def test_a_run_says_how_far_things_may_be_astray_and_warns_above_the_bar(short_shot: Shot, tmp_path: Path) -> None:
    frames, height = len(short_shot.clip), short_shot.clip.size[0]
    known = replace(short_shot.tracking, report=replace(short_shot.tracking.report, fov_deviation=0.0))
    sure, doubtful = (
        replace(short_shot, tracking=known, depth=replace(short_shot.depth, deviation=torch.full_like(short_shot.depth.disparity, each)))
        for each in (0.001, 0.5)
    )
    target = t2v.target_camera(short_shot, "orbit-right", amount=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        t2v.write_run(sure, target, tmp_path / "sure")
    with pytest.warns(Notice, match=r"by 0\.\d s things may lie \d+ % of its height beside .* a smaller --amount"):
        t2v.write_run(doubtful, target, tmp_path / "doubtful")
    runs = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in ("sure", "doubtful")}
    assert len(runs["sure"]["astray"]) == frames
    assert max(runs["sure"]["astray"]) < ASTRAY_BAR < max(runs["doubtful"]["astray"])
    assert runs["sure"]["astray"][0] == pytest.approx(0, abs=1e-3), "the path begins where the source's does"
    assert not [each for each in runs["sure"]["warnings"] if "beside" in each]
    assert [each for each in runs["doubtful"]["warnings"] if "beside" in each]
    orange = {name: share_of_orange(tmp_path / name / "compare.mp4", height) for name in runs}
    assert orange["sure"] < 0.01
    assert orange["doubtful"] > 0.3
    last = {
        name: list(t2v.refilm(shot, target))[-1].astray
        for name, shot in (("known", sure), ("found", replace(sure, tracking=short_shot.tracking)))
    }
    assert short_shot.tracking.report.focal_deviation > 0.1
    assert float(last["found"].mean()) > 5 * float(last["known"].mean()), "nor is a lens sure that was found in eight frames"


def share_of_orange(path: Path, height: int) -> float:
    """Of the third panel's last frame: how much is tinged so."""
    last = read_clip(path).image(-1)
    assert last.shape[0] == height
    panels = np.split(last.astype(int), 3, axis=1)
    tinge = panels[2] - panels[1] // 3
    return float((np.abs(tinge - np.array(ASTRAY_COLOUR) // 3).max(-1) < 25).mean())


def test_moves_turn_about_what_moves_if_it_is_large_enough(short_shot: Shot) -> None:
    still = torch.zeros_like(short_shot.depth.moving)
    near, small = still.clone(), still.clone()
    near[0, 10:30, 20:40] = True
    small[0, :2, :2] = True
    disparity = torch.where(near, 4.0, short_shot.depth.disparity)
    mean = 1 / float(disparity[0].mean())

    def pivot(moving: torch.Tensor) -> float:
        return replace(short_shot, depth=replace(short_shot.depth, disparity=disparity, moving=moving)).pivot

    assert pivot(near) == pytest.approx(0.25)
    assert pivot(still) == pytest.approx(mean)
    assert pivot(small) == pytest.approx(mean)
    assert pivot(~near) == pytest.approx(mean), "what is farther than most is not turned about"


def test_an_orbit_keeps_its_pivot_in_place(short_shot: Shot) -> None:
    target: CameraPath = t2v.target_camera(short_shot, "orbit-right", amount=15)
    own = short_shot.tracking.camera
    ahead = torch.tensor([0.0, 0.0, short_shot.pivot], dtype=torch.float64)
    for frame in (0, len(own) - 1):
        pose = own.world_from_camera[frame]
        pixel, _ = project((pose[:3, :3] @ ahead + pose[:3, 3])[None], target.camera_from_world[frame], target.intrinsics[frame])
        assert torch.allclose(pixel[0], target.intrinsics[frame, :2, 2], atol=0.5)
