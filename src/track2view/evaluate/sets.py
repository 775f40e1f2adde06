"""Distances of whole sets of pictures: a method's frames from the exact views', or from the clips' own where nobody knows those (FID and
KID where the network is Inception).

The network is the 2015-12-05 Inception as NVIDIA published it in TorchScript, which resizes as TensorFlow did, so that its features are
those of the original FID; it is the user's to fetch (:data:`track2view.evaluate.published.INCEPTION`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.evaluate.published import INCEPTION
from track2view.evaluate.row import Row
from track2view.files import atomic_path
from track2view.metrics import frechet_distance, kernel_distance

AT_ONCE = 32
POOL = "compared with"
"""In the place of a method: what all are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistance:
    """From the frames that all methods are compared with.

    Attributes:
        frames: of either set.
        frechet: FID; of fewer than some ten thousand frames it is far too large, and comparable among equally many alone.
        kernel: KID, not biased by how many there are.
    """

    frames: int
    frechet: float
    kernel: float


class Inception:
    """Features of pictures by a TorchScript of Inception.

    Raises:
        UserError: a file that does not load.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        try:
            self.network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: no TorchScript ({' '.join(str(error).split()):.200}); {INCEPTION.remedy}") from None
        self.device = device

    @torch.no_grad()
    def features(self, frames: UInt8[Tensor, "T 3 H W"]) -> Float64[np.ndarray, "T F"]:
        """Before its last layer."""
        parts = (self.network(part.to(self.device), return_features=True) for part in frames.split(AT_ONCE))
        return torch.cat([part.double().cpu() for part in parts]).numpy()


def keep_features(inception: Inception, out: Path, case: str, method: str, frames: UInt8[Tensor, "T 3 H W"]) -> None:
    """Write what :func:`set_distances` reads: before the clip goes through a codec."""
    with atomic_path(out / "features" / method / f"{case}.npy") as partial, partial.open("wb") as file:
        np.save(file, inception.features(frames))


def set_distances(rows: Sequence[Row], out: Path) -> Mapping[str, SetDistance]:
    """By method, of the worlds of which every method has a clip, as ``out/features`` holds them; empty where these are none."""
    methods = list(dict.fromkeys(row.method for row in rows))
    failed = {row.case for row in rows if row.reason}
    cases = [case for case in dict.fromkeys(row.case for row in rows) if case not in failed]
    if not cases:
        return {}

    def features(method: str) -> Float64[np.ndarray, "N F"]:
        return np.concatenate([np.load(out / "features" / method / f"{case}.npy") for case in cases])

    exact = features(POOL)
    found = {method: features(method) for method in methods}
    return {
        method: SetDistance(frames=len(own), frechet=frechet_distance(own, exact), kernel=kernel_distance(own, exact))
        for method, own in found.items()
    }
