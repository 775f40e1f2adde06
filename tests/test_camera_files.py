"""Other people's camera files: read right, or refused by name, but never read wrongly in silence."""

import io
import json
import math
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TrueShot

from track2view.cameras import read_camera, read_keyframes, write_camera
from track2view.cameras.formats import convert_realcam_pickle
from track2view.cameras.lens import Lens, displacement
from track2view.cameras.order import cameras_of, frame_numbers, natural_key
from track2view.errors import Notice, UserError
from track2view.geometry import project
from track2view.pipeline import prepare
from track2view.preflight import check_camera
from track2view.records import CameraPath, Clip, PairedTracks, TrackSet, ViewTracks
from track2view.trackers import SfmTracker

SIZE = (240, 320)


def places(path: CameraPath) -> list[float]:
    """x of every camera centre, in tenths."""
    return [round(10 * x, 6) for x in path.world_from_camera[:, 0, 3].tolist()]


def opencv(x: float) -> np.ndarray:
    """A camera at ``x`` that looks along z, camera-to-world in OpenCV's axes."""
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def opengl(x: float) -> list:
    return (opencv(x) @ np.diag([1.0, -1, -1, 1])).tolist()


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def transforms(folder: Path, names: list[str], **top: object) -> Path:
    """Cameras 0.1 apart along x in the order of ``names``."""
    frames = [{"file_path": name, "transform_matrix": opengl(index / 10)} for index, name in enumerate(names)]
    return write(folder / "transforms.json", {"fl_x": 300.0, "w": 320, "h": 240, **top, "frames": frames[::-1]})


def colmap(folder: Path, names: list[str], cameras: str = "1 PINHOLE 320 240 300 300 160 120", ids: list[int] | None = None) -> Path:
    """A text model with a camera 0.1 further along x for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "cameras.txt", cameras + "\n")
    own = ids or [1] * len(names)
    lines = [f"{i + 1} 1 0 0 0 {-i / 10} 0 0 {own[i]} {name}\n\n" for i, name in enumerate(names)]
    write(folder / "images.txt", "# made by hand\n" + "".join(reversed(lines)))
    return folder


# --- order and gaps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.jpg" for i in range(1, 13)],
        [f"./test/r_{i}" for i in range(12)],
        [f"shot2/take 3 frame {i}.png" for i in (8, 9, 10, 11)],
        ["f_1", "f_0002", "f_3", "f_10"][:3],
    ],
)
def test_frames_are_in_natural_order(names: list[str], tmp_path: Path) -> None:
    expected = [float(i) for i in range(len(names))]
    assert places(read_camera(transforms(tmp_path, names))) == expected
    assert places(read_camera(colmap(tmp_path / "model", names))) == expected


def test_names_sort_as_a_person_sorts_them() -> None:
    assert sorted(["a10b", "a9b", "b1", "a9b2", "a"], key=natural_key) == ["a", "a9b", "a9b2", "a10b", "b1"]
    assert sorted(["1" * 5000, "2"], key=natural_key) == ["2", "1" * 5000]


def test_missing_frames_are_filled_and_said(tmp_path: Path) -> None:
    names = [f"frame_{i:03d}.png" for i in (1, 2, 5, 6, 9)]
    with pytest.warns(Notice, match=r"4 of 9 frames are missing \(3–4, 7–8\)"):
        path = read_camera(colmap(tmp_path / "model", names))
    assert places(path) == pytest.approx([0, 1, 4 / 3, 5 / 3, 2, 3, 10 / 3, 11 / 3, 4], abs=1e-5)
    with pytest.warns(Notice, match=r"transforms.json: 4 of 9"):
        assert len(read_camera(transforms(tmp_path, names))) == 9


def test_zoom_is_interpolated_over_a_gap(tmp_path: Path) -> None:
    cameras = "1 PINHOLE 320 240 300 300 160 120\n2 PINHOLE 320 240 500 500 160 120"
    with pytest.warns(Notice, match="missing"):
        path = read_camera(colmap(tmp_path / "model", ["0.png", "1.png", "3.png"], cameras, ids=[1, 1, 2]))
    assert path.intrinsics[:, 0, 0].tolist() == [300, 300, 400, 500]


@pytest.mark.parametrize("numbers", [[1, 3, 5], [0, 10, 20, 30], [100, 250, 400], [7, 8, 9]])
def test_an_even_step_is_no_gap(numbers: list[int], tmp_path: Path) -> None:
    assert len(read_camera(transforms(tmp_path, [f"{number:05d}.png" for number in numbers]))) == len(numbers)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png", "3000.png"], "frames 3–2999 are missing: 3 poses cannot tell 3000 frames"),
        (["1.png", "01.png", "2.png"], "are the same frame"),
        (["1.png", "1.jpg"], "are the same frame"),
        (["a/1.png", "b/1.png"], "holds 2 cameras; choose one with #NAME: a, b"),
        (["left_1.png", "left_2.png", "right_1.png", "right_2.png"], "holds 2 cameras; choose one with #NAME: left, right"),
        (["cam1_01", "cam1_02", "cam2_01", "cam2_02"], "holds 2 cameras; choose one with #NAME: cam1, cam2"),
    ],
)
def test_what_cannot_be_one_path_is_refused(names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_camera(transforms(tmp_path, names))
    with pytest.raises(UserError, match=words):
        read_camera(colmap(tmp_path / "model", names))


def test_numbers_and_cameras_in_names() -> None:
    assert frame_numbers(["a_007_x.png", "a_010_x.png"]) == [7, 10]
    assert frame_numbers(["clip1/0001.png", "clip1/0002.png"]) == [1, 2]
    assert frame_numbers(["beach.png", "town.png"]) is None
    assert frame_numbers(["2024-01-31.png", "2024-02-01.png"]) is None
    assert cameras_of(["r/left/1.png", "r/right/1.png"]) == {"left": [0], "right": [1]}
    assert list(cameras_of(["1.25.png", "1.50.png", "2.25.png", "2.50.png"])) == [""]
    assert list(cameras_of(["a1", "a2", "b3"], [1, 2, 3])) == [""]
    assert cameras_of(["a1", "a2", "b3", "b4"], [1, 1, 2, 2]) == {"a": [0, 1], "b": [2, 3]}


@pytest.mark.parametrize("where", ["images/left", "left"])
def test_one_of_several_cameras_is_chosen(where: str, tmp_path: Path) -> None:
    names = [f"{where}/{i}.png" for i in range(3)] + [f"{where.replace('left', 'right')}/{i}.png" for i in range(3)]
    assert places(read_camera(f"{transforms(tmp_path, names)}#right")) == [3, 4, 5]
    assert places(read_camera(f"{colmap(tmp_path / 'model', names)}#left")) == [0, 1, 2]
    with pytest.raises(UserError, match="has no camera 'up'; it has left, right"):
        read_camera(f"{tmp_path / 'model'}#up")


@pytest.mark.parametrize("name", ["own.json", "a.txt", "v.npz"])
def test_names_are_for_files_with_names(name: str, tmp_path: Path) -> None:
    path = read_camera(transforms(tmp_path, ["0", "1"]))
    if name == "v.npz":
        np.savez(tmp_path / name, cam_c2w=path.world_from_camera.numpy(), intrinsics=path.intrinsics.numpy())
    else:
        write_camera(path, tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: holds one camera, without a name; leave out #left"):
        read_camera(f"{tmp_path / name}#left")


def vipe(folder: Path, inds: list[int], intrinsics: np.ndarray | None = None, kind: str = "PINHOLE") -> Path:
    for name in ("pose", "intrinsics"):
        (folder / name).mkdir(exist_ok=True)
    np.savez(folder / "pose" / "clip.npz", data=np.stack([opencv(i / 10) for i in inds]).astype(np.float32), inds=np.array(inds))
    if intrinsics is not None:
        np.savez(folder / "intrinsics" / "clip.npz", data=intrinsics, inds=np.arange(len(intrinsics)))
        write(folder / "intrinsics" / "clip_camera.txt", "".join(f"{i}: {kind}\n" for i in range(len(intrinsics))))
    return folder / "pose" / "clip.npz"


def test_vipe_takes_its_focal_length_from_beside(tmp_path: Path) -> None:
    known = np.array([[500.0 + 10 * i, 500.0 + 10 * i, 160, 120] for i in range(4)])
    path = read_camera(vipe(tmp_path, [0, 1, 2, 3], known), (480, 640))
    assert path.intrinsics[:, 0, 0].tolist() == [500, 510, 520, 530]
    assert (path.size, path.focal_known) == (SIZE, True)
    with pytest.raises(UserError, match="a PANORAMA camera, which is no pinhole"):
        read_camera(vipe(tmp_path, [0, 1, 2, 3], known, kind="PANORAMA"))
    with pytest.raises(UserError, match="ViPE's intrinsics"):
        read_camera(tmp_path / "intrinsics" / "clip.npz")


def test_vipe_frames_are_times(tmp_path: Path) -> None:
    with pytest.warns(Notice, match=r"15 of 20 frames are missing \(4–18\)"):
        assert places(read_camera(vipe(tmp_path, [0, 1, 2, 3, 19]))) == pytest.approx(range(20), abs=1e-4)
    with pytest.warns(Notice, match="2 of 5"):
        assert len(read_camera(vipe(tmp_path, [4, 0, 2]))) == 5
    with pytest.warns(Notice, match="begins at frame 3"):
        assert len(read_camera(vipe(tmp_path, [3, 4]))) == 2
    for inds, words in (([0, 1, 1], "frame 1 is there twice"), ([0, 5000], "cannot tell 5001 frames")):
        with pytest.raises(UserError, match=words):
            read_camera(vipe(tmp_path, inds))


def realestate(path: Path, stamps: list[float]) -> Path:
    rows = [f"{stamp} 0.5 0.9 0.5 0.5 0 0 1 0 0 {-i / 10} 0 1 0 0 0 0 1 0" for i, stamp in enumerate(stamps)]
    return write(path, "https://example.org\n" + "\n".join(rows))


@pytest.mark.parametrize(
    ("stamps", "fps"),
    [
        ([1000000 + 266933 * i for i in range(6)], 3.746258),
        ([0, 33367, 66733, 100100, 133467], 29.97),
        ([0, 0, 0, 0], None),
        ([0, 1, 2, 3], None),
        ([10, 20, 30], None),
    ],
)
def test_timestamps_tell_the_rate(stamps: list[float], fps: float | None, tmp_path: Path) -> None:
    path = read_camera(realestate(tmp_path / "a.txt", stamps))
    assert path.fps == (None if fps is None else pytest.approx(fps, rel=1e-4))
    assert places(path) == [float(i) for i in range(len(stamps))]
    if fps is not None:
        write_camera(path, tmp_path / "b.txt")
        again = [int(line.split()[0]) for line in (tmp_path / "b.txt").read_text().splitlines()[1:]]
        assert again == pytest.approx(np.array(stamps) - stamps[0], abs=2)


def test_gaps_in_timestamps_are_filled(tmp_path: Path) -> None:
    with pytest.warns(Notice, match=r"2 of 6 frames have no timestamp \(2–3\)"):
        path = read_camera(realestate(tmp_path / "a.txt", [0, 40000, 160000, 200000]))
    assert path.fps == pytest.approx(25)
    assert places(path) == pytest.approx([0, 1, 4 / 3, 5 / 3, 2, 3], abs=1e-5)
    with pytest.warns(Notice, match="1 of 4"):
        assert read_camera(realestate(tmp_path / "b.txt", [0, 1, 3])).fps is None
    for stamps, words in (
        ([0, 40000, 30000], "frame 2 .30000. is not later than frame 1"),
        ([0, 1000, 1000], "not later"),
        ([0, 1, 1e9], "cannot tell 1000000001 frames"),
        ([0, 40000, 1e12], "leave out"),
        ([0, math.nan, 2], "not numbers of microseconds"),
    ):
        with pytest.raises(UserError, match=words):
            read_camera(realestate(tmp_path / "c.txt", stamps))


# --- lenses ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ("SIMPLE_RADIAL 320 240 300 160 120 0.1", "SIMPLE_RADIAL, k=0.1"),
        ("RADIAL 320 240 300 160 120 0.02 0.1", "k2=0.1"),
        ("OPENCV 320 240 300 300 160 120 0 0 0.02 0", "p1=0.02"),
        ("FULL_OPENCV 320 240 300 300 160 120 0 0 0 0 0 0.1 0 0", "k4=0.1"),
        ("OPENCV_FISHEYE 320 240 300 300 160 120 0 0 0 0", "OPENCV_FISHEYE"),
        ("SIMPLE_FISHEYE 320 240 300 160 120", "SIMPLE_FISHEYE, no coefficients"),
        ("FOV 320 240 300 300 160 120 0.9", "FOV, omega=0.9. is no pinhole"),
        ("EQUIRECTANGULAR 320 240 320 240", "is no pinhole"),
    ],
)
def test_lenses_that_bend_are_refused_by_name(camera: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{words}.*colmap image_undistorter"):
        read_camera(colmap(tmp_path, ["1.jpg", "2.jpg"], f"1 {camera}"))


@pytest.mark.parametrize(
    "camera",
    [
        "SIMPLE_RADIAL 320 240 300 160 120 0",
        "OPENCV 320 240 300 300 160 120 1e-4 -1e-4 1e-5 0",
        "FULL_OPENCV 320 240 300 300 160 120 0 0 0 0 0 0 0 0",
        "OPENCV_FISHEYE 320 240 9000 9000 160 120 0 0 0 0",
    ],
)
def test_lenses_that_move_nothing_by_half_a_pixel_are_pinholes(camera: str, tmp_path: Path) -> None:
    path = read_camera(colmap(tmp_path, ["1.jpg", "2.jpg"], f"1 {camera}"))
    assert path.intrinsics[0, :2, 2].tolist() == [160, 120]


def test_displacement_by_hand() -> None:
    # At the corner of 200×200 with f = 100 the radius is √2: k1 moves it by √2 · 2 · k1 · 100 pixels, the fisheye to atan(√2).
    lens = {"focal": (100.0, 100.0), "centre": (100.0, 100.0), "size": (200, 200)}
    assert displacement(Lens(model="RADIAL", coefficients=(("k1", 0.01),), **lens)) == pytest.approx(2.828, abs=1e-3)
    assert displacement(Lens(model="FISHEYE", **lens)) == pytest.approx(100 * (math.sqrt(2) - math.atan(math.sqrt(2))))
    assert displacement(Lens(model="OPENCV", coefficients=(("k1", math.nan),), **lens)) == math.inf


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE, no coefficients"),
        ({"camera_model": "OPENCV", "k1": 0.1}, "k1=0.1"),
        ({"k4": 2.0}, "r8=2"),
        ({"distortion_params": [0.0, 0.3, 0, 0, 0, 0]}, "k2=0.3"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"is_fisheye": True}, "OPENCV_FISHEYE"),
    ],
)
def test_bent_lenses_in_transforms_are_refused(top: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_camera(transforms(tmp_path, ["0", "1"], **top))


# --- nerfstudio -----------------------------------------------------------------------------------------------------------------


def frames(folder: Path, each: list[dict], **top: object) -> CameraPath:
    document = {**top, "frames": [{"file_path": f"{i}.png", "transform_matrix": opengl(i / 10), **own} for i, own in enumerate(each)]}
    return read_camera(write(folder / "transforms.json", document))


def test_intrinsics_of_frames_go_before_those_of_all(tmp_path: Path) -> None:
    path = frames(tmp_path, [{}, {"fl_x": 400, "cx": 150}, {"camera_angle_x": math.pi / 2}], w=320, h=240, fl_x=300, fl_y=310)
    assert path.intrinsics[:, [0, 1], [0, 1]].tolist() == [[300, 310], [400, 400], [pytest.approx(160)] * 2]
    assert path.intrinsics[:, 0, 2].tolist() == [160, 150, 160]


def test_angles_of_view_by_hand(tmp_path: Path) -> None:
    both = frames(tmp_path, [{}], w=320, h=240, camera_angle_x=math.pi / 2, camera_angle_y=2 * math.atan(0.5))
    assert both.intrinsics[0, [0, 1], [0, 1]].tolist() == pytest.approx([160, 240])
    down = frames(tmp_path, [{"camera_angle_y": math.pi / 2}], w=320, h=240)
    assert down.intrinsics[0, [0, 1], [0, 1]].tolist() == pytest.approx([120, 120])
    own = frames(tmp_path, [{"w": 100, "h": 50, "fl_x": 70}] * 2, w=320, h=240)
    assert own.size == (50, 100)
    centred = frames(tmp_path, [{}], fl_x=70, cx=50, cy=25)
    assert centred.size == (50, 100)
    with pytest.warns(Notice, match="has no w and h"):
        frames(tmp_path, [{}], fl_x=70)


@pytest.mark.parametrize(
    ("each", "top", "words"),
    [
        ([{}, {"w": 640}], {"w": 320, "h": 240, "fl_x": 300}, r"different sizes: 0.png \(320×240\) and 1.png \(640×240\)"),
        ([{}, {"fl_x": 300}], {"w": 320, "h": 240}, "0.png has no focal length"),
        ([{"w": 0.5}], {"h": 240, "fl_x": 1}, "expected whole numbers from 1"),
        ([{"w": "320"}], {"h": 240, "fl_x": 1}, "width: expected a number, got '320'"),
        ([{"camera_angle_x": 4}], {"w": 320, "h": 240}, "camera_angle_x: expected an angle"),
        ([{"fl_x": -3}], {"w": 320, "h": 240}, "is no pinhole|focal length of -3"),
        ([{"transform_matrix": [*np.eye(4)[:3].tolist(), [1, 0, 0, 1]]}], {"fl_x": 3, "w": 9, "h": 9}, "last row of 1 0 0 1"),
        ([{"transform_matrix": [[1, 2], [3]]}], {}, "transform_matrix: expected numbers"),
    ],
)
def test_bad_transforms_are_refused(each: list[dict], top: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        frames(tmp_path, each, **top)


def viewer_path(**changes: object) -> dict:
    entries = [{"camera_to_world": np.ravel(opengl(i / 10)).tolist(), "fov": 50, "aspect": 4 / 3} for i in range(10)]
    return {"keyframes": [], "camera_type": "perspective", "render_height": 240, "render_width": 320, "camera_path": entries, **changes}


def test_viewer_paths(tmp_path: Path) -> None:
    path = read_camera(write(tmp_path / "camera_path.json", viewer_path(fps=24, seconds=10)))
    assert places(path) == [float(i) for i in range(10)]
    assert path.intrinsics[0, [0, 1], [0, 1]].tolist() == pytest.approx([257.34, 257.34], abs=0.01)
    assert path.intrinsics[0, :2, 2].tolist() == [160, 120]
    assert (path.size, path.fps, path.focal_known) == (SIZE, 24, True)
    assert path.world_from_camera[0, :3, 2].tolist() == [0, 0, 1]
    assert read_camera(write(tmp_path / "s.json", viewer_path(seconds=5))).fps == 2
    for change, words in (
        ({"camera_type": "fisheye"}, "only \"perspective\" can be re-filmed, this is 'fisheye'"),
        ({"camera_path": []}, "camera_path: expected a list of objects, got a list of 0"),
        ({"render_width": None}, "width: expected a number"),
        ({"camera_path": [{"fov": 50}]}, "camera_to_world: expected numbers"),
    ):
        with pytest.raises(UserError, match=words):
            read_camera(write(tmp_path / "bad.json", viewer_path(**change)))


def test_exported_cameras(tmp_path: Path) -> None:
    exported = [{"file_path": f"/data/frame_{i:05d}.png", "transform": opengl(i / 10)[:3]} for i in (2, 0, 1)]
    path = read_camera(write(tmp_path / "transforms_train.json", exported))
    assert places(path) == [0, 1, 2]
    assert not path.focal_known
    held_out = [{"file_path": f"{i}.png", "transform": opengl(i / 10)[:3]} for i in (7, 8, 10)]  # the eval split has every tenth frame
    with pytest.warns(Notice, match=r"1 of 4 frames are missing \(9\)"):
        assert places(read_camera(write(tmp_path / "train.json", held_out))) == pytest.approx([7, 8, 9, 10], abs=1e-5)
    with pytest.raises(UserError, match="transform: expected numbers"):
        read_camera(write(tmp_path / "bad.json", [{"file_path": "1.png"}]))


# --- COLMAP ---------------------------------------------------------------------------------------------------------------------


def binary_model(folder: Path, points: int = 2, count: int = 3) -> Path:
    folder.mkdir()
    camera = struct.pack("<Qiiqq4d", 1, 1, 1, 320, 240, 300, 310, 160, 120)
    images = struct.pack("<Q", count)
    for i in range(3):
        images += struct.pack("<i7di", i + 1, 1, 0, 0, 0, -i / 10, 0, 0, 1) + f"{i + 9}.jpg".encode() + b"\0"
        images += struct.pack("<Q", points) + struct.pack("<ddq", 1.5, 2.5, -1) * 2
    (folder / "cameras.bin").write_bytes(camera)
    (folder / "images.bin").write_bytes(images)
    return folder


def test_binary_models_by_hand(tmp_path: Path) -> None:
    path = read_camera(binary_model(tmp_path / "model"))
    assert places(path) == [0, 1, 2]
    assert path.intrinsics[0].tolist() == [[300, 0, 160], [0, 310, 120], [0, 0, 1]]
    (tmp_path / "project" / "sparse").mkdir(parents=True)
    binary_model(tmp_path / "project" / "sparse" / "0")
    assert len(read_camera(tmp_path / "project")) == 3
    binary_model(tmp_path / "project" / "sparse" / "1")
    with pytest.raises(UserError, match="holds 2 COLMAP models"):
        read_camera(tmp_path / "project")


@pytest.mark.parametrize(
    ("points", "count", "words"), [(1 << 60, 3, "announces more points"), (2, 1 << 60, "announces more than it holds")]
)
def test_binary_models_are_never_read_beyond_what_they_hold(points: int, count: int, words: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=words):
        read_camera(binary_model(tmp_path / "model", points, count))
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("cameras", "images", "words"),
    [
        ("1 PINHOLE 320 240 300 300 160 120\n", "1 1 0 0 0 0 0 0 7 a.jpg\n\n", "a.jpg: its camera 7 is not in"),
        ("1 PINHOLE 320 240 300 300 160\n", "", "line 1: no camera model 'PINHOLE' with 3 parameters"),
        ("1 BENT 320 240 300\n", "", "no camera model 'BENT'"),
        ("x\n", "", "expected CAMERA_ID MODEL"),
        ("1 PINHOLE 320 240 300 300 160 120\n", "1 0 0 0 0 0 0 0 1 a.jpg\n\n", "a.jpg: its rotation is no quaternion"),
        ("1 PINHOLE 320 240 300 300 160 120\n", "1 1 0 0 0 0 0 0 1 a.jpg\n2 1 0 0 0 0 0 0 1 b.jpg\n", "expected the points of a.jpg"),
        ("1 PINHOLE 320 240 300 300 160 120\n", "# nothing\n", "has no images"),
    ],
)
def test_bad_models_are_refused(cameras: str, images: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "cameras.txt", cameras)
    write(tmp_path / "images.txt", images)
    with pytest.raises(UserError, match=words):
        read_camera(tmp_path)


def test_prefixes_with_lenses_of_their_own_are_cameras(tmp_path: Path) -> None:
    cameras = "1 PINHOLE 320 240 300 300 160 120\n2 PINHOLE 320 240 200 200 160 120"
    with pytest.raises(UserError, match="holds 2 cameras; choose one with #NAME: a, b"):
        read_camera(colmap(tmp_path, ["a_1.jpg", "a_2.jpg", "b_3.jpg", "b_4.jpg"], cameras, ids=[1, 1, 2, 2]))
    assert float(read_camera(f"{tmp_path}#b").intrinsics[0, 0, 0]) == 200


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    cameras = "1 PINHOLE 320 240 300 300 160 120\n2 PINHOLE 640 480 600 600 320 240"
    with pytest.raises(UserError, match=r"1.jpg and 2.jpg are of different sizes \(320×240 and 640×480\)"):
        read_camera(colmap(tmp_path, ["1.jpg", "2.jpg"], cameras, ids=[1, 2]))


# --- Unreal ---------------------------------------------------------------------------------------------------------------------


def unreal(path: Path, entries: list[str], name: str = "cam01") -> Path:
    return write(path, {f"frame{i}": {name: entry} for i, entry in enumerate(entries)})


def drift(path: CameraPath) -> list[float]:
    """How a point 2 m ahead of the first camera moves across the image, in pixels."""
    ahead = (path.world_from_camera[0] @ torch.tensor([0.0, 0, 2, 1], dtype=torch.float64))[:3]
    pixels, _ = project(ahead.expand(len(path), 1, 3), path.camera_from_world, path.intrinsics)
    return [round(value, 6) for value in (pixels[-1, 0] - pixels[0, 0]).tolist()]


@pytest.mark.parametrize(
    ("rows", "end", "moved"),
    [
        # Left-handed, Unreal's own: forward X, right Y, up Z. A metre to the right: the point goes left.
        ("[1 0 0 0] [0 1 0 0] [0 0 1 0]", "0 100 0", (-1, 0)),
        # A right-handed world: its Y points left, so that right is -Y.
        ("[1 0 0 0] [0 -1 0 0] [0 0 1 0]", "0 -100 0", (-1, 0)),
        ("[1 0 0 0] [0 -1 0 0] [0 0 1 0]", "0 0 100", (0, 1)),
        # Right-handed, looking along Y: right is X.
        ("[0 1 0 0] [1 0 0 0] [0 0 1 0]", "100 0 0", (-1, 0)),
        ("[0 1 0 0] [-1 0 0 0] [0 0 1 0]", "-100 0 0", (-1, 0)),
    ],
)
def test_worlds_of_either_hand(rows: str, end: str, moved: tuple[int, int], tmp_path: Path) -> None:
    path = read_camera(unreal(tmp_path / "a.json", [f"{rows} [0 0 0 1] ", f"{rows} [{end} 1] "]), (200, 200))
    half = 200 * 24 / 23.76 / 2
    assert drift(path) == pytest.approx([moved[0] * half, moved[1] * half], abs=1e-5)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]", "[1 0 0 0] [0 -1 0 0] [0 0 1 0] [0 0 0 1]"], "frame1 cam01 is mirrored"),
        (["[1 0 0 0] [0 1 0 0] [0 0 1 0]"], r"frame0 cam01: expected numbers \[4, 4\], got \[3, 4\]"),
        (["[1 0 0] [0 1 0] [0 0 1] [0 0 0]"], r"expected numbers \[4, 4\]"),
        (["[a b c d] [0 1 0 0] [0 0 1 0] [0 0 0 1]"], "expected numbers"),
        (["[" * 100_000], r"expected numbers \[4, 4\]"),
    ],
)
def test_bad_extrinsics_are_refused_quickly(entries: list[str], words: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=words):
        read_camera(unreal(tmp_path / "a.json", entries))
    assert time.perf_counter() - started < 2


def test_several_cameras_of_one_file(tmp_path: Path) -> None:
    entry = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "
    document = {f"frame{i}": {"cam02": entry, "cam10": entry, "cam1": entry} for i in range(3)}
    with pytest.raises(UserError, match="holds 3 cameras; choose one with #NAME: cam1, cam02, cam10"):
        read_camera(write(tmp_path / "a.json", document))
    assert len(read_camera(f"{tmp_path / 'a.json'}#cam10")) == 3
    del document["frame1"]["cam10"]
    with pytest.warns(Notice, match="1 of 3 frames are missing"):
        read_camera(f"{write(tmp_path / 'a.json', document)}#cam10")


# --- focal lengths that nobody knows ------------------------------------------------------------------------------------------


def test_a_guessed_focal_length_stays_a_guess(tmp_path: Path) -> None:
    guessed = read_camera(vipe(tmp_path, [0, 1, 2]), SIZE)
    assert not guessed.focal_known
    for same in (guessed.resized((480, 640)), guessed.resampled(5), guessed.scaled(2, "metre"), guessed[:2]):
        assert not same.focal_known
    guessed.save(tmp_path / "own.json")
    assert not read_camera(tmp_path / "own.json").focal_known
    known = guessed.with_fov(90)
    assert known.focal_known
    assert known.intrinsics[0, [0, 1], [0, 1]].tolist() == pytest.approx([160, 160])
    known.save(tmp_path / "known.json")
    assert "focal_known" not in (tmp_path / "known.json").read_text()


@pytest.mark.parametrize(
    ("name", "content", "known"),
    [
        ("t.txt", "0 10\n0 0\n0 0", False),
        ("d.txt", "trans 0.1 0 0", False),
        ("m.json", json.dumps([[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]] * 2), False),
        ("n.json", json.dumps({"frames": [{"transform_matrix": np.eye(4).tolist()}]}), False),
        ("b.json", json.dumps({"camera_angle_x": 0.7, "frames": [{"transform_matrix": np.eye(4).tolist()}]}), True),
        ("u.json", json.dumps({"frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}}), False),
        ("f24_aperture5/u.json", json.dumps({"frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}}), True),
    ],
)
def test_files_without_a_focal_length_say_so(name: str, content: str, known: bool, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    assert read_camera(write(tmp_path / name, content)).focal_known is known


def test_a_guessed_focal_length_of_the_source_is_warned_of(lively: TrueShot, tmp_path: Path) -> None:
    clip = Clip(frames=lively.clip.frames[:6, :, ::2, ::2].contiguous(), fps=lively.clip.fps)
    np.savez(tmp_path / "pose.npz", data=lively.camera.world_from_camera[:6].numpy(), inds=np.arange(6))
    guessed = read_camera(tmp_path / "pose.npz", clip.size)
    shot = prepare(clip, source_camera=guessed, use_cache=False)
    (warning,) = [each for each in shot.tracking.report.warnings if "focal length" in each]
    assert warning == "the source camera's file has no focal length: assumed 53° wide; give --fov if you know it"
    assert (shot.tracking.report.focal_estimated, shot.tracking.camera.focal_known) == (False, False)
    shot = prepare(clip, source_camera=guessed, tracker=SfmTracker(fov=90), use_cache=False)
    assert not [each for each in shot.tracking.report.warnings if "focal length" in each]
    assert float(shot.tracking.camera.intrinsics[0, 0, 0]) == pytest.approx(clip.size[1] / 2)
    with pytest.warns(Notice, match="--fov 60 is not used"):
        prepare(clip, source_camera=guessed.with_fov(50), tracker=SfmTracker(fov=60), use_cache=False)
    with pytest.warns(Notice, match="of another shape"):
        prepare(clip, source_camera=guessed.resized((96, 96)), use_cache=False)


def test_cameras_are_checked_early_but_spoken_of_once(tmp_path: Path) -> None:
    check_camera(str(vipe(tmp_path, [0, 1, 3])), None)
    with pytest.raises(UserError, match="twice"):
        check_camera(str(vipe(tmp_path, [0, 1, 1])), None)
    with pytest.raises(UserError, match="no such camera file"):
        check_camera("poses.npy", None)


# --- text, lists and arrays -----------------------------------------------------------------------------------------------------


def test_trajectory_crafter_lines_are_points_of_their_own(tmp_path: Path) -> None:
    path = read_camera(write(tmp_path / "a.txt", "0 20 0\n0 30 30 30 30\n0.5\n"))
    assert len(path) == 49
    assert float(path.world_from_camera[0, 2, 3]) == pytest.approx(0.5)  # one value is held from the first frame on
    straight = path.world_from_camera[24, :3, 2]  # halfway: 20° above, 30° to the right of what it looks at
    assert straight.tolist() == pytest.approx(
        [
            -math.sin(math.radians(30)) * math.cos(math.radians(20)),
            math.sin(math.radians(20)),
            math.cos(math.radians(30)) * math.cos(math.radians(20)),
        ]
    )
    assert len(read_camera(write(tmp_path / "b.txt", "0 1\n" + "0 " * 81 + "\n0\n"))) == 81
    nineteen = " ".join(str(i) for i in range(19))
    assert len(read_camera(write(tmp_path / "c.txt", f"{nineteen}\n{nineteen}\n{' '.join(['0.01'] * 19)}\n"))) == 49


def test_motionctrl(tmp_path: Path) -> None:
    path = read_camera(write(tmp_path / "a.json", [[1, 0, 0, -i / 10, 0, 1, 0, 0, 0, 0, 1, 0] for i in range(8)]))
    assert places(path) == [float(i) for i in range(8)]
    for values, words in (([[1, 2]], r"expected numbers \[T, 12\], got \[1, 2\]"), ([[1], [1, 2]], "a list of 2"), ([], r"\[T, 12\]")):
        with pytest.raises(UserError, match=words):
            read_camera(write(tmp_path / "bad.json", values))


def test_megasam(tmp_path: Path) -> None:
    poses = np.stack([opencv(i / 10) for i in range(3)]).astype(np.float32)
    matrix = np.array([[300, 0, 150], [0, 300, 118], [0, 0, 1]], np.float32)
    np.savez(tmp_path / "a.npz", cam_c2w=poses, intrinsic=matrix, images=np.zeros((3, 240, 320, 3), np.uint8))
    path = read_camera(tmp_path / "a.npz")
    assert (len(path), path.size, float(path.intrinsics[2, 0, 0])) == (3, SIZE, 300)
    np.savez(tmp_path / "b.npz", cam_c2w=poses, intrinsic=matrix, images=np.zeros((3, 24, 32, 3), np.uint8))
    assert read_camera(tmp_path / "b.npz").size == (236, 300)  # pictures that cannot be those of the principal point
    np.savez(tmp_path / "c.npz", cam_c2w=poses, intrinsic=matrix[:2])
    with pytest.raises(UserError, match=r"intrinsic: expected numbers"):
        read_camera(tmp_path / "c.npz")


def test_neoverse(tmp_path: Path) -> None:
    keyframes = [{"0": [{"static": {}}]}, {"40": [{"push_in": {"distance": 0.4}}]}, {"80": [{"pan_right": {"angle": 30}}, {"boom_up": {}}]}]
    path = read_camera(write(tmp_path / "a.json", {"mode": "global", "num_frames": 81, "zoom_ratio": 2.0, "keyframes": keyframes}))
    assert len(path) == 81
    assert path.world_from_camera[20, :3, 3].tolist() == pytest.approx([0, 0, 0.2])
    assert path.world_from_camera[80, :3, 3].tolist() == pytest.approx([0, -0.1, 0.4])
    assert path.world_from_camera[80, :3, 2].tolist() == pytest.approx([0.5, 0, math.sqrt(0.75)])
    assert float(path.intrinsics[80, 0, 0] / path.intrinsics[0, 0, 0]) == pytest.approx(2)
    orbit = [{"0": [{"static": {}}]}, {"80": [{"orbit_left": {"angle": 90, "orbit_radius": 2.0}}]}]
    with pytest.warns(Notice, match="mode relative"):
        end = read_camera(write(tmp_path / "b.json", {"keyframes": orbit})).world_from_camera[-1]
    assert end[:3, 3].tolist() == pytest.approx([-2, 0, 2])
    assert end[:3, 2].tolist() == pytest.approx([1, 0, 0], abs=1e-9)  # from the left it looks to the right, at the middle
    sparse = {"frame_indices": [0, 8], "frame_matrices": [opencv(0).tolist(), opencv(0.8).tolist()]}
    assert places(read_camera(write(tmp_path / "c.json", {"mode": "global", "num_frames": 9, "trajectory": sparse}))) == list(range(9))
    np.savez(tmp_path / "c.npz", frame_indices=np.array([0, 4]), frame_matrices=np.stack([opencv(0), opencv(0.4)]))
    assert places(read_camera(tmp_path / "c.npz")) == list(range(5))
    outside = {"mode": "global", "num_frames": 5, "trajectory": {"file": "/somewhere/else/c.npz"}}
    assert places(read_camera(write(tmp_path / "d.json", outside))) == list(range(5))
    for document, words in (
        ({"keyframes": [{"0": [{"fly": {}}]}]}, "unknown operation 'fly'"),
        ({"keyframes": [{"3": [{"static": {}}]}]}, "start at 0 and increase"),
        ({"keyframes": orbit, "num_frames": 1e9}, "num_frames: expected a whole number"),
        ({"trajectory": {"frame_indices": [0]}}, "lacks frame_matrices"),
        ({"trajectory": {"file": "none.npz"}}, "none.npz: cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            read_camera(write(tmp_path / "bad.json", document))


def test_spatialvid(tmp_path: Path) -> None:
    turned = [-0.0, 0, -2, 0, math.sin(math.radians(-15)), 0, math.cos(math.radians(-15))]  # world-to-camera, 30° to the left
    np.save(tmp_path / "poses.npy", np.array([[0, 0, 0, 0, 0, 0, 1], [0, 0, -2, 0, 0, 0, 1], turned], np.float32))
    path = read_camera(tmp_path / "poses.npy", (200, 400))
    assert not path.focal_known
    assert path.world_from_camera[1, :3, 3].tolist() == [0, 0, 2]
    assert path.world_from_camera[2, :3, 2].tolist() == pytest.approx([0.5, 0, math.sqrt(0.75)], abs=1e-6)
    np.save(tmp_path / "intrinsics.npy", np.array([[0.6, 1.1, 0.5, 0.5]] * 3))
    path = read_camera(tmp_path / "poses.npy", (200, 400))
    assert path.intrinsics[0].tolist() == [[pytest.approx(240), 0, 200], [0, pytest.approx(220), 100], [0, 0, 1]]
    np.save(tmp_path / "intrinsics.npy", np.array([[300.0, 300, 160, 120]] * 3))
    assert read_camera(tmp_path / "poses.npy").size == SIZE
    with pytest.raises(UserError, match=r"\[3, 4\] of float64; SpatialVID's poses.npy is \[T, 7\]"):
        read_camera(tmp_path / "intrinsics.npy")
    np.save(tmp_path / "poses.npy", np.zeros((3, 7)))
    with pytest.raises(UserError, match="frame 0 has a quaternion of length 0"):
        read_camera(tmp_path / "poses.npy")


def test_unknown_files_are_described(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=np.zeros((3, 4)))
    for path, words in (
        (tmp_path / "a.npz", r"unknown npz of depth \[3, 4\]"),
        (write(tmp_path / "b.json", {"lens": 1, "film": 2}), "JSON with lens, film"),
        (write(tmp_path / "c.json", '["a"]'), "got a list of 1"),
        (write(tmp_path / "d.txt", "1 2\n3 4 5\n"), "2 lines of 2, 3 words"),
        (tmp_path, "without a COLMAP model"),
    ):
        with pytest.raises(UserError, match=words):
            read_camera(path)


# --- hostile files --------------------------------------------------------------------------------------------------------------


def npz_member(path: Path, body: bytes, compression: int = zipfile.ZIP_DEFLATED, header: str = "(3, 4, 4)") -> Path:
    array = io.BytesIO()
    np.save(array, np.zeros((3, 4, 4)))
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("cam_c2w.npy", array.getvalue().replace(b"(3, 4, 4), }", f"{header}, }}".encode().ljust(12))[:128] + body)
        archive.writestr("intrinsics.npy", array.getvalue())
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: npz_member(path, b"\0" * 100), "announces"),
        (lambda path: npz_member(path, b"\0" * 900_000_000), "would grow to"),
        (lambda path: npz_member(path, b"\0" * 100, zipfile.ZIP_BZIP2), "compression of kind 12"),
        (lambda path: path.write_bytes(npz_member(path, b"\0" * 384).read_bytes()[:-80]), "not a whole .npz file"),
    ],
)
def test_hostile_archives_are_refused(make, words: str, tmp_path: Path) -> None:
    make(tmp_path / "a.npz")
    with pytest.raises(UserError, match=words):
        read_camera(tmp_path / "a.npz")


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x07\x00\x00\x00"])
def test_damaged_arrays_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UserError, match=r"not a whole \.npy file"):
        read_camera(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "text",
    ['{"frames": [{"transform_matrix": [[1e999]]}]}', "[" * 100_000, '[[1, 2], "x"]', '{"frame0": 3}', '{"frames": {}}', "[1e400]", "[]"],
)
def test_hostile_json_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read_camera(write(tmp_path / "a.json", text))


def test_pickles_that_are_no_cameras_are_refused(tmp_path: Path) -> None:
    entry = {"video_path": "a.mp4", "camera_intrinsics": "x", "camera_extrinsics": np.eye(4)[None], "align_factor": 1.0}
    for index, (bad, words) in enumerate(
        [({"video_path": 1}, "entry 0: expected align_factor"), (entry, "a.mp4: camera_intrinsics"), (3, "entry 0")]
    ):
        np.savez(tmp_path / f"{index}.npz", arr_0=np.array([bad, None], dtype=object))
        with pytest.raises(UserError, match=words):
            convert_realcam_pickle(tmp_path / f"{index}.npz", tmp_path)
    (tmp_path / "p.npz").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="not a RealCam-Vid file"):
        convert_realcam_pickle(tmp_path / "p.npz", tmp_path)


def tracks() -> TrackSet:
    return TrackSet(
        xyz_world=torch.zeros(2, 3, 3),
        visible=torch.ones(2, 3, dtype=torch.bool),
        confidence=torch.ones(2, 3),
        query_frame=torch.zeros(3, dtype=torch.int64),
    )


def pairs() -> PairedTracks:
    view = ViewTracks(uv=torch.full((2, 3, 2), 0.5), depth=torch.ones(2, 3), valid=torch.ones(2, 3, dtype=torch.bool))
    return PairedTracks(source=view, target=view, confidence=torch.ones(2, 3))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("xyz_world", np.zeros((2, 3, 3)), "xyz_world: expected float32, got float64"),
        ("visible", np.ones((2, 3), np.uint8), "visible: expected bool, got uint8"),
        ("confidence", np.full((2, 3), np.nan, np.float32), "confidence: has values outside"),
        ("confidence", np.ones((2, 3), ">f4"), "confidence: expected float32, got >f4"),
        ("query_frame", np.zeros(3, np.float32), "query_frame: expected int64, got float32"),
        ("query_frame", np.full(3, 9), "outside the 2 frames"),
        ("moving", np.zeros(3), "moving: expected bool, got float64"),
        ("xyz_world", np.zeros((2, 3), np.float32), r"xyz_world: expected \[T, N, 3\]"),
        ("xyz_world", np.full((2, 3, 3), np.nan, np.float32), "visible where its position is not finite"),
        ("visible", None, "lacks visible"),
    ],
)
def test_fields_of_tracks_are_checked(field: str, value: np.ndarray | None, words: str, tmp_path: Path) -> None:
    tracks().save(tmp_path / "good.npz")
    assert TrackSet.load(tmp_path / "good.npz").xyz_world.shape == (2, 3, 3)
    arrays = {**np.load(tmp_path / "good.npz"), field: value}
    np.savez(tmp_path / "t.npz", **{name: each for name, each in arrays.items() if each is not None})
    with pytest.raises(UserError, match=words):
        TrackSet.load(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("source_uv", np.zeros((2, 3, 2)), "source_uv: expected float32, got float64"),
        ("target_valid", np.ones((2, 3), np.int8), "target_valid: expected bool"),
        ("source_depth", np.full((2, 3), np.inf, np.float32), "behind the camera or nowhere"),
        ("target_depth", np.ones((2, 4), np.float32), r"target_depth: expected \[2, 3\], got \[2, 4\]"),
        ("confidence", np.full((2, 3), -1, np.float32), "confidence: has values outside"),
        ("confidence", None, "lacks confidence"),
    ],
)
def test_fields_of_pairs_are_checked(field: str, value: np.ndarray | None, words: str, tmp_path: Path) -> None:
    pairs().save(tmp_path / "good.npz")
    assert PairedTracks.load(tmp_path / "good.npz").confidence.shape == (2, 3)
    arrays = {**np.load(tmp_path / "good.npz"), field: value}
    np.savez(tmp_path / "p.npz", **{name: each for name, each in arrays.items() if each is not None})
    with pytest.raises(UserError, match=words):
        PairedTracks.load(tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"keyframes": [{"time": 0}]}, "format: expected"),
        ({"format": "track2view.keyframes/1"}, "keyframes: expected a list of objects"),
        ({"format": "track2view.keyframes/1", "keyframes": [3]}, "keyframes: expected a list of objects, got a list of 1"),
        ({"format": "track2view.keyframes/1", "keyframes": [{"time": "x"}]}, "time: expected numbers"),
        ({"format": "track2view.keyframes/1", "keyframes": [{}]}, "finite numbers"),
        ({"format": "track2view.keyframes/1", "keyframes": [{"time": 0, "position": [1, 2]}]}, r"position: expected numbers \[T, 3\]"),
        ({"format": "track2view.keyframes/1", "keyframes": [{"time": 0, "zoom": 1e309}]}, "finite numbers"),
        ({"format": "track2view.keyframes/1", "easing": ["a"], "keyframes": [{"time": 0}]}, "easing: expected"),
        ({"format": "track2view.keyframes/1", "relative_to": {}, "keyframes": [{"time": 0}]}, "relative_to: expected"),
        ({"format": "track2view.keyframes/1", "keyframes": [{"time": 2}]}, "run from 0"),
    ],
)
def test_bad_keyframes_are_refused(document: dict, words: str, tmp_path: Path) -> None:
    source = read_camera(transforms(tmp_path, ["0", "1"]))
    with pytest.raises(UserError, match=f"keys.json: .*{words}"):
        read_keyframes(write(tmp_path / "keys.json", document), source)


# --- files that were once read wrongly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "focal", "size"),
    [
        ("colmap_unpadded_names", 12, 300, (240, 320)),
        ("colmap_rig_two_cameras#left", 6, 300, (240, 320)),
        ("transforms_unpadded_names/transforms.json", 12, 444.452, (240, 320)),
        ("vipe_layout/pose/clip.npz", 8, 500, (240, 320)),
        ("re10k_timestamps/a.txt", 6, 640, (720, 1280)),
        ("nerfstudio_export_cameras/transforms_train.json", 5, 1280, (720, 1280)),
        ("nerfstudio_viewer_camera_path/camera_path.json", 10, 257.341, (240, 320)),
        ("megasam_npz/clip_sgd_cvd_hr.npz", 8, 300, (240, 320)),
        ("motionctrl_json/test_camera.json", 8, 1280, (720, 1280)),
    ],
)
def test_cases_are_read_right(name: str, frames: int, focal: float, size: tuple[int, int], cases: Path) -> None:
    path = read_camera(f"{cases}/{name}")
    assert places(path) == pytest.approx(range(frames), abs=1e-4)
    assert (float(path.intrinsics[0, 0, 0]), path.size) == (pytest.approx(focal, abs=1e-3), size)


def test_cases_with_gaps_and_rates(cases: Path) -> None:
    assert read_camera(cases / "re10k_timestamps" / "a.txt").fps == pytest.approx(3.746, abs=1e-3)
    with pytest.warns(Notice, match=r"15 of 20 frames are missing \(4–18\)"):
        assert places(read_camera(cases / "vipe_gaps" / "pose.npz")) == pytest.approx(range(20), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("colmap_fisheye_lens", "OPENCV_FISHEYE, k1=0.05"),
        ("transforms_fisheye_lens/transforms.json", "OPENCV_FISHEYE, k1=0.05"),
        ("colmap_rig_two_cameras", "choose one with #NAME: left, right"),
        ("hostile/npz_header/cam.npz", "announces"),
        ("hostile/npz_bomb/tracks.npz", "compression of kind 12"),
        ("hostile/truncated_npz/cam.npz", "not a whole .npz file"),
        ("hostile/unreal_quadratic/camera_extrinsics.json", "frame0 cam01: expected numbers"),
        ("hostile/colmap_hang/model2", "images.bin"),
    ],
)
def test_cases_are_refused(name: str, words: str, cases: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=words):
        read_camera(cases / name)
    assert time.perf_counter() - started < 5


def test_points_of_a_model_are_never_read(cases: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_camera(cases / "hostile" / "colmap_hang" / "model")) == 6
