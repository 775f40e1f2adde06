"""Scores of features, against other ways to the same numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from track2view.errors import UserError
from track2view.metrics import (
    consistency,
    frechet_distance,
    kernel_distance,
    likeness,
    likeness_over_time,
    likeness_to_text,
    steadiness,
)


def some(seed: int, count: int = 40, width: int = 12, offset: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)) @ random.normal(size=(width, width)) + offset


@pytest.mark.parametrize("count", [40, 8], ids=["full rank", "fewer pictures than features"])
def test_the_frechet_distance_is_what_its_formula_says(count: int) -> None:
    one, other = some(0, count), some(1, count, offset=0.5)
    covariances = [np.cov(each, rowvar=False) for each in (one, other)]
    product = covariances[0] @ covariances[1]
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1])
    by_eigenvalues = np.sqrt(np.linalg.eigvals(product).real.clip(min=0)).sum()
    assert frechet_distance(one, other) == pytest.approx(apart - 2 * by_eigenvalues, rel=1e-6)
    if count > one.shape[1]:
        assert frechet_distance(one, other) == pytest.approx(apart - 2 * np.trace(sqrtm(product)).real, rel=1e-6)


class Pixels(torch.nn.Module):
    """In the place of a network, so that torchmetrics measures features that are known."""

    num_features = 12

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1).double()


def test_distances_are_those_of_torchmetrics() -> None:
    random = np.random.default_rng(7)
    one, other = random.integers(0, 256, (30, 3, 2, 2)), random.integers(40, 200, (50, 3, 2, 2))
    fid = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    for real, pictures in ((True, one), (False, other)):
        fid.update(torch.from_numpy(pictures).to(torch.uint8), real=real)
    features = [each.reshape(len(each), 12).astype(np.float64) for each in (one, other)]
    assert frechet_distance(*features) == pytest.approx(float(fid.compute()), rel=1e-9)
    mmd = poly_mmd(*(torch.from_numpy(each[:30] / 256) for each in features))
    assert kernel_distance(*(each[:30] / 256 for each in features)) == pytest.approx(float(mmd), rel=1e-9)


def test_distances_of_what_is_known() -> None:
    """Normal distributions along one axis: their means' and their deviations' squared differences."""
    line = np.linspace(-1, 1, 21)[:, None]
    deviation = line.std(ddof=1)
    assert frechet_distance(line, 3 * line + 2) == pytest.approx(4 + (2 * deviation) ** 2)
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_is_the_obvious_sum() -> None:
    one, other = some(2, 9, 5), some(3, 7, 5)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within = [
        np.mean([kernel(group[i], group[j]) for i in range(len(group)) for j in range(len(group)) if i != j]) for group in (one, other)
    ]
    across = np.mean([kernel(a, b) for a in one for b in other])
    assert kernel_distance(one, other) == pytest.approx(within[0] + within[1] - 2 * across)


def test_of_equal_distributions_the_kernel_distance_is_nothing_on_average_however_few() -> None:
    random = np.random.default_rng(4)
    draws = [kernel_distance(random.normal(size=(6, 4)), random.normal(size=(6, 4))) for _ in range(400)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 20
    biased = [frechet_distance(random.normal(size=(6, 4)), random.normal(size=(6, 4))) for _ in range(50)]
    assert np.mean(biased) > 1


def test_one_picture_has_no_distribution() -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(UserError, match="two pictures of each at least, got 1"):
            distance(some(0), some(1, count=1))


def directions(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1) * torch.arange(1, len(degrees) + 1)[:, None]


def test_likeness_is_the_cosine_whatever_the_length() -> None:
    assert likeness(directions(0, 10), directions(60, 70)) == pytest.approx(50)
    assert likeness_to_text(directions(0, 60), directions(0)[0]) == pytest.approx(75)
    assert likeness_over_time(directions(0, 60, 60)) == pytest.approx(75)


def test_consistency_looks_at_the_first_frame_and_the_one_before() -> None:
    # to the first: cos 60, cos 120 (not below 0); to the one before: cos 60, cos 60
    assert consistency(directions(0, 60, 120)) == pytest.approx(100 * (0.5 + 0 + 0.5 + 0.5) / 4)
    assert consistency(directions(30, 30, 30)) == pytest.approx(100)


def test_what_stands_is_steady_and_what_blinks_is_not() -> None:
    frames = torch.zeros(4, 3, 6, 8, dtype=torch.uint8)
    assert steadiness(frames) == 100
    frames[1::2] = 255
    assert steadiness(frames) == pytest.approx(0)
    ramp = (torch.arange(4) * 51)[:, None, None, None].expand(4, 3, 6, 8).to(torch.uint8)
    assert steadiness(ramp) == pytest.approx(80)


def test_a_single_frame_says_nothing_of_time() -> None:
    frame = torch.zeros(1, 3, 6, 8, dtype=torch.uint8)
    assert all(map(math.isnan, (likeness_over_time(directions(0)), consistency(directions(0)), steadiness(frame))))
