"""MultiCamVideo's ``camera_extrinsics.json``: synchronised cameras by name, in Unreal's convention."""

import json
import re
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.cameras.order import chosen, filled
from track2view.cameras.raw import DEFAULT_SIZE, described, matrices_of, orthonormal, tensor
from track2view.errors import UserError
from track2view.files import atomic_path
from track2view.geometry import rigid
from track2view.records import CameraPath, Size

UNREAL_FROM_OPENCV = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
SENSOR_MILLIMETRES = 23.76
UNNAMED_MILLIMETRES = 24.0
CENTIMETRES = 100.0


def read_multicam(document: dict, camera: str | None, size: Size | None, file: Path) -> CameraPath:
    """Row-vector camera-to-world matrices: rows are the camera's forward, right and up, then its place in centimetres.

    Unreal's own worlds are left-handed (X forward, Y right, Z up), and so forward, right and up have the determinant +1. In a
    right-handed world the same three have -1; mirroring its Y makes it one of Unreal's.

    The focal length is the one that the dataset's folder ``f24_aperture5`` names; a file outside of such a folder has none.

    Raises:
        UserError: several cameras and none chosen, entries that are no such matrices, or missing frames.
    """
    numbers = sorted(int(found[1]) for key in document if (found := re.fullmatch(r"frame(0|[1-9][0-9]{0,8})", key)))
    if not numbers or not all(isinstance(document[f"frame{number}"], dict) for number in numbers):
        raise UserError(f"frame0, frame1, …: expected an object of cameras each, got {described(document)}")
    names = {name: [] for number in numbers for name in document[f"frame{number}"]}
    chosen(names, camera)
    name = camera or next(iter(names))
    numbers = [number for number in numbers if name in document[f"frame{number}"]]
    rows = torch.stack([_rows(document[f"frame{number}"][name], f"frame{number} {name}") for number in numbers])
    mirrored = torch.linalg.det(rows[:, :3, :3]) < 0
    if bool(mirrored.any()):
        if not bool(mirrored.all()):
            raise UserError(f"frame{numbers[int(mirrored.int().argmax())]} {name} is mirrored (determinant -1), others are not")
        rows = rows * torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
    rotation = UNREAL_FROM_OPENCV.T @ rows[:, :3, :3].mT @ UNREAL_FROM_OPENCV
    centre = rows[:, 3, :3] @ UNREAL_FROM_OPENCV / CENTIMETRES
    height, width = size = size or DEFAULT_SIZE
    folder = re.search(r"f([0-9]{1,3})_aperture", str(file.resolve()))
    focal = max(size) * (float(folder[1]) if folder else UNNAMED_MILLIMETRES) / SENSOR_MILLIMETRES
    values = torch.tensor([focal, focal, width / 2, height / 2], dtype=torch.float64).expand(len(rows), 4)
    path = CameraPath(
        world_from_camera=rigid(orthonormal(rotation), centre),
        intrinsics=matrices_of(values),
        size=size,
        unit="metre",
        fps=15.0,
        focal_known=folder is not None,
    )
    return filled(path, numbers, file, step=1)


def _rows(text: object, what: str) -> Float64[Tensor, "4 4"]:
    """The matrix of ``"[1 0 0 0] [0 1 0 0] [0 0 1 0] [x y z 1] "``."""
    if not isinstance(text, str):
        raise UserError(f"{what}: expected [x y z w] four times as text, got {described(text)}")
    return tensor([row.split() for row in re.findall(r"\[([^\[\]]*)\]", text)], (4, 4), what)


def find_scenes(root: Path) -> list[Path]:
    """All scene folders in MultiCamVideo's layout below ``root``, in order.

    Raises:
        UserError: none there.
    """
    found = sorted(path.parent.parent for path in root.glob("**/cameras/camera_extrinsics.json") if ".partial" not in str(path))
    if not found:
        raise UserError(f"{root}: no scenes there (…/sceneN/cameras/camera_extrinsics.json); `track2view scenes make` writes some")
    return found


def write_multicam(cameras: dict[str, CameraPath], path: Path) -> None:
    """Write MultiCamVideo's ``camera_extrinsics.json``: synchronised cameras in metres, by name. The file holds no focal length.

    Raises:
        UserError: cameras of unlike lengths, or not in metres.
    """
    lengths = {len(camera) for camera in cameras.values()}
    if len(lengths) != 1 or any(camera.unit != "metre" for camera in cameras.values()):
        raise UserError(f"{path}: MultiCamVideo's file holds cameras of one length in metres; these have {sorted(lengths)} frames")
    document: dict[str, dict[str, str]] = {f"frame{index}": {} for index in range(lengths.pop())}
    for name, camera in cameras.items():
        rotation = (UNREAL_FROM_OPENCV @ camera.world_from_camera[:, :3, :3] @ UNREAL_FROM_OPENCV.T).mT
        centre = CENTIMETRES * camera.world_from_camera[:, :3, 3] @ UNREAL_FROM_OPENCV.T
        for index, (rows, place) in enumerate(zip(rotation.tolist(), centre.tolist(), strict=True)):
            texts = [f"[{' '.join(map(repr, row))} 0]" for row in rows]
            document[f"frame{index}"][name] = f"{' '.join(texts)} [{' '.join(map(repr, place))} 1] "
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(document, indent=1))
