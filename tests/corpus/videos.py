"""Videos and folders of images: eight frames of 64×48, in the containers that people have."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FRAMES, HEIGHT, WIDTH, RATE = 8, 48, 64, 16000
EXACT = {"fflags": "+bitexact"}
"""The same bytes each time: no random identifiers, dates or versions."""


def image(index: int) -> np.ndarray:
    """A gradient with a square that moves."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([u * 3, v * 4, np.full_like(u, 30 * index)], axis=-1)
    picture[10:26, 4 * index : 4 * index + 16] = (230, 40, 60)
    return picture.astype(np.uint8)


def make_videos(folder: Path) -> None:
    """With and without sound; matrices, edit lists and time bases out of the ordinary."""
    encode(folder / "h264_aac.mp4", "libx264", sound="aac")
    encode(folder / "variable.mp4", "libx264", times=[0, 1, 2, 3, 10, 11, 12, 13], base=Fraction(1, 600))
    encode(folder / "mpeg4_pcm.mov", "mpeg4", sound="pcm_mulaw")
    encode(folder / "h264_flac.mkv", "libx264", sound="flac")
    encode(folder / "mjpeg_pcm.avi", "mjpeg", pixels="yuvj420p", sound="pcm_s16le")
    encode(folder / "vp9.webm", "libvpx-vp9")
    encode(folder / "anim.gif", "gif", pixels="rgb8")
    encode(folder / "bare.h264", "libx264")
    encode(folder / "mpeg2_mp2.ts", "mpeg2video", sound="mp2")
    plain = (folder / "h264_aac.mp4").read_bytes()
    (folder / "turned.mp4").write_bytes(_turned(plain))
    (folder / "trimmed.mp4").write_bytes(_trimmed(plain))


def make_sound(folder: Path) -> None:
    """What has sound: copied as it is, and encoded again."""
    encode(folder / "aac.mp4", "mpeg4", sound="aac")
    encode(folder / "mulaw.mov", "mpeg4", sound="pcm_mulaw")
    encode(folder / "flac.mkv", "mpeg4", sound="flac")
    encode(folder / "pcm.avi", "mjpeg", pixels="yuvj420p", sound="pcm_s16le")
    encode(folder / "mp2.ts", "mpeg2video", sound="mp2")


def make_images(folder: Path) -> None:
    """Folders of four images, one for each kind."""
    for suffix in ("png", "jpg", "webp", "bmp", "tiff"):
        (folder / suffix).mkdir()
        for index in range(4):
            cv2.imwrite(str(folder / suffix / f"frame_{index}.{suffix}"), image(index))
    (folder / "deep").mkdir()
    for index in range(2):
        deep = np.dstack([image(index).astype(np.uint16) * 257, np.full((HEIGHT, WIDTH), 40000, np.uint16)])
        cv2.imwrite(str(folder / "deep" / f"{index}.png"), deep)


def encode(
    path: Path,
    codec: str,
    *,
    pixels: str = "yuv420p",
    sound: str | None = None,
    times: list[int] | None = None,
    base: Fraction = Fraction(1, 25),
) -> None:
    """Write a video with PyAV itself, at 25 frames a second or at ``times`` in units of ``base``."""
    with av.open(str(path), "w", options=EXACT) as out:
        stream = out.add_stream(codec, rate=25, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt, stream.time_base = HEIGHT, WIDTH, pixels, base
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        noise = out.add_stream(sound, rate=RATE, layout="mono") if sound else None
        if noise is not None:
            noise.codec_context.flags |= av.codec.context.Flags.bitexact
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(image(index), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = times[index] if times else index, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if noise is not None:
            _add_tone(out, noise)


def _add_tone(out: "av.container.OutputContainer", stream: av.AudioStream) -> None:
    wave = (8000 * np.sin(np.arange(RATE * FRAMES // 25) / 6)).astype(np.int16)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=RATE)
    for start in range(0, len(wave) - size + 1, size):
        samples = av.AudioFrame.from_ndarray(wave[None, start : start + size], format="s16", layout="mono")
        samples.sample_rate, samples.pts = RATE, start
        for each in resampler.resample(samples):
            out.mux(stream.encode(each))
    out.mux(stream.encode(None))


def _turned(data: bytes) -> bytes:
    """A display matrix as phones write it: a quarter turn."""
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    return data[:at] + struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30) + data[at + 36 :]


def _trimmed(data: bytes) -> bytes:
    """An edit list that shows half of the frames, as phones trim without encoding again."""
    at = data.index(b"elst") + 4 + 4 + 4
    (length,) = struct.unpack(">I", data[at : at + 4])
    return data[:at] + struct.pack(">I", length // 2) + data[at + 4 :]
