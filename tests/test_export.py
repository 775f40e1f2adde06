from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from track2view.cameras import read_camera
from track2view.curate import SceneRecord, contact_sheet, export_scene, find_scenes, true_pairs
from track2view.errors import UserError
from track2view.scenes import make_rig
from track2view.trackers import Queries
from track2view.video import read_clip

FRAMES, SIZE = 9, (48, 84)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_scene(tmp_path_factory.mktemp("data"), "validation", 3, frames=FRAMES, size=SIZE)


def test_a_scene_has_the_datasets_own_layout(scene: Path) -> None:
    assert sorted(path.name for path in (scene / "videos").iterdir()) == [f"cam{number:02d}.mp4" for number in range(1, 11)]
    record = SceneRecord.load(scene)
    rig = make_rig(record.seed, frames=FRAMES, size=SIZE)
    millimetres = round(float(rig["cam01"].intrinsics[0, 0, 0]) * 23.76 / 84)
    assert scene.parent.name.startswith(f"f{millimetres}_aperture")
    assert scene.parent.parent.name == record.split == "validation"
    for name, camera in rig.items():
        clip = read_clip(scene / "videos" / f"{name}.mp4")
        assert (len(clip), clip.size, float(clip.fps)) == (FRAMES, SIZE, 15.0)
        read = read_camera(f"{scene}/cameras/camera_extrinsics.json#{name}", SIZE)
        assert torch.allclose(read.world_from_camera, camera.world_from_camera, atol=1e-9)
        assert torch.allclose(read.intrinsics, camera.intrinsics, atol=1e-9)
    first = [read_clip(scene / "videos" / f"cam{number:02d}.mp4").frames[0] for number in (1, 7)]
    assert float((first[0].float() - first[1].float()).abs().mean()) < 2.0


def test_exact_pairs_land_on_the_same_colours_in_both_videos(scene: Path) -> None:
    queries = Queries.grid([0, FRAMES - 1], 12, 20)
    names = ("cam01", "cam05")
    pairs = true_pairs(scene, *names, queries)
    assert torch.allclose(pairs.source.uv[0], pairs.target.uv[0], atol=1e-5)
    clips = [read_clip(scene / "videos" / f"{name}.mp4") for name in names]
    frame = FRAMES - 1
    both = pairs.source.valid[frame] & pairs.target.valid[frame]
    seen = []
    for clip, view in zip(clips, (pairs.source, pairs.target), strict=True):
        grid = 2 * view.uv[frame][None, :, None] - 1
        colours = torch.nn.functional.grid_sample(clip.frames[frame][None].float(), grid, align_corners=False)
        seen.append(colours[0, :, :, 0].T[both])
    apart = (seen[0] - seen[1]).abs().mean(-1)
    random = (seen[0] - seen[1].flip(0)).abs().mean(-1)
    assert float(apart.median()) < 0.5 * float(random.median())


def test_a_scene_is_made_once_and_whole(scene: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    root = scene.parent.parent.parent
    assert export_scene(root, "validation", 3, frames=FRAMES, size=SIZE) == scene
    assert before == {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    assert find_scenes(root) == [scene]
    assert not list(root.rglob("*.partial"))


def test_a_contact_sheet_shows_all_cameras(scene: Path, tmp_path: Path) -> None:
    contact_sheet(scene, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    height = round(240 * 48 / 84)
    assert sheet.shape == (3 * height, 2400, 3)
    first_row = sheet[:height].reshape(height, 10, 240, 3).astype(np.float32)
    assert np.abs(first_row[:, 0] - first_row[:, 5]).mean() < 3


def test_what_is_no_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no scenes there"):
        find_scenes(tmp_path)
    (tmp_path / "scene.json").write_text("{}")
    with pytest.raises(UserError, match=r"scene\.json: not a scene"):
        SceneRecord.load(tmp_path)
    with pytest.raises(UserError, match="no videos there"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
