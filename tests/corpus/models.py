"""Model folders: random weights in the real layout and of the real classes, as small as those go."""

import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from track2view.model.dual_view import DualViewModes
from track2view.model.make import new_model


def make_transformer(folder: Path) -> None:
    """A base as far as its transformer goes; the VAE's configuration says that it is one."""
    _copy(folder, ("base/transformer/*", "base/vae/config.json"))


def make_vae(folder: Path) -> None:
    _copy(folder, ("base/vae/*", "base/transformer/config.json"))


def make_text_encoder(folder: Path) -> None:
    _copy(folder, ("base/tokenizer/*", "base/text_encoder/*"))


def make_described(folder: Path) -> None:
    """A base and an adapter without weights: what ``model info`` reads."""
    _copy(folder, ("base/**/*.json", "adapter/**/*.json"), below="")


def make_adapter(folder: Path) -> None:
    """Adapters with and without a view embedding; PEFT's notes in the LoRA file go, since they list a set in any order."""
    _copy(folder, ("adapter/**/*",), below="adapter", name="sequential")
    _copy(folder, ("adapter/**/*",), below="adapter", name="synchronised", modes=DualViewModes(rope="synchronised"))
    for lora in sorted(folder.glob("*/lora/*.safetensors")):
        save_file(load_file(lora), lora)


def _copy(folder: Path, patterns: tuple[str, ...], *, below: str = "base", name: str = "model", modes: DualViewModes | None = None) -> None:
    with tempfile.TemporaryDirectory() as made:
        new_model("micro", Path(made), modes=modes)
        for file in sorted(file for pattern in patterns for file in Path(made).glob(pattern) if file.is_file()):
            target = folder / name / file.relative_to(Path(made) / below)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
