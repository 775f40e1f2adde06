"""Prompts to encoder states, paid once: a UMT5 encoder in diffusers' Wan layout, and files that remember what it said."""

import hashlib
from pathlib import Path

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    UMT5Config,
    UMT5EncoderModel,
)

from track2view.errors import UserError, notice
from track2view.files import atomic_path, read_json
from track2view.model.folders import OFFLINE, TRUSTING_NOBODY, check_report, check_weights, loaded, outlined
from track2view.records import Clip

MAX_TOKENS = 512
"""Wan's; a base whose tokenizer says fewer has fewer (:func:`text_length`)."""
HASHED_BYTES = 1 << 20
MOST_EXTRA_TOKENS, LONGEST_PIECE = 10_000, 1000
NEGATIVE_PROMPT = "blurry, distorted, static, overexposed, watermark, subtitles, low quality, deformed"


def text_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many encoder states the transformer attends to, in training as at inference: those of a prompt, then zeros.

    Raises:
        UserError: a tokenizer that says no number.
    """
    most = tokenizer.model_max_length
    if not isinstance(most, int | float) or not most >= 1:
        raise UserError(f"tokenizer_config.json: model_max_length: expected a positive number, got {most!r:.60}")
    return int(min(MAX_TOKENS, most))


@torch.no_grad()
def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, encoder: UMT5EncoderModel, prompt: str, device: torch.device | str
) -> Float[Tensor, "1 L E"]:
    """Encoder states of a prompt, zero beyond its end, as Wan was trained: L of :func:`text_length`, longer prompts are cut."""
    tokens = tokenizer(
        [prompt_clean(prompt)],
        padding="max_length",
        max_length=text_length(tokenizer),
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask = tokens.attention_mask.to(encoder.device)
    states = encoder(tokens.input_ids.to(encoder.device), mask).last_hidden_state
    return (states * mask[..., None]).to(device)


def encoder_parameters(base: Path) -> int:
    """How many parameters a base's text encoder has, from its configuration alone.

    Raises:
        UserError: a base without text encoder.
    """
    if not (base / "text_encoder/config.json").exists():
        raise UserError(f"{base / 'text_encoder'}: no text encoder there (config.json); a base holds one")
    return sum(each.numel() for each in _outlined_encoder(base).parameters())


def _outlined_encoder(base: Path) -> nn.Module:
    return outlined(base / "text_encoder", lambda config: UMT5EncoderModel(UMT5Config.from_dict(config)))


def load_text_encoder(base: Path, dtype: torch.dtype, device: torch.device | str) -> tuple[PreTrainedTokenizerBase, UMT5EncoderModel]:
    """A base's tokenizer and text encoder.

    Raises:
        UserError: a base without them.
    """
    encoder_parameters(base)
    check_weights(base / "text_encoder", _outlined_encoder(base))
    tokenizer = load_tokenizer(base)
    encoder = _whole_encoder(base, dtype)
    if (most := max(tokenizer.get_vocab().values(), default=0)) >= encoder.config.vocab_size:
        raise UserError(f"{base / 'tokenizer'}: has a token {most}, the text encoder knows {encoder.config.vocab_size}")
    nn.Module.to(encoder, device)
    return tokenizer, encoder


def load_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """A base's tokenizer.

    Raises:
        UserError: a base without one.
    """
    _check_tokenizer(base / "tokenizer")
    tokenizer = loaded(lambda: AutoTokenizer.from_pretrained(base / "tokenizer", **TRUSTING_NOBODY), base / "tokenizer")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"{base / 'tokenizer'}: holds a {type(tokenizer).__name__}, not a tokenizer")
    return tokenizer


def _check_tokenizer(folder: Path) -> None:
    """Refuse what the tokenizers library would never come back from: it makes every extra token that is announced, and builds
    its tree of pieces, letter by letter, on the stack."""
    config = read_json(folder / "tokenizer_config.json")
    extra = config.get("extra_ids", 0) if isinstance(config, dict) else 0
    if not isinstance(extra, int) or not 0 <= extra <= MOST_EXTRA_TOKENS:
        raise UserError(f"{folder / 'tokenizer_config.json'}: extra_ids: expected at most {MOST_EXTRA_TOKENS}, got {extra!r:.60}")
    if not (path := folder / "tokenizer.json").exists():
        return
    document = read_json(path)
    model = document.get("model") if isinstance(document, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pieces = [each[0] if isinstance(each, list) and each else each for each in vocabulary] if isinstance(vocabulary, list | dict) else []
    longest = max((len(each) for each in pieces if isinstance(each, str)), default=0)
    if longest > LONGEST_PIECE:
        raise UserError(f"{path}: has a piece of {longest} letters; {LONGEST_PIECE} at most are read")


def _whole_encoder(base: Path, dtype: torch.dtype) -> UMT5EncoderModel:
    """With every weight read."""
    folder = base / "text_encoder"
    load = lambda: UMT5EncoderModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **OFFLINE)  # noqa: E731
    encoder, report = loaded(load, folder)  # pyrefly: ignore
    check_report(report, folder)
    return encoder.eval()


def fingerprint(folder: Path) -> str:
    """Tells the weights of a base's part from others' without reading them all: names, sizes, beginnings and ends.

    Raises:
        UserError: no weights there.
    """
    digest = hashlib.sha256()
    if not (weights := sorted(folder.glob("*.safetensors"))):
        raise UserError(f"{folder}: no {folder.name.replace('_', ' ')} there (*.safetensors); a base holds one")
    for path in weights:
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            digest.update(file.read(HASHED_BYTES))
            file.seek(-min(HASHED_BYTES, path.stat().st_size), 2)
            digest.update(file.read())
    return digest.hexdigest()


class PromptCache:
    """Encoder states by prompt, in files; the encoder is loaded only when a prompt is new.

    Args:
        base: a base folder with ``tokenizer`` and ``text_encoder``.
        folder: where files are kept.
    """

    def __init__(self, base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.base, self.folder, self.dtype = base, folder, dtype
        self.encoder_runs = 0

    def encode(self, prompts: list[str], device: torch.device | str = "cpu") -> list[Float[Tensor, "1 L E"]]:
        """States of each prompt, on the CPU; the encoder is gone from memory afterwards.

        Raises:
            UserError: a base without text encoder.
        """
        states = {prompt: kept for prompt in prompts if (kept := self._kept(prompt)) is not None}
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in states]:
            tokenizer, encoder = load_text_encoder(self.base, self.dtype, device)
            for prompt in missing:
                self.encoder_runs += 1
                states[prompt] = encode_prompt(tokenizer, encoder, prompt, "cpu").contiguous()
                self._keep(prompt, states[prompt])
        return [states[prompt] for prompt in prompts]

    def _kept(self, prompt: str) -> Float[Tensor, "1 L E"] | None:
        """What is there; a file that is damaged is made again."""
        file = self._file(prompt)
        if not file.is_file():
            return None
        try:
            return loaded(lambda: load_file(file)["states"], file)
        except UserError as error:
            notice(f"{error}; the prompt is encoded again")
            return None

    def _keep(self, prompt: str, states: Float[Tensor, "1 L E"]) -> None:
        """Where that cannot be, a notice says so."""
        try:
            with atomic_path(self._file(prompt)) as partial:
                save_file({"states": states}, partial)
        except (OSError, SafetensorError) as error:
            notice(f"{self.folder}: prompts cannot be kept there for the next run ({error}); this one goes on")

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{self._key(prompt)}.safetensors"

    def _key(self, prompt: str) -> str:
        digest = hashlib.sha256(f"{MAX_TOKENS} {self.dtype} {prompt_clean(prompt)}".encode())
        digest.update(fingerprint(self.base / "text_encoder").encode())
        return digest.hexdigest()[:32]


@torch.no_grad()
def caption(clip: Clip, folder: Path, device: torch.device | str = "cpu") -> str:
    """What a clip's middle frame shows, in words, by an image-to-text model from transformers in a local folder.

    Raises:
        UserError: no such model there.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no captioning model there (config.json); give a local folder of a transformers image-to-text model")
    outline = outlined(folder, lambda _: AutoModelForImageTextToText.from_config(_captioner_config(folder)))
    check_weights(folder, outline)
    processor = loaded(lambda: AutoProcessor.from_pretrained(folder, **TRUSTING_NOBODY), folder)
    load = lambda: AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, **TRUSTING_NOBODY)  # noqa: E731
    model = loaded(load, folder).to(device).eval()
    return loaded(lambda: _described(clip, processor, model, device), folder)


def _captioner_config(folder: Path) -> PretrainedConfig:
    return AutoConfig.from_pretrained(folder, **TRUSTING_NOBODY)


def _described(clip: Clip, processor: ProcessorMixin, model: PreTrainedModel, device: torch.device | str) -> str:
    inputs = processor(images=clip.frames[len(clip) // 2], return_tensors="pt").to(device)  # pyrefly: ignore
    words = model.generate(**inputs, max_new_tokens=60)  # pyrefly: ignore
    return processor.batch_decode(words, skip_special_tokens=True)[0].strip()
