"""Video files as other programs write them, made with PyAV itself, and what they show and sound like."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from track2view.records import Clip

HEIGHT, WIDTH, FRAMES = 96, 144, 12


def image(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth picture, brighter at the top left, with a red mark there; its green tells the frame's number."""
    v, u = np.mgrid[:height, :width]
    picture = np.stack([200 - u * 100 / width, np.full((height, width), 20.0 + 15 * index), 180 - v * 120 / height], axis=-1)
    picture[: height // 4, : width // 4] = (230, 20 + 15 * index, 30)
    return picture.astype(np.uint8)


def numbers(clip: Clip) -> list[int]:
    """Which of :func:`image`'s pictures each frame shows, read from its green."""
    greens = clip.frames[:, 1, clip.size[0] // 2, clip.size[1] // 2].int().tolist()
    return [round((green - 20) / 15) for green in greens]


def encode(
    path: Path,
    codec: str,
    pixel_format: str,
    *,
    times: list[int] | None = None,
    rate: Fraction = Fraction(25),
    sound: str | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    count: int = FRAMES,
    options: dict[str, str] | None = None,
    form: str | None = None,
) -> Path:
    """Write a file as other programs would; pictures repeat after twelve, so that their numbers can be read."""
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixel_format
        stream.time_base = 1 / rate
        noise = out.add_stream(sound, rate=44100, layout="mono") if sound else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(image(index % FRAMES, *size), format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = (times[index] if times else index), 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if noise is not None:
            seconds = float(count / rate)
            wave = (0.3 * np.sin(np.arange(int(44100 * seconds)) / 20)).astype(np.float32)
            for start in range(0, len(wave), 1024):
                samples = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 44100, start
                out.mux(noise.encode(samples))
            out.mux(noise.encode(None))
    return path


def remuxed(
    source: Path,
    path: Path,
    *,
    form: str | None = None,
    keep: Callable[[int, av.Packet], bool] = lambda index, packet: True,
    change: Callable[[int, av.Packet], None] = lambda index, packet: None,
) -> Path:
    """Copy to another container the packets that ``keep`` wants; each stream counts its own from 0."""
    with av.open(str(source)) as given, av.open(str(path), "w", format=form) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        counts = dict.fromkeys(streams, 0)
        for packet in given.demux():
            if packet.dts is None:
                continue
            index, stream = counts[packet.stream_index], streams[packet.stream_index]
            counts[packet.stream_index] += 1
            if keep(index, packet):
                change(index, packet)
                packet.stream = stream
                out.mux(packet)
    return path


def flash_and_beep(
    path: Path,
    codec: str,
    rate: int,
    layout: str,
    *,
    at: float = 1.0,
    seconds: float = 2.0,
    sound_from: float = 0.0,
    form: str | None = None,
) -> Path:
    """A black film at 25 frames/s that is white for a tenth of a second, and sounds there; its sound track may begin late."""
    sample = {"pcm_mulaw": "s16", "pcm_s16le": "s16", "libopus": "flt", "flac": "s16", "mp2": "s16"}.get(codec, "fltp")
    with av.open(str(path), "w", format=form) as out:
        film = out.add_stream("libx264", rate=25, options={"g": "10", "bf": "0"})
        film.height, film.width, film.pix_fmt = 64, 64, "yuv420p"
        track = out.add_stream(codec, rate=rate, layout=layout)
        for index in range(int(25 * seconds)):
            white = at - 1e-6 <= index / 25 < at + 0.1
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255 * white, np.uint8), format="rgb24")
            frame.pts = index
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
        clock = np.arange(round(sound_from * rate), int(rate * seconds)) / rate
        wave = np.where((clock >= at) & (clock < at + 0.1), 0.8 * np.sin(2 * np.pi * 1000 * (clock - at)), 0.0)
        channels = track.codec_context.layout.nb_channels
        for start in range(0, len(wave), 960):
            part = np.repeat(wave[None, start : start + 960], channels, axis=0)
            values = part.astype(np.float32) if sample.startswith("flt") else (part * 32767).astype(np.int16)
            packed = values if sample.endswith("p") else np.ascontiguousarray(values.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format=sample, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(sound_from * rate) + start, Fraction(1, rate)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def heard_at(path: Path) -> float:
    """When the sound begins, in seconds, as a player has it: by the edit list, without what the encoder put before."""
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        for frame in container.decode(track):
            samples = frame.to_ndarray().astype(np.float64)
            channels = frame.layout.nb_channels
            wave = np.abs(samples if frame.format.is_planar else samples.reshape(-1, channels).T).max(0)
            loud = wave > (0.25 if frame.format.name.startswith("flt") else 0.25 * 32767)
            if loud.any():
                return float(frame.pts * track.time_base) + float(np.argmax(loud)) / frame.sample_rate
    raise AssertionError("nothing is heard")
