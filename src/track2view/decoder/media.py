"""Opening a media file, and choosing what is shown and heard of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from track2view.errors import UserError

LISTS_OF_OTHER_FILES = {"hls", "dash", "concat", "concatf", "imf", "sdp", "rtsp", "rtp", "lavfi", "tty", "applehttp", "webm_dash_manifest"}
FORMATS = ",".join(sorted(name for name in av.formats_available if name not in LISTS_OF_OTHER_FILES))


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A file as a container; nothing but this file is read, whatever it asks for.

    Raises:
        UserError: not a media file.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise UserError(f"cannot be read as a video ({error.strerror}); is it complete, and a video?") from None
    with container:
        yield container


def picture_of(container: InputContainer) -> av.VideoStream:
    """The film: not its cover, and of several the default one.

    Raises:
        UserError: there is none that can be decoded.
    """
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    known = [stream for stream in films if stream.codec_context is not None]
    if known:
        return next((stream for stream in known if stream.disposition & Disposition.default), known[0])
    if films:
        raise UserError("its picture has a codec that is not known here; convert it to H.264")
    kinds = sorted({stream.type for stream in container.streams if stream not in container.streams.video})
    cover = ["a cover picture"] if container.streams.video else []
    raise UserError(f"has no video, only {' and '.join([*kinds, *cover]) or 'nothing'}; give a file with a picture")


def sound_of(container: InputContainer, notices: list[str]) -> int | None:
    """The stream index of the sound to keep; what is said about the choice goes to ``notices``."""
    tracks = list(container.streams.audio)
    known = [stream for stream in tracks if stream.codec_context is not None]
    if not known:
        if tracks:
            notices.append("its sound has a codec that is not known here; the result is silent")
        return None
    chosen = next((stream for stream in known if stream.disposition & Disposition.default), known[0])
    if len(tracks) > 1:
        names = ", ".join(f"{number} ({_named(stream)})" for number, stream in enumerate(tracks, start=1))
        notices.append(f"has {len(tracks)} sound tracks: {names}; track {1 + tracks.index(chosen)} is kept")
    return chosen.index


def _named(stream: av.AudioStream) -> str:
    if stream.codec_context is None:
        return "unknown codec"
    return " ".join(filter(None, [stream.language, stream.codec_context.name, stream.codec_context.layout.name]))
