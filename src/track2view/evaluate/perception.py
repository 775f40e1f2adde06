"""What networks make of clips: likeness to words, to the source and from frame to frame (paper, section 4.2; VBench's consistencies).

Pictures are prepared by transformers' own processors of the PIL kind, which need no torchvision.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from track2view.errors import UserError
from track2view.evaluate.amt import MotionMeasure
from track2view.evaluate.benchmark import Frames, Given, Measure
from track2view.evaluate.lpips import LpipsMeasure
from track2view.evaluate.matches import MatchMeasure
from track2view.evaluate.musiq import QualityMeasure
from track2view.evaluate.published import AESTHETIC, AMT, CLIP, DINO, LPIPS, MATCHER, MUSIQ
from track2view.metrics import consistency, likeness, likeness_over_time, likeness_to_text

AT_ONCE = 16
AESTHETIC_LINE = "sa_0_4_vit_l_14_linear.pth"


class ClipMeasure:
    """CLIP-T, CLIP-F, CLIP-V and background consistency.

    Args:
        folder: a CLIP of transformers' layout, with its tokenizer and its processor's configuration.

    Raises:
        UserError: what does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            self.processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder}: no CLIP ({' '.join(str(error).split()):.200}); {CLIP.remedy}") from None
        torch.nn.Module.to(self.model, device)

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """All four; CLIP-T is NaN where there are no words."""
        own, theirs = self.features(made), self.features(given.source)
        words = self.tokenizer([given.caption], truncation=True, return_tensors="pt").to(self.model.device)
        text = self.model.get_text_features(**words).pooler_output[0].float().cpu()
        return {
            "clip_t": likeness_to_text(own, text) if given.caption else math.nan,
            "clip_f": likeness_over_time(own),
            "clip_v": likeness(own, theirs),
            "background_consistency": consistency(own),
        }

    @torch.no_grad()
    def features(self, frames: Frames) -> Float[Tensor, "T F"]:
        """Of each frame, projected to where words are."""
        return _in_parts(frames, self.processor, lambda pixels: self.model.get_image_features(pixels).pooler_output, self.model.device)


class DinoMeasure:
    """Subject consistency.

    Args:
        folder: a DINO of transformers' layout, with its processor's configuration.

    Raises:
        UserError: what does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        try:
            self.model = ViTModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
            self.processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder}: no DINO ({' '.join(str(error).split()):.200}); {DINO.remedy}") from None
        torch.nn.Module.to(self.model, device)

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """It alone."""
        model = self.model
        return {"subject_consistency": consistency(_in_parts(made, self.processor, lambda each: model(each)[0][:, 0], model.device))}


class AestheticMeasure:
    """LAION's aesthetic quality of frames, times 10, so that 100 is the most: a line on CLIP's normalised features (VBench's).

    Args:
        folder: a CLIP of transformers' layout whose features have the line's width, with its processor's configuration and the line.

    Raises:
        UserError: what does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        try:
            self.model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
            self.processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self.line = torch.nn.Linear(self.model.config.projection_dim, 1)
            self.line.load_state_dict(torch.load(folder / AESTHETIC_LINE, map_location="cpu", weights_only=True))
        except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
            raise UserError(f"{folder}: no aesthetic predictor ({' '.join(str(error).split()):.200}); {AESTHETIC.remedy}") from None
        torch.nn.Module.to(self.model, device)

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """It alone."""
        features = _in_parts(made, self.processor, lambda each: self.model(each).image_embeds, self.model.device)
        return {"aesthetic_quality": 10 * float(self.line(normalize(features, dim=1)).mean())}


KINDS = (
    (CLIP, ClipMeasure),
    (DINO, DinoMeasure),
    (AESTHETIC, AestheticMeasure),
    (MUSIQ, QualityMeasure),
    (AMT, MotionMeasure),
    (MATCHER, MatchMeasure),
    (LPIPS, LpipsMeasure),
)


def measures_in(weights: Path | None, device: str = "cpu") -> tuple[Mapping[str, Measure], list[str]]:
    """By the name of its weights each measure of single clips that can be taken, and of each that cannot what is missing, in a line.

    Raises:
        UserError: weights that are not the published ones, or do not load.
    """
    there: dict[str, Measure] = {}
    missing = []
    for published, kind in KINDS:
        folder = None if weights is None else published.found_in(weights)
        if folder is None:
            missing.append(f"{', '.join(published.measures)}: {published.remedy}")
        else:
            there[published.name] = kind(folder, device)
    return there, missing


def _in_parts(
    frames: Frames, processor: CLIPImageProcessorPil | ViTImageProcessorPil, network: Callable[[Tensor], Tensor], device: torch.device
) -> Float[Tensor, "T F"]:
    pictures = list(frames.permute(0, 2, 3, 1).numpy())
    parts = [processor(pictures[start : start + AT_ONCE], return_tensors="pt")["pixel_values"] for start in range(0, len(frames), AT_ONCE)]
    return torch.cat([network(part.to(device)).float().cpu() for part in parts])
