import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from track2view.cameras import read_camera
from track2view.cli.commands import parse
from track2view.curate import SceneRecord, contact_sheet, curate, export_scene, export_scenes, find_scenes, true_pairs
from track2view.errors import UserError
from track2view.geometry import project
from track2view.pairing import pair_by_projection
from track2view.records import Queries
from track2view.scenes import make_rig, make_training_world, track_points
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


def test_a_scene_of_what_people_film_is_made_again_from_its_record(tmp_path: Path) -> None:
    asked = ["--count", "1", "--first", "4", "--frames", "2", "--size", "48", "84", "--content", "lifelike"]
    parse(["scenes", "make", str(tmp_path), *asked]).run()
    (folder,) = find_scenes(tmp_path)
    record, queries = SceneRecord.load(folder), Queries.grid([0], 4, 6)
    world = make_training_world("lifelike", record.seed, frames=2, dynamic=True)
    assert record.caption == world.caption
    rig = make_rig(record.seed, frames=2, size=SIZE)
    expected = pair_by_projection(track_points(world, rig["cam01"], queries.frame, queries.pixels(SIZE)), rig["cam01"], rig["cam05"])
    assert torch.equal(true_pairs(folder, "cam01", "cam05", queries).target.uv, expected.target.uv)
    said = json.loads((folder / "scene.json").read_text())
    (folder / "scene.json").write_text(json.dumps({**said, "content": "people"}))
    with pytest.raises(UserError, match=r"content: expected solids or lifelike, got 'people'"):
        SceneRecord.load(folder)


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


def test_pictures_move_as_the_file_of_cameras_says(tmp_path: Path) -> None:
    """Flow between a video's first frames against what the JSON, read back, says of the true points: axes and signs."""
    folder = export_scene(tmp_path, "train", 6, frames=13, size=(96, 168), dynamic=False)
    with np.load(folder / "truth" / "tracks.npz") as truth:
        xyz, moving = torch.from_numpy(truth["xyz_world"]).double(), truth["moving"]
    assert not moving.any()
    moved = np.zeros(2)
    for number in range(1, 11):
        camera = read_camera(f"{folder}/cameras/camera_extrinsics.json#cam{number:02d}", (96, 168))
        clip = read_clip(folder / "videos" / f"cam{number:02d}.mp4")
        grey = [cv2.cvtColor(clip.image(index), cv2.COLOR_RGB2GRAY) for index in (0, 1)]
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
        pixels = [project(xyz[0, : 24 * 24], camera.camera_from_world[index], camera.intrinsics[index])[0].numpy() for index in (0, 1)]
        column, row = pixels[0].astype(int).T
        seen, said = flow[row, column], pixels[1] - pixels[0]
        for axis in range(2):
            if np.median(np.abs(said[:, axis])) > 0.3:
                alike = (seen[:, axis] * said[:, axis]).sum() / np.linalg.norm(seen[:, axis]) / np.linalg.norm(said[:, axis])
                assert alike > 0.7, (number, axis)  # a mirrored axis gives about -1
                moved[axis] += 1
    assert (moved >= 2).all()


def test_the_truth_beside_the_videos_is_that_of_the_world_made_again(scene: Path) -> None:
    with np.load(scene / "truth" / "tracks.npz") as truth:
        assert truth["cameras"].tolist() == [f"cam{number:02d}" for number in range(1, 11)]
        xyz, visible = torch.from_numpy(truth["xyz_world"]), torch.from_numpy(truth["visible"])
        pairs = true_pairs(scene, "cam04", "cam09", Queries.grid([0, FRAMES - 1], 24, 24))
        mine = np.flatnonzero((truth["query_frame"] == 0) | (truth["query_camera"] == "cam04"))
    assert len(mine) == 2 * 24 * 24
    assert torch.equal(visible[3][:, mine] & pairs.source.valid, pairs.source.valid)
    camera = read_camera(f"{scene}/cameras/camera_extrinsics.json#cam09", SIZE)
    uv, depth = project(xyz[:, mine].double(), camera.camera_from_world, camera.intrinsics)
    both = pairs.target.valid
    assert torch.allclose((uv / torch.tensor([SIZE[1], SIZE[0]]))[both].float(), pairs.target.uv[both], atol=1e-4)
    assert torch.allclose(depth[both].float(), pairs.target.depth[both], atol=1e-3)


def test_depth_is_written_where_asked_for(tmp_path: Path) -> None:
    folder = export_scene(tmp_path, "train", 2, frames=2, size=(32, 56), depth=True, cameras=("cam01", "cam02"))
    with np.load(folder / "truth" / "cam02.npz") as truth:
        assert (truth["depth"].shape, truth["solid"].shape) == ((2, 32, 56), (2, 32, 56))
        assert (truth["depth"] > 0).all()
    assert sorted(path.name for path in (folder / "videos").iterdir()) == ["cam01.mp4", "cam02.mp4"]


def test_a_scene_is_made_once_and_whole(scene: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    root = scene.parent.parent.parent
    assert export_scene(root, "validation", 3, frames=FRAMES, size=SIZE) == scene
    assert before == {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    assert find_scenes(root) == [scene]
    assert not list(root.rglob("*.partial"))


def test_a_folder_that_holds_the_scene_otherwise_is_refused(scene: Path) -> None:
    root = scene.parents[2]
    for other in ({"frames": 8}, {"size": (48, 80)}, {"dynamic": False}, {"content": "lifelike"}):
        with pytest.raises(UserError, match=r"scene\.json: was made as .*; give another folder"):
            export_scene(root, "validation", 3, **{"frames": FRAMES, "size": SIZE, **other})


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


def test_numbers_below_one_are_refused_by_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--count: expected a positive number, got 0"):
        export_scenes(tmp_path, "train", range(0), frames=9, size=SIZE)
    with pytest.raises(UserError, match="--workers: expected a positive number, got -1"):
        export_scenes(tmp_path, "train", range(2), frames=9, size=SIZE, workers=-1)
    with pytest.raises(UserError, match="--per-scene: expected a positive number, got 0"):
        curate(tmp_path, tmp_path / "out", per_scene=0)
