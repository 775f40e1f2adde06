"""Latents and text of curated samples, computed once with a base's own VAE and text encoder, to shards beside the manifest."""

from pathlib import Path

import torch
from torch import Tensor

from track2view.encoded import encode_captions, encoded_folder, fill_shards, missing_keys
from track2view.encoding import EncodingRecord, latents_key
from track2view.errors import UserError, notice
from track2view.model.bases import check_base, load_vae
from track2view.model.latents import encode
from track2view.model.text import load_tokenizer, text_length
from track2view.records import Size
from track2view.samples import SampleRecord, read_manifest
from track2view.video import read_clip

SAMPLES_PER_SHARD = 16


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
    folder = encoded_folder(out, base, size)
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
    encode_captions(captions, base, folder / "text", device)
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
    if not (left := missing_keys(folder, list(by_key))):
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

    fill_shards(folder, left, SAMPLES_PER_SHARD, "latents", latents_of)
