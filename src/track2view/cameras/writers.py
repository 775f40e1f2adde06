"""Camera paths out, in other people's formats."""

import json
from pathlib import Path

from scipy.spatial.transform import Rotation

from track2view.cameras.chan import write_chan
from track2view.cameras.gltf import left_out, write_gltf
from track2view.cameras.raw import OPENCV_FROM_OPENGL
from track2view.errors import UserError, notice
from track2view.files import atomic_path
from track2view.records import CameraPath


def write_camera(camera: CameraPath, path: Path) -> None:
    """Write by name: ``transforms.json`` (nerfstudio), other ``.json`` (our own), ``.txt`` (RealEstate10K), ``.chan`` (Nuke),
    ``.glb`` (glTF), else a COLMAP folder.

    Raises:
        UserError: a suffix that no format here has.
    """
    if path.name == "transforms.json":
        _write_transforms(camera, path)
    elif path.suffix == ".json":
        camera.save(path)
    elif path.suffix == ".txt":
        _write_realestate(camera, path)
    elif path.suffix == ".chan":
        write_chan(camera, path)
    elif path.suffix == ".glb":
        if problem := left_out(camera):
            notice(f"{path}: {problem}, which a glTF does not hold: the first frame's field of view is written")
        write_gltf(path, {"camera": camera})
    elif path.suffix == "":
        _write_colmap(camera, path)
    else:
        raise UserError(
            f"{path}: no camera format is written as {path.suffix}; use .json, transforms.json, .txt, .chan, .glb, or a folder name "
            "for COLMAP"
        )


def _write_realestate(camera: CameraPath, path: Path) -> None:
    height, width = camera.size
    lines = ["track2view"]
    for index, (pose, matrix) in enumerate(zip(camera.camera_from_world, camera.intrinsics, strict=True)):
        timestamp = round(1e6 * index / (camera.fps or 30.0))
        values = [matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height, 0.0, 0.0, *pose[:3].flatten()]
        lines.append(" ".join([str(timestamp), *(repr(float(value)) for value in values)]))
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _write_transforms(camera: CameraPath, path: Path) -> None:
    poses = camera.world_from_camera @ OPENCV_FROM_OPENGL
    frames = [
        {
            "file_path": f"images/frame_{index:05d}.png",
            "transform_matrix": pose.tolist(),
            "fl_x": float(matrix[0, 0]),
            "fl_y": float(matrix[1, 1]),
            "cx": float(matrix[0, 2]),
            "cy": float(matrix[1, 2]),
        }
        for index, (pose, matrix) in enumerate(zip(poses, camera.intrinsics, strict=True))
    ]
    document = {"camera_model": "OPENCV", "w": camera.size[1], "h": camera.size[0], "frames": frames}
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(document, indent=1))


def _write_colmap(camera: CameraPath, folder: Path) -> None:
    """COLMAP's text model: one PINHOLE camera and one image per frame, no points."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = camera.size
    cameras, images = [], []
    for index, (pose, matrix) in enumerate(zip(camera.camera_from_world, camera.intrinsics, strict=True), start=1):
        values = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
        cameras.append(f"{index} PINHOLE {width} {height} " + " ".join(repr(float(value)) for value in values))
        quaternion = Rotation.from_matrix(pose[:3, :3].numpy()).as_quat(scalar_first=True)
        numbers = [*map(float, quaternion), *pose[:3, 3].tolist()]
        images.append(f"{index} " + " ".join(map(repr, numbers)) + f" {index} frame_{index - 1:05d}.png\n")
    for name, lines in (("cameras.txt", cameras), ("images.txt", images), ("points3D.txt", [])):
        with atomic_path(folder / name) as partial:
            partial.write_text("".join(line + "\n" for line in lines))
