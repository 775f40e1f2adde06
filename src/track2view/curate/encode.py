"""Latents and text of curated samples, computed once with a base's own VAE and text encoder, to shards beside the manifest."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from track2view.curate.claims import claimed
from track2view.encoding import EncodingRecord, caption_key, latents_key
from track2view.errors import UserError, notice
from track2view.model.checkpoint import check_base, load_vae
from track2view.model.latents import encode
from track2view.model.text import encode_prompt, fingerprint, load_text_encoder, load_tokenizer, text_length
from track2view.progress import progress
from track2view.records import Size
from track2view.samples import SampleRecord, read_manifest
from track2view.shards import ShardReader, write_index, write_shard
from track2view.video import read_clip

SAMPLES_PER_SHARD = 16
CAPTIONS_PER_SHARD = 256


def encode_samples(out: Path, base: Path, *, size: Size | None = None, device: torch.device | str = "cpu") -> Path:
    """Encode all samples of a manifest: ``out/encoded/<base>-<fingerprint>[-<H>x<W>]/{latents,text}``; what is there is kept.

    Latents are float16, of unit variance by the config's statistics, under :func:`latents_key`; text is float32 as inference has
    it, without its end of zeros, under :func:`caption_key`, the empty caption's, which guidance needs, among it. ``encoding.json``
    is the :class:`EncodingRecord`. Samples with the same rows in their shard are encoded once: any number of runs, on any devices,
    share the work.

    Args:
        size: (H, W) that videos of any shape are fitted to by :meth:`Framing.covering`; by default each keeps its own.

    Returns:
        The folder.

    Raises:
        UserError: no manifest there, a base without VAE, tokenizer or text encoder or whose parts do not fit, or the same VAE beside
            a transformer of another patch size than the one with which the folder was begun.
    """
    records = read_manifest(out / "manifest.parquet")
    captions = sorted({"", *(record.caption for record in records)})
    folder = out / "encoded" / f"{base.name}-{fingerprint(base / 'vae')[:8]}{fingerprint(base / 'text_encoder')[:8]}"
    if size is not None:
        folder = folder.with_name(f"{folder.name}-{size[0]}x{size[1]}")
    encoding = EncodingRecord(
        base=base.name,
        strides=check_base(base),
        size=size,
        text_length=text_length(load_tokenizer(base)),
        samples=len(records),
        captions=len(captions),
    )
    if (folder / "encoding.json").exists():
        there = EncodingRecord.load(folder)  # of another format or strides, what is there would be kept beside what is made now
        if there.strides != encoding.strides:
            raise UserError(f"{folder / 'encoding.json'}: strides: {there.strides}, this base has {encoding.strides}; delete the folder")
    _tell_of_enlarged(records, encoding)
    _encode_latents(out / "samples", records, encoding, base, folder / "latents", device)
    _encode_text(captions, base, folder / "text", device)
    encoding.save(folder)
    return folder


def _tell_of_enlarged(records: list[SampleRecord], encoding: EncodingRecord) -> None:
    enlarged = [record.size for record in records if encoding.framing(record.size).resized > record.size]
    if enlarged:
        height, width = min(enlarged)
        notice(
            f"{len(enlarged)} of {len(records)} samples are enlarged to cover --size (the smallest has {height}×{width} pixels): "
            "they lack the detail that videos of this size have"
        )


def _encode_latents(
    samples: Path, records: list[SampleRecord], encoding: EncodingRecord, base: Path, folder: Path, device: torch.device | str
) -> None:
    by_key = {latents_key(record.name, "source"): record for record in records}
    if not (left := _missing(folder, list(by_key))):
        return
    vae = load_vae(base)
    torch.nn.Module.to(vae, device)

    def latents_of(keys: list[str]) -> dict[str, Tensor]:
        found = {}
        for record in map(by_key.__getitem__, keys):
            framing = encoding.framing(record.size)
            grid = encoding.grid(record.frames, record.size)
            for view in ("source", "target"):
                clip = read_clip(samples / record.name / f"{view}.mp4", resized=framing.resized)
                latents = encode(vae, grid.padded(framing.cut(clip.frames)))
                found[latents_key(record.name, view)] = latents[0].half()
        return found

    _fill(folder, left, SAMPLES_PER_SHARD, "latents", latents_of)


def _encode_text(captions: list[str], base: Path, folder: Path, device: torch.device | str) -> None:
    by_key = {caption_key(caption): caption for caption in captions}
    if not (left := _missing(folder, list(by_key))):
        return
    tokenizer, encoder = load_text_encoder(base, torch.float32, device)

    def states_of(keys: list[str]) -> dict[str, Tensor]:
        found = {}
        for key in keys:
            states = encode_prompt(tokenizer, encoder, by_key[key], "cpu")[0]
            length = max(1, int(states.abs().amax(1).nonzero().max()) + 1)
            found[key] = states[:length].clone()
        return found

    _fill(folder, left, CAPTIONS_PER_SHARD, "text", states_of)


def _missing(folder: Path, keys: list[str]) -> list[str]:
    there = ShardReader(folder) if (folder / "index.parquet").exists() else ()
    return [key for key in keys if key not in there]


def _fill(folder: Path, keys: list[str], size: int, what: str, compute: Callable[[list[str]], dict[str, Tensor]]) -> None:
    """Write shards named after the keys they hold, so that a second run finds what a first one made before it was stopped."""
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    for batch in progress(batches, f"encoding {what}", len(batches)):
        path = folder / f"{caption_key(chr(0).join(batch))}.safetensors"
        with claimed(folder / f"{path.stem}.lock") as mine:
            if mine and not path.exists():
                write_shard(path, compute(batch))
    write_index(folder)
