"""Lenses that are not pinholes: refused, unless they move nothing by half a pixel anywhere in the picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from track2view.errors import UserError
from track2view.records import Size

NEGLIGIBLE_PIXELS = 0.5
GRID = 33
PERSPECTIVE = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"}
FISHEYE = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"}

Points = Float64[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A camera as COLMAP, OpenCV and nerfstudio describe one.

    Attributes:
        model: COLMAP's name.
        focal: (fx, fy) in pixels.
        centre: (cx, cy) in pixels.
        size: (H, W).
        coefficients: of the distortion, by COLMAP's names.
    """

    model: str
    focal: tuple[float, float]
    centre: tuple[float, float]
    size: Size
    coefficients: tuple[tuple[str, float], ...] = field(default=())


def check_pinhole(lens: Lens, name: str) -> None:
    """Nothing, for a lens that is a pinhole to within half a pixel.

    Raises:
        UserError: any other, with its model and coefficients.
    """
    moved = displacement(lens)
    if moved < NEGLIGIBLE_PIXELS:
        return
    values = ", ".join(f"{key}={value:g}" for key, value in lens.coefficients) or "no coefficients"
    how_far = f"is up to {moved:.1f} pixels from a pinhole" if math.isfinite(moved) else "is no pinhole"
    raise UserError(
        f"{name}: its lens ({lens.model}, {values}) {how_far}; undistort the images first (colmap image_undistorter) "
        "and give the cameras of the undistorted ones"
    )


def displacement(lens: Lens) -> float:
    """Pixels by which the lens moves what a pinhole sees, at most over the picture; infinite where that cannot be told."""
    distort = _radial_tangential if lens.model in PERSPECTIVE else _equidistant if lens.model in FISHEYE else None
    if distort is None or min(lens.focal) <= 0:
        return math.inf
    if lens.model in PERSPECTIVE and not any(value for _, value in lens.coefficients):
        return 0.0
    height, width = lens.size
    with np.errstate(all="ignore"):
        v, u = (axis.ravel() for axis in np.meshgrid(np.linspace(0, height, GRID), np.linspace(0, width, GRID), indexing="ij"))
        x, y = (u - lens.centre[0]) / lens.focal[0], (v - lens.centre[1]) / lens.focal[1]
        moved_x, moved_y = distort(x, y, dict(lens.coefficients).get)
        moved = float(np.hypot((moved_x - x) * lens.focal[0], (moved_y - y) * lens.focal[1]).max())
    return moved if math.isfinite(moved) else math.inf


def _radial_tangential(x: Points, y: Points, value: Callable[[str, float], float]) -> tuple[Points, Points]:
    """OpenCV's rational model; ``k`` is SIMPLE_RADIAL's k1, and ``r8`` is nerfstudio's k4."""
    r2 = x * x + y * y
    above = 1 + r2 * (value("k1", 0.0) + value("k", 0.0) + r2 * (value("k2", 0.0) + r2 * (value("k3", 0.0) + r2 * value("r8", 0.0))))
    below = 1 + r2 * (value("k4", 0.0) + r2 * (value("k5", 0.0) + r2 * value("k6", 0.0)))
    p1, p2 = value("p1", 0.0), value("p2", 0.0)
    return (
        x * above / below + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * above / below + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _equidistant(x: Points, y: Points, value: Callable[[str, float], float]) -> tuple[Points, Points]:
    """Kannala and Brandt's model: without coefficients an angle's image is as far out as the angle, not its tangent."""
    radius = np.hypot(x, y)
    theta = np.arctan(radius)
    t2 = theta * theta
    bent = theta * (
        1 + t2 * (value("k1", 0.0) + value("k", 0.0) + t2 * (value("k2", 0.0) + t2 * (value("k3", 0.0) + t2 * value("k4", 0.0))))
    )
    scale = np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)
    return x * scale, y * scale
