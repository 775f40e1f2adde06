from fractions import Fraction
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from transformers import BlipConfig, BlipForConditionalGeneration

from track2view.errors import Notice, UserError
from track2view.model.make import new_model
from track2view.model.text import PromptCache, caption
from track2view.records import Clip

PROMPTS = ["a red  box slides &amp; a green ball rolls", ""]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text")
    new_model("micro", out)
    return out / "base"


@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does(base: Path, tmp_path: Path) -> None:
    found = PromptCache(base, tmp_path).encode(PROMPTS)
    theirs = WanPipeline.from_pretrained(base)
    for prompt, states in zip(PROMPTS, found, strict=True):
        expected, _ = theirs.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
        assert torch.allclose(states, expected, atol=1e-6)
    assert float(found[0][0, 60:].abs().max()) == 0.0


def test_a_prompt_is_encoded_once(base: Path, tmp_path: Path) -> None:
    first, second = PromptCache(base, tmp_path), PromptCache(base, tmp_path)
    states = first.encode(PROMPTS)
    again = second.encode(PROMPTS)
    assert (first.encoder_runs, second.encoder_runs) == (2, 0)
    assert all(torch.equal(one, other) for one, other in zip(states, again, strict=True))
    second.encode(["another prompt"])
    assert second.encoder_runs == 1


def test_another_bases_prompts_are_others(base: Path, tmp_path: Path) -> None:
    PromptCache(base, tmp_path / "kept").encode(PROMPTS)
    new_model("micro", tmp_path / "other", seed=5)
    other = PromptCache(tmp_path / "other/base", tmp_path / "kept")
    other.encode(PROMPTS)
    assert other.encoder_runs == 2


def test_prompts_that_cannot_be_kept_or_are_damaged_are_encoded_again(tmp_path: Path) -> None:
    new_model("micro", tmp_path / "model", seed=5)
    (tmp_path / "file").write_text("no folder")
    nowhere = PromptCache(tmp_path / "model/base", tmp_path / "file" / "kept")
    with pytest.warns(Notice, match="cannot be kept there"):
        first = nowhere.encode(PROMPTS)
    kept = PromptCache(tmp_path / "model/base", tmp_path / "kept")
    kept.encode(PROMPTS)
    damaged = sorted((tmp_path / "kept").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.warns(Notice, match="encoded again"):
        again = kept.encode(PROMPTS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(kept.encode(PROMPTS)) == len(PROMPTS)


def test_a_base_without_text_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text encoder there"):
        PromptCache(tmp_path, tmp_path / "kept").encode(PROMPTS)


def test_a_local_captioner_finds_words(tmp_path: Path) -> None:
    """A tiny BLIP of the real classes: its words mean nothing, but they are words."""
    from transformers import BertTokenizer, BlipImageProcessorPil, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "box", "ball", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = {
        **sizes,
        "vocab_size": len(words),
        "encoder_hidden_size": 16,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(tmp_path)
    clip = Clip(frames=torch.randint(0, 255, (5, 3, 48, 64), dtype=torch.uint8), fps=Fraction(10))
    found = caption(clip, tmp_path)
    assert found == caption(clip, tmp_path)
    assert set(found.split()) <= set(words)
    with pytest.raises(UserError, match="no captioning model there"):
        caption(clip, tmp_path / "nowhere")
