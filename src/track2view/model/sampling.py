"""From noise to latents: an explicit sigma grid, a solver, guidance on text. The model is any callable."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from track2view.errors import UserError
from track2view.progress import progress

TRAIN_TIMESTEPS = 1000

Velocity = Callable[[Float[Tensor, "B C F Y X"], Float[Tensor, "B"], int], tuple[Float[Tensor, "B C F Y X"], ...]]
"""(latents, timestep in 0…1000, branches) to the velocity under the prompt and, where branches is 2, under the negative one."""

Solver = Callable[[Float[Tensor, "B C F Y X"], int, Float[Tensor, "B C F Y X"]], Float[Tensor, "B C F Y X"]]
"""(velocity, step, latents) to the next latents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """Classifier-free guidance on text.

    Attributes:
        scale: 1 is none; the negative branch is then not computed.
        interval: sigmas (low, high) within which it is used; outside, one branch is enough.
    """

    scale: float = 5.0
    interval: tuple[float, float] = (0.0, 1.0)

    def branches(self, sigma: float) -> int:
        """How many branches a step at ``sigma`` needs."""
        return 2 if self.scale != 1.0 and self.interval[0] <= sigma <= self.interval[1] else 1

    def combined(self, velocities: tuple[Tensor, ...]) -> Tensor:
        """Away from the negative prompt, towards the prompt."""
        if len(velocities) == 1:
            return velocities[0]
        positive, negative = velocities
        return negative + self.scale * (positive - negative)


def shifted(u: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """Noise levels σ = shift u / (1 + (shift − 1) u) of u in [0, 1] (design section 5), in training as in sampling."""
    return shift * u / (1 + (shift - 1) * u)


def shifted_sigmas(steps: int, shift: float = 5.0) -> Float[Tensor, "steps1"]:
    """``steps`` + 1 noise levels from 1 to 0 (design section 5): u = 1 − i / steps, :func:`shifted`."""
    if steps < 1 or shift <= 0:
        raise UserError(f"expected at least one step and a positive shift, got {steps} and {shift:g}")
    return shifted(1 - torch.arange(steps + 1, dtype=torch.float64) / steps, shift)


def euler(sigmas: Float[Tensor, "steps1"]) -> Solver:
    """Straight steps along the velocity."""
    levels = sigmas.tolist()
    return lambda velocity, step, latents: latents + (levels[step + 1] - levels[step]) * velocity


def unipc(sigmas: Float[Tensor, "steps1"]) -> Solver:
    """Diffusers' UniPC on the given grid (it makes the first sigma 0.999999, and shifts no further when told shift 1)."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].numpy())  # pyrefly: ignore
    return lambda velocity, step, latents: scheduler.step(velocity, scheduler.timesteps[step], latents, return_dict=False)[0]


SOLVERS = {"euler": euler, "unipc": unipc}


def noise_like(shape: tuple[int, ...], seed: int) -> Float[Tensor, "B C F Y X"]:
    """Unit noise that depends on the seed alone, not on the device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@torch.no_grad()
def denoise(
    velocity: Velocity,
    noise: Float[Tensor, "B C F Y X"],
    sigmas: Float[Tensor, "steps1"],
    *,
    solver: Callable[[Float[Tensor, "steps1"]], Solver] = unipc,
    guidance: Guidance | None = None,
    preview: Callable[[int, Float[Tensor, "B C F Y X"]], bool | None] | None = None,
    beginning: Float[Tensor, "B C f Y X"] | None = None,
) -> Float[Tensor, "B C F Y X"]:
    """Integrate from ``noise`` along ``sigmas``.

    Args:
        velocity: the model.
        preview: called after each step with its index and the clean latents it points to; if it returns True, sampling stops
            and these are the result, so that what was done is not lost.
        beginning: clean latents that the result must begin with (the end of the window before): at each step they take their
            place, noised to its level.

    Raises:
        UserError: not a number in the latents, with the step.
    """
    guidance = guidance or Guidance()
    advance, latents = solver(sigmas), noise.float()
    steps = len(sigmas) - 1
    for step in progress(range(steps), "denoising", steps):
        sigma = float(sigmas[step])
        latents = _begun(latents, noise, beginning, sigma)
        timestep = torch.full((len(latents),), sigma * TRAIN_TIMESTEPS, device=latents.device)
        direction = guidance.combined(velocity(latents, timestep, guidance.branches(sigma))).float()
        if not bool(direction.isfinite().all()):
            raise UserError(f"the model gave values that are not numbers at step {step + 1} of {steps}; try float32")
        if preview is not None:
            pointed_to = _begun(latents - sigma * direction, noise, beginning, 0.0)
            if preview(step, pointed_to):
                return pointed_to
        latents = advance(direction, step, latents)
    return _begun(latents, noise, beginning, 0.0)


def _begun(latents: Tensor, noise: Tensor, beginning: Tensor | None, sigma: float) -> Tensor:
    if beginning is None:
        return latents
    known = beginning.shape[2]
    return torch.cat([(1 - sigma) * beginning + sigma * noise[:, :, :known], latents[:, :, known:]], dim=2)
