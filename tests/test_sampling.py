import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_dual_view import NOTHING, PROMPT, SHAPE, SOURCE, tiny_model
from torch import Tensor

from track2view.errors import UserError
from track2view.model.sampling import SOLVERS, Guidance, denoise, euler, noise_like, shifted_sigmas, unipc


def test_the_grid_is_the_designs() -> None:
    sigmas = shifted_sigmas(50)
    assert len(sigmas) == 51
    assert float(sigmas[0]) == 1.0
    assert float(sigmas[-2]) == pytest.approx(0.0926, abs=5e-5)
    assert float(sigmas[-1]) == 0.0


@given(steps=st.integers(1, 100), shift=st.floats(0.5, 12))
def test_grids_fall_from_one_to_zero(steps: int, shift: float) -> None:
    sigmas = shifted_sigmas(steps, shift)
    assert bool((sigmas.diff() < 0).all())


def straight(clean: Tensor):
    """A perfect model of one point: its velocity leads from any latents straight to ``clean``."""
    return lambda latents, timestep, branches: ((latents - clean) / (timestep[0] / 1000),) * branches


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 4, 25])
def test_solvers_reach_the_point_that_a_perfect_model_leads_to(name: str, steps: int) -> None:
    clean = noise_like((1, 2, 1, 3, 3), seed=1)
    found = denoise(straight(clean), noise_like(clean.shape, seed=2), shifted_sigmas(steps), solver=SOLVERS[name])
    assert torch.allclose(found, clean, atol=1e-4)


def curved(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
    """The exact velocity for unit Gaussian data: latents shrink to their own marginal, so the end is known."""
    sigma = timestep[0] / 1000
    return ((latents * (2 * sigma - 1) / (sigma**2 + (1 - sigma) ** 2)),) * branches


def test_unipc_needs_fewer_steps_than_euler() -> None:
    noise = noise_like((1, 2, 2, 4, 4), seed=3)
    errors = [
        float((denoise(curved, noise, shifted_sigmas(12), solver=solver, guidance=Guidance(scale=1.0)) - noise).abs().max())
        for solver in (euler, unipc)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_guidance_outside_its_interval_costs_one_branch() -> None:
    asked = []

    def count(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
        asked.append(branches)
        return (torch.zeros_like(latents),) * branches

    denoise(count, noise_like((1, 1, 1, 2, 2), 0), shifted_sigmas(10), guidance=Guidance(interval=(0.3, 0.9)))
    expected = [2 if 0.3 <= float(sigma) <= 0.9 else 1 for sigma in shifted_sigmas(10)[:-1]]
    assert asked == expected
    asked.clear()
    denoise(count, noise_like((1, 1, 1, 2, 2), 0), shifted_sigmas(3), guidance=Guidance(scale=1.0))
    assert asked == [1, 1, 1]


def test_stopping_keeps_what_is_done_and_seeds_reproduce() -> None:
    noise = noise_like((1, 2, 2, 4, 4), seed=5)
    assert torch.equal(noise, noise_like((1, 2, 2, 4, 4), seed=5))
    seen: list[Tensor] = []

    def stop_at_third(step: int, latents: Tensor) -> bool:
        seen.append(latents)
        return step == 2

    stopped = denoise(curved, noise, shifted_sigmas(10), preview=stop_at_third)
    assert len(seen) == 3
    assert torch.equal(stopped, seen[-1])


def test_not_a_number_is_named_with_its_step() -> None:
    def breaks(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
        return (latents * (float("nan") if float(timestep[0]) < 900 else 1.0),) * branches

    with pytest.raises(UserError, match="step 5 of 10"):
        denoise(breaks, noise_like((1, 1, 1, 2, 2), 0), shifted_sigmas(10))


def test_golden_numbers_of_four_steps() -> None:
    model = tiny_model()

    def velocity(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
        return model(latents, timestep, (PROMPT, NOTHING)[:branches], SOURCE)

    found = denoise(velocity, noise_like(SHAPE, seed=0), shifted_sigmas(4), solver=euler)
    again = denoise(velocity, noise_like(SHAPE, seed=0), shifted_sigmas(4), solver=euler)
    assert torch.equal(found, again)
    assert torch.allclose(
        torch.stack([found.mean(), found.std(), *found.flatten()[:2]]), torch.tensor([-0.1110, 1.1919, -2.0842, -0.9142]), atol=2e-4
    )


def test_a_given_beginning_is_kept_and_noised_to_every_level() -> None:
    noise, beginning = noise_like((1, 2, 3, 4, 4), seed=5), noise_like((1, 2, 1, 4, 4), seed=6)
    seen: list[Tensor] = []

    def noted(latents: Tensor, timestep: Tensor, branches: int) -> tuple[Tensor, ...]:
        sigma = float(timestep[0]) / 1000
        seen.append(latents[:, :, :1] - ((1 - sigma) * beginning + sigma * noise[:, :, :1]))
        return curved(latents, timestep, branches)

    found = denoise(noted, noise, shifted_sigmas(8), beginning=beginning)
    assert torch.equal(found[:, :, :1], beginning)
    assert max(float(each.abs().max()) for each in seen) < 1e-6
    assert not torch.equal(found, denoise(curved, noise, shifted_sigmas(8)))
