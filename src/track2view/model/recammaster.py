"""ReCamMaster's published weights as a base and an adapter: a baseline on the same backbone, and a warm start for training.

ReCamMaster (arXiv 2503.11647) trained the self-attention of Wan2.1-T2V-1.3B for two views, and added two linear layers to each block:
``cam_encoder`` (see :mod:`track2view.model.conditioners.camera`) and ``projector``, through which attention's output goes before its
gate (github.com/KwaiVGI/ReCamMaster, ``diffsynth/models/wan_video_dit.py``, ``DiTBlock``). The checkpoint holds the whole transformer
under Wan's own names without a prefix (``train_recammaster.py``, ``on_save_checkpoint``; loaded strictly in
``inference_recammaster.py``). Two linear layers in a row are one, so the projector goes into the base's own output layer and no block
of another kind is needed. Views meet there as here with ``timestep="shared"``, ``rope="sequential"``, ``attention="joint"``: latents
are [target; source] along frames, at successive positions, modulated at one timestep (``diffsynth/pipelines/wan_video_recammaster.py``).
"""

import os
import re
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from track2view.errors import UserError
from track2view.files import atomic_folder
from track2view.model.bases import check_base
from track2view.model.checkpoint import AdapterRecord, QueryPlan, save_adapter
from track2view.model.conditioners.camera import CameraConditioner
from track2view.model.dual_view import DualViewModes
from track2view.model.folders import loaded, outlined

MODES = DualViewModes(timestep="shared", rope="sequential", attention="joint")
UNCHANGED = ("model_index.json", "vae", "text_encoder", "tokenizer", "scheduler")
"""What of a base ReCamMaster left as it is."""
OUTPUT_LAYER = re.compile(r"(blocks\.\d+)\.attn1\.to_out\.0\.(weight|bias)")
OWN_LAYER = re.compile(r"blocks\.(\d+)\.(cam_encoder|projector)\.(weight|bias)")


def convert_recammaster(checkpoint: Path, base: Path, out: Path) -> None:
    """Write ``out/base`` and ``out/adapter`` from ReCamMaster's checkpoint and the Wan base that it was trained from.

    The base's unchanged parts are hard links where the disk has them.

    Args:
        checkpoint: ``.ckpt``, read as tensors alone, or ``.safetensors``.
        base: in diffusers' layout.
        out: a new folder.

    Raises:
        UserError: a folder that is there already, a base that :func:`track2view.model.bases.check_base` refuses or that lacks
            a part, or a checkpoint that is none, or not of this base: which weight is missing, unknown or misshapen.
    """
    check_base(base)
    for part in UNCHANGED:
        if not (base / part).exists():
            raise UserError(f"{base}: not a whole base in diffusers' Wan layout: it has no {part}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; give a folder that is new or empty")
    transformer = outlined(base / "transformer", WanTransformer3DModel.from_config)
    assert isinstance(transformer, WanTransformer3DModel)
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    with torch.device("meta"):
        conditioner = CameraConditioner(token_width=width, blocks=len(transformer.blocks))
    weights = _fitting(_read(checkpoint), checkpoint, transformer, conditioner)
    transformer.load_state_dict({name: _folded(weights, name) for name in transformer.state_dict()}, assign=True)
    record = AdapterRecord(
        base=f"{base.resolve().name} with ReCamMaster's weights",
        width=width,
        conditioner="CameraConditioner",
        modes=MODES,
        queries=QueryPlan(),
        lora_rank=0,
        lora_alpha=0,
        recipe="recammaster",
        data={"checkpoint": checkpoint.name},
    )
    with atomic_folder(out) as partial:
        transformer.save_pretrained(partial / "base" / "transformer")
        for part in UNCHANGED:
            _link(base / part, partial / "base" / part)
        state = {f"conditioner.{name}": _full(weights[_their_encoder(name)]) for name in conditioner.state_dict()}
        save_adapter(partial / "adapter", state, record, conditioner.config)


def _folded(weights: dict[str, Tensor], name: str) -> Tensor:
    """A weight of the transformer; an attention's output layer W, b has the projector P, p behind it: P (W x + b) + p."""
    found = OUTPUT_LAYER.fullmatch(name)
    if not found:
        return _full(weights[name])
    projector, own = weights[f"{found[1]}.projector.weight"].double(), weights[name].double()
    return _full(projector @ own if found[2] == "weight" else projector @ own + weights[f"{found[1]}.projector.bias"].double())


def _full(weight: Tensor) -> Tensor:
    """In float32, sharing nothing with the file or with other weights."""
    return weight.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _read(path: Path) -> dict[str, Tensor]:
    """Weights by the names that the file gives them; no pickle is run.

    Raises:
        UserError: missing, damaged, or holding anything but weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give ReCamMaster's checkpoint, step20000.ckpt of KwaiVGI/ReCamMaster-Wan2.1")

    def tensors() -> object:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except UnpicklingError:
            raise UserError(f"{path}: a pickle that holds more than weights, which can run any code; it is not read") from None

    state = loaded(tensors, path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: not ReCamMaster's checkpoint: expected weights by name, got {type(state).__name__}")
    for name, weight in state.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: not ReCamMaster's checkpoint: expected weights by name, got {name!r:.100}")
        if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.is_meta or not weight.is_floating_point():
            kind = f"{weight.layout} {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
            raise UserError(f"{path}: not ReCamMaster's checkpoint: {name:.100}: expected a weight, got {kind}")
    return state


def _fitting(state: dict[str, Tensor], path: Path, transformer: WanTransformer3DModel, conditioner: CameraConditioner) -> dict[str, Tensor]:
    """The checkpoint's weights under diffusers' names, those of its own layers under its own, if they are what this base takes."""
    theirs = {}
    for name, weight in state.items():
        # one by one, so that messages can say the name that the file has
        convert = lambda name=name, weight=weight: convert_wan_transformer_to_diffusers({name: weight})  # noqa: E731
        renamed = name if OWN_LAYER.fullmatch(name) else next(iter(loaded(convert, path)))
        if renamed in theirs:
            raise UserError(f"{path}: {theirs[renamed]} and {name} are the same weight; there can be only one")
        theirs[renamed] = name
    wanted = {name: weight.shape for name, weight in transformer.state_dict().items()}
    for name, weight in conditioner.state_dict().items():
        wanted[_their_encoder(name)] = weight.shape
    wanted |= {name.replace("attn1.to_out.0", "projector"): shape for name, shape in wanted.items() if OUTPUT_LAYER.fullmatch(name)}
    if missing := [name for name in wanted if name not in theirs]:
        raise UserError(
            f"{path}: lacks {missing[0]} (as diffusers calls it; {len(missing)} such in all): not ReCamMaster's, or of another base"
        )
    if extra := [theirs[name] for name in theirs if name not in wanted]:
        raise UserError(f"{path}: has {extra[0]:.100}, which this base has no place for ({len(extra)} such in all)")
    for name, shape in wanted.items():
        if state[theirs[name]].shape != shape:
            raise UserError(f"{path}: {theirs[name]} is {list(state[theirs[name]].shape)}, this base needs {list(shape)}")
    return {name: state[theirs[name]] for name in wanted}


def _their_encoder(name: str) -> str:
    """encoders.0.weight → blocks.0.cam_encoder.weight."""
    _, block, kind = name.split(".")
    return f"blocks.{block}.cam_encoder.{kind}"


def _link(path: Path, copy: Path) -> None:
    """A file's or a folder's files under another name: hard links where the disk has them, for they may be many gigabytes."""
    if path.is_dir():
        shutil.copytree(path, copy, copy_function=lambda file, to: _link(Path(file), Path(to)))
        return
    try:
        os.link(path.resolve(), copy)
    except OSError:  # another disk, or one without links; an error of any other kind meets the copy as well
        shutil.copyfile(path, copy)
