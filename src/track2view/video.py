"""Video files to and from :class:`Clip`, through PyAV. The only module that knows about containers and codecs."""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8

from track2view.errors import UserError
from track2view.progress import progress
from track2view.records import AudioSource, Clip, Size, atomic_path

REPRODUCIBLE = "mbtree=0"  # with it, widths that are not multiples of 16 give other bytes from run to run
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
AUDIO_CODECS_OF_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
IMAGE_FOLDER_FPS = Fraction(24)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a video holds, known before any frame is decoded.

    Attributes:
        size: (H, W) upright, with square pixels.
        fps: constant rate that frames are delivered at.
        source_frame: for each delivered frame, the index in presentation order of the stored frame it shows.
        has_audio: whether there is sound to pass through.
        start: presentation time of the first frame in seconds.
    """

    path: Path
    size: Size
    fps: Fraction
    source_frame: list[int]
    has_audio: bool = False
    start: float = 0.0


def probe(path: Path) -> VideoInfo:
    """Look at a video file or image folder without decoding it all.

    Raises:
        UserError: missing, empty, corrupt or truncated file, or no video in it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a video or of a folder of images")
    if path.is_dir():
        return _probe_folder(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; copy or download it again")
    with _readable(path) as container:
        if not container.streams.video:
            raise UserError(f"{path}: has no video, only {_kinds(container)}; give a file with a picture")
        stream = container.streams.video[0]
        times, announced = _presentation_times(path, container, stream)
        container.seek(0)
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise UserError(f"{path}: no frame can be decoded; the file is damaged, copy or download it again")
        if len(times) < announced:
            raise UserError(f"{path}: truncated: it announces {announced} frames and holds {len(times)}; copy or download it again")
        fps, source_frame = _constant_rate(times, stream.average_rate or stream.guessed_rate)
        return VideoInfo(
            path=path,
            size=_upright_size(first, stream.sample_aspect_ratio),
            fps=fps,
            source_frame=source_frame,
            has_audio=bool(container.streams.audio),
            start=times[0],
        )


def read_clip(
    path: Path | str,
    *,
    short_side: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    frames: int | None = None,
    fps: Fraction | None = None,
) -> Clip:
    """Read a window of a video (any codec FFmpeg knows) or of a folder of images, upright and at a constant rate.

    Args:
        short_side: resize so that the shorter side has this many pixels (rounded to even sizes).
        start: beginning of the window in seconds.
        end: end of the window in seconds; the clip's end by default.
        frames: at most this many frames.
        fps: rate of an image folder (24 by default).

    Raises:
        UserError: the file cannot be used, or the window is empty.
    """
    path = Path(path)
    info = probe(path)
    rate = fps if fps is not None and path.is_dir() else info.fps
    total = len(info.source_frame)
    first = round(start * rate)
    last = total if end is None else min(total, round(end * rate))
    last = last if frames is None else min(last, first + frames)
    if not 0 <= first < last:
        raise UserError(
            f"{path}: no frames between --start {start:g} s and --end {'the end' if end is None else f'{end:g} s'}"
            f"{'' if frames is None else f' with --frames {frames}'}; the clip lasts {float(total / rate):.2f} s"
        )
    wanted = info.source_frame[first:last]
    size = _resized_size(info.size, short_side)
    pixels = torch.empty((len(wanted), 3, *size), dtype=torch.uint8)
    decoded = _decode_folder(path) if path.is_dir() else _decode_video(info)
    filled = 0
    for index, image in enumerate(progress(decoded, "reading", wanted[-1] + 1)):
        if index == wanted[filled]:
            pixels[filled] = torch.from_numpy(_resize(image, size)).permute(2, 0, 1)
            filled += 1
            while filled < len(wanted) and wanted[filled] == index:
                pixels[filled] = pixels[filled - 1]
                filled += 1
        if filled == len(wanted):
            break
    if filled < len(wanted):
        raise UserError(f"{path}: damaged after {float((first + filled) / rate):.2f} s; copy it again, or stop earlier with --end")
    audio = None
    if info.has_audio:
        begin = info.start + float(first / rate)
        audio = AudioSource(path=path, start=begin, end=begin + float(len(wanted) / rate))
    return Clip(frames=pixels, fps=rate, audio=audio)


class VideoWriter:
    """Writes RGB images as H.264 (yuv420p, BT.709) in MP4 at exactly ``fps``, with sound copied where given.

    A context manager: the file appears under its final name only when the block ends without error. Odd sizes gain one row
    or column, since 4:2:0 needs even ones.
    """

    def __init__(self, path: Path, fps: Fraction, *, audio: AudioSource | None = None, crf: int = 16) -> None:
        self.path, self.fps, self.audio, self.crf = path, fps, audio, crf
        self.count = 0

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_path(self.path))
            self.out = stack.enter_context(av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}))
            options = {"crf": str(self.crf), "preset": "veryfast", "x264-params": REPRODUCIBLE}
            self.stream = self.out.add_stream("libx264", rate=self.fps, options=options)
            self.stream.pix_fmt = "yuv420p"
            self.stream.time_base = 1 / self.fps
            context = self.stream.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = 1
            self.copier = None if self.audio is None else _AudioCopier(self.out, self.audio)
            self.cleanup = stack.pop_all()
        return self

    def add(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Append one frame; all frames have the size of the first."""
        even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
        if self.count == 0:
            self.stream.height, self.stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self.count, 1 / self.fps
        self.out.mux(self.stream.encode(frame))
        self.count += 1
        if self.copier is not None:
            self.copier.copy_until(float(self.count / self.fps))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.cleanup as cleanup:
            if error is not None:
                cleanup.__exit__(kind, error, trace)
                return
            self.out.mux(self.stream.encode(None))
            if self.copier is not None:
                self.copier.finish()


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


class _AudioCopier:
    """Muxes the sound of ``source`` into ``out`` as the picture advances: packets as they are, or AAC where MP4 has no such codec."""

    def __init__(self, out: "av.container.OutputContainer", source: AudioSource) -> None:
        self.out, self.source = out, source
        self.input = av.open(str(source.path))
        template = self.input.streams.audio[0]
        self.copies = template.codec_context.name in AUDIO_CODECS_OF_MP4
        self.stream = (
            out.add_stream_from_template(template) if self.copies else out.add_stream("aac", rate=template.codec_context.sample_rate)
        )
        self.pending = self._packets() if self.copies else self._encoded()
        self.next: tuple[float, av.Packet] | None = next(self.pending, None)

    def copy_until(self, seconds: float) -> None:
        while self.next is not None and self.next[0] < seconds:
            self.out.mux(self.next[1])
            self.next = next(self.pending, None)

    def finish(self) -> None:
        self.copy_until(float("inf"))
        self.input.close()

    def _packets(self) -> Iterator[tuple[float, av.Packet]]:
        for packet in self.input.demux(self.input.streams.audio[0]):
            if packet.pts is None or packet.time_base is None:
                continue
            seconds = float(packet.pts * packet.time_base)
            if seconds < self.source.start - 1e-6:
                continue
            if seconds >= self.source.end:
                return
            offset = round(self.source.start / packet.time_base)
            packet.pts -= offset
            packet.dts = packet.pts
            packet.stream = self.stream
            yield seconds - self.source.start, packet

    def _encoded(self) -> Iterator[tuple[float, av.Packet]]:
        for frame in self.input.decode(self.input.streams.audio[0]):
            if frame.time is None or frame.time < self.source.start - 1e-6:
                continue
            if frame.time >= self.source.end:
                break
            seconds = frame.time - self.source.start
            frame.pts = None
            for packet in self.stream.encode(frame):
                yield seconds, packet
        for packet in self.stream.encode(None):
            yield self.source.end - self.source.start, packet


@contextmanager
def _readable(path: Path) -> "Iterator[av.container.InputContainer]":
    try:
        with av.open(str(path)) as container:
            yield container
    except FFmpegError as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror}); is it complete, and a video?") from None


def _kinds(container: "av.container.InputContainer") -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _presentation_times(path: Path, container: "av.container.InputContainer", stream: av.VideoStream) -> tuple[list[float], int]:
    """Presentation times of all stored frames, in order, and how many the header announces."""
    times = []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size and not packet.is_discard and packet.time_base is not None:
                times.append(float(packet.pts * packet.time_base))
    except FFmpegError as error:
        raise UserError(f"{path}: damaged after {max(times, default=0.0):.2f} s ({error.strerror}); copy it again") from None
    if not times:
        raise UserError(f"{path}: holds no frames; is the file complete?")
    edited = container.format.name.startswith(("mov", "mp4")) and any(time < 0 for time in times)
    return sorted(times), 0 if edited else stream.frames


def _constant_rate(times: list[float], average: Fraction | None) -> tuple[Fraction, list[int]]:
    """Rate, and the stored frame to show at each tick: all of them once where the rate is constant already."""
    if len(times) == 1 or average is None:
        return average or IMAGE_FOLDER_FPS, list(range(len(times)))
    elapsed = np.asarray(times) - times[0]
    drift = np.abs(elapsed * float(average) - np.arange(len(times))).max()
    if drift < 0.75:
        return average, list(range(len(times)))
    typical = float(np.median(np.diff(elapsed)))
    rate = Fraction(1 / max(typical, 1 / 240)).limit_denominator(1001)
    ticks = np.arange(round((elapsed[-1] + typical) * float(rate))) / float(rate)
    return rate, list(map(int, np.searchsorted(elapsed, ticks + 0.5 / float(rate), side="right") - 1))


def _upright_size(frame: av.VideoFrame, aspect: Fraction | None) -> Size:
    width = round(frame.width * aspect) if aspect else frame.width
    return (width, frame.height) if frame.rotation % 180 else (frame.height, width)


def _resized_size(size: Size, short_side: int | None) -> Size:
    if short_side is None or min(size) == short_side:
        return size
    scale = short_side / min(size)
    return max(2, 2 * round(size[0] * scale / 2)), max(2, 2 * round(size[1] * scale / 2))


def _resize(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "H W 3"]:
    if image.shape[:2] == size:
        return image
    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def _decode_video(info: VideoInfo) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    with _readable(info.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.time is not None and frame.time < info.start - 1e-6:
                continue
            image = _rgb(frame)
            if frame.rotation % 360:
                image = np.rot90(image, frame.rotation // 90)
            yield _resize(np.ascontiguousarray(image), info.size)


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    unspecified = frame.colorspace not in (Colorspace.ITU709, Colorspace.ITU601, Colorspace.SMPTE240M, Colorspace.FCC)
    source = (Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601) if unspecified else None
    if not any(component.is_alpha for component in frame.format.components) and frame.format.name != "pal8":
        return frame.to_ndarray(format="rgb24", src_colorspace=source) if source else frame.to_ndarray(format="rgb24")
    image = frame.to_ndarray(format="rgba").astype(np.uint16)
    return ((image[..., :3] * image[..., 3:] + 127) // 255).astype(np.uint8)


def _image_files(folder: Path) -> list[Path]:
    natural = lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]  # noqa: E731
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural)


def _read_image(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(f"{file}: cannot be read as an image; remove it from the folder or save it again")
    return image


def _probe_folder(folder: Path) -> VideoInfo:
    files = _image_files(folder)
    if not files:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give a video or a folder of frames")
    height, width = _read_image(files[0]).shape[:2]
    return VideoInfo(path=folder, size=(height, width), fps=IMAGE_FOLDER_FPS, source_frame=list(range(len(files))))


def _decode_folder(folder: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    size = None
    for file in _image_files(folder):
        image = _read_image(file)
        if size is not None and image.shape != size:
            raise UserError(f"{file}: is {image.shape[1]}×{image.shape[0]}, the first image is {size[1]}×{size[0]}; make them equal")
        size = image.shape
        yield image
