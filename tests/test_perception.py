"""What networks make of clips, with small instances of the networks' own classes."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from track2view.errors import Notice, UserError
from track2view.evaluate.benchmark import Given
from track2view.evaluate.perception import AESTHETIC_LINE, measures_in
from track2view.evaluate.published import AESTHETIC, AMT, CLIP, DINO, LPIPS, MATCHER, MUSIQ
from track2view.samples import file_sha256

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 32


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP and a DINO of their own layouts, random."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    words = [
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    text = {**TINY, "vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    vision = {**TINY, "image_size": SIDE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder / CLIP.name)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder / CLIP.name)
    (folder / CLIP.name / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / CLIP.name / "merges.txt").write_text("#version: 0.2\n")
    ViTModel(ViTConfig(**TINY, image_size=SIDE, patch_size=8), add_pooling_layer=False).save_pretrained(folder / DINO.name)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / DINO.name)
    vision_alone = CLIPVisionConfig(**TINY, image_size=SIDE, patch_size=8, projection_dim=12)
    CLIPVisionModelWithProjection(vision_alone).save_pretrained(folder / AESTHETIC.name)
    CLIPImageProcessorPil.from_pretrained(folder / CLIP.name).save_pretrained(folder / AESTHETIC.name)
    torch.save(torch.nn.Linear(12, 1).state_dict(), folder / AESTHETIC.name / AESTHETIC_LINE)
    return folder


def clip(seed: int, frames: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def about(source: torch.Tensor, caption: str) -> Given[None]:
    return Given(source=source, exact=None, fps=Fraction(15), caption=caption, parallax=0.0, known=None)


@pytest.mark.filterwarnings("ignore:.*checksum is not known here")
def test_numbers_are_cosines_of_what_the_networks_make(weights: Path) -> None:
    measures, missing = measures_in(weights)
    assert list(measures) == [CLIP.name, DINO.name, AESTHETIC.name]
    assert [line.split(":")[0] for line in missing] == ["imaging quality", "motion smoothness", "Mat.Pix", "LPIPS"]
    made, source = clip(0), clip(1)
    given = about(source, "a cat")
    found = measures[CLIP.name](made, given) | measures[DINO.name](made, given)
    model = CLIPModel.from_pretrained(weights / CLIP.name).eval()

    def seen(frame: torch.Tensor) -> np.ndarray:
        """By hand: the shorter side to 32, the middle of the picture, CLIP's own mean and deviation."""
        image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((51, SIDE), Image.Resampling.BICUBIC)
        middle = np.asarray(image)[:, 9 : 9 + SIDE] / 255
        mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        pixels = torch.from_numpy((middle - mean) / deviation).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            feature = model.visual_projection(model.vision_model(pixels).pooler_output)[0].numpy()
        return feature / np.linalg.norm(feature)

    own, theirs = ([seen(frame) for frame in frames] for frames in (made, source))
    assert found["clip_v"] == pytest.approx(100 * np.mean([a @ b for a, b in zip(own, theirs, strict=True)]), abs=0.05)
    assert found["clip_f"] == pytest.approx(100 * np.mean([a @ b for a, b in itertools.pairwise(own)]), abs=0.05)
    assert measures[CLIP.name](made, about(source, "a dog"))["clip_t"] != pytest.approx(found["clip_t"], abs=1e-4)
    still = made[:1].repeat(4, 1, 1, 1)
    steady = measures[CLIP.name](still, about(still, "")) | measures[DINO.name](still, given)
    assert math.isnan(steady["clip_t"])
    for name in ("clip_f", "clip_v", "background_consistency", "subject_consistency"):
        assert steady[name] == pytest.approx(100, abs=1e-3)
        assert found[name] < 99.999


@pytest.mark.filterwarnings("ignore:.*checksum is not known here")
def test_aesthetic_quality_is_a_line_on_features_of_length_one(weights: Path, tmp_path: Path) -> None:
    measures, _ = measures_in(weights)
    made = clip(2, frames=3)
    found = measures[AESTHETIC.name](made, about(made, ""))["aesthetic_quality"]
    folder = weights / AESTHETIC.name
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(list(made.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    line = torch.load(folder / AESTHETIC_LINE, weights_only=True)
    with torch.no_grad():
        each = model(pixels).image_embeds.numpy()
    scores = [10 * (float(line["weight"][0].numpy() @ (one / np.linalg.norm(one))) + float(line["bias"])) for one in each]
    assert found == pytest.approx(np.mean(scores), abs=1e-3)
    shutil.copytree(weights, tmp_path / "weights")
    (tmp_path / "weights" / AESTHETIC.name / AESTHETIC_LINE).unlink()
    with pytest.raises(UserError, match=r"clip-vit-large-patch14: no aesthetic predictor \(.*get it from https://huggingface.co/openai"):
        measures_in(tmp_path / "weights")


def test_what_is_missing_is_said_and_nothing_is_measured(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        measures, missing = measures_in(folder)
        assert measures == {}
        assert missing == [
            "CLIP-T, CLIP-F, CLIP-V, background consistency: get it from https://huggingface.co/openai/clip-vit-base-patch32 (MIT) "
            "into WEIGHTS/clip-vit-base-patch32",
            "subject consistency: get it from https://huggingface.co/facebook/dino-vitb16 (Apache-2.0) into WEIGHTS/dino-vitb16",
            f"aesthetic quality: {AESTHETIC.remedy}",
            f"imaging quality: {MUSIQ.remedy}",
            f"motion smoothness: {AMT.remedy}",
            f"Mat.Pix: {MATCHER.remedy}",
            f"LPIPS: {LPIPS.remedy}",
        ]


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    known = replace(CLIP, name="model", sha256={"model.bin": file_sha256(folder / "model.bin")})
    assert known.found_in(tmp_path) == folder
    (folder / "model.bin").write_bytes(b"others")
    with pytest.raises(UserError, match=r"model.bin: is not the published file .* get it from https://huggingface.co/openai"):
        known.found_in(tmp_path)
    with pytest.warns(Notice, match=r"model.bin: its makers' checksum is not known here"):
        assert replace(known, sha256={}).found_in(tmp_path) == folder
    (folder / "model.bin").unlink()
    with pytest.raises(UserError, match=r"model: holds no weights"):
        known.found_in(tmp_path)
    (tmp_path / CLIP.name).mkdir()
    (tmp_path / CLIP.name / "model.safetensors").write_bytes(b"")
    with pytest.warns(Notice), pytest.raises(UserError, match=r"clip-vit-base-patch32: no CLIP \("):
        measures_in(tmp_path)
