"""From the values of other people's files to checked tensors: what all readers of camera files share."""

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import nearest_rotation, rigid
from track2view.records import CameraPath, Size

DEFAULT_SIZE: Size = (720, 1280)
LONGEST_SIDE = 1 << 16
NO_PIXEL = 0.5
"""What is off by less moves nothing to another pixel."""
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
KNOWN = (
    "track2view JSON, nerfstudio (transforms.json, viewer camera_path.json, ns-export cameras), COLMAP model folders, "
    "MultiCamVideo camera_extrinsics.json, RealEstate10K, TrajectoryCrafter or DaS text, MotionCtrl or NeoVerse JSON, "
    "Reshoot-Anything cam_info.json, Nuke .chan, glTF (.glb, .gltf), ViPE, Vista4D, GEN3C, MegaSaM or NeoVerse npz, SpatialVID poses.npy; "
    "FILE#cam05 picks one of several cameras"
)


def tensor(values: object, shape: tuple[int | None, ...], what: str) -> Float64[Tensor, "..."]:
    """Numbers of a shape, whose None is any length.

    Raises:
        UserError: anything else.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        array = None
    if array is None or array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("T" if each is None else str(each) for each in shape)
        raise UserError(f"{what}: expected numbers [{wanted}], got {described(values if array is None else array)}")
    return torch.from_numpy(np.ascontiguousarray(array))


def number(value: object, what: str) -> float:
    """One finite number.

    Raises:
        UserError: anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    raise UserError(f"{what}: expected a number, got {described(value)}")


def image_size(height: object, width: object) -> Size:
    """(H, W) in whole pixels.

    Raises:
        UserError: anything else.
    """
    sides = number(height, "height"), number(width, "width")
    if not all(side == round(side) and 1 <= side <= LONGEST_SIDE for side in sides):
        raise UserError(f"the images' height and width: expected whole numbers from 1 to {LONGEST_SIDE}, got {sides[0]:g} and {sides[1]:g}")
    return round(sides[0]), round(sides[1])


def described(value: object) -> str:
    """What a value is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{list(value.shape)} of {value.dtype}"
    if isinstance(value, dict):
        return f"an object with {listed(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def listed(names: object, most: int = 12) -> str:
    """Names on one line, the first few of them."""
    texts = [text if len(text) <= 40 else f"{text[:40]}…" for text in map(str, names)]  # pyrefly: ignore
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "") or "nothing"


def poses(values: object, what: str) -> Float64[Tensor, "T 4 4"]:
    """Rigid motions from 3×4 or 4×4 matrices; rotations that lost precision in float32 files are made orthonormal again.

    Raises:
        UserError: another shape, or a last row that does not belong to a rigid motion.
    """
    try:
        matrices = tensor(values, (None, 4, 4), what)
    except UserError:
        matrices = tensor(values, (None, 3, 4), what)
    if matrices.shape[1] == 4:
        off = (matrices[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().amax(1) > 1e-6
        if bool(off.any()):
            frame = int(off.nonzero()[0, 0])
            row = " ".join(f"{each:g}" for each in matrices[frame, 3].tolist())
            raise UserError(f"{what}: frame {frame} has a last row of {row}; expected 0 0 0 1 (is the matrix transposed?)")
    return rigid(orthonormal(matrices[:, :3, :3]), matrices[:, :3, 3])


def orthonormal(rotation: Float64[Tensor, "T 3 3"]) -> Float64[Tensor, "T 3 3"]:
    """Undo rounding only: what is off by more, or is mirrored, is left for :class:`CameraPath` to refuse."""
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    rounding = (off > 1e-9) & (off < 1e-3) & (torch.linalg.det(rotation) > 0)
    if not bool(rounding.any()):
        return rotation
    safe = torch.where(rounding[:, None, None], rotation, torch.eye(3, dtype=torch.float64))
    return torch.where(rounding[:, None, None], nearest_rotation(safe), rotation)


def matrices_of(values: Float64[Tensor, "T 4"]) -> Float64[Tensor, "T 3 3"]:
    """Intrinsic matrices of fx, fy, cx, cy."""
    out = torch.eye(3, dtype=torch.float64).repeat(len(values), 1, 1)
    out[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    return out


def centred_size(intrinsics: Float64[Tensor, "T 3 3"]) -> Size:
    """(H, W) of the picture whose middle is the principal point.

    Raises:
        UserError: no picture has it.
    """
    across, down = (2 * float(intrinsics[0, axis, 2]) for axis in (0, 1)) if len(intrinsics) else (0.0, 0.0)
    if not (math.isfinite(across) and math.isfinite(down)):
        raise UserError("intrinsics: the principal point is not finite")
    return image_size(round(down), round(across))


def path_of_guessed_focal(world_from_camera: Float64[Tensor, "T 4 4"], size: Size | None) -> CameraPath:
    """Poses of a file that holds no focal length: that of the longer side, and said to be unknown."""
    height, width = size = size or DEFAULT_SIZE
    focal = float(max(size))
    values = torch.tensor([focal, focal, width / 2, height / 2], dtype=torch.float64).expand(len(world_from_camera), 4)
    return CameraPath(world_from_camera=world_from_camera, intrinsics=matrices_of(values), size=size, focal_known=False)


def lens_in_the_middle(camera: CameraPath) -> str:
    """What a format with a field of view alone would lose of a path's lenses, in words; empty if nothing."""
    height, width = camera.size
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    if float((camera.intrinsics[:, :2, 2] - middle).abs().max()) > NO_PIXEL:
        return "its lens is not before the middle of the picture"
    if float((camera.intrinsics[:, 0, 0] / camera.intrinsics[:, 1, 1] - 1).abs().max()) > NO_PIXEL / max(camera.size):
        return "its pixels are not square"
    return ""
