"""Procedural worlds' pairs as the weight-free renderer shows them with exact depth, for conditioners that read a rendered view.

Some pairs of each world (:meth:`track2view.train.worlds.WorldPairs.drawn`) are rendered and encoded once, into shards beside the
latents: under an example's name ``latents`` (C, F, Y, X) and ``shown`` (F, Y, X), float16.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from track2view.encoded import missing_keys
from track2view.errors import UserError
from track2view.model.bases import load_vae
from track2view.model.conditioners.protocol import RenderedView
from track2view.model.latents import LatentGrid, encode, lay_channels_last
from track2view.progress import progress
from track2view.scenes import make_rig, make_training_world, render_path
from track2view.shards import write_index, write_shard
from track2view.train.worlds import WorldPairs, WorldsRecord, is_dynamic
from track2view.warp import exact_renderer
from track2view.workers import on_processes

Job = tuple[Path, dict[str, tuple[int, int]]]
"""A shard, and the source and target cameras of the examples in it by name, all of one world."""


def render_pairs(folder: Path, encoded: Path, base: Path, count: int, *, workers: int = 1) -> None:
    """Render and encode ``count`` pairs of each world; what is there is kept.

    Args:
        folder: of worlds.
        encoded: what :func:`track2view.train.worlds.encode_worlds` made of it.

    Raises:
        UserError: more pairs than a world has.
    """
    pairs = WorldPairs(folder, encoded)
    out = encoded / "rendered"
    names = {f"{pairs.name_of(index)}/latents": index for index in pairs.drawn(count)}
    worlds: dict[str, dict[str, tuple[int, int]]] = {}
    for key in missing_keys(out, list(names)):
        seed, source, target = pairs.place_of(names[key])
        worlds.setdefault(seed, {})[pairs.name_of(names[key])] = source, target
    jobs: list[Job] = [(out / f"{seed}-{count}.safetensors", cameras) for seed, cameras in worlds.items()]
    left = [job for job in jobs if not job[0].exists()]
    with on_processes(partial(_write_world, pairs.record, pairs.grid, base), left, workers) as done:
        for (path, _), result in progress(done, "rendering pairs", len(left)):
            if result is None:
                raise UserError(f"{path}: the process that rendered it died; try fewer --workers")
    write_index(out)


def _write_world(record: WorldsRecord, grid: LatentGrid, base: Path, job: Job) -> bool:
    torch.set_num_threads(1)
    path, cameras = job
    seed = int(next(iter(cameras)).split("/")[0])
    world = make_training_world(record.content, seed, frames=record.frames, dynamic=is_dynamic(seed))
    rig = list(make_rig(seed, frames=record.frames, size=record.size).values())
    vae = lay_channels_last(load_vae(base))
    renderers = {
        number: exact_renderer(world, rig[number], render_path(world, rig[number])) for number in {source for source, _ in cameras.values()}
    }
    tensors: dict[str, Tensor] = {}
    for name, (source, target) in cameras.items():
        frames = [renderers[source].render(rig[target], frame) for frame in range(record.frames)]
        colour, shown = (torch.stack([getattr(frame, what) for frame in frames]) for what in ("colour", "seen"))
        view = RenderedView.of(colour, shown, grid, partial(encode, vae))
        tensors |= {f"{name}/latents": view.latents[0].half(), f"{name}/shown": view.shown[0].half()}
    write_shard(path, tensors)
    return True
