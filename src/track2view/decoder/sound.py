"""Joining a film's picture with the sound of another file, in step to the sample."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.filter import Graph

from track2view.decoder.limits import progressed
from track2view.decoder.media import opened
from track2view.errors import DISK_FULL, UserError

CODECS_OF_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
FAST_START = {"movflags": "+faststart"}
BITS_PER_SAMPLE_AND_CHANNEL = 2
SECONDS_BEFORE = 0.25
"""Kept before the start, and cut off again by the edit list of the MP4: what decoders need to get going."""


Heard = Iterator[tuple[float, av.Packet]]
"""Packets of the output, each with the time (seconds) from which it is heard."""


def join(picture: Path, source: Path, track: int, start: float, end: float, out: Path, notices: list[str]) -> None:
    """Write ``out``: the picture of one MP4, and from another file the sound between two times (seconds), which begins with it.

    Packets are copied where MP4 knows their codec, else made AAC with the same channels. Sound that breaks costs a notice.

    Raises:
        UserError: there is no sound at ``track`` that can be decoded, or none that MP4 takes.
    """
    try:
        with (
            opened(source) as container,
            av.open(f"file:{picture}") as film,
            av.open(f"file:{out}", "w", "mp4", options=FAST_START) as joined,
        ):
            images = film.streams.video[0]
            shown = joined.add_stream_from_template(images)
            heard = _to_its_end(_sound(joined, container, track, start, end), notices)
            following = next(heard, None)
            for packet in film.demux(images):
                progressed()
                if packet.dts is None or packet.time_base is None:
                    continue
                while following is not None and following[0] <= packet.dts * packet.time_base:
                    joined.mux(following[1])
                    following = next(heard, None)
                packet.stream = shown
                joined.mux(packet)
            while following is not None:
                joined.mux(following[1])
                following = next(heard, None)
    except UserError:
        raise
    except (FFmpegError, ValueError) as error:  # PyAV's own for layouts of no channels, and the like
        if getattr(error, "errno", None) in DISK_FULL:
            raise
        raise UserError(f"its sound cannot be put into an MP4 ({getattr(error, 'strerror', error)})") from None


def _to_its_end(heard: Heard, notices: list[str]) -> Heard:
    """A file that cannot be read further ends here."""
    at = 0.0
    try:
        for at, packet in heard:
            yield at, packet
    except FFmpegError as error:
        notices.append(f"its sound breaks at {max(0.0, at):.2f} s ({error.strerror}); the result is silent from there on")


def _sound(out: OutputContainer, container: InputContainer, track: int, start: float, end: float) -> Heard:
    """The sound of one stream, from ``start`` on; the stream of the output is made at once, the rest as it is asked for."""
    stream = next((stream for stream in container.streams.audio if stream.index == track), None)
    if stream is None or stream.codec_context is None or not stream.codec_context.sample_rate:
        raise UserError("its sound cannot be decoded")
    if start > float((stream.start_time or 0) * (stream.time_base or 0)) + 2 * SECONDS_BEFORE:
        container.seek(int((start - 2 * SECONDS_BEFORE) * av.time_base))
    packets = _demuxed(container, stream, end)
    if stream.codec_context.name in CODECS_OF_MP4:
        return _copied(packets, out.add_stream_from_template(stream), start)
    context = stream.codec_context
    rate = min(AAC_RATES, key=lambda each: (each < context.sample_rate, abs(each - context.sample_rate)))
    return _encoded(packets, stream, _aac(out, rate, context.layout.name, context.layout.nb_channels), start, end)


def _demuxed(container: InputContainer, stream: av.AudioStream, end: float) -> Heard:
    for packet in container.demux(stream):
        progressed()
        if packet.pts is None or packet.time_base is None or not packet.size:
            continue
        seconds = float(packet.pts * packet.time_base)
        if seconds >= end:
            return
        yield seconds, packet


def _copied(packets: Heard, output: av.AudioStream, start: float) -> Heard:
    last = -math.inf
    for seconds, packet in packets:
        if seconds >= start - SECONDS_BEFORE and seconds > last and packet.pts is not None and packet.time_base is not None:
            last = seconds
            packet.pts = packet.dts = packet.pts - round(start / packet.time_base)
            packet.stream = output
            yield seconds - start, packet


def _encoded(packets: Heard, stream: av.AudioStream, output: av.AudioStream, start: float, end: float) -> Heard:
    graph, clock = None, stream.time_base or Fraction(1, output.codec_context.sample_rate)
    for _, packet in packets:
        for frame in _decoded(stream, packet):
            graph = graph or _graph(frame, clock, output.codec_context, start, end)
            graph.push(frame)
            yield from _pulled(graph, output)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, output)
    yield from _timed(output.encode(None))


def _decoded(stream: av.AudioStream, packet: av.Packet) -> list[av.AudioFrame]:
    """A packet that cannot be decoded is a gap, and gaps are filled with silence."""
    try:
        return [frame for frame in stream.codec_context.decode(packet) if frame.pts is not None]
    except FFmpegError:
        return []


def _graph(frame: av.AudioFrame, clock: Fraction, encoder: AudioCodecContext, start: float, end: float) -> Graph:
    """Cut to the span, put at its beginning, gaps filled with silence, in the encoder's own format."""
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name, time_base=clock),
        graph.add("atrim", f"start={start:.9f}:end={end:.9f}"),
        graph.add("asetpts", f"PTS-{start:.9f}/TB"),
        graph.add("aresample", f"{encoder.sample_rate}:async=1:min_hard_comp=0.02:first_pts=0"),
        graph.add("aformat", f"sample_fmts={encoder.format.name}:channel_layouts={encoder.layout.name}"),
        graph.add("abuffersink"),
    )
    graph.configure()
    return graph


def _pulled(graph: Graph, output: av.AudioStream) -> Heard:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield from _timed(output.encode(frame))


def _timed(packets: list[av.Packet]) -> Heard:
    return ((float((packet.pts or 0) * (packet.time_base or 0)), packet) for packet in packets)


def _aac(out: OutputContainer, rate: int, layout: str, channels: int) -> av.AudioStream:
    """An AAC stream with the channels of the source, or, where AAC cannot have these, with the common ones of their number."""
    for each in (layout, {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}.get(channels, "stereo")):
        candidate = AudioCodecContext.create("aac", "w")
        candidate.sample_rate, candidate.layout, candidate.format = rate, each, "fltp"
        candidate.time_base = Fraction(1, rate)
        try:
            candidate.open()
        except (FFmpegError, ValueError):
            continue
        return out.add_stream("aac", rate=rate, layout=each, bit_rate=BITS_PER_SAMPLE_AND_CHANNEL * rate * channels)
    return out.add_stream("aac", rate=rate, layout="stereo", bit_rate=2 * BITS_PER_SAMPLE_AND_CHANNEL * rate)
