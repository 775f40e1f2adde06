"""nerfstudio's files: ``transforms.json``, the viewer's ``camera_path.json``, and the lists that ``ns-export cameras`` writes.

Axes are OpenGL's: x right, y up, z back.
"""

import math
from collections import ChainMap
from collections.abc import Mapping

from track2view.cameras.lens import Lens, check_pinhole
from track2view.cameras.order import cameras_of, chosen, filled, frame_numbers, natural_key
from track2view.cameras.raw import (
    DEFAULT_SIZE,
    OPENCV_FROM_OPENGL,
    described,
    image_size,
    matrices_of,
    number,
    path_of_guessed_focal,
    poses,
    tensor,
)
from track2view.errors import UserError, notice
from track2view.records import CameraPath, Size

COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")


def read_transforms(document: dict, camera: str | None, size: Size | None, file: object) -> CameraPath:
    """``transforms.json``: what a frame says of its camera goes before what the file says of all.

    Raises:
        UserError: several cameras and none chosen, a lens that is no pinhole, frames of different sizes, or missing frames.
    """
    frames, numbers = _ordered(document["frames"], camera)
    matrices = poses([frame.get("transform_matrix") for frame in frames], "transform_matrix") @ OPENCV_FROM_OPENGL
    told = [ChainMap(frame, document) for frame in frames]
    known = _size(told)
    focals = [_focal(frame, document, known or size or DEFAULT_SIZE) for frame in frames]
    if all(focal is None for focal in focals):
        path = path_of_guessed_focal(matrices, known or size)
        return filled(path, numbers, file) if numbers else path
    rows, lenses = [], {}
    height, width = known or size or DEFAULT_SIZE
    for frame, focal in zip(told, focals, strict=True):
        name = _name(frame, len(rows))
        if focal is None:
            raise UserError(f"{name} has no focal length (fl_x or camera_angle_x), but other frames have; add it")
        centre = number(frame.get("cx", width / 2), "cx"), number(frame.get("cy", height / 2), "cy")
        lens = Lens(model=_model(frame), focal=focal, centre=centre, size=(height, width), coefficients=_coefficients(frame))
        lenses.setdefault(lens, name)
        rows.append([*focal, *centre])
    for lens, name in lenses.items():
        check_pinhole(lens, name)
    if known is None and any("fl_x" in frame or "fl_y" in frame for frame in told):
        notice(f"{file}: has no w and h; its focal lengths are taken to be in pixels of {width}×{height} images")
    path = CameraPath(world_from_camera=matrices, intrinsics=matrices_of(tensor(rows, (None, 4), "intrinsics")), size=(height, width))
    return filled(path, numbers, file) if numbers else path


def read_exported(frames: list, camera: str | None, size: Size | None, file: object) -> CameraPath:
    """The list that ``ns-export cameras`` writes: poses without a focal length.

    Raises:
        UserError: several cameras and none chosen, or missing frames.
    """
    ordered, numbers = _ordered(frames, camera)
    matrices = poses([frame.get("transform") for frame in ordered], "transform") @ OPENCV_FROM_OPENGL
    path = path_of_guessed_focal(matrices, size)
    return filled(path, numbers, file) if numbers else path


def read_viewer_path(document: dict) -> CameraPath:
    """The viewer's ``camera_path.json``: one entry a rendered frame, field of view from top to bottom in degrees.

    Raises:
        UserError: another camera type than perspective, or an entry that is none.
    """
    kind = document.get("camera_type", "perspective")
    if str(kind).lower() != "perspective":
        raise UserError(f'camera_type: only "perspective" can be re-filmed, this is {described(kind)}')
    entries = _objects(document["camera_path"], "camera_path")
    height, width = image_size(document.get("render_height"), document.get("render_width"))
    matrices = tensor([entry.get("camera_to_world") for entry in entries], (None, 16), "camera_to_world").unflatten(1, (4, 4))
    focal = [_focal_of_angle(math.radians(number(entry.get("fov"), "fov")), height, "fov") for entry in entries]
    seconds = document.get("seconds")
    fps = document.get("fps", len(entries) / seconds if isinstance(seconds, (int, float)) and seconds > 0 else None)
    values = tensor([[each, each, width / 2, height / 2] for each in focal], (None, 4), "fov")
    return CameraPath(
        world_from_camera=poses(matrices, "camera_to_world") @ OPENCV_FROM_OPENGL,
        intrinsics=matrices_of(values),
        size=(height, width),
        fps=None if fps is None else number(fps, "fps"),
    )


def _objects(values: object, what: str) -> list[dict]:
    if not isinstance(values, list) or not values or not all(isinstance(each, dict) for each in values):
        raise UserError(f"{what}: expected a list of objects, got {described(values)}")
    return values


def _ordered(values: object, camera: str | None) -> tuple[list[dict], list[int] | None]:
    """One camera's frames in natural order of their names, and their numbers; in the file's order where they have no names."""
    frames = _objects(values, "frames")
    names = [str(frame.get("file_path") or "") for frame in frames]
    if not all(names):
        chosen({"": list(range(len(frames)))}, camera)
        return frames, None
    frames = sorted(frames, key=lambda frame: natural_key(str(frame["file_path"])))
    names.sort(key=natural_key)
    kept = chosen(cameras_of(names), camera)
    return [frames[index] for index in kept], frame_numbers([names[index] for index in kept])


def _size(told: list[ChainMap]) -> Size | None:
    """(H, W), of the picture centred on the principal point where none is given; None where nothing tells."""
    sizes = [(frame.get("h"), frame.get("w")) for frame in told]
    if other := [index for index, size in enumerate(sizes) if size != sizes[0]]:
        first, second = (
            f"{_name(told[index], index)} ({described(sizes[index][1])}×{described(sizes[index][0])})" for index in (0, other[0])
        )
        raise UserError(f"frames of different sizes: {first} and {second}; give images of one size")
    if None not in sizes[0]:
        return image_size(*sizes[0])
    centre = told[0].get("cx"), told[0].get("cy")
    return None if None in centre else image_size(*(round(2 * number(value, "the principal point")) for value in reversed(centre)))


def _name(frame: Mapping, index: int) -> str:
    return str(frame.get("file_path") or f"frame {index}")[:100]


def _focal(frame: dict, document: dict, size: Size) -> tuple[float, float] | None:
    """(fx, fy) in pixels of ``size``; where one is missing it is the other."""
    for told in (frame, document):
        fx, fy = (_focal_along(told, axis, size) for axis in (0, 1))
        if fx is not None or fy is not None:
            return (fy if fx is None else fx), (fx if fy is None else fy)  # pyrefly: ignore
    return None


def _focal_along(told: Mapping, axis: int, size: Size) -> float | None:
    pixels, angle = (("fl_x", "camera_angle_x"), ("fl_y", "camera_angle_y"))[axis]
    if told.get(pixels) is not None:
        return number(told[pixels], pixels)
    if told.get(angle) is not None:
        return _focal_of_angle(number(told[angle], angle), size[1 - axis], angle)
    return None


def _focal_of_angle(radians: float, side: int, what: str) -> float:
    if not 0 < radians < math.pi:
        raise UserError(f"{what}: expected an angle between 0 and 180°, got {math.degrees(radians):g}°")
    return 0.5 * side / math.tan(radians / 2)


def _model(told: Mapping) -> str:
    fisheye = told.get("is_fisheye") or told.get("fisheye")
    return "OPENCV_FISHEYE" if fisheye else str(told.get("camera_model", "OPENCV"))


def _coefficients(told: Mapping) -> tuple[tuple[str, float], ...]:
    """Distortion by COLMAP's names; nerfstudio's k4 of a perspective lens goes with the eighth power of the radius."""
    values = {name: told[name] for name in COEFFICIENTS if told.get(name) is not None}
    if isinstance(told.get("distortion_params"), list):
        values = dict(zip(COEFFICIENTS, told["distortion_params"], strict=False))
    eighth = "k4" if "FISHEYE" in _model(told) else "r8"
    return tuple((eighth if name == "k4" else name, number(value, name)) for name, value in values.items())
