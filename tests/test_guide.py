"""The guide pack as other tools read it: frame by frame what the warp saw, nothing lost in masks, cameras in their axes."""

import json
from fractions import Fraction
from pathlib import Path
from shutil import copytree

import cv2
import numpy as np
import pytest
import torch
from shot_support import exact_shot

from track2view.cameras import read_camera
from track2view.errors import Notice
from track2view.geometry import invert
from track2view.guide import TOOLS
from track2view.pipeline import Shot, refilm, target_camera, write_run
from track2view.records import CameraPath
from track2view.video import read_clip

SIZE, FRAMES = (64, 112), 9


@pytest.fixture(scope="module")
def shot() -> Shot:
    return exact_shot(SIZE, FRAMES, 24)[1]


@pytest.fixture(scope="module")
def run(shot: Shot, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CameraPath]:
    folder = tmp_path_factory.mktemp("guide") / "run"
    target = target_camera(shot, "orbit-right:12")
    write_run(shot, target, folder, guides=TOOLS)
    return folder, target


def frames_of(path: Path) -> np.ndarray:
    clip = read_clip(path)
    assert (len(clip), clip.size, clip.fps) == (FRAMES, SIZE, Fraction(24))
    return clip.frames.permute(0, 2, 3, 1).numpy()


def test_every_frame_shows_the_warp_where_it_was_seen_and_grey_elsewhere(run: tuple[Path, CameraPath], shot: Shot) -> None:
    folder, target = run
    views = list(refilm(shot, target))
    guide, mask = frames_of(folder / "guide.mp4"), frames_of(folder / "guide_mask.mp4")
    seen = np.stack([view.seen.numpy() for view in views])
    assert 0.02 < 1 - seen.mean() < 0.9
    assert np.array_equal(mask, np.repeat(np.where(seen, 0, 255)[..., None], 3, axis=-1)), "the mask is lossless"
    warped = np.stack([view.colour.permute(1, 2, 0).numpy() for view in views]).astype(int)
    inside = cv2.erode(seen.astype(np.uint8).transpose(1, 2, 0), np.ones((5, 5))).transpose(2, 0, 1) > 0
    assert np.abs(guide - warped)[inside].mean() < 4
    hole = cv2.erode((~seen).astype(np.uint8).transpose(1, 2, 0), np.ones((5, 5))).transpose(2, 0, 1) > 0
    grey = np.abs(guide[hole].astype(int) - 128)
    assert grey.mean() < 2
    assert grey.max() <= 16, "what a codec does beside an edge"


@pytest.mark.parametrize(
    ("video", "colour"),
    [
        ("guide-vace/src_video", (128,) * 3),
        ("guide-morphic/render", (0,) * 3),
        ("guide-morphic/render_pink", (255, 65, 174)),
        ("guide-crossview/warp", (255, 0, 255)),
    ],
)
def test_tools_get_holes_in_their_own_colour(video: str, colour: tuple[int, ...], run: tuple[Path, CameraPath]) -> None:
    folder, _ = run
    picture, mask = frames_of(folder / f"{video}.mp4").astype(int), frames_of(folder / "guide_mask.mp4")
    hole = cv2.erode((mask[..., 0] > 0).astype(np.uint8).transpose(1, 2, 0), np.ones((7, 7))).transpose(2, 0, 1) > 0
    assert np.abs(picture[hole] - colour).mean() < 3
    assert np.abs(picture[mask[..., 0] == 0] - colour).mean() > 40


def test_tools_find_the_files_they_look_for(run: tuple[Path, CameraPath], shot: Shot) -> None:
    folder, _ = run
    assert {path.name for path in (folder / "guide-vace").iterdir()} == {"src_video.mp4", "src_mask.mp4", "src_ref_image.png"}
    assert {path.name for path in (folder / "guide-crossview").iterdir()} == {"warp.mp4", "source.mp4"}
    morphic = {"input.mp4", "render.mp4", "render_mask.mp4", "render_pink.mp4", "reference.png", "cam_info.json"}
    assert {path.name for path in (folder / "guide-morphic").iterdir()} == morphic
    for mask in ("guide-vace/src_mask.mp4", "guide-morphic/render_mask.mp4"):
        assert np.array_equal(frames_of(folder / mask), frames_of(folder / "guide_mask.mp4"))
    for picture in ("reference.png", "guide-morphic/reference.png", "guide-vace/src_ref_image.png"):
        assert np.array_equal(cv2.imread(str(folder / picture))[..., ::-1], shot.clip.image(0))
    for source in ("guide-morphic/input.mp4", "guide-crossview/source.mp4"):
        assert np.abs(frames_of(folder / source).astype(int) - shot.clip.frames.permute(0, 2, 3, 1).numpy()).mean() < 4


def test_depth_is_inverse_and_reaches_to_the_nearest(run: tuple[Path, CameraPath], shot: Shot) -> None:
    folder, target = run
    nearest = json.loads((folder / "run.json").read_text())["depth_nearest"]
    shares = []
    for frame, view in enumerate(refilm(shot, target)):
        image = cv2.imread(str(folder / f"depth/{frame:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert image.dtype == np.uint16
        assert not image[~view.seen.numpy()].any()
        found = nearest * 65535 / image[view.seen.numpy()]
        assert np.abs(found * view.disparity.numpy()[view.seen.numpy()] - 1).max() < 1e-3
        shares.append(image.max() / 65535)
    assert 0.4 < max(shares) < 1


def test_reshoots_cameras_are_from_the_sources_first_one(run: tuple[Path, CameraPath], shot: Shot) -> None:
    folder, target = run
    document = json.loads((folder / "guide-morphic/cam_info.json").read_text())
    source = shot.tracking.camera
    assert np.abs(np.array(document["extrinsic"][0]) - np.eye(4)).max() < 1e-9
    assert len(document["extrinsic"]) == FRAMES + 1
    point = torch.tensor([[0.3, -0.2, 4.0, 1.0]], dtype=torch.float64)
    theirs = torch.tensor(document["extrinsic"][4], dtype=torch.float64) @ invert(source.world_from_camera[0]) @ point[0]
    assert torch.allclose(theirs, target.camera_from_world[3] @ point[0], atol=1e-9)
    assert document["intrinsic"][0][2] == pytest.approx(float(target.intrinsics[0, 0, 2]) - 0.5)
    again = read_camera(folder / "guide-morphic/cam_info.json")
    relative = invert(source.world_from_camera[:1]) @ target.world_from_camera
    assert float((again.world_from_camera - relative).abs().max()) < 1e-9
    assert float((again.intrinsics - target.intrinsics).abs().max()) < 1e-9


def test_a_path_that_begins_elsewhere_is_kept_there_if_asked(run: tuple[Path, CameraPath], shot: Shot, tmp_path: Path) -> None:
    document = json.loads((run[0] / "guide-morphic/cam_info.json").read_text())
    document["extrinsic"] = [document["extrinsic"][0], *document["extrinsic"][2:], document["extrinsic"][-1]]
    (tmp_path / "cam_info.json").write_text(json.dumps(document))
    with pytest.warns(Notice, match="begins elsewhere than its source camera; --relative-to world"):
        path = read_camera(tmp_path / "cam_info.json")
    assert float((path.world_from_camera[0] - torch.eye(4)).abs().max()) > 1e-3
    with pytest.warns(Notice, match="begins elsewhere"):
        kept = target_camera(shot, str(tmp_path / "cam_info.json"), relative_to="world")
    assert float((kept.world_from_camera - path.world_from_camera).abs().max()) < 1e-9


def test_a_shorter_run_in_the_same_folder_leaves_nothing_of_a_longer_one(run: tuple[Path, CameraPath], shot: Shot, tmp_path: Path) -> None:
    copytree(run[0], tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/depth/00099.png").write_bytes(b"of a longer clip")
    write_run(shot, run[1], tmp_path / "run")
    assert len(list((tmp_path / "run/depth").iterdir())) == FRAMES
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert not [each for each in (tmp_path / "run").iterdir() if each.name.startswith(".")]
