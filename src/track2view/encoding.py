"""What ``track2view curate encode`` says of its folder: how the samples were encoded, and under which keys the shards hold them.

The folder has ``encoding.json`` (:class:`EncodingRecord`) and the shards ``latents/`` and ``text/``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from track2view.errors import UserError
from track2view.files import read_record, write_record
from track2view.framing import Framing
from track2view.model.latents import LatentGrid, Strides
from track2view.records import Size

FORMAT = "track2view.encoding/3"
NAME = "encoding.json"
REMEDY = "delete the folder and run `track2view curate encode` again"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingRecord:
    """How all samples of a folder were encoded.

    Attributes:
        base: name of the base whose VAE and text encoder it was.
        strides: of that base: tracks are placed in its latents as the pictures were.
        size: (H, W) to which videos were fitted by :meth:`Framing.covering`; None: each has its own.
        text_length: tokens, at inference as in training: encoder states, held without their end of zeros, are padded to it.
        samples, captions: how many.
    """

    base: str
    strides: Strides
    size: Size | None
    text_length: int
    samples: int
    captions: int

    def __post_init__(self) -> None:
        if not isinstance(self.base, str):
            raise UserError(f"base: expected a name, got {self.base!r:.60}")
        if self.size is not None and not (
            isinstance(self.size, tuple) and len(self.size) == 2 and all(type(side) is int and side > 0 for side in self.size)
        ):
            raise UserError(f"size: expected height and width, or nothing, got {self.size!r:.60}")
        for name, least in (("text_length", 1), ("samples", 0), ("captions", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(f"{name}: expected a whole number from {least}, got {value!r:.60}")

    def framing(self, own: Size) -> Framing:
        """What of videos of ``own`` size was encoded."""
        return Framing.covering(own, self.size or own)

    def grid(self, frames: int, own: Size) -> LatentGrid:
        """Where ``frames`` frames of ``own`` size lie in their latents."""
        return LatentGrid(frames=frames, size=self.framing(own).size, strides=self.strides)

    def save(self, folder: Path) -> None:
        """Write ``folder/encoding.json``."""
        write_record(folder / NAME, self, FORMAT)

    @staticmethod
    def load(folder: Path) -> "EncodingRecord":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: none there, or not this format, or a wrong field by name.
        """
        try:
            return read_record(folder / NAME, EncodingRecord, FORMAT, what="a folder of encoded samples", maker="track2view curate encode")
        except UserError as error:
            raise UserError(f"{error}; {REMEDY}") from None


def latents_key(sample: str, view: str) -> str:
    """The key of a sample's latents of one view, "source" or "target"."""
    return f"{sample}/{view}"


def caption_key(caption: str) -> str:
    """The key of a caption's encoder states."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]
