"""Camera files of numpy arrays: Vista4D, GEN3C, MegaSaM, ViPE and NeoVerse ``.npz``, SpatialVID's ``.npy``, RealCam-Vid's pickle."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from track2view.cameras.neoverse import read_neoverse_arrays
from track2view.cameras.order import filled
from track2view.cameras.raw import (
    DEFAULT_SIZE,
    KNOWN,
    centred_size,
    described,
    listed,
    matrices_of,
    path_of_guessed_focal,
    poses,
    tensor,
)
from track2view.errors import UserError, notice
from track2view.files import array_shapes, read_array, read_arrays, read_text
from track2view.geometry import invert, rigid
from track2view.records import CameraPath, Size


def read_npz(file: Path, size: Size | None) -> CameraPath:
    """A path from an ``.npz`` file, told apart by the names of its arrays; others than these are not read.

    Raises:
        UserError: no file of these, or one whose arrays do not fit together.
    """
    shapes = array_shapes(file)
    for wanted in ({"cam_c2w", "intrinsics"}, {"cam_c2w", "intrinsic"}, {"w2c", "intrinsics"}, {"data", "inds"}):
        if wanted <= shapes.keys():
            arrays = read_arrays(file, wanted)
            break
    else:
        if {"frame_indices", "frame_matrices"} <= shapes.keys():
            arrays = read_arrays(file, {"frame_indices", "frame_matrices"})
            return read_neoverse_arrays(arrays["frame_indices"], arrays["frame_matrices"], size)
        if "arr_0" in shapes:
            raise UserError("a RealCam-Vid pickle; unpack it once, if you trust it, with `track2view cameras unpickle FILE FOLDER`")
        raise UserError(f"unknown npz of {listed(f'{name} {list(shape)}' for name, shape in shapes.items())}; known: {KNOWN}")
    if "inds" in arrays:
        return _vipe(arrays["data"], arrays["inds"], file, size)
    world_from_camera = invert(poses(arrays["w2c"], "w2c")) if "w2c" in arrays else poses(arrays["cam_c2w"], "cam_c2w")
    name = "intrinsic" if "intrinsic" in arrays else "intrinsics"
    return _pixel_path(world_from_camera, arrays[name], name, shapes.get("images"))


def _pixel_path(
    world_from_camera: Float64[Tensor, "T 4 4"], values: np.ndarray, name: str, pictures: tuple[int, ...] | None = None
) -> CameraPath:
    """Intrinsics in pixels, one for all frames or one each, as (fx, fy, cx, cy) or 3×3.

    The image is the one of ``pictures`` [T, H, W, 3], where the principal point is near its middle; else it is centred on that.
    """
    frames = len(world_from_camera)
    if values.shape in ((4,), (3, 3)):
        values = np.broadcast_to(values, (frames, *values.shape))
    intrinsics = matrices_of(tensor(values, (frames, 4), name)) if values.ndim == 2 else tensor(values, (frames, 3, 3), name)
    size = centred_size(intrinsics)
    if pictures is not None and len(pictures) == 4 and min(pictures) > 0:
        held = pictures[1], pictures[2]
        size = held if all(0.5 * side < middle < 1.5 * side for side, middle in zip(held, size, strict=True)) else size
    return CameraPath(world_from_camera=world_from_camera, intrinsics=intrinsics, size=size)


def _vipe(data: np.ndarray, inds: np.ndarray, file: Path, size: Size | None) -> CameraPath:
    """``pose/NAME.npz``: camera-to-world at frames ``inds``; the focal length is in ``intrinsics/NAME.npz``."""
    if data.ndim == 2:
        raise UserError(f"ViPE's intrinsics {list(data.shape)}, not its poses; give {file.parent.parent / 'pose' / file.name}")
    if not data.ndim:
        raise UserError("data: expected [T, 4, 4], got a single number")
    numbers, order = _frames(inds, len(data))
    world_from_camera = poses(data[order], "data")
    beside = file.parent.parent / "intrinsics" / file.name
    if file.parent.name == "pose" and beside.exists():
        path = _pixel_path(world_from_camera, _vipe_intrinsics(beside, numbers), "intrinsics")
    else:
        path = path_of_guessed_focal(world_from_camera, size)
    if numbers[0]:
        notice(f"{file}: begins at frame {numbers[0]}: that is the first frame of the path")
    return filled(path, numbers, file, step=1)


def _vipe_intrinsics(file: Path, numbers: list[int]) -> np.ndarray:
    """(fx, fy, cx, cy) at the frames of the poses."""
    kinds = file.with_name(f"{file.stem}_camera.txt")
    if kinds.exists() and (other := {line.rpartition(":")[2].strip() for line in read_text(kinds).split("\n")} - {"", "PINHOLE"}):
        raise UserError(
            f"{kinds}: a {listed(sorted(other))} camera, which is no pinhole; run ViPE with a pinhole camera on undistorted video"
        )
    arrays = read_arrays(file, {"data", "inds"})
    if missing := {"data", "inds"} - arrays.keys():
        raise UserError(f"{file}: lacks {listed(sorted(missing))}")
    known, order = _frames(arrays["inds"], arrays["data"].size // 4)
    values = tensor(arrays["data"], (None, 4), f"{file}: data")[order].numpy()
    return np.stack([np.interp(numbers, known, values[:, column]) for column in range(4)], axis=1)


def _frames(inds: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    """Increasing frame numbers, and the order that sorts poses by them."""
    if inds.shape != (count,) or inds.dtype.kind not in "iu" or not count:
        raise UserError(f"inds: expected {count} whole numbers, one for each pose, got {described(inds)}")
    order = np.argsort(inds, kind="stable")
    numbers = inds[order].tolist()
    if double := [earlier for earlier, later in pairwise(numbers) if earlier == later]:
        raise UserError(f"inds: frame {double[0]} is there twice; remove one of its poses")
    return numbers, order


def read_npy(file: Path, size: Size | None) -> CameraPath:
    """SpatialVID's ``poses.npy``: world-to-camera as (tx, ty, tz, qx, qy, qz, qw); ``intrinsics.npy`` beside it, in image units or pixels.

    Raises:
        UserError: another array.
    """
    array = read_array(file)
    if array.ndim != 2 or array.shape[1] != 7 or array.dtype.kind != "f":
        raise UserError(f"an array {described(array)}; SpatialVID's poses.npy is [T, 7], and no other npy is known; known: {KNOWN}")
    values = tensor(array, (None, 7), "poses").numpy()
    length = np.linalg.norm(values[:, 3:], axis=1)
    if (bad := ~(np.abs(length - 1) < 1e-2)).any():
        raise UserError(f"frame {int(bad.argmax())} has a quaternion of length {length[bad.argmax()]:g}; expected 1")
    rotation = torch.from_numpy(Rotation.from_quat(values[:, 3:]).as_matrix())
    world_from_camera = invert(rigid(rotation, torch.from_numpy(values[:, :3])))
    beside = file.with_name("intrinsics.npy")
    if not beside.exists():
        return path_of_guessed_focal(world_from_camera, size)
    units = tensor(read_array(beside), (len(values), 4), f"{beside}")
    if len(units) and float(units[:, 2:].max()) > 2:
        return _pixel_path(world_from_camera, units.numpy(), "intrinsics")
    height, width = size = size or DEFAULT_SIZE
    pixels = units * torch.tensor([width, height, width, height], dtype=torch.float64)
    return CameraPath(world_from_camera=world_from_camera, intrinsics=matrices_of(pixels), size=size)


def convert_realcam_pickle(source: Path, folder: Path) -> list[Path]:
    """Unpack a RealCam-Vid ``.npz`` into one camera file per clip.

    The format is a pickle: reading one runs whatever code it holds, so this is a step of its own, for files you trust.

    Raises:
        UserError: another file, or an entry that is no clip's camera.
    """
    written = []
    for entry, camera in unpickled_realcam(source):
        target = folder / f"{Path(str(entry['video_path'])).stem}.json"
        camera.save(target)
        written.append(target)
    return written


def unpickled_realcam(source: Path) -> Iterator[tuple[dict, CameraPath]]:
    """The entries of a RealCam-Vid ``.npz``, a pickle that runs whatever code it holds, and the camera of each.

    Extrinsics are world-to-camera; metres = camera-to-world translation × ``align_factor``.

    Raises:
        UserError: another file, or an entry that is no clip's camera.
    """
    try:
        with np.load(source, allow_pickle=True) as archive:
            entries = list(archive["arr_0"])
    except Exception as error:  # a pickle may raise anything at all
        raise UserError(f"{source}: not a RealCam-Vid file ({type(error).__name__}: {error})") from None
    fields = {"video_path", "camera_extrinsics", "camera_intrinsics", "align_factor"}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not fields <= entry.keys():
            raise UserError(f"{source}: entry {index}: expected {', '.join(sorted(fields))}, got {described(entry)}")
        try:
            camera = _realcam(entry)
        except UserError as error:
            raise UserError(f"{source}: {entry['video_path']}: {error}") from None
        yield entry, camera


def _realcam(entry: dict) -> CameraPath:
    world_from_camera = invert(poses(entry["camera_extrinsics"], "camera_extrinsics"))
    world_from_camera[:, :3, 3] *= float(tensor(entry["align_factor"], (), "align_factor"))
    given = np.asarray(entry["camera_intrinsics"])
    values = tensor(given.reshape(1, 4) if given.shape == (4,) else given, (None, 4), "camera_intrinsics")
    height, width = DEFAULT_SIZE
    pixels = values * torch.tensor([width, height, width, height], dtype=torch.float64)
    pixels = pixels.expand(len(world_from_camera), 4) if len(values) == 1 else pixels
    return CameraPath(world_from_camera=world_from_camera, intrinsics=matrices_of(pixels), size=DEFAULT_SIZE, unit="metre")
