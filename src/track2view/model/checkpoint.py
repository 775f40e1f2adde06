"""What an adapter is on disk (design section 5, Checkpoints).

It holds ``conditioner/`` (diffusers layout), ``lora/pytorch_lora_weights.safetensors`` (loads into plain diffusers),
``view_embedding.safetensors`` (synchronised positions only) and ``track2view.json``. Safetensors only, never pickle.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from track2view.errors import UserError
from track2view.files import atomic_path, read_record, replaced_folder, standing_folder, write_record
from track2view.model.bases import whole
from track2view.model.conditioners import CONDITIONERS, Conditioner
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.folders import loaded
from track2view.records import Size

FORMAT = "track2view.adapter/1"
MINI = Path(__file__).parents[1] / "weights/mini"
"""A base and an adapter that come with the package (docs/training.md)."""
MOST_TRACKS, MOST_WIDTH, MOST_RANK, MOST_SHIFT, MOST_GUIDANCE, MOST_STEPS, MOST_SIDE = 1_000_000, 1 << 16, 1024, 100, 100, 1000, 1 << 16
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILES = {"conditioner", "lora", "view_embedding.safetensors", "track2view.json"}
LORA_TARGETS = [
    *(f"{attention}.{name}" for attention in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "ffn.net.0.proj",
    "ffn.net.2",
]
LORA_NAME = re.compile(r"blocks\.(\d+)\.block\.(.+)\.(lora_[AB])\.default\.weight")
"""Names in :class:`DualViewModel`; on disk they are the transformer's own."""
COMFY_NAMES = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))},
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name}: expected a whole number from {least} to {most}, got {value!r:.60}")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryPlan:
    """Where an adapter's tracks start: a grid over the image, at frames counted from the window's start, or its end if negative."""

    rows: int = 24
    columns: int = 24
    frames: tuple[int, ...] = (0, -1)

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            _check_whole(f"queries.{name}", getattr(self, name), 1, MOST_TRACKS)
        for frame in self.frames:
            _check_whole("queries.frames", frame, -MOST_TRACKS, MOST_TRACKS)
        if not 0 < len(self) <= MOST_TRACKS:
            raise UserError(f"queries: expected 1 to {MOST_TRACKS} tracks, got {self.rows} × {self.columns} at {len(self.frames)} frames")

    def __len__(self) -> int:
        """How many tracks start in a window."""
        return self.rows * self.columns * len(self.frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecord:
    """What ``track2view.json`` says of an adapter.

    Attributes:
        base: name of the base it was trained on.
        width: of that base.
        conditioner: the class of its conditioner.
        modes: how views meet.
        queries: where tracks start; inference follows it.
        lora_rank, lora_alpha: rank 0 is no LoRA.
        shift: of noise levels in training (design section 5).
        frames, size: of the clips it was trained on; None where these had many sizes.
        guidance, steps: on the prompt, and of denoising, that it is meant to be sampled with.
        recipe, step, data: how it was made.
    """

    base: str
    width: int
    conditioner: str = "TrackConditioner"
    modes: DualViewModes
    queries: QueryPlan
    lora_rank: int = 64
    lora_alpha: int = 64
    shift: float = 5.0
    frames: int = 81
    size: Size | None = None
    guidance: float = 5.0
    steps: int = 50
    recipe: str = ""
    step: int = 0
    data: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("base", "recipe"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name}: expected text, got {getattr(self, name)!r}")
        if self.conditioner not in CONDITIONERS:
            raise UserError(f"conditioner: expected one of {', '.join(CONDITIONERS)}, got {self.conditioner!r:.60}")
        _check_whole("width", self.width, 1, MOST_WIDTH)
        _check_whole("lora_rank", self.lora_rank, 0, MOST_RANK)
        _check_whole("lora_alpha", self.lora_alpha, 0, MOST_WIDTH)
        _check_whole("step", self.step, 0, 1 << 53)
        for name, most in (("shift", MOST_SHIFT), ("guidance", MOST_GUIDANCE)):
            if not isinstance(getattr(self, name), int | float) or not 0 < getattr(self, name) <= most:
                raise UserError(f"{name}: expected a number from 0 to {most}, got {getattr(self, name)!r:.60}")
        _check_whole("frames", self.frames, 1, MOST_SIDE)
        _check_whole("steps", self.steps, 1, MOST_STEPS)
        if self.size is not None:
            if not isinstance(self.size, tuple) or len(self.size) != 2:
                raise UserError(f"size: expected height and width, got {self.size!r:.60}")
            for side in self.size:
                _check_whole("size", side, 1, MOST_SIDE)

    def save(self, path: Path) -> None:
        """Write JSON."""
        write_record(path, self, FORMAT)

    @staticmethod
    def load(path: Path) -> "AdapterRecord":
        """Read JSON; raises :class:`UserError` naming the field that is missing or wrong."""
        return read_record(path, AdapterRecord, FORMAT, what="an adapter", maker="track2view model new")


def add_lora(transformer: WanTransformer3DModel, rank: int, alpha: int) -> None:
    """Fresh LoRA layers (they change nothing) on the attention and feed-forward weights of every block.

    Their weights are float32 whatever the base's type: what trains is a master (design section 5, Numbers).
    """
    transformer.add_adapter(_lora_config(rank, alpha))
    for each in _lora_parameters(transformer).values():
        each.data = each.data.float()


def lora_as_base(transformer: WanTransformer3DModel) -> None:
    """LoRA in the base's own type, for inference: products with masters cost several times as much."""
    for each in _lora_parameters(transformer).values():
        each.data = each.data.to(transformer.dtype)


def save_adapter(folder: Path, state: Mapping[str, Tensor], record: AdapterRecord, conditioner_config: dict[str, Any]) -> None:
    """Write an adapter folder; an adapter that is there is replaced as a whole: at no time does a mixture of the two load.

    Args:
        state: what is trained, whole, under the names of :meth:`DualViewModel.named_parameters`: of a model
            (:func:`track2view.model.parallel.trainable_parameters`), gathered from its shards, or an average of it.
        conditioner_config: ``model.conditioner.config``.

    Raises:
        ValueError: a state that lacks what the record announces, or has more.
        RuntimeError: conditioner weights that do not fit its configuration.
        UserError: a folder that holds anything else.
    """
    parts = _adapter_parts(state, record)
    if foreign := sorted({each.name for each in folder.iterdir()} - ADAPTER_FILES if folder.exists() else ()):
        raise UserError(f"{folder}: holds {foreign[0]}, which is no part of an adapter and would be lost; give another folder")
    with torch.device("meta"):
        conditioner = CONDITIONERS[record.conditioner].from_config(conditioner_config)
    assert isinstance(conditioner, Conditioner)
    conditioner.load_state_dict(parts.conditioner, assign=True)
    with replaced_folder(folder) as partial:
        conditioner.save_pretrained(partial / "conditioner", safe_serialization=True)
        if parts.lora:
            WanPipeline.save_lora_weights(
                partial / "lora",
                transformer_lora_layers={**parts.lora},
                weight_name=LORA_FILE,
                transformer_lora_adapter_metadata=_lora_config(record.lora_rank, record.lora_alpha).to_dict(),
            )
        if parts.view_embedding is not None:
            save_file({"view_embedding": parts.view_embedding.contiguous()}, partial / "view_embedding.safetensors")
        record.save(partial / "track2view.json")


def load_adapter(
    folder: Path, transformer: WanTransformer3DModel, modes: DualViewModes | None = None
) -> tuple[DualViewModel, AdapterRecord]:
    """A model from a base's transformer (which gets the adapter's LoRA) and an adapter folder.

    Args:
        modes: what the caller needs; the adapter's own by default.

    Raises:
        UserError: no adapter there, one for another width or with other modes, a missing or misshapen weight, by name.
    """
    folder = standing_folder(folder)
    record = AdapterRecord.load(folder / "track2view.json")
    for name in ("timestep", "rope", "attention"):
        if modes is not None and getattr(modes, name) != getattr(record.modes, name):
            raise UserError(f"{folder}: was trained with {name} {getattr(record.modes, name)!r}; {getattr(modes, name)!r} was asked for")
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    if record.width != width:
        raise UserError(f"{folder}: was made for a base of width {record.width} ({record.base}), this base has {width}")
    conditioner = whole(CONDITIONERS[record.conditioner], folder / "conditioner", torch.float32)
    if record.lora_rank:
        add_lora(transformer, record.lora_rank, record.lora_alpha)
        _fill_lora(transformer, folder / "lora" / LORA_FILE)
    try:
        conditioner.check_base(width, len(transformer.blocks))
    except UserError as error:
        raise UserError(f"{folder / 'conditioner/config.json'}: {error}") from None
    model = DualViewModel(transformer, conditioner, record.modes)
    if model.view_embedding is not None:
        path = folder / "view_embedding.safetensors"
        if not path.exists():
            raise UserError(f"{path}: missing; synchronised positions need it")
        found = loaded(lambda: load_file(path)["view_embedding"], path)
        if found.shape != model.view_embedding.shape:
            raise UserError(f"{path}: is {list(found.shape)}, this base needs {list(model.view_embedding.shape)}")
        model.view_embedding.data.copy_(found)
    return model.eval(), record


def export_comfy(adapter: Path, out: Path) -> None:
    """Write the adapter's LoRA under the names of ComfyUI (Wan's original ones), with alpha beside each pair."""
    adapter = standing_folder(adapter)
    record = AdapterRecord.load(adapter / "track2view.json")
    if not record.lora_rank:
        raise UserError(f"{adapter}: has no LoRA to export")
    renamed = {}
    for key, value in _read_lora(adapter / "lora" / LORA_FILE).items():
        block, index, module, kind = loaded(lambda key=key: _split(key.removeprefix("transformer.")), adapter / "lora" / LORA_FILE)
        if module not in COMFY_NAMES:
            raise UserError(f"{adapter / 'lora' / LORA_FILE}: {key}: ComfyUI has no name for this")
        name = f"diffusion_model.{block}.{index}.{COMFY_NAMES[module]}"
        renamed[f"{name}.{'lora_down' if kind == 'lora_A' else 'lora_up'}.weight"] = value
        renamed[f"{name}.alpha"] = torch.tensor(float(record.lora_alpha))
    with atomic_path(out) as partial:
        save_file(renamed, partial)


@dataclass(frozen=True, kw_only=True, slots=True)
class _AdapterParts:
    """A state by where it is written, under the names that it has there."""

    conditioner: dict[str, Tensor]
    lora: dict[str, Tensor]
    view_embedding: Tensor | None


def _adapter_parts(state: Mapping[str, Tensor], record: AdapterRecord) -> _AdapterParts:
    lora, conditioner, view_embedding = {}, {}, None
    for name, each in state.items():
        if found := LORA_NAME.fullmatch(name):
            lora["blocks.{}.{}.{}.weight".format(*found.groups())] = each.detach()
        elif name.startswith("conditioner."):
            conditioner[name.removeprefix("conditioner.")] = each.detach()
        elif name == "view_embedding":
            view_embedding = each.detach()
        else:
            raise ValueError(f"{name} has no place in an adapter, which holds a LoRA, a conditioner and the mark of views")
    blocks = len({name.split(".")[1] for name in lora})
    expected = {f"blocks.{block}.{each}.{kind}.weight" for block in range(blocks) for each in LORA_TARGETS for kind in ("lora_A", "lora_B")}
    if odd := sorted(lora.keys() ^ expected):
        raise ValueError(f"{odd[0]}: {'lacking in' if odd[0] in expected else 'unknown to'} the LoRA ({len(odd)} such in all)")
    if (ranks := {len(each) for name, each in lora.items() if ".lora_A." in name}) != ({record.lora_rank} - {0}):
        raise ValueError(f"the record announces a LoRA of rank {record.lora_rank}, the state has {sorted(ranks) or 'none'}")
    if (view_embedding is not None) != (record.modes.rope == "synchronised"):
        raise ValueError(f"view_embedding: belongs to synchronised positions and to them alone; rope is {record.modes.rope}")
    return _AdapterParts(conditioner=conditioner, lora=lora, view_embedding=view_embedding)


def _lora_config(rank: int, alpha: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS, init_lora_weights=True)


def _lora_parameters(transformer: WanTransformer3DModel) -> dict[str, nn.Parameter]:
    """LoRA weights under the names that they have on disk."""
    return {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in transformer.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def _split(key: str) -> tuple[str, str, str, str]:
    """blocks.0.attn1.to_q.lora_A.weight → blocks, 0, attn1.to_q, lora_A."""
    parts = key.split(".")
    return parts[0], parts[1], ".".join(parts[2:-2]), parts[-2]


def _read_lora(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(f"{path}: missing; the adapter says that it has a LoRA")
    return loaded(lambda: load_file(path), path)


def _fill_lora(transformer: WanTransformer3DModel, path: Path) -> None:
    found = {key.removeprefix("transformer."): value for key, value in _read_lora(path).items()}
    wanted = _lora_parameters(transformer)
    if missing := sorted(wanted.keys() - found.keys()):
        raise UserError(f"{path}: lacks {missing[0]} ({len(missing)} missing in all); it was made for another base")
    if extra := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path}: has {extra[0]}, which this base has no place for ({len(extra)} such in all)")
    for name, parameter in wanted.items():
        if parameter.shape != found[name].shape:
            raise UserError(f"{path}: {name} is {list(found[name].shape)}, this base needs {list(parameter.shape)}")
        parameter.data.copy_(found[name])
