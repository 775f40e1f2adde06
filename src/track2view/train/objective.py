"""Flow matching (design section 5): targets between clean and noise, the velocity there, and how far a model's is from it."""

from jaxtyping import Float, Float32
from torch import Tensor


def noised(
    target: Float[Tensor, "B C F Y X"], noise: Float[Tensor, "B C F Y X"], sigma: Float[Tensor, "B"]
) -> tuple[Float32[Tensor, "B C F Y X"], Float32[Tensor, "B C F Y X"]]:
    """Latents at ``sigma`` on the straight way from clean to noise, and the velocity there: noise − clean, at every σ.

    In float32 whatever is given: near σ = 1 half precision has no room for what is left of the clean latents.
    """
    clean, noise, level = target.float(), noise.float(), sigma.float().reshape(-1, 1, 1, 1, 1)
    return (1 - level) * clean + level * noise, noise - clean


def flow_matching_loss(found: Float[Tensor, "B C F Y X"], velocity: Float[Tensor, "B C F Y X"]) -> Float32[Tensor, ""]:
    """Mean squared error of the target's velocity, all σ weighed alike; the source has no loss."""
    return (found.float() - velocity.float()).square().mean()
