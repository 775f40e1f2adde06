"""From a recipe to a run: what it trains on, from which base, on which device; and what it takes before anything is loaded."""

import inspect
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import UInt8
from torch import Tensor

from track2view.encoded import encoded_folder
from track2view.errors import UserError, check_positive
from track2view.evaluate import Pair, score_clip, true_pair
from track2view.model.bases import check_base, load_transformer, load_vae
from track2view.model.checkpoint import MINI, AdapterRecord, add_lora, load_adapter
from track2view.model.conditioners import Conditioner
from track2view.model.conditioners.camera import CameraConditioner
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.conditioners.trajectory import TrajectoryConditioner
from track2view.model.conditioners.unconditional import UnconditionalConditioner
from track2view.model.cost import Shape
from track2view.model.dual_view import DualViewModel
from track2view.model.folders import outlined
from track2view.model.latents import WAN_STRIDES, LatentGrid
from track2view.model.make import SIZES, new_model, new_vae
from track2view.recipes import (
    WAN_1_3B,
    AdapterRecipe,
    AnyShape,
    BaseRecipe,
    CameraShape,
    ConditionerShape,
    Recipe,
    RenderShape,
    TrajectoryShape,
    UnconditionalShape,
    VaeRecipe,
    micro,
)
from track2view.train.adapter import AdapterTask
from track2view.train.base import BaseTask
from track2view.train.data import Examples, Some, TrainingSamples
from track2view.train.denoising import ClipFeed, PairFeed, Reads
from track2view.train.estimate import Estimate, adapter_estimate
from track2view.train.loop import train
from track2view.train.plan import Sharding
from track2view.train.processes import processes
from track2view.train.state import checkpoints
from track2view.train.task import Task
from track2view.train.vae import PieceFeed, TrainableVae, VaeTask, lively
from track2view.train.worlds import ClipLatents, WorldClips, WorldPairs, encode_worlds, is_dynamic, is_worlds, write_worlds

KINDS: dict[type, tuple[type[Conditioner], Reads]] = {
    ConditionerShape: (TrackConditioner, "tracks"),
    CameraShape: (CameraConditioner, "camera"),
    RenderShape: (RenderConditioner, "rendered"),
    TrajectoryShape: (TrajectoryConditioner, "tracks"),
    UnconditionalShape: (UnconditionalConditioner, "nothing"),
}
"""Which conditioner has a shape, and what it reads of an example."""
VALIDATED, SAMPLED = 16, 4
MINI_VAE = MINI / "base/vae"
"""Comes with the package: docs/training.md says how it was trained."""
SPARE = 1.2


def run(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    base: Path | None = None,
    held_out: Path | None = None,
    device: str = "cpu",
    sharding: Sharding = "none",
    loaders: int = 0,
    adapter: Path | None = None,
    resume: bool = False,
) -> None:
    """Train a recipe into ``out`` (:func:`track2view.train.loop.train`).

    Args:
        data: what ``track2view scenes clips`` or ``track2view curate run`` wrote, encoded with the base.
        base: in Wan's layout; a VAE begins from nothing without one.
        adapter: begins with these weights instead of fresh ones, on whichever base of its width.
        held_out: data of the same kind to validate on.
        resume: go on with the run that ``out`` holds.

    Raises:
        UserError: what cannot be trained, before anything is; or what stopped the run.
    """
    check_positive(loaders=loaders + 1)
    there = checkpoints(out / "checkpoints")
    if there and not resume:
        raise UserError(f"{out}: holds a run at {there[-1].name}; go on with --resume, or give another OUT")
    with processes(device) as here:
        torch.manual_seed(recipe.plan.seed)
        recipe.plan.accumulation(here.count)
        if isinstance(recipe, AdapterRecipe):
            check_room(estimate(recipe, base, processes=here.count, sharding=sharding), recipe, out, here.device)
        task = build(recipe, data, base, held_out, here.device, adapter)
        task.feed.verify()
        train(task, recipe.plan, as_json(recipe), out, here, sharding=sharding, loaders=loaders)


def make_micro_data(folder: Path) -> tuple[Path, Path]:
    """In ``folder``, what the recipe ``micro`` trains on: one world, and a random base with the mini's VAE. What is there is kept.

    Returns:
        The folders of data and of base.
    """
    recipe, data, base = micro(), folder / "worlds", folder / "base"
    write_worlds(data, "train", range(1), frames=recipe.frames, size=recipe.size, grid=(recipe.queries.rows, recipe.queries.columns))
    if not base.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            new_model("small", Path(place), vae=MINI_VAE)
            (Path(place) / "base").rename(base)
    encode_worlds(data, base)
    return data, base


def described(recipe: Recipe, base: Path | None, processes: int | None, sharding: Sharding) -> list[str]:
    """What a recipe is and takes, in lines, from configurations alone.

    Args:
        processes: that share it; by default as many as it is meant for.
    """
    plan = recipe.plan
    count = processes or plan.processes
    lines = [
        f"recipe     {recipe.name}: {plan.steps:,} steps of {plan.batch} examples, {plan.micro_batch} at once in each of {count} "
        f"process{'es' * (count > 1)}, {plan.accumulation(count)} times a step",
        f"rate       {plan.learning_rate:g} after {plan.warmup} steps, falling in the last {plan.decay}; {plan.precision}",
    ]
    if not isinstance(recipe, AdapterRecipe):
        return lines
    spread = sharding if count > 1 else "none"
    found = estimate(recipe, base, processes=count, sharding=spread)
    return [
        *lines,
        f"base       {base or 'Wan2.1-T2V-1.3B, by its configuration'}; {recipe.frames} frames of {recipe.size[0]}×{recipe.size[1]}",
        f"modes      timestep {recipe.modes.timestep}, rope {recipe.modes.rope}, attention {recipe.modes.attention}; sharding {spread}",
        *found.lines(count),
        *(f"           {line}" for line in HOW.splitlines()),
    ]


HOW = """Memory: weights in their type; what is trained in float32 with a gradient, an average and two moments; what enters each block
under checkpointing, and one block's own activations, 24 float32 values and its products a token. Operations: a forward pass, the
same again for gradients through frozen weights, once more for recomputation, once more for weights trained in full."""


def as_json(recipe: Recipe) -> dict[str, Any]:
    """All that shapes a run, field by field with dots, as JSON gives it back; its course in time, where it computes, how often
    it reports and what is sampled afterwards are left out."""
    reported = {
        "plan.steps",
        "plan.warmup",
        "plan.decay",
        "plan.processes",
        "plan.compiled",
        "plan.log_every",
        "plan.validate_every",
        "plan.sample_every",
        "plan.save_every",
        "plan.kept",
        "sampling_steps",
    }

    def flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, each in value.items():
            found |= flat(each, f"{before}{name}.") if isinstance(each, dict) else {f"{before}{name}": each}
        return found

    return json.loads(json.dumps({name: value for name, value in flat(asdict(recipe)).items() if name not in reported}))


def build(
    recipe: Recipe, data: Path, base: Path | None, held_out: Path | None, device: torch.device, adapter: Path | None = None
) -> Task[Any, Any]:
    """What a recipe trains, with its data.

    Raises:
        UserError: what is missing or does not fit.
    """
    if adapter is not None and not isinstance(recipe, AdapterRecipe):
        raise UserError(f"recipe {recipe.name} trains no adapter to begin with {adapter}; leave --adapter out")
    if isinstance(recipe, VaeRecipe):
        return _vae_task(recipe, data, base, held_out)
    if base is None:
        raise UserError(f"recipe {recipe.name} needs --base: a folder in Wan's layout")
    check_base(base)
    if isinstance(recipe, BaseRecipe):
        return _base_task(recipe, data, base, held_out)
    return _adapter_task(recipe, data, base, held_out, device, adapter)


def new_adapter(transformer: WanTransformer3DModel, recipe: AdapterRecipe) -> DualViewModel:
    """A base with the fresh adapter of a recipe; what is trained asks for gradients, in float32."""
    transformer.requires_grad_(recipe.all_weights)
    conditioner = new_conditioner(transformer, recipe.conditioner)
    if recipe.lora_rank:
        add_lora(transformer, recipe.lora_rank, recipe.lora_alpha)
    return DualViewModel(transformer, conditioner, recipe.modes)


def new_conditioner(transformer: WanTransformer3DModel, shape: AnyShape) -> Conditioner:
    """A fresh one, which changes nothing yet."""
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    if isinstance(shape, ConditionerShape):
        return TrackConditioner(token_width=width, **asdict(shape))
    kind = KINDS[type(shape)][0]
    base = {"token_width": width, "blocks": len(transformer.blocks), **_latents_of(transformer)}
    taken = inspect.signature(kind.__init__).parameters
    found = kind.from_config({name: each for name, each in base.items() if name in taken} | asdict(shape))
    assert isinstance(found, Conditioner)
    return found


def _latents_of(transformer: WanTransformer3DModel) -> dict[str, int]:
    return {"latent_channels": transformer.config["in_channels"], "patch": transformer.config["patch_size"][1]}


def continued_adapter(transformer: WanTransformer3DModel, recipe: AdapterRecipe, folder: Path) -> tuple[DualViewModel, AdapterRecord]:
    """A base with an adapter that was trained before, to be trained on as :func:`new_adapter`'s; and what that adapter says of itself.

    Raises:
        UserError: an adapter of another shape than the recipe's, by the field's name.
    """
    transformer.requires_grad_(recipe.all_weights)
    model, record = load_adapter(folder, transformer, recipe.modes)
    there = {"conditioner": record.conditioner, "lora_rank": record.lora_rank, "lora_alpha": record.lora_alpha, **model.conditioner.config}
    own = {"conditioner": conditioner_name(recipe), "lora_rank": recipe.lora_rank, "lora_alpha": recipe.lora_alpha}
    for name, value in (own | asdict(recipe.conditioner)).items():
        if there[name] != value:
            raise UserError(
                f"{folder}: has {name} {there[name]!r}, recipe {recipe.name} {value!r}; give one of this shape, or begin afresh"
            )
    return model.train(), record


def conditioner_name(recipe: AdapterRecipe) -> str:
    """As adapters have it in their records."""
    return KINDS[type(recipe.conditioner)][0].__name__


def estimate(recipe: AdapterRecipe, base: Path | None, *, processes: int, sharding: Sharding = "none") -> Estimate:
    """What a run takes, from configurations alone; without a base, on Wan2.1-T2V-1.3B."""
    with torch.device("meta"):
        if base is None:
            transformer, strides = WanTransformer3DModel(**WAN_1_3B), WAN_STRIDES
        else:
            strides = check_base(base)
            outline = outlined(base / "transformer", WanTransformer3DModel.from_config)
            assert isinstance(outline, WanTransformer3DModel)
            transformer = outline
        model = new_adapter(transformer, recipe)
    grid = LatentGrid(frames=recipe.frames, size=recipe.size, strides=strides)
    shape = Shape.of(transformer, model.conditioner, recipe.lora_rank)
    tracks = len(recipe.queries)
    return adapter_estimate(model, shape, recipe.modes, grid.token_grid, tracks, recipe.plan, processes=processes, sharding=sharding)


def check_room(found: Estimate, recipe: Recipe, out: Path, device: torch.device) -> None:
    """Before anything is loaded.

    Raises:
        UserError: too little memory or disk, with what there is.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if found.memory > free:
        raise UserError(
            f"recipe {recipe.name} needs about {found.memory / 1e9:.1f} GB of {device.type.upper()} memory, {free / 1e9:.1f} are free: "
            "use a smaller micro-batch, checkpointing, more GPUs with --sharding, or another recipe"
        )
    existing = next(each for each in (out, *out.resolve().parents) if each.exists())
    room, needed = shutil.disk_usage(existing).free, SPARE * (recipe.plan.kept + 2) * found.checkpoint_bytes
    if needed > room:
        raise UserError(f"{out}: checkpoints need about {needed / 1e9:.2f} GB, {room / 1e9:.2f} are free; free some, or give another OUT")


def _adapter_task(
    recipe: AdapterRecipe, data: Path, base: Path, held_out: Path | None, device: torch.device, adapter: Path | None
) -> AdapterTask:
    trained_half = recipe.plan.precision == "bfloat16" and not recipe.all_weights and device.type == "cuda"
    transformer = load_transformer(base, torch.bfloat16 if trained_half else torch.float32)
    begun: dict[str, object] = {}
    if adapter is None:
        model = new_adapter(transformer, recipe)
    else:
        model, earlier = continued_adapter(transformer, recipe, adapter)
        begun = {"begun_with": f"{earlier.recipe or 'an adapter'} of step {earlier.step}"}
    _, reads = KINDS[type(recipe.conditioner)]
    whole = _pairs(data, base, reads)
    pairs = _chosen(whole, recipe)
    worlds = whole.record if isinstance(whole, WorldPairs) else None
    others = None if held_out is None else _pairs(held_out, base, reads)
    eligible = others.drawn(recipe.pairs) if isinstance(others, WorldPairs) and recipe.pairs is not None else range(len(others or ()))
    record = AdapterRecord(
        base=base.name,
        width=model.conditioner.config["token_width"],
        conditioner=conditioner_name(recipe),
        modes=recipe.modes,
        queries=recipe.queries,
        lora_rank=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        shift=recipe.shift,
        frames=recipe.frames if worlds is None else worlds.frames,
        size=None if worlds is None else worlds.size,
        guidance=recipe.guidance,
        steps=recipe.sampling_steps,
        recipe=recipe.name,
        data={"fingerprint": pairs.fingerprint(), "examples": len(pairs), **begun},
    )
    feed = PairFeed(pairs, seed=recipe.plan.seed, shift=recipe.shift, tracks=recipe.tracks, reads=reads)
    return AdapterTask(
        model,
        feed,
        record,
        base,
        held_out=others,
        validated=_spread(eligible, VALIDATED),
        sampled=_spread(eligible, SAMPLED) if isinstance(others, WorldPairs) else (),
        vae=load_vae(base) if isinstance(others, WorldPairs) else None,
        pixels=others.pixels if isinstance(others, WorldPairs) else None,
        score=partial(_score, others) if isinstance(others, WorldPairs) else None,
        shift=recipe.shift,
        tracks=recipe.tracks,
    )


def _chosen(whole: Examples, recipe: AdapterRecipe) -> Examples:
    """What a recipe trains on of its data."""
    if recipe.pairs is not None:
        if not isinstance(whole, WorldPairs):
            raise UserError(f"recipe {recipe.name} draws pairs of procedural worlds; give what `track2view scenes clips` wrote")
        return Some(whole, whole.drawn(recipe.pairs))
    return whole if recipe.examples is None else Some(whole, range(recipe.examples))


def pair_of(pairs: WorldPairs, index: int) -> Pair:
    """Which world and cameras an example is of, for :func:`track2view.evaluate.true_pair`."""
    seed, source, target = pairs.place_of(index)
    return Pair(
        seed=int(seed),
        source=f"cam{source + 1:02d}",
        target=f"cam{target + 1:02d}",
        dynamic=is_dynamic(int(seed)),
        content=pairs.record.content,
    )


def _score(pairs: WorldPairs, index: int, clip: UInt8[Tensor, "T 3 H W"]) -> dict[str, float]:
    """A sampled clip of a held-out pair against the exact truth: pictures and cameras."""
    pair = pair_of(pairs, index)
    return score_clip(true_pair(pair, frames=len(clip), size=(clip.shape[2], clip.shape[3])), clip).values


def _base_task(recipe: BaseRecipe, data: Path, base: Path, held_out: Path | None) -> BaseTask:
    if held_out is None:
        raise UserError(f"recipe {recipe.name} needs --held-out: clips of other worlds, encoded with the same base")
    clips, others = (ClipLatents(folder, _encoded(folder, base)) for folder in (data, held_out))
    transformer = load_transformer(base).requires_grad_(True)
    feed = ClipFeed(clips, seed=recipe.plan.seed, shift=recipe.shift)
    return BaseTask(
        transformer,
        feed,
        base,
        held_out=others,
        validated=_spread(range(len(others)), 2 * VALIDATED),
        sampled=_spread(range(len(others)), SAMPLED),
        vae=load_vae(base),
        shift=recipe.shift,
    )


def _vae_task(recipe: VaeRecipe, data: Path, base: Path | None, held_out: Path | None) -> VaeTask:
    if held_out is None:
        raise UserError(f"recipe {recipe.name} needs --held-out: clips of other worlds")
    clips, others = WorldClips(data), WorldClips(held_out)
    vae = lively(new_vae(SIZES[recipe.shape])) if base is None else load_vae(base).requires_grad_(True)
    feed = PieceFeed(clips, frames=recipe.frames, size=recipe.size, seed=recipe.plan.seed)
    return VaeTask(TrainableVae(vae), feed, held_out=[others[index] for index in _spread(range(len(others)), VALIDATED)])


def _pairs(folder: Path, base: Path, reads: Reads) -> Examples:
    encoded = _encoded(folder, base)
    if is_worlds(folder):
        return WorldPairs(folder, encoded, rendered=reads == "rendered")
    if reads == "rendered":
        raise UserError(f"{folder}: a rendered view is made of procedural worlds alone so far; give what `track2view scenes clips` wrote")
    return TrainingSamples(folder, encoded)


def _encoded(folder: Path, base: Path) -> Path:
    found = encoded_folder(folder, base)
    if not found.exists():
        raise UserError(f"{folder}: is not encoded with {base}; run `track2view curate encode {folder} --base {base}` first")
    return found


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """Some of them, evenly from the first to the last."""
    if not indices:
        return []
    return [indices[place] for place in torch.linspace(0, len(indices) - 1, min(count, len(indices))).round().long().tolist()]
