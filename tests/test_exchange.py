"""Camera paths to and from scene tools: Nuke's ``.chan`` and glTF, against hand-written files and an independent reader."""

import base64
import json
import math
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
from corpus import cameras
from scipy.spatial.transform import Rotation

from track2view.cameras import read_camera, write_camera
from track2view.cameras.gltf import write_gltf
from track2view.errors import Notice, UserError
from track2view.geometry import rigid
from track2view.records import CameraPath

SIZE = (240, 320)
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def turning(frames: int = 31, *, zoom: bool = False) -> CameraPath:
    """A path that turns more than half around, nods, rolls, and goes somewhere."""
    share = torch.linspace(0, 1, frames, dtype=torch.float64).numpy()
    turns = Rotation.from_euler("YXZ", np.stack([200 * share, 30 * np.sin(5 * share), 20 * share], axis=-1), degrees=True)
    places = torch.from_numpy(np.stack([share, 0.3 * share**2, -2 * share], axis=-1))
    lens = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    if zoom:
        lens[:, [0, 1], [0, 1]] *= torch.linspace(1, 2, frames, dtype=torch.float64)[:, None]
    poses = rigid(torch.from_numpy(turns.as_matrix()), places)
    return CameraPath(world_from_camera=poses, intrinsics=lens, size=SIZE, fps=24.0)


def apart(one: CameraPath, other: CameraPath) -> float:
    return float((one.world_from_camera - other.world_from_camera).abs().max())


@pytest.mark.parametrize(("name", "bound"), [("a.chan", 1e-9), ("a.glb", 1e-5)])
def test_a_path_comes_back(name: str, bound: float, tmp_path: Path) -> None:
    path = turning()
    write_camera(path, tmp_path / name)
    again = read_camera(tmp_path / name, SIZE)
    assert len(again) == len(path)
    assert apart(again, path) < bound
    assert float((again.intrinsics - path.intrinsics).abs().max()) < 300 * bound


@pytest.mark.parametrize("name", ["nuke.chan", "scene.glb", "text.gltf"])
def test_files_by_hand_are_read(name: str, tmp_path: Path) -> None:
    cameras.make_scenes(tmp_path)
    path = read_camera(tmp_path / name, (cameras.HEIGHT, cameras.WIDTH))
    assert np.abs(path.world_from_camera.numpy() - cameras.poses()).max() < 1e-6
    assert np.abs(path.intrinsics.numpy() - cameras.intrinsics()).max() < 1e-4
    assert path.fps == (None if name == "nuke.chan" else pytest.approx(24, rel=1e-5))


def test_a_chan_keeps_a_zoom_and_its_angles_do_not_jump(tmp_path: Path) -> None:
    path = turning(zoom=True)
    write_camera(path, tmp_path / "a.chan")
    again = read_camera(tmp_path / "a.chan", SIZE)
    assert float((again.intrinsics - path.intrinsics).abs().max()) < 1e-9
    rows = np.loadtxt(tmp_path / "a.chan")
    assert rows[:, 0].tolist() == list(range(1, 32))
    assert np.abs(np.diff(rows[:, 4:7], axis=0)).max() < 20
    assert rows[0, 7] == pytest.approx(2 * math.degrees(math.atan(120 / 300)))
    # by Nuke's own order, about z first, then x, then y
    x, y, z = np.deg2rad(rows[20, 4:7])
    about = [Rotation.from_rotvec(angle * np.eye(3)[axis]).as_matrix() for angle, axis in ((y, 1), (x, 0), (z, 2))]
    expected = FLIP[:3, :3] @ path.world_from_camera[20, :3, :3].numpy() @ FLIP[:3, :3]
    assert np.abs(about[0] @ about[1] @ about[2] - expected).max() < 1e-9


def test_frames_that_a_chan_lacks_are_filled_from_those_about_them(tmp_path: Path) -> None:
    path = turning()
    write_camera(path, tmp_path / "a.chan")
    lines = (tmp_path / "a.chan").read_text().splitlines(keepends=True)
    (tmp_path / "gaps.chan").write_text("".join(line for index, line in enumerate(lines) if index not in (7, 8, 20)))
    with pytest.warns(Notice, match="gaps.chan"):
        again = read_camera(tmp_path / "gaps.chan", SIZE)
    assert len(again) == len(path)
    assert apart(again, path) < 0.02


def test_a_node_that_says_where_it_is_by_a_matrix_is_there(tmp_path: Path) -> None:
    """Sixteen numbers, column after column."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_euler("y", 40, degrees=True).as_matrix(), (1.0, 2.0, -3.0)
    lens = {"type": "perspective", "perspective": {"yfov": 0.8, "znear": 0.1}}
    document = {
        "asset": {"version": "2.0"},
        "cameras": [lens],
        "nodes": [{"name": "still", "camera": 0, "matrix": matrix.T.ravel().tolist()}],
    }
    (tmp_path / "still.gltf").write_text(json.dumps(document))
    assert np.abs(read_camera(tmp_path / "still.gltf", SIZE).world_from_camera[0].numpy() - FLIP @ matrix @ FLIP).max() < 1e-6


def interleaved(path: Path, times: tuple[float, ...] = (0.0, 0.5, 1.0)) -> None:
    """A camera that goes and turns, with keys of all kinds in one buffer among each other: turns at its ends only, and no size."""
    about_y = Rotation.from_euler("y", [[0], [0], [90]], degrees=True).as_quat()
    rows = [[time, index, 2 * index, 0, *turn] for index, (time, turn) in enumerate(zip(times, about_y, strict=True))]
    data = np.array(rows, "<f4").tobytes()
    views = [{"buffer": 0, "byteLength": len(data), "byteStride": stride} for stride in (32, 64)]
    kinds = (("SCALAR", 0, 0, 3), ("VEC3", 0, 4, 3), ("SCALAR", 1, 0, 2), ("VEC4", 1, 16, 2))
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(data), "uri": f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"}],
        "bufferViews": views,
        "accessors": [
            {"bufferView": view, "byteOffset": offset, "componentType": 5126, "type": kind, "count": count}
            for kind, view, offset, count in kinds
        ],
        "cameras": [{"type": "perspective", "perspective": {"yfov": 0.8, "znear": 0.1, "aspectRatio": 2.0}}],
        "nodes": [{"camera": 0}],
        "animations": [
            {
                "samplers": [{"input": 0, "output": 1}, {"input": 2, "output": 3}],
                "channels": [
                    {"sampler": index, "target": {"node": 0, "path": what}} for index, what in enumerate(("translation", "rotation"))
                ],
            }
        ],
    }
    path.write_text(json.dumps(document))


def test_keys_among_each_other_are_found_and_blended(tmp_path: Path) -> None:
    interleaved(tmp_path / "a.gltf")
    path = read_camera(tmp_path / "a.gltf")
    assert path.size[1] == 2 * path.size[0], "as wide as its aspect says"
    poses = FLIP @ path.world_from_camera.numpy() @ FLIP
    assert np.abs(poses[:, :3, 3] - [[0, 0, 0], [1, 2, 0], [2, 4, 0]]).max() < 1e-6
    turned = Rotation.from_matrix(poses[:, :3, :3]).magnitude()
    assert np.rad2deg(turned) == pytest.approx([0, 45, 90], abs=1e-3)


def test_more_frames_than_anybody_films_are_refused(tmp_path: Path) -> None:
    interleaved(tmp_path / "a.gltf", (0.0, 1e-3, 2e6))
    document = json.loads((tmp_path / "a.gltf").read_text())
    document["accessors"][0]["count"] = document["accessors"][1]["count"] = 2
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(UserError, match="frames; at most"):
        read_camera(tmp_path / "a.gltf")


def test_nodes_that_hang_on_each_other_in_a_ring_are_refused(tmp_path: Path) -> None:
    interleaved(tmp_path / "a.gltf")
    document = json.loads((tmp_path / "a.gltf").read_text())
    document["nodes"] = [{"camera": 0, "children": [1]}, {"children": [0]}]
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(UserError, match="in a ring"):
        read_camera(tmp_path / "a.gltf")


def test_turns_of_a_glb_go_the_short_way(tmp_path: Path) -> None:
    """A turn and its negative are one, but a program that blends from one to the other between keys goes all around."""
    write_camera(turning(), tmp_path / "a.glb")
    document = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    animation = document.animations[0]
    channel = next(each for each in animation.channels if each.target.path == "rotation")
    view = document.bufferViews[document.accessors[animation.samplers[channel.sampler].output].bufferView]
    turns = np.frombuffer(document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength], np.float32).reshape(-1, 4)
    assert (turns[1:] * turns[:-1]).sum(-1).min() > 0.9


def test_what_a_format_does_not_hold_is_said(tmp_path: Path) -> None:
    beside = turning()
    beside.intrinsics[:, 0, 2] += 30
    oblong = turning()
    oblong.intrinsics[:, 0, 0] *= 1.2
    for path, name, words in (
        (turning(zoom=True), "a.glb", "zooms"),
        (beside, "a.glb", "not before the middle"),
        (beside, "a.chan", "not before the middle"),
        (oblong, "a.chan", "not square"),
    ):
        with pytest.warns(Notice, match=words):
            write_camera(path, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_camera(turning(), tmp_path / "b.glb")
        write_camera(turning(zoom=True), tmp_path / "b.chan")


def node_matrices(path: Path, name: str, keys: list[int]) -> np.ndarray:
    """By pygltflib: a node's matrices at keys of its animation."""
    document = pygltflib.GLTF2().load(str(path))
    node = next(index for index, each in enumerate(document.nodes) if each.name == name)
    animation = document.animations[0]
    found = {}
    for channel in animation.channels:
        if channel.target.node == node:
            accessor = document.accessors[animation.samplers[channel.sampler].output]
            view = document.bufferViews[accessor.bufferView]
            data = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
            found[channel.target.path] = np.frombuffer(data, np.float32).reshape(accessor.count, -1)
    out = np.tile(np.eye(4), (len(keys), 1, 1))
    out[:, :3, :3] = Rotation.from_quat(found["rotation"][keys]).as_matrix()
    out[:, :3, 3] = found["translation"][keys]
    return out


def test_an_independent_reader_finds_cameras_and_points(tmp_path: Path) -> None:
    one, other = turning(), replace(turning(11), fps=12.0)
    points = np.random.default_rng(0).normal(size=(7, 3))
    colours = np.random.default_rng(1).integers(0, 256, (7, 3), np.uint8)
    write_gltf(tmp_path / "a.glb", {"source": one, "target": other}, points, colours)
    for name, path in (("source", one), ("target", other)):
        found = FLIP @ node_matrices(tmp_path / "a.glb", name, [0, 5, 10]) @ FLIP
        assert np.abs(found - path.world_from_camera[[0, 5, 10]].numpy()).max() < 1e-5
    document = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert document.cameras[0].perspective.yfov == pytest.approx(2 * math.atan(120 / 300))
    assert document.cameras[0].perspective.aspectRatio == pytest.approx(4 / 3)
    primitive = document.meshes[0].primitives[0]
    assert primitive.mode == pygltflib.POINTS
    blob = document.binary_blob()
    for accessor, expected in ((primitive.attributes.POSITION, points * [1, -1, -1]), (primitive.attributes.COLOR_0, colours)):
        view = document.bufferViews[document.accessors[accessor].bufferView]
        kind = np.float32 if expected.dtype == np.float64 else np.uint8
        rows = np.frombuffer(blob[view.byteOffset : view.byteOffset + view.byteLength], kind).reshape(7, -1)
        assert np.abs(rows[:, :3] - expected).max() < 1e-6
    assert document.accessors[primitive.attributes.POSITION].max == pytest.approx((points * [1, -1, -1]).max(0), rel=1e-6)
    assert float(read_camera(f"{tmp_path / 'a.glb'}#target").fps) == pytest.approx(12, rel=1e-5)
    with pytest.raises(UserError, match="holds 2 cameras; choose one with #NAME: source, target"):
        read_camera(tmp_path / "a.glb")


def scene(folder: Path, change: dict[str, object] | None = None, **parts: object) -> Path:
    """The corpus's glTF as text, with other parts at its top."""
    cameras.make_scenes(folder)
    document = json.loads((folder / "text.gltf").read_text())
    document |= parts
    for place, value in (change or {}).items():
        *above, last = place.split(".")
        there = document
        for key in above:
            there = there[int(key) if key.isdecimal() else key]
        if value is None:
            del there[last]
        else:
            there[int(last) if last.isdecimal() else last] = value
    path = folder / "changed.gltf"
    path.write_text(json.dumps(document))
    return path


def test_a_camera_goes_where_what_it_hangs_on_goes(tmp_path: Path) -> None:
    """As Blender writes it: a camera of its own below what is turned, scaled and moved."""
    half = math.sin(math.pi / 4)
    above = {"children": [1], "rotation": [half, 0, 0, half], "scale": [2, 2, 2], "translation": [0, 0, 5]}
    path = read_camera(scene(tmp_path, {"nodes.0": above}), (cameras.HEIGHT, cameras.WIDTH))
    parent = np.eye(4)
    parent[:3, :3] = Rotation.from_euler("x", 90, degrees=True).as_matrix() * 2
    parent[2, 3] = 5
    expected = FLIP @ parent @ FLIP @ cameras.poses()
    expected[:, :3, :3] /= 2
    assert np.abs(path.world_from_camera.numpy() - expected).max() < 1e-6


def test_cameras_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    path = scene(tmp_path, {"nodes.0": {"name": "lens", "camera": 0}})
    with pytest.raises(UserError, match=r"holds 2 cameras; choose one with #NAME: lens.0, lens.1"):
        read_camera(path)
    assert len(read_camera(f"{path}#lens.1")) == cameras.FRAMES


def test_sparse_keys_are_told_between(tmp_path: Path) -> None:
    """Two keys a second apart of one node and a frame apart of the other: as many frames as the finer has."""
    path = scene(tmp_path)
    document = json.loads(path.read_text())
    times = struct.pack("<2f", 0.0, 5 / 24)
    moved = struct.pack("<6f", 0, 0, 0, 0, 0, -1)
    uri = "data:;base64," + base64.b64encode(times + moved).decode()
    document["buffers"].append({"byteLength": 32, "uri": uri})
    document["bufferViews"] += [{"buffer": 1, "byteOffset": 0, "byteLength": 8}, {"buffer": 1, "byteOffset": 8, "byteLength": 24}]
    document["accessors"] += [
        {"bufferView": 3, "componentType": 5126, "count": 2, "type": "SCALAR"},
        {"bufferView": 4, "componentType": 5126, "count": 2, "type": "VEC3"},
    ]
    document["animations"].append(
        {"channels": [{"sampler": 0, "target": {"node": 0, "path": "translation"}}], "samplers": [{"input": 3, "output": 4}]}
    )
    path.write_text(json.dumps(document))
    found = read_camera(path, (cameras.HEIGHT, cameras.WIDTH))
    assert (found.world_from_camera[:, 2, 3] - torch.linspace(0, 1, 6, dtype=torch.float64)).abs().max() < 1e-5
    assert (found.world_from_camera[:, 0, 3] - 0.1 * torch.arange(6)).abs().max() < 1e-5


def test_numbers_beside_the_file_are_found(tmp_path: Path) -> None:
    path = scene(tmp_path)
    document = json.loads(path.read_text())
    (tmp_path / "its numbers.bin").write_bytes(base64.b64decode(document["buffers"][0]["uri"].partition(",")[2]))
    document["buffers"][0]["uri"] = "../elsewhere/its%20numbers.bin"
    path.write_text(json.dumps(document))
    assert len(read_camera(path)) == cameras.FRAMES
    (tmp_path / "its numbers.bin").unlink()
    with pytest.raises(UserError, match=r"its numbers.bin is not beside it"):
        read_camera(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras.0.type": "orthographic"}, "a camera of type 'orthographic', which has no perspective"),
        ({"cameras.0.perspective.yfov": 4.0}, "yfov: expected radians"),
        ({"nodes.1.camera": 3}, "cameras: has 1, and number 3 is asked for"),
        ({"nodes.1": {}}, "holds no camera"),
        ({"nodes.1.children": [0]}, "in a ring"),
        ({"animations.0.samplers.0.interpolation": "CUBICSPLINE"}, "export with sampled animation"),
        ({"accessors.1.count": 9999}, "9999 keys from byte 24 on, of 192 bytes"),
        ({"accessors.1.componentType": 5123}, "expected 3 float"),
        ({"accessors.0.count": 2}, "2 times that should increase, and 6 values"),
        ({"bufferViews.0.buffer": 7}, "buffers: has 1, and number 7"),
        ({"buffers.0.uri": "data:;base64,%%"}, "buffers: uri"),
        ({"asset": None}, "unknown camera format|no asset"),
    ],
)
def test_a_broken_gltf_is_refused_in_a_line(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_camera(scene(tmp_path, change))


def test_a_glb_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_camera(turning(), tmp_path / "a.glb")
    whole = (tmp_path / "a.glb").read_bytes()
    for length, words in ((len(whole) - 50, "is cut off"), (300, "is cut off"), (12, "not a glTF")):
        (tmp_path / "b.glb").write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"b.glb: {words}"):
            read_camera(tmp_path / "b.glb")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("1 0 0 0 0 0 0 40\n2 0 0 0 0 0 0\n", "words here: 7, 8"),
        ("", "words here: none"),
        ("1 0 0 0 0 0 zero 40\n", "could not convert"),
        ("1.5 0 0 0 0 0 0 40\n", "whole numbers that increase"),
        ("2 0 0 0 0 0 0 40\n1 0 0 0 0 0 0 40\n", "whole numbers that increase"),
        ("1 0 0 0 0 0 0 180\n", "between 0 and 180"),
        ("1 0 0 nan 0 0 0 40\n", "not finite"),
    ],
)
def test_a_broken_chan_is_refused_in_a_line(lines: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.chan").write_text(lines)
    with pytest.raises(UserError, match=words):
        read_camera(tmp_path / "a.chan")


def test_a_chan_without_a_lens_says_so_and_missing_frames_are_filled(tmp_path: Path) -> None:
    (tmp_path / "a.chan").write_text("# from Houdini\n10 0 0 0 0 0 0\n11 0 1 -1 0 0 0\n14 0 4 -4 0 0 0\n")
    with pytest.warns(Notice, match="2 of 5"):
        path = read_camera(tmp_path / "a.chan")
    assert not path.focal_known
    assert (path.world_from_camera[:, 1, 3] + torch.arange(5)).abs().max() < 1e-9
    assert (path.world_from_camera[:, 2, 3] - torch.arange(5)).abs().max() < 1e-9
