"""Latents and text of curated samples, computed once with a base's own VAE and text encoder, to shards beside the manifest."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from track2view.curate.claims import claimed
from track2view.files import atomic_path
from track2view.model.checkpoint import load_vae
from track2view.model.latents import LatentGrid, encode
from track2view.model.text import encode_prompt, fingerprint, load_text_encoder
from track2view.progress import progress
from track2view.samples import load_record, read_names
from track2view.shards import ShardReader, write_index, write_shard
from track2view.video import read_clip

FORMAT = "track2view.encoding/1"
SAMPLES_PER_SHARD = 16
CAPTIONS_PER_SHARD = 256


def encode_samples(out: Path, base: Path, *, short_side: int | None = None, device: torch.device | str = "cpu") -> Path:
    """Encode all samples of a manifest: ``out/encoded/<base>-<fingerprint>[-<short side>]/{latents,text}``; what is there is kept.

    Latents (float16, unit variance by the config's statistics) have the keys ``<sample>/source`` and ``<sample>/target``; text
    (float16, cut at its end) the keys :func:`caption_key` gives, the empty caption's, which guidance needs, among them.
    Samples with the same rows in their shard are encoded once: any number of runs, on any devices, share the work.

    Returns:
        The folder.

    Raises:
        UserError: no manifest there, or a base without VAE or text encoder.
    """
    manifest = out / "manifest.parquet"
    names = read_names(manifest)
    captions = sorted({"", *(load_record(out / "samples" / name).caption for name in names)})
    own = f"{base.name}-{fingerprint(base / 'vae')[:8]}{fingerprint(base / 'text_encoder')[:8]}"
    folder = out / "encoded" / (own if short_side is None else f"{own}-{short_side}")
    _encode_latents(out / "samples", names, base, folder / "latents", short_side, device)
    _encode_text(captions, base, folder / "text", device)
    document = {"format": FORMAT, "base": base.name, "short_side": short_side, "samples": len(names), "captions": len(captions)}
    with atomic_path(folder / "encoding.json") as partial:
        partial.write_text(json.dumps(document, indent=2))
    return folder


def caption_key(caption: str) -> str:
    """The key of a caption's encoder states."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def read_encoded(folder: Path, name: str, caption: str) -> tuple[Tensor, Tensor, Tensor]:
    """Latents ``[C, F, Y, X]`` of source and target, and encoder states ``[L, E]`` cut at the caption's end.

    Raises:
        UserError: missing or damaged.
    """
    latents = ShardReader(folder / "latents")
    return latents[f"{name}/source"], latents[f"{name}/target"], ShardReader(folder / "text")[caption_key(caption)]


def _encode_latents(samples: Path, names: list[str], base: Path, folder: Path, short_side: int | None, device: torch.device | str) -> None:
    if not (left := _missing(folder, [f"{name}/source" for name in names])):
        return
    vae = load_vae(base)
    torch.nn.Module.to(vae, device)

    def latents_of(keys: list[str]) -> dict[str, Tensor]:
        found = {}
        for key in keys:
            name = key.removesuffix("/source")
            for view in ("source", "target"):
                clip = read_clip(samples / name / f"{view}.mp4", short_side=short_side)
                grid = LatentGrid(frames=len(clip), size=clip.size)
                found[f"{name}/{view}"] = encode(vae, grid.padded(clip.frames))[0].half()
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
            found[key] = states[:length].half()
        return found

    _fill(folder, left, CAPTIONS_PER_SHARD, "text", states_of)


def _missing(folder: Path, keys: list[str]) -> list[str]:
    there = set(ShardReader(folder)) if (folder / "index.parquet").exists() else set()
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
