"""Real codecs and real containers, written here and read back."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from media_support import FRAMES, HEIGHT, WIDTH, encode, image

from track2view.errors import UserError
from track2view.video import VideoWriter, clip_images, probe, read_clip, write_video


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("h264.mp4", "libx264", "yuv420p"),
        ("h264-10bit.mp4", "libx264", "yuv420p10le"),
        ("hevc.mp4", "libx265", "yuv420p"),
        ("hevc-10bit.mkv", "libx265", "yuv420p10le"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("vp9-alpha.webm", "libvpx-vp9", "yuva420p"),
        ("av1.mp4", "libsvtav1", "yuv420p"),
        ("prores.mov", "prores_ks", "yuv422p10le"),
        ("prores-alpha.mov", "prores_ks", "yuva444p10le"),
        ("mjpeg.avi", "mjpeg", "yuvj420p"),
        ("anim.gif", "gif", "rgb8"),
    ],
)
def test_reads_every_codec(name: str, codec: str, pixel_format: str, tmp_path: Path) -> None:
    clip = read_clip(encode(tmp_path / name, codec, pixel_format))
    assert (len(clip), clip.size, clip.fps) == (FRAMES, (HEIGHT, WIDTH), Fraction(25))
    for index in (0, 5, FRAMES - 1):
        difference = np.abs(clip.image(index).astype(float) - image(index))
        assert difference.mean() < (25 if codec == "gif" else 9)


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    path = tmp_path / "alpha.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("prores_ks", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuva444p10le"
        picture = np.concatenate([image(3), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
        picture[:, WIDTH // 2 :, 3] = 0
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva444p10le")))
        out.mux(stream.encode(None))
    shown = read_clip(path).image(0)
    assert shown[:, WIDTH // 2 + 4 :].max() < 12
    assert shown[:, : WIDTH // 2 - 4].mean() > 60


def test_phone_clips_stand_upright(tmp_path: Path) -> None:
    """A display matrix, as phones write it, in the track header: shown turned by 90° clockwise."""
    path = encode(tmp_path / "phone.mp4", "libx264", "yuv420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    path.write_bytes(bytes(data))
    assert probe(path).size == (WIDTH, HEIGHT)
    turned = read_clip(path).image(0).astype(float)
    assert np.abs(turned - np.rot90(image(0), -1)).mean() < 9


def test_variable_rates_become_constant_with_timing_kept(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16]
    clip = read_clip(encode(tmp_path / "variable.mkv", "libx264", "yuv420p", times=times))
    assert clip.fps == pytest.approx(25, abs=0.1)
    assert len(clip) == 17
    for index, time in enumerate(times):
        assert clip.image(time)[HEIGHT // 2, WIDTH // 2, 1] == pytest.approx(20 + 15 * index, abs=8)
    assert torch.equal(clip.frames[7], clip.frames[4])


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(5)])
def test_exact_rates_survive(rate: Fraction, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [image(index) for index in range(FRAMES)], rate)
    clip = read_clip(tmp_path / "a.mp4")
    assert (clip.fps, len(clip)) == (rate, FRAMES)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(float(FRAMES / rate), abs=1e-3)


def test_colours_survive(tmp_path: Path) -> None:
    flat = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    flat[:, : WIDTH // 2], flat[:, WIDTH // 2 :] = (200, 30, 40), (20, 180, 90)
    write_video(tmp_path / "a.mp4", [flat] * 3, Fraction(25))
    shown = read_clip(tmp_path / "a.mp4").image(1).astype(int)
    assert np.abs(shown[10, 10] - (200, 30, 40)).max() <= 4
    assert np.abs(shown[10, -10] - (20, 180, 90)).max() <= 4


def test_windows_sizes_and_odd_sizes(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p")
    part = read_clip(path, start=0.12, end=0.36, short_side=48)
    assert (len(part), part.size) == (6, (48, 72))
    assert part.image(0)[24, 36, 1] == pytest.approx(20 + 15 * 3, abs=8)
    assert len(read_clip(path, frames=4)) == 4
    odd = read_clip(encode(tmp_path / "odd.mkv", "libx264", "yuv444p", size=(75, 101)))
    assert odd.size == (75, 101)
    write_video(tmp_path / "even.mp4", clip_images(odd), odd.fps)
    assert read_clip(tmp_path / "even.mp4").size == (76, 102)


def test_image_folders_in_natural_order(tmp_path: Path) -> None:
    for index in range(11):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), image(index)[..., ::-1])
    clip = read_clip(tmp_path, fps=Fraction(12))
    assert (len(clip), clip.fps) == (11, 12)
    assert np.array_equal(clip.image(10), image(10))


@pytest.mark.parametrize(
    ("container", "sound", "kept"), [("a.mp4", "aac", "aac"), ("a.mov", "pcm_s16le", "aac"), ("a.mkv", "libopus", "opus")]
)
def test_sound_is_copied_or_made_to_fit(container: str, sound: str, kept: str, tmp_path: Path) -> None:
    if sound != "aac":
        path = tmp_path / container
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            noise = out.add_stream(sound, rate=48000, layout="mono")
            for index in range(25):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image(index % 12), format="rgb24").reformat(format="yuv420p")))
            out.mux(stream.encode(None))
            wave = (8000 * np.sin(np.arange(48000) / 20)).astype(np.int16)
            for start in range(0, len(wave), 960):
                samples = av.AudioFrame.from_ndarray(wave[None, start : start + 960], format="s16", layout="mono")
                samples.sample_rate, samples.pts = 48000, start
                out.mux(noise.encode(samples))
            out.mux(noise.encode(None))
    else:
        path = encode(tmp_path / container, "libx264", "yuv420p", sound=sound, count=12)
    clip = read_clip(path, start=0.2)
    assert clip.audio is not None
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    with av.open(str(tmp_path / "out.mp4")) as container_read:
        audio = container_read.streams.audio[0]
        assert audio.codec_context.name == kept
        seconds = sum(frame.samples / frame.sample_rate for frame in container_read.decode(audio))
    assert seconds == pytest.approx(float(len(clip) / clip.fps), abs=0.08)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def images() -> None:
        with VideoWriter(tmp_path / "a.mp4", Fraction(25)) as writer:
            writer.add(image(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images()
    assert list(tmp_path.iterdir()) == []


def truncated(folder: Path) -> Path:
    write_video(folder / "whole.mp4", [image(index % 12) for index in range(60)], Fraction(25))
    data = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: int(len(data) * 0.6)])
    return folder / "cut.mp4"


def garbage(folder: Path) -> Path:
    (folder / "bad.mp4").write_bytes(bytes(range(256)) * 40)
    return folder / "bad.mp4"


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def sound_only(folder: Path) -> Path:
    with av.open(str(folder / "sound.m4a"), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        out.mux(stream.encode(samples))
        out.mux(stream.encode(None))
    return folder / "sound.m4a"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "truncated|damaged"),
        (garbage, "cannot be read as a video"),
        (empty, "the file is empty"),
        (sound_only, "no video, only audio"),
        (lambda folder: folder / "missing.mp4", "no such file"),
        (lambda folder: folder, "holds no images"),
    ],
)
def test_unusable_files_are_refused(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_clip(make(tmp_path))


def test_empty_windows_are_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p")
    with pytest.raises(UserError, match=r"lasts 0\.48 s"):
        read_clip(path, start=3.0)


def test_audio_source_spans_the_window(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", sound="aac")
    clip = read_clip(path, start=0.2, frames=4)
    assert clip.audio is not None
    assert clip.audio.path == path
    assert (clip.audio.start, clip.audio.end) == pytest.approx((0.2, 0.36))


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(random.integers(0, 255, (200, 400, 3), np.uint8), (0, 0), 3)
    images = [np.ascontiguousarray(smooth[:96, shift : shift + 170]) for shift in range(0, 80, 10)]
    for number in range(12):
        write_video(tmp_path / f"{number}.mp4", images, Fraction(24))
    assert len({(tmp_path / f"{number}.mp4").read_bytes() for number in range(12)}) == 1
