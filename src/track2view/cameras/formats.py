"""Other people's camera files, read into :class:`CameraPath`: every axis flip happens in a reader, by name, once.

Facts about each format: design section 8. A file is told apart by its content. What is done with one beyond reading it is said in a
:class:`track2view.errors.Notice`; a path whose file has no focal length says so in ``focal_known``.
"""

from pathlib import Path

from track2view.cameras.arrays import convert_realcam_pickle, read_npy, read_npz, unpickled_realcam
from track2view.cameras.chan import read_chan
from track2view.cameras.colmap import read_colmap
from track2view.cameras.gltf import GLTF, read_gltf
from track2view.cameras.neoverse import read_neoverse
from track2view.cameras.nerfstudio import read_exported, read_transforms, read_viewer_path
from track2view.cameras.raw import KNOWN, described, image_size, listed, number, tensor
from track2view.cameras.reshoot import read_cam_info
from track2view.cameras.text import read_motionctrl, read_text_format
from track2view.cameras.unreal import read_multicam
from track2view.errors import UserError
from track2view.files import read_json, read_text
from track2view.records import CameraPath, Size

__all__ = ["KNOWN", "convert_realcam_pickle", "read_camera", "unpickled_realcam"]

BY_SUFFIX = {".npz": read_npz, ".npy": read_npy, ".chan": read_chan}
"""What cannot be told by its text."""


def names_file(camera: str | Path) -> bool:
    """Whether a camera is given as a file, be it there or not, and not as a move."""
    name = str(camera).partition("#")[0]
    path = Path(name)
    return (bool(name) and path.exists()) or path.suffix in (".json", ".txt", *BY_SUFFIX, *GLTF)


def read_camera(path: Path | str, size: Size | None = None) -> CameraPath:
    """Read a camera path from any known format, told apart by content.

    Args:
        path: file, or COLMAP model folder; ``FILE#NAME`` picks one of several cameras (of MultiCamVideo, of a rig).
        size: (H, W) of the images, for formats that do not hold it (720 × 1280 by default).

    Raises:
        UserError: missing file, unknown format, several cameras and none chosen, or contents that are no camera path.
    """
    name, _, camera = str(path).partition("#")
    file = Path(name)
    if not file.exists():
        raise UserError(f"{file}: no such camera file")
    try:
        return _read(file, camera or None, size)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(name) else f"{file}: {message}") from None


def _read(file: Path, camera: str | None, size: Size | None) -> CameraPath:
    if file.is_dir():
        return read_colmap(file, camera)
    if file.suffix in GLTF:
        return read_gltf(file, camera, size)
    if reader := BY_SUFFIX.get(file.suffix):
        return reader(file, _unnamed(camera, size))
    text = read_text(file)
    if text.lstrip().startswith(("{", "[")):
        return _read_document(read_json(file), camera, size, file)
    return read_text_format(text, _unnamed(camera, size), file)


def _read_document(document: object, camera: str | None, size: Size | None, file: Path) -> CameraPath:
    """A path from JSON, told apart by what is at its top."""
    if isinstance(document, list):
        if document and isinstance(document[0], dict):
            return read_exported(document, camera, size, file)
        return read_motionctrl(document, _unnamed(camera, size))
    if not isinstance(document, dict):
        raise UserError(f"not a camera file: JSON of {described(document)}; known: {KNOWN}")
    match document:
        case {"format": str(name)} if name.startswith("track2view.camera/"):
            path = _own(document)
        case {"frames": _}:
            return read_transforms(document, camera, size, file)
        case {"frame0": _}:
            return read_multicam(document, camera, size, file)
        case {"camera_path": _}:
            path = read_viewer_path(document)
        case {"extrinsic": _, "intrinsic": _}:
            path = read_cam_info(document, file)
        case {"trajectory": _} | {"keyframes": _}:
            path = read_neoverse(document, size, file)
        case _:
            raise UserError(f"unknown camera format: JSON with {listed(document)}; known: {KNOWN}")
    _unnamed(camera, size)
    return path


def _unnamed(camera: str | None, size: Size | None) -> Size | None:
    """``size``, for formats that hold one camera without a name."""
    if camera is not None:
        raise UserError(f"holds one camera, without a name; leave out #{camera}")
    return size


def _own(document: dict) -> CameraPath:
    if document["format"] != "track2view.camera/1":
        raise UserError(f'format: expected "track2view.camera/1", got {described(document["format"])}; made by a newer version?')
    if missing := [name for name in ("size", "world_from_camera", "intrinsics") if name not in document]:
        raise UserError(f"lacks {', '.join(missing)}")
    size, fps, focal_known = document["size"], document.get("fps"), document.get("focal_known", True)
    if not isinstance(size, list) or len(size) != 2:
        raise UserError(f"size: expected [height, width], got {described(size)}")
    if not isinstance(focal_known, bool):
        raise UserError(f"focal_known: expected true or false, got {described(focal_known)}")
    if (unit := document.get("unit", "scene")) not in ("scene", "metre"):
        raise UserError(f'unit: expected "scene" or "metre", got {described(unit)}')
    return CameraPath(
        world_from_camera=tensor(document["world_from_camera"], (None, 4, 4), "world_from_camera"),
        intrinsics=tensor(document["intrinsics"], (None, 3, 3), "intrinsics"),
        size=image_size(*size),
        unit=unit,
        fps=None if fps is None else number(fps, "fps"),
        focal_known=focal_known,
    )
