"""Encoding once what many runs read: where it lies, shards that several runs fill together, and captions."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from track2view.claims import claimed
from track2view.encoding import caption_key
from track2view.model.text import encode_prompt, fingerprint, load_text_encoder
from track2view.progress import progress
from track2view.records import Size
from track2view.shards import ShardReader, write_index, write_shard

CAPTIONS_PER_SHARD = 256


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


def missing_keys(folder: Path, keys: list[str]) -> list[str]:
    """Those that no shard of a folder holds yet."""
    there = ShardReader(folder) if (folder / "index.parquet").exists() else ()
    return [key for key in keys if key not in there]


def fill_shards(folder: Path, keys: list[str], size: int, what: str, compute: Callable[[list[str]], dict[str, Tensor]]) -> None:
    """Write shards of ``size`` keys each, named after these, so that a second run finds what a first one made before it was stopped;
    several at once share the work."""
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    for batch in progress(batches, f"encoding {what}", len(batches)):
        path = folder / f"{hashlib.sha256(chr(0).join(batch).encode()).hexdigest()[:32]}.safetensors"
        with claimed(folder / f"{path.stem}.lock") as mine:
            if mine and not path.exists():
                write_shard(path, compute(batch))
    write_index(folder)
