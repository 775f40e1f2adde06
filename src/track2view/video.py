"""Video files to and from :class:`Clip`. Reading is done by :mod:`track2view.decoder`, a program of its own; writing is done here."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from errno import ENOSPC
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO

import av
import numpy as np
import psutil
import torch
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

from track2view.decoder.limits import SECONDS_WITHOUT_PROGRESS
from track2view.errors import UserError, check_positive, notice
from track2view.files import atomic_path
from track2view.progress import progress
from track2view.records import AudioSource, Clip, Size

REPRODUCIBLE = "mbtree=0"  # with it, widths that are not multiples of 16 give other bytes from run to run
FIRST_BYTES = 1 << 28
"""Taken for frames before the first has come; the rest only then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a video holds, known before its window is decoded.

    Attributes:
        size: (H, W) upright, with square pixels.
        fps: constant rate that frames are delivered at.
        start: when the first frame is shown, on the file's own clock in seconds.
        seconds: how long it lasts, where something tells.
        sound: stream index of the sound to pass through.
        first: ticks of ``fps`` from the first frame of the file to the first of the window.
        count: how many frames the window has, as far as can be told.
    """

    size: Size
    fps: Fraction
    start: float
    seconds: float | None
    sound: int | None
    first: int
    count: int | None


def probe(path: Path | str) -> VideoInfo:
    """Look at a video file or image folder without decoding it all.

    Raises:
        UserError: missing, empty or corrupt file, or no video in it.
    """
    with closing(_decoder(Path(path), {"do": "probe"})) as messages:
        return _info(next(messages)[1])


def read_clip(
    path: Path | str,
    *,
    short_side: int | None = None,
    resized: Size | None = None,
    start: float = 0.0,
    end: float | None = None,
    frames: int | None = None,
    fps: Fraction | None = None,
) -> Clip:
    """Read a window of a video (any codec FFmpeg knows) or of a folder of images as a player shows it: upright, at a constant rate.

    What was done beyond that (tone mapping, deinterlacing, pictures that could not be decoded, a choice among sound tracks) is told
    by a :class:`~track2view.errors.Notice`.

    Args:
        short_side: resize so that the shorter side has this many pixels (rounded to even sizes).
        resized: resize to this (H, W), whatever becomes of the picture's shape; ``short_side`` is then not asked.
        start: beginning of the window in seconds; what comes before is not decoded.
        end: end of the window in seconds; the clip's end by default.
        frames: at most this many frames.
        fps: rate of an image folder (24 by default).

    Raises:
        UserError: the file cannot be used, the window is empty, or its frames do not fit into memory.
    """
    check_positive(size=short_side, frames=frames)
    path = Path(path)
    window = {"short_side": short_side, "resized": resized, "start": start, "end": end, "frames": frames}
    window |= {"fps": None if fps is None else str(fps)}
    with closing(_decoder(path, {"do": "read", "window": window})) as messages:
        info = _info(next(messages)[1])
        pixels = _filled(path, info, progress(messages, "reading", info.count))
    audio = None
    if info.sound is not None:
        begin = info.start + float(info.first / info.fps)
        audio = AudioSource(path=path, start=begin, end=begin + float(len(pixels) / info.fps), track=info.sound)
    return Clip(frames=pixels, fps=info.fps, audio=audio)


class VideoWriter:
    """Writes RGB images as H.264 (yuv420p, BT.709) in MP4 at exactly ``fps``, with sound copied where given.

    A context manager: the file appears under its final name only when the block ends without error. Odd sizes gain one row
    or column, since 4:2:0 needs even ones. Sound that cannot be read costs a notice, not the film.
    """

    def __init__(self, path: Path, fps: Fraction, *, audio: AudioSource | None = None, crf: int = 16) -> None:
        self.path, self.fps, self.audio, self.crf = path, fps, audio, crf
        self.count = 0
        self.converter = VideoReformatter()

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            self.partial = stack.enter_context(atomic_path(self.path))
            self.out = stack.enter_context(av.open(f"file:{self.partial}", "w", format="mp4", options={"movflags": "+faststart"}))
            options = {"crf": str(self.crf), "preset": "veryfast", "x264-params": REPRODUCIBLE}
            self.stream = self.out.add_stream("libx264", rate=self.fps, options=options)
            self.stream.pix_fmt = "yuv420p"
            self.stream.time_base = 1 / self.fps
            context = self.stream.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = 1
            self.cleanup = stack.pop_all()
        return self

    def add(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Append one frame; all frames have the size of the first."""
        even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
        if self.count == 0:
            self.stream.height, self.stream.width = even.shape[:2]
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = self.converter.reformat(rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1)
        frame.pts, frame.time_base = self.count, 1 / self.fps
        self.out.mux(self.stream.encode(frame))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.cleanup as cleanup:
            if error is not None:
                cleanup.__exit__(kind, error, trace)
                return
            self.out.mux(self.stream.encode(None))
            self.out.close()
            if self.audio is not None:
                _join_sound(self.partial, self.audio)


def write_video(
    path: Path, images: Iterable[UInt8[np.ndarray, "H W 3"]], fps: Fraction, *, audio: AudioSource | None = None, crf: int = 16
) -> None:
    """Write all images with a :class:`VideoWriter`."""
    with VideoWriter(path, fps, audio=audio, crf=crf) as writer:
        for image in images:
            writer.add(image)


def clip_images(clip: Clip) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The clip's frames one by one, as :func:`write_video` takes them."""
    return (clip.image(index) for index in range(len(clip)))


def _join_sound(film: Path, audio: AudioSource) -> None:
    """Give a film its sound, in place; it stays silent, with a notice, where the sound cannot be read."""
    joined = film.with_suffix(f".joined{film.suffix}")
    span = {"track": audio.track, "start": audio.start, "end": audio.end}
    try:
        with closing(_decoder(audio.path, {"do": "join", "picture": str(film), "out": str(joined), **span})) as messages:
            for _ in messages:
                pass
        joined.replace(film)
    except UserError as error:
        notice(f"{error}; the result has no sound")
    finally:
        joined.unlink(missing_ok=True)


def _info(content: bytearray) -> VideoInfo:
    header = json.loads(content)
    (height, width), fps = header.pop("size"), Fraction(header.pop("fps"))
    return VideoInfo(size=(height, width), fps=fps, **header)


def _filled(path: Path, info: VideoInfo, messages: "Iterable[Message]") -> UInt8[Tensor, "T 3 H W"]:
    """All pictures that come, in one tensor."""
    pixels, filled = torch.empty((0, 3, *info.size), dtype=torch.uint8), 0
    for kind, content in messages:
        if filled == len(pixels):
            pixels = _grown(path, pixels, info.count)
        if kind == "F":
            pixels[filled] = torch.frombuffer(content, dtype=torch.uint8).view(*info.size, 3).permute(2, 0, 1)
        else:
            pixels[filled] = pixels[filled - 1]
        filled += 1
    return pixels if filled == len(pixels) else pixels[:filled].clone()


def _grown(path: Path, pixels: UInt8[Tensor, "T 3 H W"], expected: int | None) -> UInt8[Tensor, "T2 3 H W"]:
    """Room for some frames, then for all that are expected, then for twice as many."""
    each, have = pixels[:1].numel() or 3 * pixels.shape[2] * pixels.shape[3], len(pixels)
    some = max(16, FIRST_BYTES // each)
    wanted = min(expected or some, some) if not have else max(expected or 0, 2 * have)
    free = psutil.virtual_memory().available
    if (needed := wanted * each) > free:
        raise UserError(
            f"{path}: its {wanted} frames need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: "
            "use a smaller --size or fewer --frames"
        )
    grown = torch.empty((max(wanted, have + 1), *pixels.shape[1:]), dtype=torch.uint8)
    grown[:have] = pixels
    return grown


Message = tuple[str, bytearray]


def _decoder(path: Path, request: dict[str, object]) -> Generator[Message, None, None]:
    """Run the decoder on a file: its messages but for notices, which are given, and errors, which are raised.

    Raises:
        UserError: what is wrong with the file, or that the decoder hung or crashed over it.
        OSError: the disk is full.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a video or of a folder of images")
    command = [sys.executable, "-P", "-m", "track2view.decoder", json.dumps({**request, "path": str(path)})]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
    )
    assert child.stdout is not None
    try:
        while header := _read(child.stdout, struct.calcsize("<cQ")):
            kind, length = struct.unpack("<cQ", header)
            content = _read(child.stdout, length)
            match kind:
                case b"N":
                    notice(f"{path}: {content.decode()}")
                case b"E":
                    raise UserError(f"{path}: {content.decode()}")
                case b"D":
                    raise OSError(ENOSPC, "No space left on device", str(request.get("out")))
                case b"X":
                    fault = RuntimeError(content.decode())
                    last = content.decode().strip().splitlines()[-1]
                    raise UserError(f"{path}: cannot be decoded ({last}); if other programs play it, please report it") from fault
                case _:
                    yield kind.decode(), content
        if code := child.wait():
            raise UserError(f"{path}: {_how_it_ended(code)}; it is damaged, or made to harm: convert it with another program first")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _read(stream: IO[bytes], length: int) -> bytearray:
    """So many bytes, or none where the stream ends before."""
    content = bytearray(length)
    view, have = memoryview(content), 0
    while have < length:
        if not (got := stream.readinto(view[have:])):  # pyrefly: ignore
            return bytearray()
        have += got
    return content


def _how_it_ended(code: int) -> str:
    if -code == signal.SIGALRM:
        return f"decoding stood still for {SECONDS_WITHOUT_PROGRESS:g} s"
    return f"its decoder crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
