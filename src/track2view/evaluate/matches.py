"""Matched points between re-filmed clips and their sources (Mat.Pix of the paper, section 4.2): SuperPoint and LightGlue of transformers.

The paper's matcher is GIM's LightGlue (Shen et al. 2024): :func:`convert_gim` brings its checkpoint into transformers' layout.
"""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import LightGlueConfig, LightGlueForKeypointMatching, SuperPointConfig
from transformers.models.lightglue.image_processing_pil_lightglue import LightGlueImageProcessorPil

from track2view.errors import UserError
from track2view.evaluate.benchmark import Frames, Given
from track2view.evaluate.published import MATCHER
from track2view.files import atomic_folder

KEYPOINTS = 2048
THRESHOLDS = (0.1, 0.2, 0.5)
"""Of a match's score; the first is the paper's."""
THOUSAND = 1000


class MatchMeasure:
    """How many points of a clip's frame are matched with the source's at the same time, in thousands: mean over frames.

    Where the exact view is known, also as a share of its own matches with the source: a view from elsewhere has fewer in any case.

    Args:
        folder: a LightGlue with its SuperPoint in transformers' layout, with its processor's configuration.

    Raises:
        UserError: what does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        try:
            config = LightGlueConfig.from_pretrained(folder, local_files_only=True)
            config.keypoint_detector_config.max_keypoints = KEYPOINTS  # pyrefly: ignore
            config.filter_threshold = min(THRESHOLDS)
            self.model = LightGlueForKeypointMatching.from_pretrained(folder, config=config, local_files_only=True).eval()
            self.processor = LightGlueImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder}: no LightGlue ({' '.join(str(error).split()):.200}); {MATCHER.remedy}") from None
        torch.nn.Module.to(self.model, device)

    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """At every threshold."""
        own = self.counts(made, given.source)
        found = {f"matched_points_{threshold:g}": own[threshold] / THOUSAND for threshold in THRESHOLDS}
        if given.exact is not None:
            best = self.counts(given.exact, given.source)[THRESHOLDS[0]]
            found["matched_points_of_exact"] = own[THRESHOLDS[0]] / best if best else float("nan")
        return found

    @torch.no_grad()
    def counts(self, frames: Frames, others: Frames) -> dict[float, float]:
        """Mean number of matches of frames with others of the same time, by threshold."""
        totals = dict.fromkeys(THRESHOLDS, 0.0)
        for frame, other in zip(frames, others, strict=True):
            pair = [each.permute(1, 2, 0).cpu().numpy() for each in (frame, other)]
            pixels = self.processor(pair, return_tensors="pt")["pixel_values"]
            found = self.model(pixels.to(self.model.device))
            matches, scores = (
                each.reshape(2, -1)[0] for each in (found.matches, found.matching_scores)
            )  # without early stops they are flat
            scores = scores[matches >= 0]
            for threshold in THRESHOLDS:
                totals[threshold] += int((scores > threshold).sum()) / len(frames)
        return totals


RENAMED = (
    (r"^transformers\.(\d+)\.(self|cross)_attn\.ffn\.0\.", r"transformer_layers.\1.\2_mlp.fc1."),
    (r"^transformers\.(\d+)\.(self|cross)_attn\.ffn\.1\.", r"transformer_layers.\1.\2_mlp.layer_norm."),
    (r"^transformers\.(\d+)\.(self|cross)_attn\.ffn\.3\.", r"transformer_layers.\1.\2_mlp.fc2."),
    (r"^transformers\.(\d+)\.self_attn\.out_proj\.", r"transformer_layers.\1.self_attention.o_proj."),
    (r"^transformers\.(\d+)\.cross_attn\.to_out\.", r"transformer_layers.\1.cross_attention.o_proj."),
    (r"^transformers\.(\d+)\.cross_attn\.to_v\.", r"transformer_layers.\1.cross_attention.v_proj."),
    (r"^posenc\.Wr\.", "positional_encoder.projector."),
    (r"^input_proj\.", "input_projection."),
    (r"^log_assignment\.(\d+)\.final_proj\.", r"match_assignment_layers.\1.final_projection."),
    (r"^log_assignment\.(\d+)\.matchability\.", r"match_assignment_layers.\1.matchability."),
    (r"^token_confidence\.(\d+)\.token\.0\.", r"token_confidence.\1.token."),
    (r"^conv([1-4])([ab])\.", lambda found: f"encoder.conv_blocks.{int(found[1]) - 1}.conv_{found[2]}."),
    (r"^convP([ab])\.", r"keypoint_decoder.conv_score_\1."),
    (r"^convD([ab])\.", r"descriptor_decoder.conv_descriptor_\1."),
)
"""Names of LightGlue's and SuperPoint's first implementations, and transformers'."""


def convert_gim(checkpoint: Path, folder: Path, config: LightGlueConfig | None = None) -> None:
    """Bring GIM's LightGlue and SuperPoint (``gim_lightglue_100h.ckpt``) into transformers' layout, which :class:`MatchMeasure` loads.

    Args:
        config: of the checkpoint; LightGlue's own by default, with neither early stops nor pruning, as GIM has it.

    Raises:
        UserError: another file, or weights that the model lacks or that it has no place for.
    """
    if config is None:
        config = LightGlueConfig(keypoint_detector_config=SuperPointConfig(), depth_confidence=-1.0, width_confidence=-1.0)
    try:
        said = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights: dict[str, Tensor] = said.get("state_dict", said)
    except (OSError, RuntimeError, UnpicklingError, AttributeError, EOFError) as error:
        raise UserError(f"{checkpoint}: no checkpoint of GIM's ({' '.join(str(error).split()):.200})") from None
    model = LightGlueForKeypointMatching(config)
    renamed = _renamed({name.removeprefix("model."): each for name, each in weights.items()}, config.num_attention_heads)
    lost = model.load_state_dict(renamed, strict=False)
    if lost.missing_keys or lost.unexpected_keys:
        wrong = ", ".join([*(f"{name} is missing" for name in lost.missing_keys), *(f"{name} is unknown" for name in lost.unexpected_keys)])
        raise UserError(f"{checkpoint}: not LightGlue with SuperPoint: {wrong:.300}")
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        LightGlueImageProcessorPil().save_pretrained(partial)


def _renamed(weights: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """By transformers' names; one product for queries, keys and values becomes three, each head's three side by side."""
    found: dict[str, Tensor] = {}
    for name, each in weights.items():
        detector = "keypoint_detector." if name.startswith("superpoint.") else ""
        own = name.removeprefix("superpoint.")
        if split := re.fullmatch(r"transformers\.(\d+)\.self_attn\.Wqkv\.(weight|bias)", own):
            parts = each.reshape(heads, -1, 3, *each.shape[1:]).unbind(2)
            for letter, part in zip("qkv", parts, strict=True):
                found[f"transformer_layers.{split[1]}.self_attention.{letter}_proj.{split[2]}"] = part.reshape(-1, *each.shape[1:])
        elif split := re.fullmatch(r"transformers\.(\d+)\.cross_attn\.to_qk\.(weight|bias)", own):
            for letter in "qk":
                found[f"transformer_layers.{split[1]}.cross_attention.{letter}_proj.{split[2]}"] = each.clone()
        else:
            for pattern, replacement in RENAMED:
                own = re.sub(pattern, replacement, own)
            found[detector + own] = each
    return found
