"""Weights that others publish and evaluation needs: what, from where, under which licence, and whether a file is that one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from track2view.errors import UserError, notice
from track2view.samples import file_sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A model that a user fetches into a folder of this name.

    Attributes:
        measures: what is measured with it.
        source: where to get it.
        licence: of the weights.
        sha256: of files by name, where their makers' are known; of a file by another name nothing is known.
    """

    name: str
    measures: tuple[str, ...]
    source: str
    licence: str
    sha256: Mapping[str, str]

    def found_in(self, weights: Path) -> Path | None:
        """Its folder in a folder of weights; None where there is none.

        Raises:
            UserError: a file that is not the published one, by its checksum.
        """
        folder = weights / self.name
        if not folder.is_dir():
            return None
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".safetensors", ".pt", ".pth")]
        if not files:
            raise UserError(f"{folder}: holds no weights; {self.remedy}")
        for path in files:
            known = self.sha256.get(path.name)
            if known is None:
                notice(f"{path}: its makers' checksum is not known here, so it is not checked")
            elif file_sha256(path) != known:
                raise UserError(f"{path}: is not the published file (its SHA-256 should be {known}); {self.remedy}")
        return folder

    @property
    def remedy(self) -> str:
        """Where it comes from, and where it goes."""
        return f"get it from {self.source} ({self.licence}) into WEIGHTS/{self.name}"


CLIP = Published(
    name="clip-vit-base-patch32",
    measures=("CLIP-T", "CLIP-F", "CLIP-V", "background consistency"),
    source="https://huggingface.co/openai/clip-vit-base-patch32",
    licence="MIT",
    sha256={"pytorch_model.bin": "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"},
)
DINO = Published(
    name="dino-vitb16",
    measures=("subject consistency",),
    source="https://huggingface.co/facebook/dino-vitb16",
    licence="Apache-2.0",
    sha256={},
)
AESTHETIC = Published(
    name="clip-vit-large-patch14",
    measures=("aesthetic quality",),
    source="https://huggingface.co/openai/clip-vit-large-patch14, with sa_0_4_vit_l_14_linear.pth of "
    "https://github.com/LAION-AI/aesthetic-predictor beside",
    licence="MIT",
    sha256={},
)
INCEPTION = Published(
    name="inception-2015-12-05",
    measures=("FID", "KID"),
    source="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    licence="the original network's is Apache-2.0; see NVIDIA's terms for this form",
    sha256={},
)
MATCHER = Published(
    name="lightglue",
    measures=("Mat.Pix",),
    source="https://github.com/xuelunshen/gim (gim_lightglue_100h.ckpt, by `track2view benchmark gim`), the paper's, or "
    "https://huggingface.co/ETH-CVG/lightglue_superpoint",
    licence="LightGlue Apache-2.0, GIM MIT; SuperPoint's weights, which both hold, are for non-commercial research",
    sha256={},
)
LPIPS = Published(
    name="lpips-alex",
    measures=("LPIPS",),
    source="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth and "
    "https://github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1/alex.pth)",
    licence="BSD-3-Clause and BSD-2-Clause",
    sha256={},
)
MUSIQ = Published(
    name="musiq",
    measures=("imaging quality",),
    source="https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth, which VBench uses",
    licence="Apache-2.0 as Google published them; see that project's terms for this form",
    sha256={},
)
AMT = Published(
    name="amt-s",
    measures=("motion smoothness",),
    source="https://huggingface.co/lalala125/AMT (amt-s.pth)",
    licence="CC BY-NC 4.0",
    sha256={},
)


def read_weights(file: Path, published: Published, part: str | None = None) -> dict[str, Tensor]:
    """Tensors by name of a file of torch's.

    Args:
        part: where in the file they are; None if they are all of it.

    Raises:
        UserError: what is missing, or is no such file.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        named = found if part is None else found[part]
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split()):.200}); {published.remedy}") from None
    if not isinstance(named, dict) or not all(isinstance(each, Tensor) for each in named.values()):
        raise UserError(f"{file}: cannot be read (no tensors by name); {published.remedy}")
    return named
