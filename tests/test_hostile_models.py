"""Model folders of anybody's making: no code of theirs is run, no hub is asked, nothing is allocated that their weights do not hold."""

import json
import os
import random
import resource
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from track2view.errors import UserError
from track2view.model.bases import load_transformer, load_vae
from track2view.model.checkpoint import export_comfy, load_adapter
from track2view.model.info import describe
from track2view.model.make import new_model
from track2view.model.text import caption, load_text_encoder
from track2view.records import Clip

ROOM = 2 << 30


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("micro")
    new_model("micro", out)
    return out


@pytest.fixture
def copy(micro: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, no terminal, and little more memory than is taken already."""

    def reached(*_: object) -> None:
        pytest.fail("something reached for the network")

    def asked(*_: object) -> str:
        pytest.fail("something asked on the terminal")

    monkeypatch.setattr(socket.socket, "connect", reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    monkeypatch.setattr("builtins.input", asked)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def load_all(folder: Path) -> None:
    transformer = load_transformer(folder / "base")
    load_vae(folder / "base")
    load_text_encoder(folder / "base", torch.float32, "cpu")
    load_adapter(folder / "adapter", transformer)
    describe(folder / "base", folder / "adapter", frames=17, size=(64, 112), steps=2, tflops=1.0)
    export_comfy(folder / "adapter", folder / "comfy.safetensors")


def complaint(folder: Path) -> str | None:
    try:
        load_all(folder)
    except UserError as error:
        return str(error)
    return None


def edited(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def with_code(folder: Path) -> None:
    """A tokenizer that brings its own class, which leaves a trace when it is imported."""
    (folder / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\nraise SystemExit(7)\n")
    edited(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil")


def with_piece(folder: Path, piece: str) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"][-1][0] = piece
    (folder / "tokenizer.json").write_text(json.dumps(document))


def header_edited(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(old, new)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.rename(folder / "pytorch_model.bin")


ENCODER, TOKENIZER = "base/text_encoder", "base/tokenizer"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "wide encoder": (lambda to: edited(to / ENCODER / "config.json", d_model=10**9), "text_encoder/config.json: announces .* M numbers"),
    "large vocabulary": (lambda to: edited(to / ENCODER / "config.json", vocab_size=2 * 10**9), "text_encoder/config.json: announces"),
    "deep encoder": (lambda to: edited(to / ENCODER / "config.json", num_layers=10**9), "num_layers is 1000000000: no model"),
    "deep transformer": (lambda to: edited(to / "base/transformer/config.json", num_layers=10**6), "num_layers is 1000000: no model"),
    "long positions": (lambda to: edited(to / "base/transformer/config.json", rope_max_seq_len=10**9), "config.json: announces"),
    "wide vae": (lambda to: edited(to / "base/vae/config.json", base_dim=10**5), "vae/config.json: announces"),
    "wide conditioner": (lambda to: edited(to / "adapter/conditioner/config.json", width=10**6), "conditioner/config.json: announces"),
    "rank": (lambda to: edited(to / "adapter/track2view.json", lora_rank=10**9), "lora_rank: expected a whole number"),
    "many tracks": (lambda to: edited(to / "adapter/track2view.json", queries={"rows": 10**6, "columns": 9, "frames": [0]}), "tracks"),
    "words for numbers": (lambda to: edited(to / "adapter/track2view.json", width="48"), "track2view.json: .*width"),
    "another type": (lambda to: edited(to / ENCODER / "config.json", d_model="wide"), "text_encoder/config.json: cannot be loaded"),
    "a list": (lambda to: (to / ENCODER / "config.json").write_text("[1]"), "expected an object of fields"),
    "half a tokenizer": (lambda to: (to / TOKENIZER / "tokenizer.json").write_text('{"model"'), "tokenizer.json: cannot be read: not JSON"),
    "another's tokens": (lambda to: edited(to / ENCODER / "config.json", vocab_size=10), "text_encoder: cannot be loaded"),
    "no tokenizer": (lambda to: shutil.rmtree(to / TOKENIZER), "tokenizer_config.json: cannot be read"),
    "extra tokens": (lambda to: edited(to / TOKENIZER / "tokenizer_config.json", extra_ids=10**9), "extra_ids: expected at most"),
    "a long piece": (lambda to: with_piece(to / TOKENIZER, "A" * 300_000), "has a piece of 300000 letters"),
    "code": (lambda to: with_code(to / TOKENIZER), "tokenizer: cannot be loaded"),
    "kernels": (lambda to: edited(to / ENCODER / "config.json", attn_implementation="evil/kernels"), "names code elsewhere"),
    "pickles": (lambda to: pickled(to / ENCODER), "pytorch_model.bin, a pickle"),
    "an adapter": (lambda to: (to / ENCODER / "adapter_config.json").write_text("{}"), "an adapter in a base's folder"),
    "elsewhere": (
        lambda to: (to / ENCODER / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../x.safetensors"}}'),
        "'../../x.safetensors' is not in this folder",
    ),
    "cut weights": (
        lambda to: (to / ENCODER / "model.safetensors").write_bytes((to / ENCODER / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: cannot be loaded",
    ),
    "huge shapes": (
        lambda to: header_edited(to / ENCODER / "model.safetensors", b'"shape":[32]', b'"shape":[3200000000000]'),
        "model.safetensors: cannot be loaded",
    ),
    "huge header": (
        lambda to: (to / ENCODER / "model.safetensors").write_bytes(b"\xff" * 7 + b"\0" + b"{}"),
        "model.safetensors: cannot be loaded",
    ),
    "latents": (lambda to: edited(to / "base/vae/config.json", latents_std=[0.0] * 16), "latents_std: expected positive"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_one_line(fault: str, copy: Path) -> None:
    make, message = FAULTS[fault]
    make(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_all(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)
    assert not list(copy.rglob("ran"))


def test_a_whole_folder_needs_no_network(copy: Path) -> None:
    load_all(copy)


def test_every_file_that_is_missing_is_named_and_nobody_is_asked_for_it(micro: Path, tmp_path: Path) -> None:
    for path in sorted(path.relative_to(micro) for path in micro.rglob("*") if path.is_file()):
        folder = Path(shutil.copytree(micro, tmp_path / "less"))
        (folder / path).unlink()
        said = complaint(folder)
        assert said is None or (path.parent.name in said and "\n" not in said), said
        shutil.rmtree(folder)


def test_a_captioner_brings_no_code(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}})
    )
    with pytest.raises(UserError, match=r"config\.json: cannot be loaded"):
        caption(Clip(frames=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), fps=Fraction(10)), tmp_path)
    assert not (tmp_path / "ran").exists()


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 6])):
        at = chance.randrange(min(len(data), 4000) if chance.random() < 0.7 else len(data))
        match chance.randrange(5):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at : at + 1] = chance.choice([b"999999999", b"-1", b"null", b'"', b"[", b"{}", b"1e99", b"true"])
            case 2:
                del data[at : at + chance.randrange(1, 40)]
            case 3:
                digits = [place for place in range(min(len(data), 4000)) if 48 <= data[place] < 58]
                if digits:
                    data[chance.choice(digits)] = chance.choice(b"0123456789")
            case _:
                data = data[: max(at, 1)]
        data = data or bytearray(b" ")
    return bytes(data)


def test_damaged_folders_are_named(micro: Path, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("TRACK2VIEW_SEED", "0")))
    files = sorted(path.relative_to(micro) for path in micro.rglob("*") if path.is_file())
    folder = Path(shutil.copytree(micro, tmp_path / "copy"))
    for _ in range(int(os.environ.get("TRACK2VIEW_MUTATIONS", "12"))):
        path = chance.choice(files)
        whole = (folder / path).read_bytes()
        (folder / path).write_bytes(mutated(whole, chance))
        assert "\n" not in (complaint(folder) or ""), path
        (folder / path).write_bytes(whole)
