"""Other people's camera files, read into :class:`CameraPath`: every axis flip happens here, by name, once.

Facts about each format: design section 8. Formats that hold no image size or focal length take those of ``size`` and a
focal length of the longer side.
"""

import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import invert, nearest_rotation, rigid, rotation_about
from track2view.records import CameraPath, Size, atomic_path

OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
UNREAL_FROM_OPENCV = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
UNNAMED_MILLIMETRES = 24.0
SENSOR_MILLIMETRES = 23.76
DEFAULT_SIZE: Size = (720, 1280)
KNOWN = (
    "track2view JSON, nerfstudio transforms.json, MultiCamVideo camera_extrinsics.json (FILE#cam05 picks a camera), "
    "RealEstate10K, TrajectoryCrafter or DaS text, ViPE, Vista4D or GEN3C npz, a COLMAP model folder"
)


def read_camera(path: Path | str, size: Size | None = None) -> CameraPath:
    """Read a camera path from any known format, told apart by content.

    Args:
        path: file, or COLMAP model folder; ``FILE#cam05`` picks one camera of a MultiCamVideo file, whose focal length is the one
            that the dataset's folder ``f24_aperture5`` names (24 mm where no folder does).
        size: (H, W) of the images, for formats that do not hold it (720 × 1280 by default).

    Raises:
        UserError: missing file, unknown format, or contents that break a :class:`CameraPath`'s invariants.
    """
    name, _, camera = str(path).partition("#")
    file = Path(name)
    if not file.exists():
        raise UserError(f"{file}: no such camera file")
    try:
        if file.is_dir():
            return _read_colmap(file)
        if file.suffix == ".npz":
            return _read_npz(file, size or DEFAULT_SIZE)
        text = file.read_text()
        if text.lstrip().startswith(("{", "[")):
            named = re.search(r"f(\d+)_aperture", str(file.resolve()))
            millimetres = float(named[1]) if named else UNNAMED_MILLIMETRES
            return _read_json(json.loads(text), camera or None, size or DEFAULT_SIZE, millimetres)
        return _read_text(text, size or DEFAULT_SIZE)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as a camera file ({type(error).__name__}: {error}); known: {KNOWN}") from None


def write_camera(camera: CameraPath, path: Path) -> None:
    """Write by name: ``transforms.json`` (nerfstudio), other ``.json`` (our own), ``.txt`` (RealEstate10K), else a COLMAP folder.

    Raises:
        UserError: a suffix that no format here has.
    """
    if path.name == "transforms.json":
        _write_json(path, _nerfstudio_document(camera))
    elif path.suffix == ".json":
        camera.save(path)
    elif path.suffix == ".txt":
        _write_realestate(camera, path)
    elif path.suffix == "":
        _write_colmap(camera, path)
    else:
        raise UserError(
            f"{path}: no camera format is written as {path.suffix}; use .json, transforms.json, .txt, or a folder name for COLMAP"
        )


def convert_realcam_pickle(source: Path, folder: Path) -> list[Path]:
    """Unpack a RealCam-Vid ``.npz`` into one camera file per clip.

    The format is a pickle: reading one runs whatever code it holds, so this is a step of its own, for files you trust.
    Extrinsics are world-to-camera; metres = camera-to-world translation × ``align_factor``.
    """
    try:
        with np.load(source, allow_pickle=True) as archive:
            entries = list(archive["arr_0"])
    except (OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{source}: not a RealCam-Vid file ({error})") from None
    written = []
    for entry in entries:
        world_from_camera = invert(_matrices(entry["camera_extrinsics"]))
        world_from_camera[:, :3, 3] *= float(entry["align_factor"])
        values = torch.as_tensor(np.asarray(entry["camera_intrinsics"], np.float64)).reshape(-1, 4).expand(len(world_from_camera), 4)
        height, width = DEFAULT_SIZE
        pixels = values * torch.tensor([width, height, width, height], dtype=torch.float64)
        camera = CameraPath(world_from_camera=world_from_camera, intrinsics=_intrinsics(pixels), size=DEFAULT_SIZE, unit="metre")
        target = folder / f"{Path(str(entry['video_path'])).stem}.json"
        camera.save(target)
        written.append(target)
    return written


def _read_json(document: object, camera: str | None, size: Size, millimetres: float) -> CameraPath:
    if not isinstance(document, dict):
        raise UserError(f"not a camera file: JSON without an object at its top; known: {KNOWN}")
    if str(document.get("format", "")).startswith("track2view.camera/"):
        return _read_own(document)
    if "frames" in document:
        return _read_nerfstudio(document, size)
    if "frame0" in document:
        return _read_unreal(document, camera, size, millimetres)
    raise UserError(f"unknown camera format {document.get('format', 'without a format field')!r}; known: {KNOWN}")


def _read_own(document: dict) -> CameraPath:
    if document["format"] != "track2view.camera/1":
        raise UserError(f'format: expected "track2view.camera/1", got {document["format"]!r}; made by a newer version?')
    if missing := [name for name in ("size", "world_from_camera", "intrinsics") if name not in document]:
        raise UserError(f"lacks {', '.join(missing)}")
    height, width = document["size"]
    return CameraPath(
        world_from_camera=_tensor(document["world_from_camera"]),
        intrinsics=_tensor(document["intrinsics"]),
        size=(int(height), int(width)),
        unit=document.get("unit", "scene"),
        fps=document.get("fps"),
    )


def _read_nerfstudio(document: dict, size: Size) -> CameraPath:
    """OpenGL axes: x right, y up, z back."""
    frames = sorted(document["frames"], key=lambda frame: str(frame.get("file_path", "")))
    poses = _matrices([frame["transform_matrix"] for frame in frames]) @ OPENCV_FROM_OPENGL
    height, width = int(document.get("h", size[0])), int(document.get("w", size[1]))

    def value(frame: dict, name: str, default: float) -> float:
        return float(frame.get(name, document.get(name, default)))

    focal = 0.5 * width / math.tan(document["camera_angle_x"] / 2) if "camera_angle_x" in document else float(max(height, width))
    rows = []
    for frame in frames:
        fx = value(frame, "fl_x", focal)
        rows.append([fx, value(frame, "fl_y", fx), value(frame, "cx", width / 2), value(frame, "cy", height / 2)])
    return CameraPath(world_from_camera=poses, intrinsics=_intrinsics(_tensor(rows)), size=(height, width))


def _read_unreal(document: dict, camera: str | None, size: Size, millimetres: float) -> CameraPath:
    """Row-vector camera-to-world; rows are X forward, Y right, Z up; centimetres."""
    names = sorted(document["frame0"])
    chosen = camera or names[0]
    if chosen not in names:
        raise UserError(f"has no camera {chosen!r}; it has {', '.join(names)}")
    frames = [document[f"frame{index}"][chosen] for index in range(len(document))]
    rows = torch.stack([_tensor([list(map(float, row.split())) for row in re.findall(r"\[([^\]]*)\]", text)]) for text in frames])
    rotation = UNREAL_FROM_OPENCV.T @ rows[:, :3, :3].mT @ UNREAL_FROM_OPENCV
    centre = rows[:, 3, :3] @ UNREAL_FROM_OPENCV / 100.0
    focal = max(size) * millimetres / SENSOR_MILLIMETRES
    values = torch.tensor([focal, focal, size[1] / 2, size[0] / 2], dtype=torch.float64).expand(len(rows), 4)
    return CameraPath(
        world_from_camera=rigid(_orthonormal(rotation), centre), intrinsics=_intrinsics(values), size=size, unit="metre", fps=15.0
    )


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
        centre = 100.0 * camera.world_from_camera[:, :3, 3] @ UNREAL_FROM_OPENCV.T
        for index, (rows, place) in enumerate(zip(rotation.tolist(), centre.tolist(), strict=True)):
            texts = [f"[{' '.join(map(repr, row))} 0]" for row in rows]
            document[f"frame{index}"][name] = f"{' '.join(texts)} [{' '.join(map(repr, place))} 1] "
    _write_json(path, document)


def _read_text(text: str, size: Size) -> CameraPath:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if re.search(r"\b(trans|rot|spiral)\b", text):
        return _read_das(text, size)
    rows = [line for line in lines if len(line) == 19]
    if rows and len(rows) >= len(lines) - 1:
        return _read_realestate(_tensor([[float(value) for value in row] for row in rows]), size)
    if len(lines) == 3:
        return _read_trajectory_crafter([[float(value) for value in line] for line in lines], size)
    raise UserError(f"unknown text format: {len(lines)} lines of {sorted({len(line) for line in lines})} values; known: {KNOWN}")


def _read_realestate(rows: Float64[Tensor, "T 19"], size: Size) -> CameraPath:
    """timestamp, fx fy cx cy in image units, 0 0, world-to-camera 3×4."""
    height, width = size
    pixels = rows[:, 1:5] * torch.tensor([width, height, width, height], dtype=torch.float64)
    pixels[:, 2:] = torch.where(pixels[:, 2:] == 0, torch.tensor([width / 2, height / 2], dtype=torch.float64), pixels[:, 2:])
    camera_from_world = rows[:, 7:].reshape(-1, 3, 4)
    poses = invert(rigid(_orthonormal(camera_from_world[..., :3]), camera_from_world[..., 3]))
    return CameraPath(world_from_camera=poses, intrinsics=_intrinsics(pixels), size=size)


def _read_trajectory_crafter(lines: list[list[float]], size: Size) -> CameraPath:
    """theta (degrees, positive up), phi (degrees, positive right), travel in shares of the centre depth, negative outwards."""
    frames = max(map(len, lines))
    theta, phi, travel = (torch.from_numpy(np.interp(np.linspace(0, 1, frames), np.linspace(0, 1, len(line)), line)) for line in lines)
    turn = rotation_about("y", -phi) @ rotation_about("x", -theta)
    pivot = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    distance = (1 - travel)[:, None]
    return _scene_path(rigid(turn, pivot - (turn @ pivot) * distance), size)


def _read_das(text: str, size: Size, frames: int = 49) -> CameraPath:
    """Diffusion-as-Shader: ``trans dx dy dz [f0 f1]``, ``rot x|y|z degrees [f0 f1]``, ``spiral r``, joined by ``;``."""
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    for part in filter(None, (piece.split() for piece in re.split(r"[;\n]", text))):
        kind, values = part[0], part[1:]
        taken = {"trans": 3, "rot": 2, "spiral": 1}.get(kind)
        if taken is None or len(values) not in (taken, taken + 2):
            raise UserError(f"cannot read {' '.join(part)!r}; expected trans dx dy dz [f0 f1], rot x|y|z degrees [f0 f1] or spiral r")
        first, last = (float(value) for value in values[taken:]) if len(values) > taken else (0.0, frames - 1.0)
        progress = ((torch.arange(frames, dtype=torch.float64) - first) / max(last - first, 1.0)).clamp(0, 1)
        if kind == "trans":
            step = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
            step[:, :3, 3] = progress[:, None] * _tensor([float(value) for value in values[:3]])
        elif kind == "rot":
            step = rigid(rotation_about(values[0], progress * float(values[1])), torch.zeros(frames, 3, dtype=torch.float64))
        else:
            angle, radius = 2 * math.pi * progress, float(values[0])
            step = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
            step[:, 0, 3], step[:, 1, 3] = radius * torch.sin(angle), radius * (torch.cos(angle) - 1)
        poses = poses @ step
    return _scene_path(poses, size)


def _read_npz(file: Path, size: Size) -> CameraPath:
    with np.load(file, allow_pickle=False) as archive:
        names = set(archive.files)
        readers: list[tuple[set[str], Callable[[], CameraPath]]] = [
            ({"cam_c2w", "intrinsics"}, lambda: _pixel_path(_matrices(archive["cam_c2w"]), archive["intrinsics"])),
            ({"w2c", "intrinsics"}, lambda: _pixel_path(invert(_matrices(archive["w2c"])), archive["intrinsics"])),
            ({"data", "inds"}, lambda: _scene_path(_matrices(archive["data"][np.argsort(archive["inds"])]), size)),
        ]
        for wanted, read in readers:
            if wanted <= names:
                return read()
    if "arr_0" in names:
        raise UserError("a RealCam-Vid pickle; unpack it once, if you trust it, with `track2view cameras unpickle FILE FOLDER`")
    raise UserError(f"unknown npz with {', '.join(sorted(names)) or 'nothing'}; known: {KNOWN}")


def _pixel_path(world_from_camera: Float64[Tensor, "T 4 4"], values: np.ndarray) -> CameraPath:
    """Intrinsics in pixels, as (fx, fy, cx, cy) or 3×3; the image is taken to be centred on the principal point."""
    array = torch.from_numpy(np.asarray(values, np.float64))
    intrinsics = _intrinsics(array) if array.shape[-1] == 4 else array
    height, width = round(2 * float(intrinsics[0, 1, 2])), round(2 * float(intrinsics[0, 0, 2]))
    return CameraPath(world_from_camera=world_from_camera, intrinsics=intrinsics, size=(height, width))


def _read_colmap(folder: Path) -> CameraPath:
    model = next((each for each in (folder, folder / "sparse" / "0", folder / "sparse") if any(each.glob("cameras.*"))), None)
    if model is None:
        raise UserError("a folder without a COLMAP model (cameras.txt or cameras.bin)")
    import pycolmap  # here, since it takes over the process's signal handlers as soon as it is imported

    reconstruction = pycolmap.Reconstruction(str(model))
    images = sorted(reconstruction.images.values(), key=lambda image: image.name)
    if not images:
        raise UserError("the COLMAP model has no images")
    camera_from_world = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    camera_from_world[:, :3] = torch.from_numpy(np.stack([image.cam_from_world().matrix() for image in images]))
    cameras = [reconstruction.cameras[image.camera_id] for image in images]
    intrinsics = torch.from_numpy(np.stack([camera.calibration_matrix() for camera in cameras]))
    return CameraPath(world_from_camera=invert(camera_from_world), intrinsics=intrinsics, size=(cameras[0].height, cameras[0].width))


def _write_realestate(camera: CameraPath, path: Path) -> None:
    height, width = camera.size
    lines = ["track2view"]
    for index, (pose, matrix) in enumerate(zip(camera.camera_from_world, camera.intrinsics, strict=True)):
        timestamp = round(1e6 * index / (camera.fps or 30.0))
        values = [matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height, 0.0, 0.0, *pose[:3].flatten()]
        lines.append(" ".join([str(timestamp), *(repr(float(value)) for value in values)]))
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _nerfstudio_document(camera: CameraPath) -> dict:
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
    return {"camera_model": "OPENCV", "w": camera.size[1], "h": camera.size[0], "frames": frames}


def _write_json(path: Path, document: dict) -> None:
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
        numbers = [*quaternion, *pose[:3, 3].tolist()]
        images.append(f"{index} " + " ".join(repr(float(value)) for value in numbers) + f" {index} frame_{index - 1:05d}.png\n")
    for name, lines in (("cameras.txt", cameras), ("images.txt", images), ("points3D.txt", [])):
        with atomic_path(folder / name) as partial:
            partial.write_text("".join(line + "\n" for line in lines))


def _scene_path(world_from_camera: Float64[Tensor, "T 4 4"], size: Size) -> CameraPath:
    """Poses without intrinsics: a focal length of the longer side."""
    focal = float(max(size))
    values = torch.tensor([focal, focal, size[1] / 2, size[0] / 2], dtype=torch.float64).expand(len(world_from_camera), 4)
    return CameraPath(world_from_camera=world_from_camera, intrinsics=_intrinsics(values), size=size)


def _intrinsics(values: Float64[Tensor, "T 4"]) -> Float64[Tensor, "T 3 3"]:
    out = torch.eye(3, dtype=torch.float64).repeat(len(values), 1, 1)
    out[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    return out


def _matrices(values: object) -> Float64[Tensor, "T 4 4"]:
    """4×4 poses in float64; rotations that lost precision in float32 files are made orthonormal again."""
    poses = _tensor(values)
    return rigid(_orthonormal(poses[:, :3, :3]), poses[:, :3, 3])


def _orthonormal(rotation: Float64[Tensor, "T 3 3"]) -> Float64[Tensor, "T 3 3"]:
    """Undo rounding only: what is off by more, or is mirrored, is left for :class:`CameraPath` to refuse."""
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    rounding = (off > 1e-9) & (off < 1e-3) & (torch.linalg.det(rotation) > 0)
    if not bool(rounding.any()):
        return rotation
    safe = torch.where(rounding[:, None, None], rotation, torch.eye(3, dtype=torch.float64))
    return torch.where(rounding[:, None, None], nearest_rotation(safe), rotation)


def _tensor(values: object) -> Float64[Tensor, "..."]:
    return torch.from_numpy(np.asarray(values, dtype=np.float64))
