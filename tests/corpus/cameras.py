"""Camera files in every format that people have: six frames along x, written by hand and by numpy, not by what reads them."""

import base64
import json
import math
import struct
from pathlib import Path

import numpy as np

FRAMES, HEIGHT, WIDTH, FOCAL = 6, 48, 64, 60.0
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
VIEW = math.degrees(2 * math.atan(HEIGHT / 2 / FOCAL))
"""Vertical field of view."""
PINHOLE = 1
"""COLMAP's number of the camera model fx, fy, cx, cy."""


def poses() -> np.ndarray:
    """Camera-to-world, OpenCV axes: 0.1 to the right and 2° to the left each frame."""
    out = np.tile(np.eye(4), (FRAMES, 1, 1))
    for index, pose in enumerate(out):
        angle = math.radians(-2.0 * index)
        pose[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        pose[0, 3] = 0.1 * index
    return out


def intrinsics() -> np.ndarray:
    """The same 3×3 matrix at every frame, in pixels."""
    return np.tile(np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]]), (FRAMES, 1, 1))


def make_json(folder: Path) -> None:
    """track2view, nerfstudio (transforms, viewer path, export list), MultiCamVideo, MotionCtrl and NeoVerse (both its kinds)."""
    turned = poses() @ OPENGL
    flat = [float(each) for each in intrinsics()[0][[0, 1, 0, 1], [0, 1, 2, 2]]]
    documents: dict[str, object] = {
        "track2view.json": {
            "format": "track2view.camera/1",
            "unit": "metre",
            "size": [HEIGHT, WIDTH],
            "fps": 24.0,
            "world_from_camera": poses().tolist(),
            "intrinsics": intrinsics().tolist(),
        },
        "cam_info.json": {
            "intrinsic": (intrinsics()[0] - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])).tolist(),
            "extrinsic": np.linalg.inv(np.concatenate([poses()[:1], poses()])).tolist(),
            "height": HEIGHT,
            "width": WIDTH,
        },
        "transforms.json": {
            "camera_model": "OPENCV",
            **dict(zip(("fl_x", "fl_y", "cx", "cy", "w", "h"), (*flat, WIDTH, HEIGHT), strict=True)),
            **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
            "frames": [{"file_path": f"images/frame_{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(turned)],
        },
        "transforms_angle.json": {
            "camera_angle_x": 0.9,
            "frames": [{"file_path": f"./train/r_{i}", "transform_matrix": pose.tolist()} for i, pose in enumerate(turned)],
        },
        "viewer_camera_path.json": {
            "camera_type": "perspective",
            "render_height": HEIGHT,
            "render_width": WIDTH,
            "fps": 24,
            "seconds": FRAMES / 24,
            "keyframes": [{"matrix": json.dumps(turned[0].T.flatten().tolist()), "fov": 50, "aspect": WIDTH / HEIGHT}],
            "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": WIDTH / HEIGHT} for pose in turned],
        },
        "export_list.json": [{"file_path": f"images/{i}.png", "transform": pose[:3].tolist()} for i, pose in enumerate(turned)],
        "motionctrl.json": [np.linalg.inv(pose)[:3].flatten().tolist() for pose in poses()],
        "camera_extrinsics.json": {f"frame{index}": {"cam01": _unreal(pose)} for index, pose in enumerate(poses())},
        "neoverse_keyframes.json": {
            "num_frames": 9,
            "zoom_ratio": 1.2,
            "keyframes": [{"0": [{"static": {}}]}, {"4": [{"pan_left": {"angle": 10}}, {"push_in": {}}]}, {"8": [{"orbit_right": {}}]}],
        },
        "neoverse_matrices.json": {
            "num_frames": 9,
            "mode": "global",
            "trajectory": {"frame_indices": [0, 3, 8], "frame_matrices": poses()[:3].tolist()},
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))


def make_keyframes(folder: Path) -> None:
    """track2view.keyframes/1, short and long."""
    keys = [
        {"time": 0.0},
        {"time": 0.4, "position": [0.2, 0.0, 0.1], "rotation": [5, -10, 0]},
        {"time": 1.0, "rotation": [0, 20, 3], "zoom": 1.5},
    ]
    document = {"format": "track2view.keyframes/1", "easing": "smooth", "relative_to": "first-frame", "keyframes": keys}
    (folder / "three.json").write_text(json.dumps(document, indent=1))
    (folder / "one.json").write_text(json.dumps({"format": "track2view.keyframes/1", "keyframes": keys[1:2]}))


def make_text(folder: Path) -> None:
    """RealEstate10K, TrajectoryCrafter and DaS."""
    rows = [
        [33366 * index, FOCAL / WIDTH, FOCAL / HEIGHT, 0.5, 0.5, 0, 0, *np.linalg.inv(pose)[:3].flatten().tolist()]
        for index, pose in enumerate(poses())
    ]
    realestate = "https://example.org/watch\n" + "".join(" ".join(map(repr, row)) + "\n" for row in rows)
    (folder / "realestate.txt").write_text(realestate)
    (folder / "trajectory_crafter.txt").write_text("0 2 5 9 14 20\n0 10 20 30\n0 -0.1 -0.2\n")
    (folder / "das.txt").write_text("trans 0.1 0 0.2 0 24; rot y 20; spiral 0.1\nrot x -5 10 48\n")


def make_scenes(folder: Path) -> None:
    """Nuke and glTF, whose cameras look along -z in a world with y up: binary, and as text with its numbers in it."""
    turned = OPENGL @ poses() @ OPENGL
    angles, places = [2.0 * index for index in range(FRAMES)], turned[:, :3, 3]
    lines = [f"{i + 1} {x} {y} {z} 0 {angle} 0 {VIEW}" for i, ((x, y, z), angle) in enumerate(zip(places, angles, strict=True))]
    (folder / "nuke.chan").write_text("\n".join(lines) + "\n")
    half = np.deg2rad(angles) / 2
    turns = np.stack([0 * half, np.sin(half), 0 * half, np.cos(half)], axis=-1)
    parts = [np.asarray(each, "<f4").tobytes() for each in (np.arange(FRAMES) / 24, places, turns)]
    starts = [0, *np.cumsum([len(each) for each in parts]).tolist()]
    binary = b"".join(parts)
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"name": "rig", "children": [1]}, {"name": "lens", "camera": 0}],
        "cameras": [{"type": "perspective", "perspective": {"yfov": np.deg2rad(VIEW), "aspectRatio": WIDTH / HEIGHT, "znear": 0.1}}],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": [{"buffer": 0, "byteOffset": start, "byteLength": len(part)} for start, part in zip(starts, parts, strict=False)],
        "accessors": [
            {"bufferView": index, "componentType": 5126, "count": FRAMES, "type": kind}
            for index, kind in enumerate(("SCALAR", "VEC3", "VEC4"))
        ],
        "animations": [
            {
                "channels": [
                    {"sampler": index, "target": {"node": 1, "path": path}} for index, path in enumerate(("translation", "rotation"))
                ],
                "samplers": [{"input": 0, "output": 1}, {"input": 0, "output": 2}],
            }
        ],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    (folder / "scene.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
    uri = f"data:application/octet-stream;base64,{base64.b64encode(binary).decode()}"
    (folder / "text.gltf").write_text(json.dumps({**document, "buffers": [{"byteLength": len(binary), "uri": uri}]}))


def make_arrays(folder: Path) -> None:
    """ViPE, Vista4D, GEN3C, MegaSaM and NeoVerse npz; SpatialVID npy."""
    single, matrices = poses().astype(np.float32), intrinsics().astype(np.float32)
    four = matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    np.savez(folder / "vipe.npz", data=single, inds=np.arange(FRAMES))
    np.savez(folder / "vipe_gaps.npz", data=single, inds=np.array([0, 1, 2, 3, 7, 9]))
    np.savez_compressed(folder / "vista4d.npz", cam_c2w=single, intrinsics=four)
    np.savez(folder / "gen3c.npz", w2c=np.linalg.inv(poses()), intrinsics=intrinsics())
    images, depths = np.zeros((FRAMES, 6, 8, 3), np.uint8), np.ones((FRAMES, 6, 8), np.float16)
    np.savez(folder / "megasam.npz", images=images, depths=depths, intrinsic=matrices[0], cam_c2w=single)
    quaternions = [[*pose[:3, 3], *_quaternion(pose)[1:], _quaternion(pose)[0]] for pose in np.linalg.inv(poses())]
    np.save(folder / "spatialvid.npy", np.asarray(quaternions, np.float64))
    np.savez(folder / "neoverse.npz", frame_indices=np.arange(FRAMES), frame_matrices=poses())


def make_colmap(folder: Path) -> None:
    """The same model as text, as binary, and as binary with rigs and frames (COLMAP 3.12 and later); and one in sparse/0."""
    for name, write in (("text", _colmap_text), ("binary", _colmap_binary), ("rigs", _colmap_rigs)):
        (folder / name).mkdir()
        write(folder / name)
    (folder / "project" / "sparse" / "0").mkdir(parents=True)
    _colmap_binary(folder / "project" / "sparse" / "0")


def _colmap_text(folder: Path) -> None:
    images = []
    for index, pose in enumerate(np.linalg.inv(poses()), start=1):
        numbers = " ".join(map(repr, [*_quaternion(pose), *pose[:3, 3].tolist()]))
        images.append(f"{index} {numbers} 1 frame_{index}.png\n10.5 20.5 1 30.5 40.5 -1\n")
    (folder / "cameras.txt").write_text(f"# cameras\n1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    (folder / "images.txt").write_text("# images\n" + "".join(images))
    (folder / "points3D.txt").write_text("1 0.5 0.25 3.0 255 128 0 0.5 1 0 2 0\n")


def _colmap_binary(folder: Path) -> None:
    images = struct.pack("<Q", FRAMES)
    for index, pose in enumerate(np.linalg.inv(poses()), start=1):
        images += struct.pack("<I7dI", index, *_quaternion(pose), *pose[:3, 3], 1) + f"frame_{index}.png\0".encode()
        images += struct.pack("<Q", 1) + struct.pack("<2dQ", 10.5, 20.5, 1)
    cameras = struct.pack("<QIiQQ4d", 1, 1, PINHOLE, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    points = struct.pack("<QQ3d3BdQ4I", 1, 1, 0.5, 0.25, 3.0, 255, 128, 0, 0.5, 2, 1, 0, 2, 0)
    for name, content in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.bin").write_bytes(content)


def _colmap_rigs(folder: Path) -> None:
    """One rig of one camera, and a frame for each image."""
    _colmap_binary(folder)
    frames = struct.pack("<Q", FRAMES)
    for index, pose in enumerate(np.linalg.inv(poses()), start=1):
        frames += struct.pack("<II7dI", index, 1, *_quaternion(pose), *pose[:3, 3], 1) + struct.pack("<iIQ", 0, 1, index)
    (folder / "frames.bin").write_bytes(frames)
    (folder / "rigs.bin").write_bytes(struct.pack("<QIIiI", 1, 1, 1, 0, 1))


def _quaternion(pose: np.ndarray) -> list[float]:
    """w, x, y, z of a turn about y."""
    half = 0.5 * math.atan2(pose[0, 2], pose[0, 0])
    return [math.cos(half), 0.0, math.sin(half), 0.0]


def _unreal(pose: np.ndarray) -> str:
    """MultiCamVideo's row vectors: X forward, Y right, Z up, centimetres."""
    axes = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
    rows = (axes @ pose[:3, :3] @ axes.T).T
    centre = 100 * (axes @ pose[:3, 3])
    return "".join(f"[{' '.join(map(repr, row))} 0] " for row in rows.tolist()) + f"[{' '.join(map(repr, centre.tolist()))} 1] "
