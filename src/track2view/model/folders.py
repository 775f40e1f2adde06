"""Model folders of anybody's making: read without running their code, asking a hub, or allocating what their weights do not hold."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn

from track2view.errors import UserError
from track2view.files import read_json

Loaded = TypeVar("Loaded")

OFFLINE = {"local_files_only": True}
TRUSTING_NOBODY = {**OFFLINE, "trust_remote_code": False}
"""``None`` in place of ``False`` would ask on the terminal."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
MOST_LAYERS = 256
MOST = 1 << 31
MORE_THAN_HELD = 1.5
SPARE = 10_000_000


def read_config(folder: Path) -> dict[str, object]:
    """A model's ``config.json``, of which numbers that no model has, and names of code elsewhere, are refused.

    Raises:
        UserError: missing, not a JSON object, or with such a field, by name.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{path}: missing")
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected an object of fields, got {type(document).__name__}")
    for field, value in _fields("", document):
        name = field.rpartition(".")[2]
        if isinstance(value, int) and abs(value) > (MOST_LAYERS if "layers" in name or "blocks" in name else MOST):
            raise UserError(f"{path}: {field} is {value!s:.20}: no model is so large")
        if isinstance(value, str) and "attn_implementation" in name and "/" in value:
            raise UserError(f"{path}: {field} names code elsewhere ({value[:80]!r}), which is not run")
    return document


def _fields(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _fields(f"{name}.{key}".removeprefix("."), each)
    elif isinstance(value, list):
        for each in value:
            yield from _fields(name, each)
    else:
        yield name, value


def outlined(folder: Path, build: Callable[[dict[str, object]], object]) -> nn.Module:
    """The module that a folder's configuration announces, without memory for its weights.

    Raises:
        UserError: a configuration that :func:`read_config` refuses, or of which no module can be built.
    """
    config = read_config(folder)
    with torch.device("meta"):
        module = loaded(lambda: build(config), folder / "config.json")
    assert isinstance(module, nn.Module)
    return module


def check_weights(folder: Path, outline: nn.Module) -> None:
    """Refuse weights that are pickled, damaged, elsewhere, or fewer than the configuration announces.

    Raises:
        UserError: which, and what.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UserError(f"{folder}: its weights are {pickles[0]}, a pickle, which can run any code; only .safetensors are read")
        raise UserError(f"{folder}: cannot be loaded: it has no weights (*.safetensors)")
    for index in folder.glob("*.safetensors.index.json"):
        _check_index(index, {path.name for path in files})
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder / 'adapter_config.json'}: an adapter in a base's folder, which may name any other model; take it away")
    held = sum(_numbers_held(path) for path in files)
    announced = sum(each.numel() for each in (*outline.parameters(), *outline.buffers()))
    if announced > MORE_THAN_HELD * held + SPARE:
        raise UserError(
            f"{folder / 'config.json'}: announces {announced / 1e6:,.0f} M numbers, the weights beside it hold {held / 1e6:,.0f} M"
        )


def check_report(report: dict[str, Any], folder: Path) -> None:
    """Hold a library's loading report to this: every weight was there, none was left over. Libraries draw missing ones at random.

    Raises:
        UserError: a weight that was not, by name.
    """
    for problem, word in (("missing_keys", "lacks"), ("unexpected_keys", "has unknown"), ("mismatched_keys", "has misshapen")):
        if keys := sorted(map(str, report[problem])):
            raise UserError(f"{folder}: {word} {keys[0]} ({len(keys)} such in all)")


def _check_index(path: Path, there: set[str]) -> None:
    document = read_json(path)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{path}: weight_map: expected file names by weight")
    if missing := sorted(set(places.values()) - there):
        raise UserError(f"{path}: weight_map: {missing[0][:80]!r} is not in this folder")


def _numbers_held(path: Path) -> int:
    def count() -> int:
        with safe_open(path, "pt") as file:
            return sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118

    return loaded(count, path)


def loaded(load: Callable[[], Loaded], path: Path) -> Loaded:
    """Turn what libraries raise of a broken file or folder into one line that names it.

    They build whatever a file says: with its words as types, names and sizes they fail in every way there is (the tokenizers'
    parser raises plain ``Exception``), so this is the one place where anything is caught.
    """
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or "no reason given"
        raise UserError(f"{path}: cannot be loaded: {said} ({type(error).__name__})") from None
