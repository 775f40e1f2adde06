"""Joining a film's picture with the sound of another file, in step to the sample."""

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
from track2view.errors import UserError

CODECS_OF_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
BITS_PER_SAMPLE_AND_CHANNEL = 2
SECONDS_BEFORE = 0.25
"""Kept before the start, and cut off again by the edit list of the MP4: what decoders need to get going."""


def join(picture: Path, source: Path, track: int, start: float, end: float, out: Path, notices: list[str]) -> None:
    """Write ``out``: the picture of one MP4, and from another file the sound between two times (seconds), which begins with it.

    Packets are copied where MP4 knows their codec, else made AAC with the same channels. Sound that cannot be read costs a notice.
    """
    with av.open(f"file:{picture}") as film, av.open(f"file:{out}", "w", format="mp4", options={"movflags": "+faststart"}) as joined:
        images = film.streams.video[0]
        stream = joined.add_stream_from_template(images)
        with opened(source) as container:
            sound = _Sound(joined, container, track, start, end)
            heard = sound.packets(notices)
            heard_next = next(heard, None)
            for packet in film.demux(images):
                progressed()
                if packet.dts is None or packet.time_base is None:
                    continue
                now = float(packet.dts * packet.time_base)
                while heard_next is not None and heard_next[0] <= now:
                    joined.mux(heard_next[1])
                    heard_next = next(heard, None)
                packet.stream = stream
                joined.mux(packet)
            while heard_next is not None:
                joined.mux(heard_next[1])
                heard_next = next(heard, None)


class _Sound:
    """One sound track between two times, as packets of an output, each with the time (seconds) from which it is heard."""

    def __init__(self, out: OutputContainer, container: InputContainer, track: int, start: float, end: float) -> None:
        self.container, self.start, self.end = container, start, end
        self.input = container.streams[track]
        context = self.input.codec_context
        if context is None or not context.sample_rate:
            raise UserError("its sound cannot be decoded")
        self.copied = context.name in CODECS_OF_MP4
        if self.copied:
            self.output = out.add_stream_from_template(self.input)
        else:
            rate = min(AAC_RATES, key=lambda each: (each < context.sample_rate, abs(each - context.sample_rate)))
            self.output = _aac(out, rate, context.layout.name, context.layout.nb_channels)

    def packets(self, notices: list[str]) -> Iterator[tuple[float, av.Packet]]:
        if self.start > (self.input.start_time or 0) * (self.input.time_base or 0) + 2 * SECONDS_BEFORE:
            self.container.seek(int((self.start - 2 * SECONDS_BEFORE) * av.time_base))
        at = self.start
        try:
            for at, packet in self._copied() if self.copied else self._encoded():
                yield at, packet
        except FFmpegError as error:
            notices.append(f"its sound breaks at {max(0.0, at):.2f} s ({error.strerror}); the result is silent from there on")

    def _demuxed(self) -> Iterator[tuple[float, av.Packet]]:
        for packet in self.container.demux(self.input):
            progressed()
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            seconds = float(packet.pts * packet.time_base)
            if seconds >= self.end:
                return
            yield seconds, packet

    def _copied(self) -> Iterator[tuple[float, av.Packet]]:
        for seconds, packet in self._demuxed():
            if seconds < self.start - SECONDS_BEFORE or packet.time_base is None:
                continue
            packet.pts -= round(self.start / packet.time_base)
            packet.dts = packet.pts
            packet.stream = self.output
            yield seconds - self.start, packet

    def _encoded(self) -> Iterator[tuple[float, av.Packet]]:
        encoder = self.output.codec_context
        graph = None
        for _, packet in self._demuxed():
            for frame in self._frames(packet):
                if graph is None:
                    graph = self._graph(frame, encoder)
                graph.push(frame)
                yield from self._heard(graph)
        if graph is not None:
            graph.push(None)
            yield from self._heard(graph)
        for packet in self.output.encode(None):
            yield float((packet.pts or 0) * packet.time_base), packet

    def _frames(self, packet: av.Packet) -> list[av.AudioFrame]:
        """A packet that cannot be decoded is a gap, and gaps are filled with silence."""
        try:
            return [frame for frame in self.input.codec_context.decode(packet) if frame.pts is not None]
        except FFmpegError:
            return []

    def _graph(self, frame: av.AudioFrame, encoder: AudioCodecContext) -> Graph:
        """Cut to the span, put at its beginning, gaps filled with silence, in the encoder's own format."""
        graph = Graph()
        cut = graph.add("atrim", f"start={self.start:.9f}:end={self.end:.9f}")
        move = graph.add("asetpts", f"PTS-{self.start:.9f}/TB")
        fill = graph.add("aresample", f"{encoder.sample_rate}:async=1:min_hard_comp=0.02:first_pts=0")
        shape = graph.add("aformat", f"sample_fmts={encoder.format.name}:channel_layouts={encoder.layout.name}")
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name, time_base=Fraction(frame.time_base)
        )
        graph.link_nodes(source, cut, move, fill, shape, graph.add("abuffersink"))
        graph.configure()
        return graph

    def _heard(self, graph: Graph) -> Iterator[tuple[float, av.Packet]]:
        while True:
            try:
                frame = graph.pull()
            except (BlockingIOError, EOFError):
                return
            for packet in self.output.encode(frame):
                yield float((packet.pts or 0) * packet.time_base), packet


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
