"""What ``track2view curate encode`` says of its folder: how the samples were encoded, and under which keys the shards hold them.

The folder has ``encoding.json`` (:class:`EncodingRecord`) and the shards ``latents/`` and ``text/``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from track2view.errors import UserError
from track2view.files import read_record, write_record
from track2view.framing import Framing
from track2view.model.latents import LatentGrid, Strides
from track2view.model.text import encode_prompt, fingerprint, load_text_encoder
from track2view.records import Size
from track2view.shards import fill_shards, missing_keys

FORMAT = "track2view.encoding/3"
NAME = "encoding.json"
CAPTIONS_PER_SHARD = 256
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


def encoded_folder(data: Path, base: Path, size: Size | None = None) -> Path:
    """Where samples of a folder lie as a base encodes them, at their own size or another: named after the base's weights."""
    folder = data / "encoded" / f"{base.name}-{fingerprint(base / 'vae')[:8]}{fingerprint(base / 'text_encoder')[:8]}"
    return folder if size is None else folder.with_name(f"{folder.name}-{size[0]}x{size[1]}")


def encode_captions(captions: Sequence[str], base: Path, folder: Path, device: torch.device | str) -> None:
    """Encoder states to shards in ``folder``, float32 as inference has them, without their end of zeros; what is there is kept."""
    by_key = {caption_key(caption): caption for caption in captions}
    if not (left := missing_keys(folder, list(by_key))):
        return
    tokenizer, encoder = load_text_encoder(base, torch.float32, device)

    def states_of(keys: list[str]) -> dict[str, Tensor]:
        found = {}
        for key in keys:
            states = encode_prompt(tokenizer, encoder, by_key[key], "cpu")[0]
            length = max(1, int(states.abs().amax(1).nonzero().max()) + 1)
            found[key] = states[:length].clone()
        return found

    fill_shards(folder, left, CAPTIONS_PER_SHARD, "text", states_of)
