"""COLMAP models, text or binary: cameras and images alone are read, never points, and never more than the file holds."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from track2view.cameras.lens import Lens, check_pinhole
from track2view.cameras.order import cameras_of, chosen, filled, frame_numbers, natural_key
from track2view.cameras.raw import image_size, matrices_of, number
from track2view.errors import UserError
from track2view.files import read_text
from track2view.geometry import invert, rigid
from track2view.records import CameraPath

MODELS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "FOV": "fx fy cx cy omega",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
    "RAD_TAN_THIN_PRISM_FISHEYE": "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
    "SIMPLE_DIVISION": "f cx cy k",
    "DIVISION": "fx fy cx cy k",
    "SIMPLE_FISHEYE": "f cx cy",
    "FISHEYE": "fx fy cx cy",
    "EUCM": "fx fy cx cy alpha beta",
    "EQUIRECTANGULAR": "w h",
}
"""Parameters of each camera model, in the order of COLMAP's model ids (its ``src/colmap/sensor/models.h``)."""
LONGEST_NAME = 4096
POINT_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class _Image:
    """A posed image: quaternion (w, x, y, z) and translation, world-to-camera."""

    name: str
    lens: int
    pose: tuple[float, ...]


def read_colmap(folder: Path, camera: str | None) -> CameraPath:
    """The path of a model folder, or of one that holds ``sparse/0``: its images in natural order of their names.

    Raises:
        UserError: no model, several, a damaged one, several cameras and none chosen, a lens that is no pinhole, or missing frames.
    """
    places = [each for each in (folder, folder / "sparse", *sorted(folder.glob("sparse/*"))) if any(each.glob("cameras.*"))]
    if not places:
        raise UserError(f"{folder}: a folder without a COLMAP model (cameras.txt or cameras.bin)")
    if len(places) > 1 and places[0] != folder:
        raise UserError(f"{folder}: holds {len(places)} COLMAP models; give one of {', '.join(map(str, places))}")
    model = places[0]
    text = not (model / "cameras.bin").exists()
    lenses = _lenses_of_text(model / "cameras.txt") if text else _lenses_of_binary(model / "cameras.bin")
    images = list(_images_of_text(model / "images.txt") if text else _images_of_binary(model / "images.bin"))
    if not images:
        raise UserError(f"{model}: the COLMAP model has no images")
    images.sort(key=lambda image: natural_key(image.name))
    groups = cameras_of([image.name for image in images], [image.lens for image in images])
    images = [images[index] for index in chosen(groups, camera)]
    if unknown := [image for image in images if image.lens not in lenses]:
        raise UserError(f"{unknown[0].name}: its camera {unknown[0].lens} is not in the model's list of cameras")
    numbers = frame_numbers([image.name for image in images])
    for image in {image.lens: image for image in reversed(images)}.values():
        check_pinhole(lenses[image.lens], image.name)
    first = lenses[images[0].lens]
    if other := [image for image in images if lenses[image.lens].size != first.size]:
        sizes = [f"{lens.size[1]}×{lens.size[0]}" for lens in (first, lenses[other[0].lens])]
        raise UserError(f"{images[0].name} and {other[0].name} are of different sizes ({' and '.join(sizes)}); give images of one size")
    values = [[*lenses[image.lens].focal, *lenses[image.lens].centre] for image in images]
    path = CameraPath(
        world_from_camera=_poses(images),
        intrinsics=matrices_of(torch.tensor(values, dtype=torch.float64)),
        size=first.size,
    )
    return filled(path, numbers, folder) if numbers else path


def _poses(images: list[_Image]) -> torch.Tensor:
    pose = np.array([image.pose for image in images], np.float64)
    with np.errstate(over="ignore"):
        length = np.linalg.norm(pose[:, :4], axis=1)
    if (bad := ~(np.isfinite(length) & (length > 1e-6))).any():
        raise UserError(f"{images[int(bad.argmax())].name}: its rotation is no quaternion")
    rotation = Rotation.from_quat(pose[:, :4] / length[:, None], scalar_first=True).as_matrix()
    return invert(rigid(torch.from_numpy(rotation), torch.from_numpy(pose[:, 4:])))


def _lens(model: str, width: object, height: object, values: list[float]) -> Lens:
    names = MODELS[model].split()
    named = dict(zip(names, [number(value, f"{model} {name}") for name, value in zip(names, values, strict=True)], strict=True))
    return Lens(
        model=model,
        focal=(named.get("fx", named.get("f", 0.0)), named.get("fy", named.get("f", 0.0))),
        centre=(named.get("cx", 0.0), named.get("cy", 0.0)),
        size=image_size(height, width),
        coefficients=tuple((name, value) for name, value in named.items() if name not in ("f", "fx", "fy", "cx", "cy")),
    )


def _lenses_of_text(path: Path) -> dict[int, Lens]:
    lenses = {}
    for line, words in _rows(path):
        try:
            index, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            values = [float(word) for word in words[4:]]
        except (ValueError, IndexError):
            raise UserError(f"{path}: line {line}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS") from None
        if model not in MODELS or len(values) != len(MODELS[model].split()):
            raise UserError(f"{path}: line {line}: no camera model {model[:40]!r} with {len(values)} parameters")
        lenses[index] = _lens(model, width, height, values)
    return lenses


def _images_of_text(path: Path) -> Iterator[_Image]:
    """Two lines an image, of which the second lists points and may be empty."""
    rows = enumerate(read_text(path).split("\n"), start=1)
    for line, text in rows:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        words = text.split(maxsplit=9)
        try:
            pose = tuple(float(word) for word in words[1:8])
            image = _Image(name=words[9].strip(), lens=int(words[8]), pose=pose)
        except (ValueError, IndexError):
            raise UserError(f"{path}: line {line}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
        _, points = next(rows, (0, ""))
        if len(points.split()) % 3:
            raise UserError(f"{path}: line {line + 1}: expected the points of {image.name} (X Y POINT3D_ID each), or an empty line")
        yield image


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.split()


def _lenses_of_binary(path: Path) -> dict[int, Lens]:
    lenses = {}
    names = list(MODELS)
    with _opened(path) as file:
        for _ in range(_unpack(file, "Q")[0]):
            index, model, width, height = _unpack(file, "iiQQ")
            if not 0 <= model < len(names):
                raise UserError(f"{path}: camera {index} has a model of number {model}, which is not known; convert the model to text")
            values = list(_unpack(file, f"{len(MODELS[names[model]].split())}d"))
            lenses[index] = _lens(names[model], width, height, values)
    return lenses


def _images_of_binary(path: Path) -> Iterator[_Image]:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(_unpack(file, "Q")[0]):
            _, *pose, lens = _unpack(file, "i7di")
            name = _name(file)
            after = file.tell() + POINT_BYTES * _unpack(file, "Q")[0] + 8
            if after > size:
                raise UserError(f"{path}: cut short: {name} announces more points than the file holds; copy or make it again")
            file.seek(after)
            yield _Image(name=name, lens=lens, pose=tuple(pose))


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _unpack(file: BufferedReader, layout: str) -> tuple:
    layout = f"<{layout}"
    data = file.read(struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise UserError(f"{file.name}: cut short: it announces more than it holds; copy or make it again")
    return struct.unpack(layout, data)


def _name(file: BufferedReader) -> str:
    """Text up to a zero byte."""
    start = file.tell()
    text, end, _ = file.read(LONGEST_NAME).partition(b"\0")
    if not end:
        raise UserError(f"{file.name}: an image's name does not end; copy or make it again")
    file.seek(start + len(text) + 1)
    return text.decode("utf-8", "replace")
