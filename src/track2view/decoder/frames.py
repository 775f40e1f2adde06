"""The pictures of a video file or of a folder of images, one for each tick of a constant rate, ready to be stored."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from track2view.decoder.limits import MOST_PIXELS, check_pixels, progressed
from track2view.decoder.media import opened, picture_of, sound_of
from track2view.decoder.picture import deinterlaced, is_hdr, resized, shown, upright_size
from track2view.decoder.timing import Timing, is_bare, is_stamped_in_turn, on_ticks, sought, timing
from track2view.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import UInt8  # a sixth of the start of a process in which nothing checks them

    Image = UInt8[np.ndarray, "H W 3"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
IMAGE_FOLDER_FPS = Fraction(24)
SEEK_MARGINS = (0.0, 2.0, 15.0, 60.0)
"""Seconds that a seek is moved back by until it lands before what is wanted."""
STILL_FORMATS = ("image2", "gif", "apng", "webp")
STILL_BRANDS = ("avif", "heic", "heix", "mif1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a video holds, known before its window is decoded.

    Attributes:
        size: (H, W) upright, with square pixels.
        fps: constant rate that pictures are delivered at.
        start: when the first picture is shown, on the file's clock in seconds.
        seconds: how long it lasts, where something tells.
        sound: stream index of the sound that goes with it.
        first, count: the ticks of the window; ``count`` is an estimate, and None where nothing tells.
    """

    size: tuple[int, int]
    fps: Fraction
    start: float = 0.0
    seconds: float | None = None
    sound: int | None = None
    first: int = 0
    count: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Which part is wanted, and how large: as :func:`track2view.video.read_clip` has it."""

    short_side: int | None = None
    resized: tuple[int, int] | None = None
    start: float = 0.0
    end: float | None = None
    frames: int | None = None
    fps: Fraction | None = None

    def ticks(self, rate: Fraction) -> tuple[int, int | None]:
        """[first, end) of the window; the end is None where the clip's is wanted."""
        first = round(self.start * rate)
        ends = [] if self.end is None else [round(self.end * rate)]
        ends += [] if self.frames is None else [first + self.frames]
        return first, min(ends, default=None)

    def reach(self, stream: av.VideoStream) -> float:
        """Up to when, in seconds after the first picture, packets tell all that the window needs."""
        rate = stream.average_rate or stream.guessed_rate or IMAGE_FOLDER_FPS
        counted = math.inf if self.frames is None else self.start + 2 * self.frames / float(rate) + 2
        return min(counted, math.inf if self.end is None else self.end)

    def size(self, own: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what is delivered."""
        if self.resized is not None:
            return self.resized
        if self.short_side is None or min(own) == self.short_side:
            return own
        scale = self.short_side / min(own)
        return max(2, 2 * round(own[0] * scale / 2)), max(2, 2 * round(own[1] * scale / 2))


def probe(path: Path, notices: list[str]) -> Header:
    """Look at a file or folder without decoding it all."""
    return _folder_header(path) if path.is_dir() else _look(path, Window(), notices)[0]


def pictures(path: Path, window: Window, notices: list[str]) -> Iterator[Header | Image | None]:
    """First a header, then a picture for each tick of the window; None repeats the one before.

    Raises:
        UserError: the file cannot be used, or the window is empty.
    """
    yield from (_from_folder(path, window) if path.is_dir() else _from_video(path, window, notices))


def _from_video(path: Path, window: Window, notices: list[str]) -> Iterator[Header | Image | None]:
    header, clock = _look(path, window, notices)
    first, end = window.ticks(header.fps)
    if first < 0 or (end is not None and end <= first):
        raise _empty(window, header.seconds)
    if clock.cut_off is not None and (end is None or end > (clock.cut_off - header.start) * header.fps):
        at = max(0.0, clock.cut_off - header.start)
        raise UserError(
            f"truncated or damaged: what it announces from {at:.2f} s on cannot be read; "
            f"copy or download it again, or stop before with --end {at:.2f}"
        )
    size = window.size(header.size)
    yield replace(header, size=size)
    reached, told = 0, False
    with opened(path) as container:
        stream = picture_of(container)
        frames = _sought(container, stream, header.start + float(first / header.fps), header, notices)
        for frame, begin, finish in on_ticks(deinterlaced(frames, notices), clock, header.start, notices):
            reached = finish
            last = finish if end is None else min(finish, end)
            if last > max(begin, first):
                if is_hdr(frame) and not told:
                    notices.append("is HDR; it is tone-mapped to BT.709")
                    told = True
                check_pixels(frame.width, frame.height)
                yield shown(frame, size)
                yield from [None] * (last - max(begin, first) - 1)
            if end is not None and finish >= end:
                return
    if reached <= first:
        raise _empty(window, float(reached / header.fps))


def _look(path: Path, window: Window, notices: list[str]) -> tuple[Header, Timing]:
    if path.stat().st_size == 0:
        raise UserError("the file is empty; copy or download it again")
    with opened(path) as container:
        stream = picture_of(container)
        check_pixels(stream.codec_context.width, stream.codec_context.height)
        shown_frames = _decoded(container, stream, [])
        time, frame = next(shown_frames, (None, None))
        if frame is None:
            raise UserError(
                f"no picture can be decoded from its {stream.codec_context.name} stream; it is damaged, or not whole: "
                "copy or download it again"
            )
        if _is_still(container) and next(shown_frames, None) is None:
            raise UserError("is a still picture; give a video, or a folder of pictures as its frames")
        sound = sound_of(container, notices)
        origin = time or 0.0
        announced = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        seconds = float(announced) if announced else None
        header = Header(size=upright_size(frame, stream.sample_aspect_ratio), fps=Fraction(1), start=origin, seconds=seconds, sound=sound)
    with opened(path) as container:
        stream = picture_of(container)
        clock = timing(container, stream, origin + window.start if window.start > 0 else None, origin + window.reach(stream))
    if clock.begins is not None and origin - clock.begins > 1.5 / float(clock.rate):
        notices.append(
            f"its first {origin - clock.begins:.2f} s cannot be decoded (it starts between keyframes); the clip begins behind them"
        )
    first, end = window.ticks(clock.rate)
    ends = [] if end is None else [end]
    if clock.end is not None:
        header = replace(header, seconds=clock.end - origin)
        ends.append(round((clock.end - origin) * clock.rate))
    return replace(header, fps=clock.rate, first=first, count=max(0, min(ends) - first) if ends else None), clock


def _sought(
    container: InputContainer, stream: av.VideoStream, wanted: float, header: Header, notices: list[str]
) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Frames from the one shown at ``wanted`` (seconds), or from one before it."""
    for margin in SEEK_MARGINS if wanted > header.start + 1.0 else ():
        if sought(container, max(header.start, wanted - margin)):
            frames = _decoded(container, stream, notices)
            time, frame = next(frames, (None, None))
            if time is not None and frame is not None and time <= wanted + 0.5 / float(header.fps):
                yield time, frame
                yield from frames
                return
    sought(container, 0.0)
    yield from _decoded(container, stream, notices)


def _decoded(container: InputContainer, stream: av.VideoStream, notices: list[str]) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Frames in the order shown, from the first that is whole; a packet that cannot be decoded costs its frame alone.

    Where packets have times of decoding alone, frames take these in turn.

    Raises:
        UserError: most of it cannot be decoded.
    """
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    context, clock, good, bad, turns = stream.codec_context, stream.time_base or Fraction(0), 0, 0, deque()
    for packet in _packets(container, stream):
        if packet is not None and packet.dts is not None and is_stamped_in_turn(container, packet):
            turns.append(packet.dts)
        try:
            frames = context.decode(packet)
        except FFmpegError:
            bad += 1
            continue
        for frame in frames:
            stamp = None if is_bare(container) else turns.popleft() if turns else frame.pts
            good += 1
            yield None if stamp is None else float(stamp * clock), frame
    if bad > good:
        raise UserError(
            f"{bad} of its {good + bad} pictures cannot be decoded: damaged, or a kind of {context.name} that is not known here; "
            "copy or download it again, or convert it"
        )
    if bad:
        notices.append(f"{bad} of its pictures cannot be decoded; those before them are shown instead")


def _packets(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | None]:
    """The packets that hold something, then None, with which a decoder gives what it still keeps."""
    try:
        for packet in container.demux(stream):
            progressed()
            if packet.size:
                yield packet
    except FFmpegError:
        pass  # what cannot be read further ends here; :func:`timing` has met it and tells
    yield None


def _is_still(container: InputContainer) -> bool:
    name, brand = container.format.name, container.metadata.get("major_brand", "")
    return name.endswith("_pipe") or name in STILL_FORMATS or brand in STILL_BRANDS


def _empty(window: Window, seconds: float | None) -> UserError:
    end = "the end" if window.end is None else f"{window.end:g} s"
    frames = "" if window.frames is None else f" with --frames {window.frames}"
    lasts = "" if seconds is None else f"; the clip lasts {seconds:.2f} s"
    return UserError(f"no frames between --start {window.start:g} s and --end {end}{frames}{lasts}")


def _image_files(folder: Path) -> list[Path]:
    natural = lambda file: [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", file.name)]  # noqa: E731
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural)


def _folder_header(folder: Path) -> Header:
    files = _image_files(folder)
    if not files:
        raise UserError(f"holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give a video or a folder of frames")
    seconds = float(len(files) / IMAGE_FOLDER_FPS)
    return Header(size=_read_image(files[0]).shape[:2], fps=IMAGE_FOLDER_FPS, seconds=seconds, count=len(files))


def _from_folder(folder: Path, window: Window) -> Iterator[Header | Image | None]:
    header = _folder_header(folder)
    rate = window.fps or header.fps
    files = _image_files(folder)
    first, end = window.ticks(rate)
    wanted = files[first:end] if first >= 0 else []
    if not wanted:
        raise _empty(window, float(len(files) / rate))
    size = window.size(header.size)
    yield replace(header, size=size, fps=rate, seconds=float(len(files) / rate), first=first, count=len(wanted))
    for file in wanted:
        image = _read_image(file)
        if image.shape[:2] != header.size:
            (height, width), (rows, columns) = header.size, image.shape[:2]
            raise UserError(f"{file.name} is {columns}×{rows}, the first image is {width}×{height}; make them equal")
        yield resized(image, size)


def _read_image(file: Path) -> Image:
    import cv2
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # ours is checked next
    progressed()
    try:
        with PIL.Image.open(file) as header:
            width, height = header.size
        check_pixels(width, height)
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    except UserError as error:
        raise UserError(f"{file.name} {error}") from None
    except (OSError, ValueError, SyntaxError, MemoryError, cv2.error) as error:
        raise UserError(f"{file.name} cannot be read as an image ({error}); remove it from the folder or save it again") from None
    if image is None:
        raise UserError(f"{file.name} cannot be read as an image; remove it from the folder or save it again")
    return image
