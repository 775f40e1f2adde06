"""One mutated input from seeds: the same for the same seed number, reader and index."""

from collections.abc import Sequence
from pathlib import PurePath
from random import Random

from corpus import Seed

from fuzzing.blind import LONGEST, Mutation, mutate_blindly, splice
from fuzzing.boxes import mutate_boxes
from fuzzing.containers import mutate_npy, mutate_npz, mutate_parquet, mutate_png, mutate_safetensors, mutate_tar, mutate_zip
from fuzzing.documents import mutate_json, mutate_text

BY_SUFFIX: dict[str, Mutation] = {
    ".json": mutate_json,
    ".txt": mutate_text,
    ".npz": mutate_npz,
    ".npy": mutate_npy,
    ".zip": mutate_zip,
    ".tar": mutate_tar,
    ".gz": mutate_tar,
    ".xz": mutate_tar,
    ".bz2": mutate_tar,
    ".mp4": mutate_boxes,
    ".mov": mutate_boxes,
    ".png": mutate_png,
    ".safetensors": mutate_safetensors,
    ".parquet": mutate_parquet,
}
SHARE_STRUCTURED = 0.6


def mutated(seeds: Sequence[Seed], key: str, index: int) -> Seed:
    """The ``index``-th input: its seed is the index's turn, its changes are drawn from ``key`` and ``index``."""
    rng = Random(f"{key} {index}")
    seed = seeds[index % len(seeds)]
    files = dict(seed.files)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        name = rng.choice(sorted(files))
        draw = rng.random()
        if len(files) > 1 and draw < 0.04:
            del files[name]
        elif len(files) > 1 and draw < 0.08:
            files[name] = files[rng.choice(sorted(files))]
        elif draw < 0.12:
            other = rng.choice(seeds)
            files[name] = splice(files[name], other.files[rng.choice(sorted(other.files))], rng)
        else:
            files[name] = _changed(files[name], PurePath(name or seed.name).suffix, rng)
    return Seed(seed.name, files)


def _changed(data: bytes, suffix: str, rng: Random) -> bytes:
    structured = BY_SUFFIX.get(suffix)
    if structured is not None and data and rng.random() < SHARE_STRUCTURED:
        try:
            changed = structured(data, rng)
        except Exception:  # whatever parsers raise where an earlier change has left nothing to parse
            return mutate_blindly(data, rng)
        if len(changed) <= LONGEST:
            return changed
    return mutate_blindly(data, rng)
