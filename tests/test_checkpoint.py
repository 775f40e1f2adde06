import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_conditioner import random_condition
from test_dual_view import draw
from torch import Tensor

from track2view.errors import UserError
from track2view.model.bases import check_base, load_transformer, load_vae
from track2view.model.checkpoint import LORA_FILE, AdapterRecord, export_comfy, load_adapter, save_adapter
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.dual_view import DualViewModes
from track2view.model.latents import WAN_STRIDES
from track2view.model.make import new_model
from track2view.model.parallel import trainable_parameters, whole_state
from track2view.train.objective import flow_matching_loss, noised

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
    save_adapter(out / "adapter", whole_state(trainable_parameters(model)), record, model.conditioner.config)
    return out


def copied(micro: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro, tmp_path / "copy"))


@torch.no_grad()
def test_an_adapter_comes_back_as_it_was_saved(micro: Path, tmp_path: Path) -> None:
    first, record = load_adapter(micro / "adapter", load_transformer(micro / "base"))
    save_adapter(tmp_path / "again", whole_state(trainable_parameters(first)), record, first.conditioner.config)
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


@torch.no_grad()
def test_the_lora_on_disk_has_pefts_names_and_float32_weights(micro: Path) -> None:
    model, _ = load_adapter(micro / "adapter", load_transformer(micro / "base", torch.bfloat16))
    expected = {f"transformer.{name}": each for name, each in get_peft_model_state_dict(model.transformer).items()}
    found = load_file(micro / "adapter/lora" / LORA_FILE)
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert found[name].dtype == each.dtype == torch.float32
        assert torch.equal(found[name], each)


def adapter_of(micro: Path) -> tuple[dict[str, Tensor], AdapterRecord, dict[str, object]]:
    model, record = load_adapter(micro / "adapter", load_transformer(micro / "base"))
    return whole_state(trainable_parameters(model)), record, model.conditioner.config


ALIEN_STATES = {
    "a weight of the base": (lambda state: {**state, "proj_out.bias": torch.zeros(64)}, "proj_out.bias has no place"),
    "half a LoRA": (lambda state: _less(state, "blocks.1.block.ffn.net.2.lora_B.default.weight"), "lora_B.weight: lacking in the LoRA"),
    "no LoRA": (lambda state: {name: each for name, each in state.items() if "lora" not in name}, "of rank 4, the state has none"),
    "another rank": (
        lambda state: {name: each[:2] if "lora_A" in name else each for name, each in state.items()},
        r"of rank 4, the state has \[2\]",
    ),
    "no mark of views": (lambda state: _less(state, "view_embedding"), "view_embedding"),
    "half a conditioner": (lambda state: _less(state, "conditioner.mlp.0.weight"), "mlp.0.weight"),
}


def _less(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {each: value for each, value in state.items() if each != name}


@pytest.mark.parametrize("case", ALIEN_STATES)
def test_a_state_that_is_not_the_records_is_refused_before_anything_is_written(case: str, micro: Path, tmp_path: Path) -> None:
    state, record, config = adapter_of(micro)
    change, message = ALIEN_STATES[case]
    with pytest.raises((ValueError, RuntimeError), match=message):
        save_adapter(tmp_path / "adapter", change(state), record, config)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_more_than_an_adapter_is_not_replaced(micro: Path, tmp_path: Path) -> None:
    out = copied(micro, tmp_path) / "adapter"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"adapter: holds notes\.txt, which is no part of an adapter"):
        save_adapter(out, *adapter_of(micro))
    assert (out / "notes.txt").read_text() == "mine"


STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


class Stopped(BaseException):
    """Like Ctrl-C."""


def stopped_at(step: int, out: Path, how: str, write: Callable[[], None]) -> bool:
    """Whether a process of its own, stopped before that many a step on files below a folder, had one left to be stopped at."""
    child = os.fork()
    if child == 0:
        left = step

        def watch(event: str, given: tuple[object, ...]) -> None:
            nonlocal left
            if event in STEPS and str(given[0]).startswith(str(out)):
                left -= 1
                if left == 0 and how == "killed":
                    os._exit(1)
                if left == 0:
                    raise Stopped

        sys.addaudithook(watch)
        try:
            write()
        finally:
            os._exit(1 if left <= 0 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_whenever_a_save_stops_what_loads_is_the_old_adapter_or_the_new(how: str, micro: Path, tmp_path: Path) -> None:
    old, record, config = adapter_of(micro)
    new, later = {name: each + 1 for name, each in old.items()}, replace(record, step=record.step + 1)
    models, torn = tmp_path / "models", tmp_path / "torn"
    folder = models / "adapter"
    save_adapter(tmp_path / "whole" / "adapter", old, record, config)

    def steps_loaded_from(start: Path) -> list[int]:
        """Training steps of what loads after a save is stopped at its first step, its second and so on."""
        loaded: list[int] = []
        while True:
            shutil.rmtree(models, ignore_errors=True)
            shutil.copytree(start, models)
            if not stopped_at(len(loaded) + 1, models, how, lambda: save_adapter(folder, new, later, config)):
                return loaded
            assert folder.exists() or how == "killed"
            if not folder.exists() and not torn.exists():
                shutil.copytree(models, torn)
            model, found = load_adapter(folder, load_transformer(micro / "base"))
            state = whole_state(trainable_parameters(model))
            expected = new if found == later else old
            assert found in (record, later)
            assert state.keys() == expected.keys()
            assert all(torch.equal(state[name], each) for name, each in expected.items())
            loaded.append(found.step)
            save_adapter(folder, new, later, config)
            assert load_adapter(folder, load_transformer(micro / "base"))[1] == later
            assert not list(models.glob(".*-replaced"))

    found = [steps_loaded_from(tmp_path / "whole")]
    if how == "killed":  # between the two renames; the save after that may be stopped as well
        found.append(steps_loaded_from(torn))
    for loaded in found:
        assert loaded == sorted(loaded)
        assert loaded.count(record.step) > 5
        assert loaded.count(later.step) > 1


@pytest.mark.parametrize("autocast", [True, False])
def test_what_trains_is_float32_on_a_bfloat16_base(autocast: bool, micro: Path) -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = load_adapter(micro / "adapter", load_transformer(micro / "base", dtype))
        trained = trainable_parameters(model.train())
        assert {each.dtype for each in trained.values()} == {torch.float32}
        assert model.transformer.dtype == dtype
        before = whole_state(trained)
        optimiser = torch.optim.SGD(trained.values(), lr=1e-3)
        latents, velocity = noised(TARGET.half(), draw(9, *TARGET.shape), torch.tensor([0.5]))
        given = [each if autocast else each.to(dtype) for each in (latents, TEXT, SOURCE)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
            found = model(given[0], TIME, (given[1],), given[2], random_condition(1, frames=3))[0]
        loss = flow_matching_loss(found, velocity)
        loss.backward()
        for name, each in trained.items():
            assert each.grad is not None, name
            assert each.grad.dtype == torch.float32
        optimiser.step()
        for name, each in trained.items():
            assert torch.allclose(each, before[name] - 1e-3 * each.grad, rtol=0, atol=1e-7), name
        losses[dtype] = loss.item()
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_inference_has_its_lora_in_the_bases_type_and_the_rest_in_float32(micro: Path) -> None:
    model = Track2ViewPipeline.from_pretrained(micro / "base", micro / "adapter", dtype=torch.bfloat16).model
    kinds = {name: each.dtype for name, each in trainable_parameters(model).items()}
    assert {kind for name, kind in kinds.items() if ".lora_" in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if ".lora_" not in name} == {torch.float32}


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
