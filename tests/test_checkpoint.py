import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from test_conditioner import random_condition
from test_dual_view import draw

from track2view.errors import UserError
from track2view.model.checkpoint import LORA_FILE, check_base, export_comfy, load_adapter, load_transformer, load_vae, save_adapter
from track2view.model.dual_view import DualViewModes
from track2view.model.latents import WAN_STRIDES
from track2view.model.make import new_model

TARGET, SOURCE, TIME, TEXT = draw(1, 1, 16, 3, 8, 12), draw(2, 1, 16, 3, 8, 12), torch.tensor([500.0]), draw(3, 1, 512, 32)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro base and adapter whose LoRA is not zero."""
    out = tmp_path_factory.mktemp("micro")
    new_model("micro", out, modes=DualViewModes(rope="synchronised"))
    model, record = load_adapter(out / "adapter", load_transformer(out / "base"))
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name == "view_embedding":
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(out / "adapter", model, record)
    return out


def copied(micro: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro, tmp_path / "copy"))


@torch.no_grad()
def test_an_adapter_comes_back_as_it_was_saved(micro: Path, tmp_path: Path) -> None:
    first, record = load_adapter(micro / "adapter", load_transformer(micro / "base"))
    save_adapter(tmp_path / "again", first, record)
    second, read = load_adapter(tmp_path / "again", load_transformer(micro / "base"))
    assert read == record
    contexts = first.condition(SOURCE, random_condition(1, frames=3))
    found = [model(TARGET, TIME, (TEXT,), SOURCE, model.condition(SOURCE, random_condition(1, frames=3)))[0] for model in (first, second)]
    assert torch.equal(*found)
    assert contexts.target.abs().max() > 0
    assert not list((tmp_path / "again").rglob("*.bin"))


@torch.no_grad()
def test_the_lora_loads_into_plain_diffusers_with_the_same_numbers(micro: Path) -> None:
    ours, _ = load_adapter(micro / "adapter", load_transformer(micro / "base"))
    theirs = WanPipeline.from_pretrained(micro / "base")
    plain = theirs.transformer(TARGET, TIME, TEXT, return_dict=False)[0]
    theirs.load_lora_weights(micro / "adapter" / "lora")
    found = theirs.transformer(TARGET, TIME, TEXT, return_dict=False)[0]
    assert torch.equal(found, ours(TARGET, TIME, (TEXT,))[0])
    assert not torch.allclose(found, plain, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("alpha", [4, 8])
def test_the_comfy_export_comes_back_through_diffusers_converter(micro: Path, tmp_path: Path, alpha: int) -> None:
    out = copied(micro, tmp_path)
    document = json.loads((out / "adapter/track2view.json").read_text())
    (out / "adapter/track2view.json").write_text(json.dumps({**document, "lora_alpha": alpha}))
    export_comfy(out / "adapter", tmp_path / "comfy.safetensors")
    names = set(load_file(tmp_path / "comfy.safetensors"))
    assert "diffusion_model.blocks.0.self_attn.q.lora_down.weight" in names
    assert "diffusion_model.blocks.1.ffn.2.lora_up.weight" in names
    ours, _ = load_adapter(out / "adapter", load_transformer(out / "base"))
    theirs = WanPipeline.from_pretrained(out / "base")
    theirs.load_lora_weights(str(tmp_path / "comfy.safetensors"))
    found = theirs.transformer(TARGET, TIME, TEXT, return_dict=False)[0]
    assert torch.allclose(found, ours(TARGET, TIME, (TEXT,))[0], atol=1e-5)


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def unsaid(path: Path, key: str, **changes: object) -> None:
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps({**document, **changes}))


def without(path: Path, key: str) -> None:
    state = load_file(path)
    state.pop(key)
    save_file(state, path)


BROKEN = {
    "no base": (lambda out: shutil.rmtree(out / "base"), "base: no such base folder"),
    "no vae": (lambda out: (out / "base/vae/config.json").unlink(), "has no vae/config.json"),
    "no weights": (lambda out: (out / "base/transformer/diffusion_pytorch_model.safetensors").unlink(), "transformer: cannot be loaded"),
    "not Wan": (lambda out: edited(out / "base/transformer/config.json", _class_name="FluxTransformer2DModel"), "FluxTransformer2DModel"),
    "image to video": (lambda out: edited(out / "base/transformer/config.json", in_channels=36), "text-to-video"),
    "latents of other channels": (
        lambda out: edited(out / "base/vae/config.json", z_dim=8),
        r"base: its parts do not fit: latents have 8 channels \(vae/config.json: z_dim\), the transformer takes 16",
    ),
    "fewer means than channels": (
        lambda out: edited(out / "base/vae/config.json", latents_mean=[0.0] * 8),
        "vae/config.json: latents_mean: expected 16 numbers, one for each channel",
    ),
    "strides that disagree": (
        lambda out: edited(out / "base/vae/config.json", scale_factor_spatial=4),
        "base: vae/config.json: scale_factor_spatial: expected 8, which dim_mult comes to, got 4",
    ),
    "strides that nobody states": (
        lambda out: unsaid(out / "base/vae/config.json", "scale_factor_spatial", dim_mult=[1, 2, 4], temperal_downsample=[True, True]),
        "scale_factor_spatial: expected 4, which dim_mult comes to, got 8",
    ),
    "tokens of two frames": (
        lambda out: edited(out / "base/transformer/config.json", patch_size=[2, 2, 2]),
        r"base: transformer/config.json: patch_size: expected one latent frame, rows and columns, got \[2, 2, 2\]",
    ),
    "no adapter": (lambda out: shutil.rmtree(out / "adapter"), "not an adapter"),
    "another width": (lambda out: edited(out / "adapter/track2view.json", width=1536), "width 1536 .*, this base has 48"),
    "another version": (lambda out: edited(out / "adapter/track2view.json", format="track2view.adapter/9"), "format: expected"),
    "unknown field": (lambda out: edited(out / "adapter/track2view.json", colour="red"), "colour"),
    "half a JSON": (lambda out: (out / "adapter/track2view.json").write_text("{"), "not JSON"),
    "no LoRA": (lambda out: (out / "adapter/lora" / LORA_FILE).unlink(), "missing; the adapter says that it has a LoRA"),
    "a LoRA key less": (
        lambda out: without(out / "adapter/lora" / LORA_FILE, "transformer.blocks.1.ffn.net.2.lora_A.weight"),
        "lacks blocks.1.ffn.net.2.lora_A.weight",
    ),
    "another rank": (lambda out: edited(out / "adapter/track2view.json", lora_rank=2), r"is \[4, 48\], this base needs \[2, 48\]"),
    "no conditioner": (lambda out: shutil.rmtree(out / "adapter/conditioner"), r"conditioner/config.json: missing"),
    "a conditioner key less": (
        lambda out: without(out / "adapter/conditioner/diffusion_pytorch_model.safetensors", "mlp.0.weight"),
        "lacks mlp.0.weight",
    ),
    "no view embedding": (lambda out: (out / "adapter/view_embedding.safetensors").unlink(), "synchronised positions need it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_named(case: str, micro: Path, tmp_path: Path) -> None:
    out = copied(micro, tmp_path)
    breaks, message = BROKEN[case]
    breaks(out)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(out / "adapter", load_transformer(out / "base"))
    assert "\n" not in str(caught.value)


def test_the_vae_alone_is_not_loaded_beside_a_transformer_it_does_not_fit(micro: Path, tmp_path: Path) -> None:
    out = copied(micro, tmp_path)
    edited(out / "base/transformer/config.json", in_channels=8, out_channels=8)
    with pytest.raises(UserError, match="its parts do not fit"):
        load_vae(out / "base")


def test_a_configuration_that_leaves_fields_to_the_class_is_wans(micro: Path, tmp_path: Path) -> None:
    out = copied(micro, tmp_path)
    for field in ("scale_factor_spatial", "scale_factor_temporal", "latents_mean", "latents_std", "patch_size"):
        unsaid(out / "base/vae/config.json", field)
    assert check_base(out / "base") == WAN_STRIDES


def test_an_adapter_of_other_modes_is_refused(micro: Path) -> None:
    with pytest.raises(UserError, match="trained with rope 'synchronised'; 'sequential' was asked for"):
        load_adapter(micro / "adapter", load_transformer(micro / "base"), DualViewModes())
