"""A decoded frame as a person is meant to see it: upright, deinterlaced, in square pixels, in the colours of an ordinary screen."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Colorspace, VideoReformatter

from track2view.decoder.limits import STRETCH, check_pixels
from track2view.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8, UInt16  # a sixth of the start of a process in which nothing checks them

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67."""
BT2020 = 9
REFERENCE_WHITE, PEAK, PQ_PEAK = 203.0, 1000.0, 10_000.0
"""cd/m²: diffuse white in HDR (ITU-R BT.2408), which becomes an ordinary screen's white; the brightest that is graded for."""
BT709_FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""ITU-R BT.2087."""
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
CONVERTER = VideoReformatter()
Timed = tuple[float | None, av.VideoFrame]


def upright_size(frame: av.VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """(H, W) of what is shown.

    Raises:
        UserError: more pixels than any camera makes, or pixels stretched beyond any lens.
    """
    if aspect and not 1 / STRETCH <= aspect <= STRETCH:
        raise UserError(f"has pixels {float(aspect):.3g} times as wide as high: a damaged header; set its aspect ratio, or convert it")
    width = max(1, round(frame.width * aspect)) if aspect else frame.width
    check_pixels(width, frame.height)
    return (width, frame.height) if _transform(frame)[0] else (frame.height, width)


def resized(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Resampled to (H, W) where it has another size."""
    if image.shape[:2] == size:
        return image
    import cv2  # here, and not for every video: it takes a third of the decoder's start

    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def shown(frame: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """RGB as shown, in square pixels of ``size`` (H, W): the display matrix's quarter turns and mirrors are applied."""
    image = _from_hdr(frame) if is_hdr(frame) else _rgb(frame)
    transposed, leftwards, upwards = _transform(frame)
    if transposed:
        image = image.transpose(1, 0, 2)
    image = image[:: -1 if upwards else 1, :: -1 if leftwards else 1]
    return resized(np.ascontiguousarray(image), size)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether its numbers mean light beyond an ordinary screen's white."""
    return int(frame.color_trc) in (PQ, HLG)


def deinterlaced(frames: Iterator[Timed], notices: list[str]) -> Iterator[Timed]:
    """From the first interlaced frame on, whole frames made of fields (bwdif); as many, at the same times."""
    graph, shape, times = None, None, deque()
    for time, frame in frames:
        if graph is None and frame.interlaced_frame:
            notices.append("is interlaced; it is deinterlaced, one frame for each that is stored")
            graph, shape = _deinterlacer(frame), _shape(frame)
        if graph is None:
            yield time, frame
            continue
        if _shape(frame) != shape:
            yield from _ended(graph, times)
            graph, shape = _deinterlacer(frame), _shape(frame)
        graph.push(frame)
        times.append(time)
        yield from _pulled(graph, times)
    if graph is not None:
        yield from _ended(graph, times)


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    parts = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*parts)
    graph.configure()
    return graph


def _ended(graph: Graph, times: deque[float | None]) -> Iterator[Timed]:
    graph.push(None)
    yield from _pulled(graph, times)


def _pulled(graph: Graph, times: deque[float | None]) -> Iterator[Timed]:
    while times:
        try:
            yield times[0], graph.vpull()
        except (BlockingIOError, EOFError):
            return
        times.popleft()


def _transform(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """The display matrix as: rows and columns exchanged, then mirrored left to right, then top to bottom."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack_from("=9i", memoryview(matrix))  # pyrefly: ignore
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    if not any(component.is_alpha for component in frame.format.components) and frame.format.name != "pal8":
        return _converted(frame, "rgb24", _matrix(frame))
    image = _converted(frame, "rgba", _matrix(frame)).astype(np.uint16)
    return ((image[..., :3] * image[..., 3:] + 127) // 255).astype(np.uint8)


def _converted(frame: av.VideoFrame, form: str, matrix: int | None) -> np.ndarray:
    """On one thread, by one converter: each frame has one of its own otherwise, with as many threads as there are processors."""
    return CONVERTER.reformat(frame, format=form, src_colorspace=matrix, threads=1).to_ndarray()


def _matrix(frame: av.VideoFrame) -> int | None:
    """The matrix to decode with, where the frame leaves it open or swscale takes it for another; None: the frame's own."""
    if int(frame.colorspace) == BT2020:
        return BT2020
    if frame.colorspace in (Colorspace.ITU709, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.FCC):
        return None
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def _from_hdr(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """PQ or HLG in BT.2020 to BT.709 as an ordinary screen shows it."""
    codes: UInt16[np.ndarray, "h w 3"] = _converted(frame, "rgb48le", BT2020)
    image = np.empty(codes.shape, np.uint8)
    rows = max(1, (1 << 20) // codes.shape[1])
    for start in range(0, len(codes), rows):
        part = codes[start : start + rows]
        light = PQ_TO_SCREEN[part] if int(frame.color_trc) == PQ else _hlg_to_screen(part)
        image[start : start + rows] = SCREEN_CODES[np.round(np.clip(light @ BT709_FROM_BT2020.T, 0, 1) * 65535).astype(np.uint16)]
    return image


def _pq_code(nits: Float[np.ndarray, ...] | float) -> np.ndarray:
    """SMPTE ST 2084, inverse EOTF."""
    power = (np.asarray(nits, np.float64) / PQ_PEAK) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def _pq_light(code: Float[np.ndarray, ...]) -> np.ndarray:
    """SMPTE ST 2084, EOTF: cd/m²."""
    power = np.asarray(code, np.float64) ** (32 / 2523)
    return PQ_PEAK * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)


def _to_screen(nits: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Light of an HDR screen to that of an ordinary one, in shares of its white: below the knee as it is, above it rolled off (BT.2390)."""
    white, most = _pq_code(np.array([REFERENCE_WHITE, PEAK]))
    bright, white = np.clip(_pq_code(nits) / most, 0, 1), white / most
    knee = 1.5 * white - 0.5
    share = np.clip((bright - knee) / (1 - knee), 0, 1)
    spline = (
        (2 * share**3 - 3 * share**2 + 1) * knee + (share**3 - 2 * share**2 + share) * (1 - knee) + (-2 * share**3 + 3 * share**2) * white
    )
    return _pq_light(np.where(bright < knee, bright, spline) * most) / REFERENCE_WHITE


def _hlg_to_screen(codes: UInt16[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """BT.2100: scene light, the system gamma of a screen of 1000 cd/m² on luma, then as for PQ."""
    scene = HLG_TO_SCENE[codes]
    luma = scene @ BT2020_LUMA
    nits = PEAK * scene * np.maximum(luma, 1e-6)[..., None] ** 0.2
    return PQ_TO_SCREEN[np.round(_pq_code(nits) * 65535).astype(np.uint16)]


def _hlg_scene() -> Float[np.ndarray, 65536]:
    code = np.linspace(0, 1, 65536)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _screen_codes() -> UInt8[np.ndarray, 65536]:
    """sRGB's curve, IEC 61966-2-1."""
    light = np.linspace(0, 1, 65536)
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint8)


HLG_TO_SCENE = _hlg_scene()
SCREEN_CODES = _screen_codes()
PQ_TO_SCREEN = _to_screen(_pq_light(np.linspace(0, 1, 65536))).astype(np.float32)
