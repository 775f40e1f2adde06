"""A base on disk: a Wan model in diffusers' layout, held to be one before its weights are read."""

import math
import shutil
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor

from track2view.errors import UserError
from track2view.model.folders import OFFLINE, check_report, check_weights, loaded, outlined, read_config
from track2view.model.latents import Strides

Kind = TypeVar("Kind", bound=ModelMixin)

PUBLIC: dict[type[ModelMixin], tuple[str, str]] = {
    WanTransformer3DModel: ("Wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    WanVACETransformer3DModel: ("Wan VACE", "Wan-AI/Wan2.1-VACE-1.3B-diffusers"),
}
"""By the class of a base's transformer: what such a base is called, and one that anybody can have."""


def load_transformer(base: Path, dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    """The transformer of a text-to-video base.

    Raises:
        UserError: what :func:`check_base` refuses, or weights that are not what the configuration announces.
    """
    check_base(base)
    transformer = whole(WanTransformer3DModel, base / "transformer", dtype)
    return transformer.eval().requires_grad_(False)


def load_vae(base: Path, kind: type[ModelMixin] = WanTransformer3DModel) -> AutoencoderKLWan:
    """The VAE of a base folder, in float32: half precision costs it visible detail.

    Raises:
        UserError: what :func:`check_base` refuses, or weights that are not what the configuration announces.
    """
    check_base(base, kind)
    return whole(AutoencoderKLWan, base / "vae", torch.float32).eval().requires_grad_(False)


def write_base(folder: Path, like: Path, transformer: WanTransformer3DModel, weights: Mapping[str, Tensor]) -> None:
    """Write a base into an empty folder: a transformer with other weights, and all other parts as another base has them.

    Args:
        like: the other base.
        transformer: whose configuration it is.
        weights: all of them, by the transformer's own names.
    """
    shutil.copytree(like, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("transformer", "adapter", "prompts", ".*"))
    with torch.device("meta"):
        own = WanTransformer3DModel.from_config(transformer.config)
    assert isinstance(own, WanTransformer3DModel)
    own.load_state_dict(weights, assign=True)
    own.save_pretrained(folder / "transformer", safe_serialization=True)


def check_base(base: Path, kind: type[ModelMixin] = WanTransformer3DModel) -> Strides:
    """Hold a folder to be a Wan model in diffusers' layout whose parts fit, by its configurations; and its strides.

    Args:
        kind: of its transformer: text-to-video, or one that is guided by a video (:mod:`track2view.complete`).

    Raises:
        UserError: what is missing, of another kind, or does not fit what, by name.
    """
    title, public = PUBLIC[kind]
    if not base.is_dir():
        raise UserError(f"{base}: no such base folder; give a local copy of {public}, or `track2view model new`")
    for part in ("transformer/config.json", "vae/config.json"):
        if not (base / part).exists():
            raise UserError(f"{base}: not a base in diffusers' Wan layout: it has no {part}")
    config, vae = _config(kind, base / "transformer"), _config(AutoencoderKLWan, base / "vae")
    name = config.get("_class_name")
    if name != kind.__name__:
        raise UserError(f"{base}: not a {title} model: its transformer is {name}; {kind.__name__} is needed, as {public} has it")
    if config.get("image_dim") is not None or config.get("in_channels") != config.get("out_channels"):
        raise UserError(f"{base}: not a {title} text-to-video model (it takes images or masks beside latents)")
    channels = vae["z_dim"]
    if channels != config["in_channels"]:
        raise UserError(
            f"{base}: its parts do not fit: latents have {channels!r:.20} channels (vae/config.json: z_dim), the transformer takes "
            f"{config['in_channels']!r:.20} (transformer/config.json: in_channels)"
        )
    for name in ("latents_mean", "latents_std"):
        values = vae[name]
        if (
            not isinstance(values, list | tuple)
            or len(values) != channels
            or not all(isinstance(each, int | float) and math.isfinite(each) for each in values)
        ):
            raise UserError(f"{base / 'vae/config.json'}: {name}: expected {channels!r:.20} numbers, one for each channel of z_dim")
    if not all(each > 0 for each in vae["latents_std"]):
        raise UserError(f"{base / 'vae/config.json'}: latents_std: expected positive numbers")
    try:
        return Strides.of(vae, config)
    except UserError as error:
        raise UserError(f"{base}: {error}") from None


def _config(kind: type[ModelMixin], folder: Path) -> dict[str, Any]:
    """A model's configuration; what it does not say is as its class has it."""
    own = {name: each.default for name, each in signature(kind.__init__).parameters.items() if each.default is not each.empty}
    return own | read_config(folder)


def whole(kind: type[Kind], folder: Path, dtype: torch.dtype) -> Kind:
    """A module with every one of its weights read from ``folder``."""
    check_weights(folder, outlined(folder, kind.from_config))  # pyrefly: ignore
    load = lambda: kind.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **OFFLINE)  # noqa: E731
    module, report = loaded(load, folder)
    check_report(report, folder)
    return module
