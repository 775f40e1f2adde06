"""Procedural worlds as training reads them: clips of ten cameras, exact tracks and latents, in shards without a video file.

A folder has ``worlds.json`` (:class:`WorldsRecord`), ``worlds/`` (shards of a few worlds each) and what a base made of them,
``encoded/``. Under a world's seed a shard holds ``clips``, ``xyz`` and ``visible`` of tracks that start in each camera's own picture,
``world_from_camera``, ``intrinsics`` and ``caption``.

Shapes: T frames, N tracks, F latent frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

from track2view.encoded import encode_captions, encoded_folder
from track2view.encoding import EncodingRecord, caption_key
from track2view.errors import UserError, check_positive
from track2view.files import read_record, write_record
from track2view.model.bases import check_base, load_vae
from track2view.model.conditioners.camera import CameraCondition
from track2view.model.conditioners.protocol import RenderedView
from track2view.model.conditioners.tracks import TrackCondition
from track2view.model.latents import LatentGrid, Strides, encode, lay_channels_last
from track2view.model.text import load_tokenizer, text_length
from track2view.pairing import pair_by_projection
from track2view.progress import progress
from track2view.records import CameraPath, Queries, Size, TrackSet
from track2view.scenes.content import Content, make_training_world
from track2view.scenes.render import render_path
from track2view.scenes.rig import CAMERAS, FPS, Split, make_rig, split_seed
from track2view.scenes.tracks import track_points
from track2view.shards import ShardReader, write_index, write_shard
from track2view.train.data import ClipExample, Example, padded_text
from track2view.workers import on_processes

FORMAT = "track2view.worlds/1"
NAME = "worlds.json"
WORLDS_PER_SHARD = 8
VALUES_AT_ONCE = 4_000_000
"""Of small clips several are encoded at once: one by one they take six times as long on a CPU."""
STILL_EVERY = 5
"""Of so many worlds one has nothing that moves."""
PAIRS = tuple(permutations(range(CAMERAS), 2))
"""Ordered pairs of a world's cameras: (source, target)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldsRecord:
    """What ``worlds.json`` says.

    Attributes:
        split: of the seeds.
        frames, size: of every clip.
        grid: rows and columns of tracks' starts, at each source's first frame and its last.
        content: what is in the worlds.
    """

    split: Split
    frames: int
    size: Size
    grid: tuple[int, int]
    content: Content = "solids"

    def __post_init__(self) -> None:
        for name, value, known in (("split", self.split, get_args(Split)), ("content", self.content, get_args(Content))):
            if value not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r:.60}")
        for name, values in (("frames", (self.frames,)), ("size", self.size), ("grid", self.grid)):
            if not isinstance(values, tuple) or not all(type(each) is int and 0 < each < 1 << 14 for each in values):
                raise UserError(f"{name}: expected whole numbers from 1, got {values!r:.60}")

    @staticmethod
    def load(folder: Path) -> "WorldsRecord":
        """Read a folder's ``worlds.json``; raises :class:`UserError` where there is none."""
        return read_record(folder / NAME, WorldsRecord, FORMAT, what="a folder of worlds", maker="track2view scenes clips")


def is_worlds(folder: Path) -> bool:
    """Whether a folder holds worlds, rather than curated samples."""
    return (folder / NAME).exists()


def write_worlds(
    folder: Path,
    split: Split,
    indices: range,
    *,
    frames: int,
    size: Size,
    grid: tuple[int, int],
    content: Content = "solids",
    workers: int = 1,
) -> WorldsRecord:
    """Render worlds by number through their ten cameras, and track points exactly; shards that are there are kept.

    Args:
        indices: worlds of the split, whole shards of them; more may be added later.
        grid: rows and columns of tracks' starts.
        workers: processes.

    Raises:
        UserError: a folder that was begun otherwise, or numbers that cut a shard.
    """
    check_positive(frames=frames, workers=workers)
    record = WorldsRecord(split=split, frames=frames, size=size, grid=grid, content=content)
    if indices.start % WORLDS_PER_SHARD:
        raise UserError(f"--first: expected a multiple of {WORLDS_PER_SHARD} worlds, got {indices.start}")
    if is_worlds(folder) and WorldsRecord.load(folder) != record:
        raise UserError(f"{folder / NAME}: was begun as {WorldsRecord.load(folder)}, now {record}; give another folder")
    write_record(folder / NAME, record, FORMAT)
    starts = range(indices.start, indices.stop, WORLDS_PER_SHARD)
    blocks = [range(start, min(start + WORLDS_PER_SHARD, indices.stop)) for start in starts]
    left = [block for block in blocks if not _shard(folder, block).exists()]
    with on_processes(partial(_write_block, folder, record), left, workers) as done:
        for block, result in progress(done, "rendering worlds", len(left)):
            if result is None:
                raise UserError(f"{_shard(folder, block)}: the process that rendered it died; try fewer --workers")
    write_index(folder / "worlds")
    return record


def _shard(folder: Path, block: range) -> Path:
    return folder / "worlds" / f"{block.start:08d}-{len(block)}.safetensors"


def _write_block(folder: Path, record: WorldsRecord, block: range) -> bool:
    torch.set_num_threads(1)
    tensors: dict[str, Tensor] = {}
    for index in block:
        seed = split_seed(record.split, index)
        tensors |= {f"{seed:010d}/{name}": each for name, each in render_world(seed, record).items()}
    write_shard(_shard(folder, block), tensors)
    return True


def is_dynamic(seed: int) -> bool:
    """Whether things move in the world of a seed."""
    return seed % STILL_EVERY != 0


def render_world(seed: int, record: WorldsRecord) -> dict[str, Tensor]:
    """All that a shard holds of one world."""
    world = make_training_world(record.content, seed, frames=record.frames, dynamic=is_dynamic(seed))
    rig = list(make_rig(seed, frames=record.frames, size=record.size).values())
    queries = Queries.grid([0, record.frames - 1], *record.grid)
    tracks = [track_points(world, camera, queries.frame, queries.pixels(record.size)) for camera in rig]
    return {
        "clips": torch.stack([render_path(world, camera).colour for camera in rig]),
        "xyz": torch.stack([each.xyz_world for each in tracks]),
        "visible": torch.stack([each.visible for each in tracks]),
        "world_from_camera": torch.stack([camera.world_from_camera for camera in rig]),
        "intrinsics": torch.stack([camera.intrinsics for camera in rig]),
        "caption": torch.from_numpy(np.frombuffer(world.caption.encode(), dtype=np.uint8).copy()),
    }


def encode_worlds(folder: Path, base: Path, *, device: torch.device | str = "cpu") -> Path:
    """Encode all clips and captions of a folder of worlds once, beside them; what is there is kept.

    Returns:
        ``folder/encoded/<base>-<fingerprint>``: latents in float16 under ``<seed>/latents``, text, and an :class:`EncodingRecord`.

    Raises:
        UserError: no worlds there, or a base that does not fit together.
    """
    reader = _Reader(folder)
    record, out = reader.record, encoded_folder(folder, base)
    captions = sorted({"", *(reader.caption(seed) for seed in reader.seeds)})
    encoding = EncodingRecord(
        base=base.name,
        strides=check_base(base),
        size=None,
        text_length=text_length(load_tokenizer(base)),
        samples=len(reader.seeds) * CAMERAS,
        captions=len(captions),
    )
    grid = encoding.grid(record.frames, record.size)
    vae = lay_channels_last(load_vae(base))
    torch.nn.Module.to(vae, device)
    shards: dict[str, list[str]] = {}
    for seed in reader.seeds:
        shards.setdefault(reader.worlds.shard_of(f"{seed}/clips"), []).append(seed)
    left = {name: seeds for name, seeds in shards.items() if not (out / "latents" / name).exists()}
    for name, seeds in progress(left.items(), "encoding latents", len(left)):
        latents = {f"{seed}/latents": _latents(vae, grid, reader.clips(seed)) for seed in seeds}
        write_shard(out / "latents" / name, latents)
    write_index(out / "latents")
    encode_captions(captions, base, out / "text", device)
    encoding.save(out)
    return out


def _latents(vae: AutoencoderKLWan, grid: LatentGrid, clips: UInt8[Tensor, "n T 3 H W"]) -> Float16[Tensor, "n C F Y X"]:
    at_once = max(1, VALUES_AT_ONCE // clips[0].numel())
    return torch.cat([encode(vae, torch.cat([grid.padded(clip) for clip in part])) for part in clips.split(at_once)]).half()


class _Reader:
    """What shards hold, by seed. Goes to other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, WorldsRecord.load(folder)
        self.worlds = ShardReader(folder / "worlds")
        self.seeds = sorted({key.split("/")[0] for key in self.worlds})

    def clips(self, seed: str) -> UInt8[Tensor, "10 T 3 H W"]:
        return self.worlds[f"{seed}/clips"]

    def caption(self, seed: str) -> str:
        return self.worlds[f"{seed}/caption"].numpy().tobytes().decode()

    def camera(self, seed: str, number: int, frames: Sequence[int]) -> CameraPath:
        return CameraPath(
            world_from_camera=self.worlds[f"{seed}/world_from_camera"][number][list(frames)],
            intrinsics=self.worlds[f"{seed}/intrinsics"][number][list(frames)],
            size=self.record.size,
            unit="metre",
            fps=FPS,
        )

    def tracks(self, seed: str, number: int, frames: Sequence[int]) -> TrackSet:
        """Those that start in a camera's picture, at some frames, of which the first and the last are among."""
        xyz, visible = (self.worlds[f"{seed}/{name}"][number][list(frames)] for name in ("xyz", "visible"))
        half = xyz.shape[1] // 2
        return TrackSet(
            xyz_world=xyz,
            visible=visible,
            confidence=torch.ones(visible.shape),
            query_frame=torch.tensor([0, len(frames) - 1]).repeat_interleave(half),
        )


class WorldClips:
    """All clips of a folder of worlds, by number: pixels alone.

    Raises:
        UserError: no worlds there.
    """

    def __init__(self, folder: Path) -> None:
        self._reader = _Reader(folder)

    def __len__(self) -> int:
        return len(self._reader.seeds) * CAMERAS

    def __getitem__(self, index: int) -> UInt8[Tensor, "T 3 H W"]:
        seed, camera = divmod(index, CAMERAS)
        return self._reader.clips(self._reader.seeds[seed])[camera]

    def name_of(self, index: int) -> str:
        """As ``<seed>/cam01``."""
        seed, camera = divmod(index, CAMERAS)
        return f"{self._reader.seeds[seed]}/cam{camera + 1:02d}"

    def verify(self) -> None:
        """Checksums of all shards; raises :class:`UserError` that names a damaged one."""
        self._reader.worlds.verify()

    def fingerprint(self) -> str:
        """Tells these clips from others."""
        return _fingerprint(self._reader.record, self._reader.worlds.fingerprint())


class _Encoded:
    """Worlds with their latents and text."""

    def __init__(self, folder: Path, encoded: Path) -> None:
        self._reader, self.encoding = _Reader(folder), EncodingRecord.load(encoded)
        self._latents, self._texts = ShardReader(encoded / "latents"), ShardReader(encoded / "text")
        for seed in self._reader.seeds:
            if f"{seed}/latents" not in self._latents:
                raise UserError(f"{encoded}: world {seed} is not encoded; `track2view curate encode` adds what is missing")
        record = self.record
        self.grid = self.encoding.grid(record.frames, record.size)

    @property
    def record(self) -> WorldsRecord:
        """What these worlds are."""
        return self._reader.record

    def shape_of(self, index: int) -> tuple[int, ...]:
        """(F, Y, X) of latents, all alike."""
        return self.grid.latent_frames, *self.grid.latent_size

    def text_of(self, caption: str) -> Float32[Tensor, "L E"]:
        """Encoder states of a caption, zeros beyond its end."""
        return padded_text(self._texts, caption_key(caption), caption, self.encoding.text_length)

    def verify(self) -> None:
        """Checksums of all shards; raises :class:`UserError` that names a damaged one."""
        for each in (self._reader.worlds, self._latents, self._texts):
            each.verify()

    def fingerprint(self) -> str:
        """Tells these examples from others."""
        return _fingerprint(self.record, *(each.fingerprint() for each in (self._reader.worlds, self._latents, self._texts)))

    def _latents_of(self, seed: str, camera: int) -> Tensor:
        return self._latents[f"{seed}/latents"][camera]


class ClipLatents(_Encoded):
    """All clips of a folder of worlds, alone: latents and text.

    Args:
        folder: of worlds.
        encoded: what :func:`encode_worlds` made of it.

    Raises:
        UserError: one of these missing, damaged or not whole.
    """

    def __len__(self) -> int:
        return len(self._reader.seeds) * CAMERAS

    def __getitem__(self, index: int) -> ClipExample:
        number, camera = divmod(index, CAMERAS)
        seed = self._reader.seeds[number]
        latents = self._latents_of(seed, camera).float()
        return ClipExample(name=f"{seed}/cam{camera + 1:02d}", latents=latents, text=self.text_of(self._reader.caption(seed)))


class WorldPairs(_Encoded):
    """All ordered pairs of a world's cameras, ninety a world, with exact tracks.

    Args:
        folder: of worlds.
        encoded: what :func:`encode_worlds` made of it.
        rendered: examples have their rendered views, those that there are (:mod:`track2view.train.rendered`).

    Raises:
        UserError: one of these missing, damaged or not whole.
    """

    def __init__(self, folder: Path, encoded: Path, *, rendered: bool = False) -> None:
        super().__init__(folder, encoded)
        if rendered and not (encoded / "rendered/index.parquet").exists():
            raise UserError(
                f"{encoded}: has no rendered views; `track2view curate encode --rendered` with how many pairs of a world makes them"
            )
        self._rendered = ShardReader(encoded / "rendered") if rendered else None
        strides, record = self.encoding.strides, self.record
        last = record.frames - 1
        self._frames = [min(frame * strides.frames, last) for frame in range(self.grid.latent_frames)]
        every = Strides(frames=1, pixels=strides.pixels, patch=strides.patch)
        self._at_latents = LatentGrid(frames=len(self._frames), size=record.size, strides=every)

    def __len__(self) -> int:
        return len(self._reader.seeds) * len(PAIRS)

    def __getitem__(self, index: int) -> Example:
        seed, source, target = self.place_of(index)
        tracks = self._reader.tracks(seed, source, self._frames)
        seen, asked = (self._reader.camera(seed, number, self._frames) for number in (source, target))
        name = self.name_of(index)
        return Example(
            name=name,
            source=self._latents_of(seed, source),
            target=self._latents_of(seed, target),
            text=self.text_of(self._reader.caption(seed)),
            condition=TrackCondition.of(pair_by_projection(tracks, seen, asked), self._at_latents),
            camera=CameraCondition.of(seen, asked, self._at_latents),
            rendered=self._rendered_view(name),
        )

    def _rendered_view(self, name: str) -> RenderedView | None:
        if self._rendered is None:
            return None
        if f"{name}/latents" not in self._rendered:
            raise UserError(
                f"{self._rendered.folder}: has no rendered view of {name}; `track2view curate encode --rendered` with more pairs"
            )
        return RenderedView(latents=self._rendered[f"{name}/latents"][None], shown=self._rendered[f"{name}/shown"][None])

    def name_of(self, index: int) -> str:
        """As ``<seed>/cam01_cam02``, source and target."""
        seed, source, target = self.place_of(index)
        return f"{seed}/cam{source + 1:02d}_cam{target + 1:02d}"

    def verify(self) -> None:
        """Checksums of all shards; raises :class:`UserError` that names a damaged one."""
        super().verify()
        if self._rendered is not None:
            self._rendered.verify()

    def fingerprint(self) -> str:
        """Tells these examples from others."""
        own = super().fingerprint()
        return own if self._rendered is None else sha256(f"{own} {self._rendered.fingerprint()}".encode()).hexdigest()

    def place_of(self, index: int) -> tuple[str, int, int]:
        """Seed of an example's world, and the numbers of its source and target cameras, from 0."""
        number, pair = divmod(index, len(PAIRS))
        return self._reader.seeds[number], *PAIRS[pair]

    def drawn(self, count: int) -> list[int]:
        """Numbers of ``count`` examples of each world, drawn by its seed.

        Raises:
            UserError: more than a world has.
        """
        if not 0 < count <= len(PAIRS):
            raise UserError(f"pairs of a world's cameras: expected 1 to {len(PAIRS)}, got {count}")
        return [
            number * len(PAIRS) + pair
            for number, seed in enumerate(self._reader.seeds)
            for pair in sorted(np.random.default_rng(int(seed)).permutation(len(PAIRS))[:count].tolist())
        ]

    def pixels(self, index: int) -> tuple[UInt8[Tensor, "T 3 H W"], UInt8[Tensor, "T 3 H W"]]:
        """Source and target clips of an example."""
        seed, source, target = self.place_of(index)
        clips = self._reader.clips(seed)
        return clips[source], clips[target]


def _fingerprint(record: WorldsRecord, *of: str) -> str:
    return sha256(f"{record} {of}".encode()).hexdigest()
