import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from track2view.cameras import MOVES, apply_move, parse_move, read_camera, read_keyframes, write_camera
from track2view.cameras.formats import convert_realcam_pickle
from track2view.errors import UserError
from track2view.geometry import project, rigid, rotation_about, rotation_angle
from track2view.records import CameraPath

SIZE = (720, 1280)


def still(frames: int = 21) -> CameraPath:
    intrinsics = torch.tensor([[1000.0, 0, 640], [0, 1000, 360], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    return CameraPath(world_from_camera=torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1), intrinsics=intrinsics, size=SIZE)


def shaky(frames: int = 21) -> CameraPath:
    random = torch.Generator().manual_seed(0)
    poses = rigid(
        rotation_about("z", 3 * torch.randn(frames, generator=random, dtype=torch.float64)),
        0.1 * torch.randn(frames, 3, generator=random, dtype=torch.float64),
    )
    intrinsics = still(frames).intrinsics.clone()
    intrinsics[:, 0, 0] = torch.linspace(900, 1300, frames, dtype=torch.float64)
    return CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=SIZE, fps=24.0)


def motion(name: str, point: tuple[float, float, float]) -> torch.Tensor:
    """How far a point moves across the image (u right, v down) from the first frame to the last."""
    path = apply_move(parse_move(name), still())
    where = torch.tensor([point], dtype=torch.float64).expand(21, 1, 3)
    pixels, depth = project(where, path.camera_from_world, path.intrinsics)
    assert bool((depth > 0).all())
    return pixels[-1, 0] - pixels[0, 0]


FAR, NEAR, MIDDLE, RIGHT, BELOW = (0.0, 0.0, 3.0), (0.0, 0.0, 0.6), (0.0, 0.0, 1.0), (0.3, 0.0, 1.0), (0.0, 0.2, 1.0)


@pytest.mark.parametrize(
    ("name", "point", "axis", "sign"),
    [
        ("pan-right", MIDDLE, 0, -1),
        ("pan-left", MIDDLE, 0, 1),
        ("tilt-up", MIDDLE, 1, 1),
        ("tilt-down", MIDDLE, 1, -1),
        ("roll-right", RIGHT, 1, -1),
        ("roll-left", RIGHT, 1, 1),
        ("dolly-in", RIGHT, 0, 1),
        ("dolly-out", RIGHT, 0, -1),
        ("truck-right", MIDDLE, 0, -1),
        ("truck-left", MIDDLE, 0, 1),
        ("pedestal-up", MIDDLE, 1, 1),
        ("pedestal-down", MIDDLE, 1, -1),
        ("orbit-right", NEAR, 0, -1),
        ("orbit-right", FAR, 0, 1),
        ("orbit-left", NEAR, 0, 1),
        ("orbit-up", NEAR, 1, 1),
        ("orbit-up", FAR, 1, -1),
        ("orbit-down", NEAR, 1, -1),
        ("arc-left", FAR, 0, -1),
        ("crane-up", NEAR, 1, 1),
        ("crane-down", NEAR, 1, -1),
        ("zoom-in", RIGHT, 0, 1),
        ("zoom-out", RIGHT, 0, -1),
        ("dolly-zoom-in", (0.3, 0.0, 3.0), 0, -1),
        ("dolly-zoom-out", (0.3, 0.0, 3.0), 0, 1),
        ("recam-1", MIDDLE, 0, -1),
        ("recam-2", MIDDLE, 0, 1),
        ("recam-3", MIDDLE, 1, 1),
        ("recam-4", MIDDLE, 1, -1),
        ("recam-5", RIGHT, 0, 1),
        ("recam-6", RIGHT, 0, -1),
        ("recam-7", NEAR, 1, 1),
        ("recam-8", NEAR, 1, -1),
        ("recam-9", NEAR, 0, 1),
        ("recam-10", NEAR, 0, -1),
    ],
)
def test_direction_of_every_move(name: str, point: tuple[float, float, float], axis: int, sign: int) -> None:
    moved = motion(name, point)
    assert float(moved[axis]) * sign > 5
    if not name.startswith("roll"):
        assert abs(float(moved[1 - axis])) < 0.2 * abs(float(moved[axis])) + 1e-6


@pytest.mark.parametrize("name", ["orbit-right", "orbit-up", "crane-down", "recam-7", "recam-9"])
def test_moves_about_the_middle_keep_it_in_the_middle(name: str) -> None:
    assert float(motion(name, MIDDLE).abs().max()) < (8.0 if name == "recam-9" else 1e-6)


def test_dolly_zoom_keeps_the_size_of_what_is_in_the_middle() -> None:
    assert float(motion("dolly-zoom-in", RIGHT).abs().max()) < 1e-9


def test_spirals_return_and_turn_opposite_ways() -> None:
    right, left = (apply_move(parse_move(f"spiral-{way}"), still(81)).world_from_camera for way in ("right", "left"))
    assert torch.allclose(right[0], right[-1], atol=1e-9)
    assert float(right[20, 0, 3]) > 0.05
    assert torch.allclose(right[:, 0, 3], -left[:, 0, 3])


def test_static_holds_the_first_camera_and_smooth_calms_the_path() -> None:
    source = shaky(60)
    held = apply_move(parse_move("static"), source)
    assert torch.equal(held.world_from_camera, source.world_from_camera[:1].expand(60, 4, 4))
    assert torch.equal(held.intrinsics, source.intrinsics[:1].expand(60, 3, 3))
    calm = apply_move(parse_move("smooth"), source)
    wobble = lambda path: float(path.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=-1).mean())  # noqa: E731
    assert wobble(calm) < 0.25 * wobble(source)


def test_moves_ride_on_the_source_or_on_its_first_camera() -> None:
    source = shaky()
    riding = apply_move(parse_move("pan-right:20"), source)
    turn = source.world_from_camera[:, :3, :3].mT @ riding.world_from_camera[:, :3, :3]
    assert float(rotation_angle(turn)[-1]) == pytest.approx(20.0)
    instead = apply_move(parse_move("pan-right:20", relative_to="first-frame"), source)
    assert torch.allclose(instead.world_from_camera[:, :3, 3], source.world_from_camera[:1, :3, 3].expand(21, 3))


def test_sequences_join_without_a_jump_and_amounts_add() -> None:
    path = apply_move(parse_move("dolly-in:0.4+pan-left:30", easing="linear"), still(41))
    assert float(path.world_from_camera[20, 2, 3]) == pytest.approx(0.4)
    assert float(rotation_angle(path.world_from_camera[20, :3, :3])) < 1e-9
    assert float(rotation_angle(path.world_from_camera[-1, :3, :3])) == pytest.approx(30.0)
    assert float(path.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=-1).max()) < 0.021


@pytest.mark.parametrize("easing", ["smooth", "linear", "in", "out"])
def test_easings_run_from_start_to_end_without_going_back(easing: str) -> None:
    path = apply_move(parse_move("dolly-in:1", easing=easing), still(50))
    travelled = path.world_from_camera[:, 2, 3]
    assert float(travelled[0]) == pytest.approx(0)
    assert float(travelled[-1]) == pytest.approx(1)
    assert bool((travelled.diff() >= -1e-12).all())


def test_unit_length_scales_travel_alone() -> None:
    path = apply_move(parse_move("orbit-right"), still(), pivot=7.0)
    unit = apply_move(parse_move("orbit-right"), still())
    assert torch.allclose(path.world_from_camera[:, :3, 3], 7 * unit.world_from_camera[:, :3, 3])
    assert torch.equal(path.world_from_camera[:, :3, :3], unit.world_from_camera[:, :3, :3])


def test_every_move_has_an_opposite() -> None:
    opposite = {"right": "left", "left": "right", "up": "down", "down": "up", "in": "out", "out": "in"}
    for name in MOVES:
        stem, _, way = name.rpartition("-")
        if way in opposite:
            assert f"{stem}-{opposite[way]}" in MOVES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("obrit-right", "did you mean orbit-right"),
        ("dolly-in:far", "expected a number"),
        ("zoom-in:-1", "must be positive"),
        ("dolly-zoom-in:1.5", "past the scene's middle"),
        ("pan-left:nan", "finite"),
    ],
)
def test_bad_moves_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_move(text)


def test_recam_presets_are_the_originals(shared: Path) -> None:
    for index in range(1, 11):
        original = read_camera(f"{shared}/multicam_camera_extrinsics.json#cam{index:02d}")
        original = original.relative_to(original.world_from_camera[0])
        own = apply_move(parse_move(f"recam-{index}"), original[:1].resampled(81), pivot=4.0)
        turned = rotation_angle(own.world_from_camera[:, :3, :3].mT @ original.world_from_camera[:, :3, :3])
        assert float(turned.max()) < 1e-3
        assert float((own.world_from_camera[:, :3, 3] - original.world_from_camera[:, :3, 3]).abs().max()) < 1e-3


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_keyframes(tmp_path: Path) -> None:
    keys = [{"time": 0}, {"time": 0.5, "position": [0.1, 0, 0], "zoom": 2}, {"time": 1, "rotation": [0, 90, 0], "zoom": 1}]
    document = {"format": "track2view.keyframes/1", "keyframes": keys}
    path = read_keyframes(write_text(tmp_path / "keys.json", json.dumps(document)), still(21), unit_length=2.0)
    assert float(path.world_from_camera[10, 0, 3]) == pytest.approx(0.2)
    assert float(path.intrinsics[10, 0, 0]) == pytest.approx(2000)
    assert float(path.intrinsics[5, 0, 0]) == pytest.approx(1000 * math.sqrt(2))
    assert torch.allclose(path.world_from_camera[-1, :3, 2], torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-9)
    document["keyframes"][2]["time"] = 0.5
    with pytest.raises(UserError, match="increasing"):
        read_keyframes(write_text(tmp_path / "bad.json", json.dumps(document)), still())


@pytest.mark.parametrize("name", ["own.json", "transforms.json", "realestate.txt", "colmap"])
def test_exports_round_trip(name: str, tmp_path: Path) -> None:
    source = shaky()
    write_camera(source, tmp_path / name)
    again = read_camera(tmp_path / name, SIZE)
    assert float((again.world_from_camera - source.world_from_camera).abs().max()) < 1e-9
    assert float((again.intrinsics - source.intrinsics).abs().max()) < 1e-9
    assert again.size == source.size


def test_colmap_binary_models_are_read(tmp_path: Path) -> None:
    import pycolmap

    write_camera(shaky(5), tmp_path / "text")
    (tmp_path / "binary").mkdir()
    pycolmap.Reconstruction(str(tmp_path / "text")).write_binary(str(tmp_path / "binary"))
    again = read_camera(tmp_path / "binary")
    assert float((again.world_from_camera - shaky(5).world_from_camera).abs().max()) < 1e-9


def test_realestate_by_hand(tmp_path: Path) -> None:
    # The camera stands at x = 2 in the world, turned 90° to the right: world z is at its left, world x ahead.
    row = "0 0.5 0.9 0.5 0.5 0 0  0 0 -1 0  0 1 0 0  1 0 0 -2"
    path = read_camera(write_text(tmp_path / "a.txt", f"https://example.org\n{row}\n"), (100, 200))
    assert path.world_from_camera[0, :3, 3].tolist() == [2.0, 0.0, 0.0]
    assert path.world_from_camera[0, :3, 2].tolist() == [1.0, 0.0, 0.0]
    assert path.intrinsics[0].tolist() == [[100.0, 0, 100], [0, 90, 50], [0, 0, 1]]


def test_nerfstudio_by_hand(tmp_path: Path) -> None:
    # OpenGL's identity looks along -z with y up: in OpenCV axes the camera's z is world -z and its y is world -y.
    document = {"fl_x": 500, "w": 640, "h": 480, "frames": [{"transform_matrix": np.eye(4).tolist()}]}
    path = read_camera(write_text(tmp_path / "transforms.json", json.dumps(document)))
    assert path.world_from_camera[0, :3, 2].tolist() == [0.0, 0.0, -1.0]
    assert path.world_from_camera[0, :3, 1].tolist() == [0.0, -1.0, 0.0]
    assert path.intrinsics[0, 0].tolist() == [500.0, 0.0, 320.0]


def test_unreal_by_hand(tmp_path: Path) -> None:
    # 1 m forwards, 2 m right, 3 m up; yawed 90° to the right: Unreal's forward axis points to Unreal's +Y.
    entry = "[0 1 0 0] [-1 0 0 0] [0 0 1 0] [100 200 300 1] "
    path = read_camera(write_text(tmp_path / "multi.json", json.dumps({"frame0": {"cam01": entry}})), (1280, 1280))
    assert path.world_from_camera[0, :3, 3].tolist() == [2.0, -3.0, 1.0]
    assert path.world_from_camera[0, :3, 2].tolist() == [1.0, 0.0, 0.0]
    assert path.unit == "metre"
    assert float(path.intrinsics[0, 0, 0]) == pytest.approx(1292.93, abs=0.01)


def test_npz_kinds_by_hand(tmp_path: Path) -> None:
    poses = np.eye(4)[None].repeat(3, 0)
    poses[:, 0, 3] = [0, 1, 2]
    np.savez(tmp_path / "vipe.npz", data=poses[[2, 0, 1]], inds=np.array([2, 0, 1]))
    assert read_camera(tmp_path / "vipe.npz").world_from_camera[:, 0, 3].tolist() == [0, 1, 2]
    np.savez(tmp_path / "vista.npz", cam_c2w=poses, intrinsics=np.array([[700.0, 700, 320, 180]] * 3))
    vista = read_camera(tmp_path / "vista.npz")
    assert vista.size == (360, 640)
    np.savez(tmp_path / "gen3c.npz", w2c=poses, intrinsics=vista.intrinsics.numpy())
    assert read_camera(tmp_path / "gen3c.npz").world_from_camera[:, 0, 3].tolist() == [0, -1, -2]


def test_trajectory_crafter_and_das_directions(tmp_path: Path) -> None:
    up = read_camera(write_text(tmp_path / "t.txt", "0 10 20\n0 0 0\n0 0 0\n"))
    assert float(up.world_from_camera[-1, 1, 3]) < -0.3
    right = read_camera(write_text(tmp_path / "p.txt", "0 0\n0 30\n0 0\n"))
    assert float(right.world_from_camera[-1, 0, 3]) == pytest.approx(0.5)
    nearer = read_camera(write_text(tmp_path / "r.txt", "0 0\n0 0\n0 0.4\n"))
    assert float(nearer.world_from_camera[-1, 2, 3]) == pytest.approx(0.4)
    das = read_camera(write_text(tmp_path / "d.txt", "trans 0.1 0 0 0 24; rot y 30 24 48"))
    assert float(das.world_from_camera[24, 0, 3]) == pytest.approx(0.1)
    assert float(rotation_angle(das.world_from_camera[-1, :3, :3])) == pytest.approx(30)


def test_realcam_pickles_are_only_opened_on_request(tmp_path: Path) -> None:
    entry = {
        "video_path": "a/clip7.mp4",
        "camera_intrinsics": [0.5, 0.9, 0.5, 0.5],
        "camera_extrinsics": np.stack([np.eye(4), np.block([[np.eye(3), -np.ones((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])]),
        "align_factor": 3.0,
    }
    np.savez(tmp_path / "real.npz", arr_0=np.array([entry], dtype=object))
    with pytest.raises(UserError, match="cameras unpickle"):
        read_camera(tmp_path / "real.npz")
    (written,) = convert_realcam_pickle(tmp_path / "real.npz", tmp_path / "out")
    assert written.name == "clip7.json"
    path = read_camera(written)
    assert path.world_from_camera[1, :3, 3].tolist() == [3.0, 3.0, 3.0]
    assert path.unit == "metre"


def test_public_files(shared: Path) -> None:
    assert float(read_camera(shared / "re10k_pan_left.txt").world_from_camera[-1, 0, 3]) < -1
    assert read_camera(shared / "re10k_cw.txt").rotation_span == pytest.approx(59.26, abs=0.01)
    zoomed = read_camera(shared / "vista4d_dolly_zoom.npz")
    assert float(zoomed.intrinsics[0, 0, 0] / zoomed.intrinsics[-1, 0, 0]) == pytest.approx(4.0, abs=0.01)
    assert len(read_camera(shared / "taxi.vipe.npz")) == 102


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{}", "unknown camera format"),
        ("b.json", '{"format": "track2view.camera/9"}', "newer version"),
        ("c.json", '{"format": "track2view.camera/1"}', "lacks size"),
        ("d.json", "{", "cannot be read"),
        ("e.txt", "hello there", "unknown text format"),
        ("f.txt", "rot w 3", "cannot be read"),
    ],
)
def test_unreadable_files_are_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_camera(write_text(tmp_path / name, text))
