"""What people really have: what a player shows and sounds is what is read, or one line says why not."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from media_support import FRAMES, HEIGHT, WIDTH, encode, flash_and_beep, heard_at, image, numbers, remuxed

from track2view.decoder import frames, timing
from track2view.errors import Notice, UserError
from track2view.video import clip_images, probe, read_clip, write_video

KEYED = {"g": "6", "bf": "2"}


def film(folder: Path, name: str = "film.mp4", *, count: int = 24, sound: str | None = None, codec: str = "libx264") -> Path:
    return encode(folder / name, codec, "yuv420p", count=count, options=KEYED, sound=sound)


def patched(path: Path, box: bytes, offset: int, form: str, *values: int) -> Path:
    """Overwrite fields of the first MP4 box of a name, counted from behind its name."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(box) + len(box) + offset, *values)
    path.write_bytes(bytes(data))
    return path


# What a player shows.


def test_an_edit_list_trims_the_end(tmp_path: Path) -> None:
    path = patched(film(tmp_path), b"elst", 8, ">I", 400)  # version, flags, count, then the segment's duration in milliseconds
    clip = read_clip(path)
    assert (len(clip), clip.fps) == (10, 25)
    assert numbers(clip) == list(range(10))


@pytest.mark.parametrize("cut", [3, 6, 7])
def test_an_edit_list_trims_the_start_also_between_keyframes(cut: int, tmp_path: Path) -> None:
    def earlier(_: int, packet: av.Packet) -> None:
        ticks = round(cut / 25 / packet.time_base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks

    path = remuxed(film(tmp_path), tmp_path / "cut.mp4", change=earlier)
    assert numbers(read_clip(path)) == [index % FRAMES for index in range(cut, 24)]


@pytest.mark.parametrize("dropped", [{4}, {7, 8, 9}, {2, 13}])
@pytest.mark.parametrize("name", ["film.avi", "film.mkv", "film.ts"])
def test_dropped_pictures_are_those_before(name: str, dropped: set[int], tmp_path: Path) -> None:
    """AVI writes packets of no bytes for them, the others leave gaps."""
    codec = "mpeg2video" if name.endswith("ts") else "mpeg4"
    whole = encode(tmp_path / "whole.mkv", codec, "yuv420p", count=24, options={"g": "1"})
    clip = read_clip(remuxed(whole, tmp_path / name, keep=lambda index, packet: index not in dropped))
    shown = [max(kept for kept in range(24) if kept <= index and kept not in dropped) for index in range(24)]
    assert numbers(clip) == [index % FRAMES for index in shown]


def test_an_avi_shows_pictures_in_order_though_it_stores_them_otherwise(tmp_path: Path) -> None:
    """AVI has no times of presentation, and FFmpeg guesses them wrong where pictures are reordered."""
    clip = read_clip(encode(tmp_path / "film.avi", "libx264", "yuv420p", count=24, options={"bf": "2"}))
    assert numbers(clip) == [index % FRAMES for index in range(24)]


@pytest.mark.parametrize(("codec", "form"), [("libx264", "h264"), ("libx265", "hevc"), ("mpeg4", "m4v"), ("mpeg2video", "mpeg2video")])
def test_bare_streams_have_no_times_and_are_read_at_their_rate(codec: str, form: str, tmp_path: Path) -> None:
    path = encode(tmp_path / f"film.{form}", codec, "yuv420p", count=24, rate=Fraction(30), form=form, options={"bf": "2", "b": "4000000"})
    clip = read_clip(path)
    assert (len(clip), clip.fps) == (24, 30)
    assert numbers(clip) == [index % FRAMES for index in range(24)]
    assert numbers(read_clip(path, start=0.4, frames=3)) == [0, 1, 2]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "film.mp4"])
def test_a_film_that_starts_between_keyframes_begins_at_the_first_whole_picture_and_so_does_its_sound(
    name: str, codec: str, tmp_path: Path
) -> None:
    path = remuxed(
        film(tmp_path, "whole.mp4", sound="aac", codec=codec),
        tmp_path / name,
        keep=lambda index, packet: packet.stream.type == "audio" or index >= 2,
    )
    with pytest.warns(Notice, match="starts between keyframes"):
        clip = read_clip(path)
    assert numbers(clip)[0] == 6
    with av.open(str(path)) as container:
        begin = min(float(p.pts * p.time_base) for p in container.demux(video=0) if p.pts is not None and p.is_keyframe)
    assert clip.audio is not None
    assert clip.audio.start == pytest.approx(begin, abs=1e-3)


@pytest.mark.parametrize("order", ["cover first", "film first", "cover alone"])
def test_covers_are_not_films(order: str, tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        makers = {"cover": lambda: out.add_stream("mjpeg", rate=25), "film": lambda: out.add_stream("libx264", rate=25)}
        wanted = {"cover first": ["cover", "film"], "film first": ["film", "cover"], "cover alone": ["cover"]}[order]
        streams = {name: makers[name]() for name in wanted}
        for name, stream in streams.items():
            stream.height, stream.width = (HEIGHT, WIDTH) if name == "film" else (64, 64)
            stream.pix_fmt = "yuv420p" if name == "film" else "yuvj420p"
        streams["cover"].disposition = av.stream.Disposition.attached_pic
        cover = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8), format="rgb24")
        out.mux([*streams["cover"].encode(cover), *streams["cover"].encode(None)])
        for index in range(FRAMES if "film" in streams else 0):
            out.mux(streams["film"].encode(av.VideoFrame.from_ndarray(image(index), format="rgb24")))
        if "film" in streams:
            out.mux(streams["film"].encode(None))
    if order == "cover alone":
        with pytest.raises(UserError, match="no video, only a cover picture"):
            read_clip(path)
    else:
        assert numbers(read_clip(path)) == list(range(FRAMES))


def test_a_packet_that_decodes_to_nothing_is_not_a_truncated_file(tmp_path: Path) -> None:
    def spoil(index: int, packet: av.Packet) -> None:
        if index in (7, 15):
            packet.update(bytes(packet.size))

    whole = encode(tmp_path / "whole.mkv", "mpeg4", "yuv420p", count=24, options={"g": "1"})
    path = remuxed(whole, tmp_path / "spoilt.mkv", change=spoil)
    with pytest.warns(Notice, match="2 of its pictures cannot be decoded"):
        clip = read_clip(path)
    assert numbers(clip) == [{7: 6, 15: 14}.get(index, index) % FRAMES for index in range(24)]


@pytest.mark.parametrize("name", ["fast.mp4", "film.mov", "film.mkv", "film.avi", "film.flv", "film.webm"])
def test_a_real_truncation_is_named_and_what_is_there_can_be_had(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name.endswith("webm") else "mpeg4" if name.endswith("avi") else "libx264"
    whole = tmp_path / f"whole{Path(name).suffix}"
    form = {"fast.mp4": "mp4", "film.mov": "mov"}.get(name)
    with av.open(str(whole), "w", format=form, options={"movflags": "+faststart"} if form else {}) as out:
        stream = out.add_stream(codec, rate=25, options={"g": "6", "b": "2000000"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(60):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image(index % FRAMES), format="rgb24")))
        out.mux(stream.encode(None))
    assert len(read_clip(whole)) == 60
    data = whole.read_bytes()
    (tmp_path / name).write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(UserError, match=r"truncated or damaged: what it announces from [\d.]+ s on") as caught:
        read_clip(tmp_path / name)
    end = float(re.findall(r"--end ([\d.]+)", str(caught.value))[0])
    assert 0.4 < end < 2.0
    assert numbers(read_clip(tmp_path / name, end=0.4)) == list(range(10))


MATRICES = {
    "upright": ((1, 0, 0, 1), lambda picture: picture),
    "right": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "half": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "left": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "mirrored and right": ((0, 1, 1, 0), lambda picture: np.rot90(picture[:, ::-1])),
    "mirrored and left": ((0, -1, -1, 0), lambda picture: np.rot90(picture[:, ::-1], -1)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_turn_and_mirror(name: str, tmp_path: Path) -> None:
    """The matrix maps a point (x, y) to (a·x + c·y, b·x + d·y), ISO/IEC 14496-12; applied here to the picture's corners."""
    (a, b, c, d), expected = MATRICES[name]
    path = encode(tmp_path / "phone.mp4", "libx264", "yuv420p")
    one = 1 << 16
    patched(path, b"tkhd", 40, ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    shown = read_clip(path).image(0).astype(float)
    right = expected(image(0))
    assert shown.shape == right.shape
    assert np.abs(shown - right).mean() < 9
    corner = np.array([[a, c], [b, d]]) @ [-1, -1]  # where the top left corner, with the red mark, goes
    rows, columns = (slice(0, 12) if corner[1] < 0 else slice(-12, None)), (slice(0, 12) if corner[0] < 0 else slice(-12, None))
    assert shown[rows, columns, 2].mean() < 80


# Colours.


def coded(path: Path, codes: np.ndarray, tags: str, *, full: bool = False, matrix: int = 9, transfer: int = 16, primaries: int = 9) -> Path:
    """Grey patches of given 10-bit luma, lossless, with the colour tags of ITU-T H.273."""
    luma = np.repeat(np.repeat(codes, 16)[None], 64, axis=0).astype("<u2")
    with av.open(str(path), "w") as out:
        parameters = f"log-level=none:bframes=0:lossless=1:{tags}:range={'full' if full else 'limited'}"
        stream = out.add_stream("libx265", rate=25, options={"x265-params": parameters})
        stream.height, stream.width, stream.pix_fmt = 64, luma.shape[1], "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = matrix, transfer, primaries, 2 if full else 1
        for index in range(2):
            frame = of_planes("yuv420p10le", luma, *[np.full((32, luma.shape[1] // 2), 512)] * 2)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def of_planes(form: str, *planes: np.ndarray) -> av.VideoFrame:
    """A frame of given 10-bit values; each its own, for encoders go on reading what they were given."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], form)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((values.shape[0], plane.line_size), np.uint8)
        rows[:, : values.shape[1] * 2] = values.astype("<u2").view(np.uint8).reshape(values.shape[0], -1)
        plane.update(rows.tobytes())
    return frame


def patches(path: Path) -> np.ndarray:
    return read_clip(path).image(0)[32, 8::16].astype(int)


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 as its first page has it."""
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def srgb(light: np.ndarray) -> np.ndarray:
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_pq_is_toned_to_an_ordinary_screen(tmp_path: Path) -> None:
    """Up to the knee (90 cd/m²) greys are those of a screen whose white is 203; highlights keep their order, and 1000 is white."""
    nits = np.array([0.0, 2.0, 10.0, 40.0, 80.0, 203.0, 500.0, 1000.0, 4000.0])
    path = coded(tmp_path / "pq.mp4", np.round(64 + 876 * pq(nits)), "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc")
    with pytest.warns(Notice, match=r"HDR; it is tone-mapped to BT\.709"):
        shown = patches(path)
    assert np.abs(shown[:5] - srgb(nits[:5] / 203)[:, None]).max() <= 3
    assert np.ptp(shown, axis=1).max() <= 2
    assert (np.diff(shown[:8, 0]) > 0).all()
    assert 215 <= shown[5, 0] <= 240
    assert shown[7:].min() >= 254


def test_hlg_is_toned_to_an_ordinary_screen(tmp_path: Path) -> None:
    """BT.2408: 75 % of HLG is the white of 203 cd/m² on a screen of 1000; 38 % is the grey card's 26 cd/m²."""
    signal = np.array([0.0, 0.22, 0.38, 0.75, 1.0])
    path = coded(
        tmp_path / "hlg.mp4", np.round(64 + 876 * signal), "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc", transfer=18
    )
    with pytest.warns(Notice, match="tone-mapped"):
        shown = patches(path)
    assert shown[2, 0] == pytest.approx(float(srgb(np.array(26 / 203))), abs=4)
    assert 215 <= shown[3, 0] <= 240
    assert shown[4, 0] >= 254
    assert (np.diff(shown[:, 0]) > 0).all()


def coloured(path: Path, signal: np.ndarray, transfer: str) -> Path:
    """One colour in BT.2020's 10-bit Y'CbCr by its defining equations (ITU-R BT.2020, table 4)."""
    red, green, blue = signal
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    with av.open(str(path), "w") as out:
        tags = f"log-level=none:bframes=0:lossless=1:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        stream = out.add_stream("libx265", rate=25, options={"x265-params": tags})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p10le"
        for index in range(2):
            frame = of_planes("yuv444p10le", *[np.full((64, 64), round(value)) for value in planes])
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_hdr_colours_of_bt2020_become_those_of_bt709(tmp_path: Path) -> None:
    """A red that an ordinary screen can show, written in BT.2020 with PQ by hand, comes back."""
    light = np.array([0.30, 0.05, 0.02])
    wide = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]) @ light  # ITU-R BT.2087
    path = coloured(tmp_path / "red.mp4", pq(203 * wide), "smpte2084")
    with pytest.warns(Notice, match="tone-mapped"):
        shown = read_clip(path).image(0)[32, 32].astype(int)
    assert np.abs(shown - srgb(light)).max() <= 4


@pytest.mark.parametrize(("full", "low", "high"), [(False, 64, 940), (True, 0, 1023)])
def test_ranges_are_honoured(full: bool, low: int, high: int, tmp_path: Path) -> None:
    tags = "colorprim=bt709:transfer=bt709:colormatrix=bt709"
    path = coded(tmp_path / "grey.mp4", np.linspace(low, high, 5).round(), tags, full=full, matrix=1, transfer=1, primaries=1)
    assert np.abs(patches(path) - np.linspace(0, 255, 5)[:, None]).max() <= 3


def test_the_matrix_of_bt2020_is_honoured_without_hdr(tmp_path: Path) -> None:
    green = np.array([40, 180, 60])
    path = coloured(tmp_path / "green.mp4", green / 255, "bt2020-10")
    assert np.abs(read_clip(path).image(0)[32, 32] - green).max() <= 2


@pytest.mark.parametrize("first", ["tff", "bff"])
def test_fields_are_made_whole_pictures(first: str, tmp_path: Path) -> None:
    """A texture pans by 3 pixels a field; combed lines differ from those above and below them together."""
    random = np.random.default_rng(0)
    texture = cv2.GaussianBlur(random.integers(0, 255, (HEIGHT, WIDTH + 200, 3), np.uint8), (0, 0), 2)
    path = tmp_path / "fields.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": f"{first}=1", "crf": "8", "flags": "+ildct+ilme"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(FRAMES):
            early, late = texture[:, 6 * index : 6 * index + WIDTH], texture[:, 6 * index + 3 : 6 * index + 3 + WIDTH]
            woven = frame = (early if first == "tff" else late).copy()
            frame[1::2] = (late if first == "tff" else early)[1::2]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.warns(Notice, match="is interlaced"):
        clip = read_clip(path)
    assert (len(clip), clip.fps) == (FRAMES, 25)

    def combing(picture: np.ndarray) -> float:
        grey = picture.mean(-1)
        return float(np.abs(2 * grey[1:-1] - grey[:-2] - grey[2:]).mean())

    assert combing(clip.image(6)) < 0.5 * combing(woven)
    assert np.abs(clip.image(6)[16:-16, 16:-16].astype(int) - texture[16:-16, 52 : 20 + WIDTH]).mean() < 12


# Windows.


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi", "film.webm", "film.flv"])
def test_a_window_is_what_the_whole_has_there(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = encode(tmp_path / name, codec, "yuv420p", count=100, options=KEYED)
    whole = read_clip(path)
    assert len(whole) == 100
    for first, count in ((27, 5), (66, 1), (97, 3)):
        part = read_clip(path, start=first / 25, frames=count)
        assert numbers(part) == numbers(whole)[first : first + count]
        assert torch.equal(part.frames, whole.frames[first : first + count])
    assert numbers(read_clip(path, start=3.9)) == numbers(whole)[98:]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_window_late_in_a_film_does_not_read_what_comes_before(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in packets, of which the film has two for each of 400 pictures: one for the times, one for decoding."""
    path = encode(tmp_path / name, "libx264", "yuv420p", count=400, options=KEYED)
    read = []
    monkeypatch.setattr(frames, "progressed", lambda: read.append("decoded"))
    monkeypatch.setattr(timing, "progressed", lambda: read.append("timed"))
    given = list(frames.pictures(path, frames.Window(start=14.0, frames=4), []))
    assert len(given) == 5
    assert 4 <= read.count("decoded") < 100
    assert 4 <= read.count("timed") < 100


# Files that are no clips, and files that are made to harm.


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_a_still_picture_is_called_one(suffix: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / f"photo.{suffix}"), image(0))
    with pytest.raises(UserError, match="is a still picture; give a video, or a folder of pictures"):
        read_clip(tmp_path / f"photo.{suffix}")


def test_a_gif_of_one_picture_is_a_still_one_of_more_a_clip(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a still picture"):
        read_clip(encode(tmp_path / "one.gif", "gif", "rgb8", count=1))
    assert len(read_clip(encode(tmp_path / "two.gif", "gif", "rgb8", count=2))) == 2


@pytest.mark.parametrize("leap", [3000, 1_000_000, 32_000_000])
@pytest.mark.parametrize("at", [1, 11, 23])
def test_leaping_times_are_refused_by_name_before_anything_is_held(leap: int, at: int, tmp_path: Path) -> None:
    times = [index + (25 * leap if index >= at else 0) for index in range(24)]
    path = encode(tmp_path / "leap.mkv", "mpeg4", "yuv420p", count=24, times=times, options={"g": "1"})
    with pytest.raises(UserError, match=rf"its times leap by .* at {(at - 1) / 25:.2f} s"):
        read_clip(path)


@pytest.mark.parametrize("aspect", [Fraction(1, 100), Fraction(50, 1), Fraction(1, 20)])
def test_pixels_beyond_any_lens_are_refused(aspect: Fraction, tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for index in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image(index), format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match="times as wide as high"):
        read_clip(path)


@pytest.mark.parametrize("size", [(16000, 16000), (65535, 65535), (60000, 2000)])
def test_canvases_beyond_any_camera_are_refused_before_they_are_made(size: tuple[int, int], tmp_path: Path) -> None:
    """A GIF of 60 bytes, and a PNG in a folder of pictures, that announce gigabytes."""
    width, height = size
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + bytes([2, 2, 0x44, 0x01, 0])
    (tmp_path / "huge.gif").write_bytes(header + picture + picture + b";")
    with pytest.raises(UserError, match=r"pixels; 67 million at most|cannot be decoded|cannot be read"):
        read_clip(tmp_path / "huge.gif")
    cv2.imwrite(str(tmp_path / "small.png"), image(0))
    data = bytearray((tmp_path / "small.png").read_bytes())
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.png").write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"1\.png has {width}×{height} pixels; 67 million at most"):
        read_clip(tmp_path / "folder")


@pytest.mark.parametrize("list_format", ["hls", "concat", "dash"])
def test_a_list_of_other_files_is_not_followed(list_format: str, tmp_path: Path) -> None:
    """A file somebody sends must not read others on the disk, or the net."""
    other = film(tmp_path, "secret.ts")
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.96,\n{other}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {other}\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
    }
    for suffix in ("mp4", {"hls": "m3u8", "concat": "ffconcat", "dash": "mpd"}[list_format]):
        path = tmp_path / f"list.{suffix}"
        path.write_text(lists[list_format])
        with pytest.raises(UserError, match="cannot be read as a video"):
            read_clip(path)


@pytest.mark.parametrize("name", ["a:b.mp4", "50%03d.mp4", "-y.mp4", "two\nlines.mp4", "ü 'quoted'.mp4", "http:evil.mp4"])
def test_any_file_name_is_only_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given as they are, below no folder: FFmpeg takes what stands before a colon for a protocol."""
    film(tmp_path).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    clip = read_clip(path, frames=3)
    write_video(path.with_name(f"x{name}"), clip_images(clip), clip.fps)
    assert numbers(read_clip(path.with_name(f"x{name}"))) == [0, 1, 2]


def test_metadata_of_any_bytes_is_no_obstacle(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mkv"), "w") as out:
        out.metadata["title"] = "TITLETITLE"
        stream = out.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image(index), format="rgb24")))
        out.mux(stream.encode(None))
    data = (tmp_path / "film.mkv").read_bytes()
    assert b"TITLETITLE" in data
    (tmp_path / "film.mkv").write_bytes(data.replace(b"TITLETITLE", b"\xff\xfe\x80\xc3(TITLE"))
    assert len(read_clip(tmp_path / "film.mkv")) == 4


@pytest.mark.parametrize(("end", "words"), [("ALRM", "decoding stood still for 15 s"), ("SEGV", r"its decoder crashed \(SIGSEGV\)")])
def test_a_decoder_that_hangs_or_crashes_costs_one_line(end: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path)
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\nkill -{end} $$\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(UserError, match=words):
        read_clip(path)


def test_the_kernel_ends_a_decoder_that_stands_still() -> None:
    """In a loop that never comes back to Python's own signal handling."""
    program = (
        "from pathlib import Path\nfrom track2view.decoder import limits\nlimits.SECONDS_WITHOUT_PROGRESS = 0.2\n"
        "limits.confine(Path('.'))\nlimits.progressed()\nimport re\nre.match('(a+)+b', 'a' * 64)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=environment).returncode == -14


def test_a_decoder_has_no_more_memory_than_files_of_its_size_need(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(1000))
    program = (
        "import sys, numpy\nfrom pathlib import Path\nfrom track2view.decoder import limits\n"
        "limits.confine(Path(sys.argv[1]))\nnumpy.ones(1 << 28)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, str(tmp_path / "small")]
    done = subprocess.run(command, check=False, timeout=60, env=environment, capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_frames_that_do_not_fit_into_memory_are_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": 1000}))
    with pytest.raises(UserError, match=r"24 frames need 0\.0 GB of memory, 0\.0 GB are free: use a smaller --size or fewer --frames"):
        read_clip(path)


def test_nothing_is_left_running_by_a_reader_that_stops_early(tmp_path: Path) -> None:
    import psutil

    path = film(tmp_path, count=200)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(UserError, match="no frames between"):
        read_clip(path, start=100)
    probe(path)
    assert set(psutil.Process().children(recursive=True)) <= before


# Sound.


@pytest.mark.parametrize("start", [0.0, 0.52])
@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "kept"),
    [
        ("a.mp4", "aac", 8000, "mono", "aac"),
        ("a.mp4", "aac", 44100, "stereo", "aac"),
        ("a.mkv", "aac", 48000, "5.1", "aac"),
        ("a.ts", "aac", 44100, "stereo", "aac"),
        ("a.mkv", "libopus", 48000, "stereo", "opus"),
        ("a.webm", "libopus", 48000, "5.1", "opus"),
        ("a.mov", "pcm_mulaw", 8000, "mono", "aac"),
        ("a.avi", "pcm_s16le", 44100, "stereo", "aac"),
        ("a.mov", "pcm_s16le", 48000, "5.1", "aac"),
        ("a.mkv", "mp2", 44100, "stereo", "aac"),
        ("a.mkv", "flac", 44100, "mono", "flac"),
    ],
)
def test_sound_stays_in_step(name: str, codec: str, rate: int, layout: str, kept: str, start: float, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("webm"):
        path = remuxed(flash_and_beep(tmp_path / "film.mkv", codec, rate, layout), tmp_path / "again.mkv")
    else:
        flash_and_beep(path, codec, rate, layout)
    clip = read_clip(path, start=start)
    assert clip.audio is not None
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    with av.open(str(tmp_path / "out.mp4")) as container:
        track = container.streams.audio[0].codec_context
        assert (track.name, track.sample_rate) == (kept, rate)
        assert track.layout.nb_channels == {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    written = read_clip(tmp_path / "out.mp4")
    flash = int(np.argmax(written.frames.float().mean((1, 2, 3)).numpy() > 128)) / 25
    assert flash == pytest.approx(1.0 - start, abs=1e-6)
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(flash, abs=0.02)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.mkv", "libopus")])
@pytest.mark.parametrize("start", [0.0, 0.2, 0.72])
def test_sound_that_begins_late_stays_in_step(name: str, codec: str, start: float, tmp_path: Path) -> None:
    clip = read_clip(flash_and_beep(tmp_path / name, codec, 48000, "stereo", sound_from=0.64), start=start)
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(1.0 - start, abs=0.02)
    if codec == "pcm_s16le":
        with av.open(str(tmp_path / "out.mp4")) as container:
            first = next(container.decode(audio=0))
            assert first.pts <= 0, "silence, not a track that begins late, which some players do not wait for"


def test_sound_of_an_unknown_codec_costs_a_line_not_the_film(tmp_path: Path) -> None:
    path = flash_and_beep(tmp_path / "film.mov", "pcm_s16le", 48000, "mono")
    path.write_bytes(path.read_bytes().replace(b"sowt", b"zzzz"))
    with pytest.warns(Notice, match="its sound has a codec that is not known here"):
        clip = read_clip(path)
    assert clip.audio is None
    assert len(clip) == 50


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_that_breaks_costs_no_more_than_what_is_broken(codec: str, tmp_path: Path) -> None:
    def spoil(index: int, packet: av.Packet) -> None:
        if packet.stream.type == "audio" and index > 60:
            packet.update(bytes([255]) * packet.size)

    whole = flash_and_beep(tmp_path / "whole.mkv", codec, 48000, "stereo", at=0.4)
    path = remuxed(whole, tmp_path / "spoilt.mkv", change=spoil)
    clip = read_clip(path)
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(0.4, abs=0.02)


def test_sound_that_is_gone_when_the_film_is_written_costs_a_line_not_the_film(tmp_path: Path) -> None:
    path = film(tmp_path, sound="aac")
    clip = read_clip(path)
    path.write_bytes(b"something else by now")
    with pytest.warns(Notice, match="the result has no sound"):
        write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    assert len(read_clip(tmp_path / "out.mp4")) == 24
    assert sorted(each.name for each in tmp_path.iterdir()) == ["film.mp4", "out.mp4"]


def test_which_of_several_tracks_is_kept_is_said(tmp_path: Path) -> None:
    one = flash_and_beep(tmp_path / "one.mkv", "aac", 48000, "mono", at=0.4)
    two = flash_and_beep(tmp_path / "two.mkv", "aac", 44100, "stereo", at=1.2)
    path = tmp_path / "both.mkv"
    with av.open(str(one)) as first, av.open(str(two)) as second, av.open(str(path), "w") as out:
        chosen = [(first, 0), (first, 1), (second, 1)]
        made = {(id(file), index): out.add_stream_from_template(file.streams[index]) for file, index in chosen}
        made[id(second), 1].disposition = av.stream.Disposition.default
        made[id(first), 1].disposition = av.stream.Disposition(0)
        for file in (first, second):
            for packet in file.demux():
                if packet.dts is not None and (id(file), packet.stream_index) in made:
                    packet.stream = made[id(file), packet.stream_index]
                    out.mux(packet)
    with pytest.warns(Notice, match=r"has 2 sound tracks: 1 \(aac mono\), 2 \(aac stereo\); track 2 is kept"):
        clip = read_clip(path)
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(1.2, abs=0.02)


# The cases that people met.


CASES: dict[str, tuple[str, Callable[..., bool], str]] = {
    "mp4_edit_list_trim/clip.mp4": ("30 frames of 1 s", lambda clip: (len(clip), clip.fps) == (30, 30), ""),
    "avi_empty_frames/clip.avi": (
        "25 ticks, 5 of them the frame before",
        lambda clip: len(clip) == 25 and sum(torch.equal(a, b) for a, b in zip(clip.frames, clip.frames[1:], strict=False)) == 5,
        "",
    ),
    "mp4_cover_before_tracks/clip.mp4": ("60 frames of the film", lambda clip: (len(clip), clip.size) == (60, (180, 320)), ""),
    "h264_elementary_stream/clip.h264": ("60 frames at 30", lambda clip: (len(clip), clip.fps) == (60, 30), ""),
    "h264_interlaced_tff/clip.mp4": ("deinterlaced", lambda clip: len(clip) == 30, "is interlaced"),
    "mov_unknown_audio_codec/clip.mov": ("60 frames, no sound", lambda clip: len(clip) == 60 and clip.audio is None, "codec that is not"),
    "mp4_mirrored_matrix/clip.mp4": ("mirrored", lambda clip: len(clip) == 60, ""),
    "pcm_8khz_sound/clip.mov": ("60 frames", lambda clip: len(clip) == 60, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_cases_give_their_right_values(name: str, cases: Path) -> None:
    _, right, words = CASES[name]
    with pytest.warns(Notice, match=words) if words else _nothing():
        clip = read_clip(cases / name)
    assert right(clip)


def test_the_mirrored_case_is_mirrored_left_to_right(cases: Path) -> None:
    path = cases / "mp4_mirrored_matrix" / "clip.mp4"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(read_clip(path, frames=1).image(0).astype(int) - stored[:, ::-1]).mean() < 1


def test_the_case_of_8_khz_keeps_its_one_channel_and_its_beep(cases: Path, tmp_path: Path) -> None:
    clip = read_clip(cases / "pcm_8khz_sound" / "clip.mov")
    write_video(tmp_path / "out.mp4", clip_images(clip), clip.fps, audio=clip.audio)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.layout.nb_channels == 1
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    "path",
    [
        "gap_video/gap_12days.mkv",
        "gap_video/gap_1year.mkv",
        "gif_huge/huge.gif",
        "gif_huge/huge65535.gif",
        "sar_video/narrow2.mkv",
        "sar_video/wide2.mkv",
        "sar_video/wide2.mp4",
    ],
)
def test_hostile_cases_are_refused_in_one_line(path: str, cases: Path) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*(leap|pixels|cannot be decoded)[^\n]*$"):
        read_clip(cases / "hostile" / path)


@pytest.mark.parametrize("path", ["narrow.mkv", "narrow2.mp4", "wide.mkv"])
def test_shapes_that_no_player_believes_are_left_out(path: str, cases: Path) -> None:
    assert read_clip(cases / "hostile" / "sar_video" / path).size == (48, 64)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_requests_are_plain_json() -> None:
    """A path with bytes that are no UTF-8 passes to the decoder and back."""
    odd = os.fsdecode(b"caf\xe9.mp4")
    assert json.loads(json.dumps(odd)) == odd
    with pytest.raises(UserError, match="no such file"):
        read_clip(odd)
