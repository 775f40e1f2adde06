"""Two eyes and several cameras: what is apart by how much, and which frame is whose."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Done, TrueShot
from media_support import flash_and_beep, heard_at
from shot_support import exact_shot

from track2view.burnt_in import BurntIn
from track2view.cameras import apply_move, cut_between, parse_cuts, parse_move, read_camera
from track2view.errors import UserError
from track2view.pipeline import Shot, refilm, target_camera, write_run
from track2view.scenes import World, render_path
from track2view.stereo import DISTANCE, OWN_PATH, eyes, split_stereo, write_stereo
from track2view.video import read_clip
from track2view.warp import exact_renderer

SIZE, FRAMES = (192, 336), 7


@pytest.fixture(scope="module")
def made() -> tuple[World, Shot]:
    return exact_shot(SIZE, FRAMES, 10)


def test_disparity_is_focal_length_times_distance_by_depth(made: tuple[World, Shot]) -> None:
    """Where depth is exact, by optical flow from eye to eye."""
    world, shot = made
    middle = target_camera(shot, "orbit-right:4")
    distance = 0.03 * shot.pivot
    left, right = eyes(middle, distance)
    source = shot.tracking.camera
    renderer = exact_renderer(world, source, render_path(world, source))
    pictures = [renderer.render(each, 0) for each in (left, right)]
    grey = [cv2.cvtColor(each.colour.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY) for each in pictures]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
    expected = -float(left.intrinsics[0, 0, 0]) * distance / render_path(world, left).depth[0].numpy()
    slope = np.hypot(cv2.Sobel(grey[0], cv2.CV_32F, 1, 0), 0)
    clear = (slope > np.quantile(slope, 0.7)) & pictures[0].seen.numpy()
    clear[:, :30] = clear[:, -30:] = False
    assert expected[clear].min() < -4
    assert np.median(np.abs(flow[..., 0] - expected)[clear]) < 0.2
    assert np.median(np.abs(flow[..., 1])[clear]) < 0.1


def test_eyes_stand_left_and_right_of_the_path(made: tuple[World, Shot]) -> None:
    middle = target_camera(made[1], "roll-right:90")
    left, right = eyes(middle, 0.2)
    aside = right.world_from_camera[-1, :3, 3] - left.world_from_camera[-1, :3, 3]
    assert torch.allclose(aside, 0.2 * middle.world_from_camera[-1, :3, 0])
    assert torch.allclose((left.world_from_camera + right.world_from_camera) / 2, middle.world_from_camera)
    assert torch.equal(left.world_from_camera[:, :3, :3], middle.world_from_camera[:, :3, :3])


def test_the_left_eye_is_left_in_the_picture(made: tuple[World, Shot], tmp_path: Path) -> None:
    film = read_clip(flash_and_beep(tmp_path / "film.mkv", "aac", 48000, "mono", at=0.4, seconds=0.7))
    shot = replace(made[1], clip=replace(made[1].clip, audio=film.audio))
    target = target_camera(shot, OWN_PATH)
    assert torch.allclose(target.world_from_camera, shot.tracking.camera.world_from_camera)
    video = read_clip(write_stereo(shot, target, 0.05, tmp_path / "run"))
    assert (len(video), video.size) == (FRAMES, (192, 672))
    assert abs(heard_at(tmp_path / "run/output.mp4") - 0.4) < 0.5 / 10
    for half, name in ((video.frames[..., :336], "left"), (video.frames[..., 336:], "right")):
        camera = read_camera(tmp_path / f"run/{name}_camera.json")
        views = torch.stack([view.colour for view in refilm(shot, camera)])
        assert float((half.float() - views.float()).abs().mean()) < 4
    assert json.loads((tmp_path / "run/run.json").read_text())["eye_distance"] == pytest.approx(0.05 * shot.pivot)


def test_what_is_burnt_in_is_laid_back_over_both_eyes(made: tuple[World, Shot], tmp_path: Path) -> None:
    """A strip that grows brighter stays where it is in both, and of the frame's own time."""
    shot = made[1]
    mask = np.zeros(SIZE, bool)
    mask[:32] = True
    frames = shot.clip.frames.clone()
    frames[:, :, :32] = torch.linspace(40, 220, FRAMES).to(torch.uint8)[:, None, None, None]
    marked = replace(shot, clip=replace(shot.clip, frames=frames), burnt_in=BurntIn(mask=mask, top=0, bottom=0, left=0, right=0))
    video = read_clip(write_stereo(marked, target_camera(shot, "pan-right:10"), 0.05, tmp_path / "run")).frames.float()
    for half in (video[..., :336], video[..., 336:]):
        assert (half[:, :, 2:28] - frames[:, :, 2:28].float()).abs().mean((1, 2, 3)).max() < 3
        assert (half[:, :, 40:] - frames[:, :, 40:].float()).abs().mean() > 6


def test_a_stereo_part_is_told_from_the_camera() -> None:
    assert split_stereo("orbit-right:20") == ("orbit-right:20", None)
    assert split_stereo("orbit-right:20+stereo:0.06") == ("orbit-right:20", 0.06)
    assert split_stereo("stereo:0.1+dolly-in+pan-left:5") == ("dolly-in+pan-left:5", 0.1)
    assert split_stereo("stereo") == (OWN_PATH, DISTANCE)
    assert split_stereo("path.json#left+stereo:0.02") == ("path.json#left", 0.02)
    for wrong in ("stereo:0", "stereo:-1", "stereo:near", "stereo:inf", "stereo+stereo"):
        with pytest.raises(UserError, match="expected one stereo:DISTANCE"):
            split_stereo(wrong)


def test_a_cut_shows_each_camera_from_its_second_on(arc: TrueShot) -> None:
    fps, frames = float(arc.clip.fps), len(arc.camera)
    assert parse_cuts(["static@0", "me@home.json@2.5"])[1].camera == "me@home.json"
    cuts = parse_cuts(["orbit-left:10@0", "zoom-in:2@0.2", "pan-right@0.5"])
    paths = [apply_move(parse_move(each.camera), arc.camera) for each in cuts]
    whole = cut_between(paths, cuts, fps)
    assert len(whole) == frames
    for index, start in enumerate((0, round(0.2 * fps), round(0.5 * fps))):
        stop = (round(0.2 * fps), round(0.5 * fps), frames)[index]
        assert torch.equal(whole.world_from_camera[start:stop], paths[index].world_from_camera[start:stop])
        assert torch.equal(whole.intrinsics[start:stop], paths[index].intrinsics[start:stop])
    with pytest.raises(UserError, match=r"--cut static@99: shows no frame; the clip is"):
        cut_between(paths[:2], parse_cuts(["orbit-left@0", "static@99"]), fps)
    with pytest.raises(UserError, match=r"--cut static@0.001: shows no frame|--cut orbit-left@0: shows no frame"):
        cut_between(paths[:2], parse_cuts(["orbit-left@0", "static@0.001"]), fps)


def test_frames_cuts_and_sound_keep_step(made: tuple[World, Shot], tmp_path: Path) -> None:
    """The light goes on, a sound begins and the camera is cut, all in the fifth frame."""
    shot, moment = made[1], 4
    frames = shot.clip.frames.clone()
    frames[:moment] //= 8
    film = read_clip(flash_and_beep(tmp_path / "film.mkv", "aac", 48000, "mono", at=moment / 10, seconds=0.7))
    clip = replace(shot.clip, frames=frames, audio=film.audio)
    cuts = parse_cuts(["static@0", f"pan-left:15@{moment / 10}"])
    path = cut_between([target_camera(shot, each.camera, easing="in") for each in cuts], cuts, float(clip.fps))
    write_run(replace(shot, clip=clip, scene=clip), path, tmp_path / "run")
    shown = read_clip(tmp_path / "run/output.mp4").frames.float().mean((1, 2, 3))
    unseen = (read_clip(tmp_path / "run/guide_mask.mp4").frames > 127).float().mean((1, 2, 3))
    assert (shown > shown.max() / 2).nonzero()[:, 0].tolist() == list(range(moment, FRAMES))
    assert (unseen > 0.03).nonzero()[:, 0].tolist() == list(range(moment, FRAMES))
    assert abs(heard_at(tmp_path / "run/output.mp4") - moment / 10) < 0.5 / 10


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        (["orbit-left"], "expected CAMERA@SECONDS"),
        (["orbit-left@0", "static@soon"], "expected CAMERA@SECONDS"),
        (["@0"], "expected CAMERA@SECONDS"),
        (["orbit-left@1"], "the first camera begins at 0"),
        (["orbit-left@0", "static@2", "pan-left@2"], "begins no later than static"),
    ],
)
def test_a_cut_that_is_none_is_refused(cuts: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_cuts(cuts)


def test_both_are_commands(short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    done = within(["render", short_file, "--cut", "orbit-left:5@0", "static@0.25", "--out", "cut"])
    assert done.returncode == 0, done.stderr
    target = read_camera(tmp_path / "cut/target_camera.json")
    moved = (target.world_from_camera - read_camera(tmp_path / "cut/source_camera.json").world_from_camera[:1]).abs().amax((1, 2))
    assert (moved[3:] < 1e-9).all()
    assert moved[2] > 1e-3
    done = within(["render", short_file, "--camera", "orbit-left:5+stereo", "--out", "stereo"])  # the tracks are there by now
    assert done.returncode == 0, done.stderr
    assert read_clip(tmp_path / "stereo/output.mp4").size == (96, 336)
    for wrong, words in (
        ([], "give --camera or --cut, one of them"),
        (["--camera", "static", "--cut", "static@0"], "give --camera or --cut, one of them"),
        (["--camera", "stereo:x"], "expected one stereo:DISTANCE"),
        (["--cut", "orbitleft@0"], "unknown camera move 'orbitleft'"),
        (["--camera", "stereo", "--renderer", "diffusion"], "--renderer warp alone"),
        (["--camera", "stereo", "--guide", "vace"], "--guide: a guide is of one eye"),
    ):
        done = within(["render", short_file, *wrong])
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
