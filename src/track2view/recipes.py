"""Named configurations of training, as plain functions: read one to know all that shapes its run."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from track2view.errors import UserError
from track2view.model.checkpoint import QueryPlan
from track2view.model.dual_view import DualViewModes
from track2view.records import Size
from track2view.train.denoising import TrackChoice
from track2view.train.plan import TrainingPlan

WAN_1_3B: dict[str, Any] = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096}
"""What tells Wan2.1-T2V-1.3B from its class's defaults."""
BASELINE_RANKS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionerShape:
    """Arguments of :class:`track2view.model.conditioners.tracks.TrackConditioner`."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    bands: int = 8
    confidence_strength: float = 0.0
    nearness_strength: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraShape:
    """For :class:`track2view.model.conditioners.camera.CameraConditioner`: its shape is the base's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryShape:
    """Arguments of :class:`track2view.model.conditioners.trajectory.TrajectoryConditioner`, beside the base's shape."""

    branch_width: int = 96
    heads: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderShape:
    """Arguments of :class:`track2view.model.conditioners.render.RenderConditioner`, beside the base's shape."""

    guide_width: int = 480


@dataclass(frozen=True, kw_only=True, slots=True)
class UnconditionalShape:
    """For :class:`track2view.model.conditioners.unconditional.UnconditionalConditioner`: its shape is the base's."""


AnyShape = ConditionerShape | CameraShape | TrajectoryShape | RenderShape | UnconditionalShape


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecipe:
    """An adapter on a base.

    Attributes:
        name: of the recipe.
        plan: of its run.
        modes: how views meet.
        queries: where tracks start, at inference as in the data.
        tracks: which of these there are.
        conditioner: which, and its shape.
        lora_rank, lora_alpha: 0 for none.
        all_weights: the base is trained too.
        shift: of noise levels, in training and sampling.
        guidance, sampling_steps: on the prompt, and of denoising, in sampling.
        examples: only so many, the data's first; None for all.
        pairs: of the views of each procedural world only so many, drawn by its seed; None for all.
        frames, size: of clips, for estimates; training takes what the data are.
    """

    name: str
    plan: TrainingPlan
    modes: DualViewModes = field(default_factory=DualViewModes)
    queries: QueryPlan = field(default_factory=QueryPlan)
    tracks: TrackChoice = "all"
    conditioner: AnyShape = field(default_factory=ConditionerShape)
    lora_rank: int = 64
    lora_alpha: int = 64
    all_weights: bool = False
    shift: float = 5.0
    guidance: float = 5.0
    sampling_steps: int = 50
    examples: int | None = None
    pairs: int | None = None
    frames: int = 81
    size: Size = (480, 832)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRecipe:
    """A text-to-video transformer from nothing; its shape, its VAE and its text encoder are those of the base that it starts from.

    Attributes:
        name: of the recipe.
        plan: of its run.
        shift: of noise levels, in training and sampling.
    """

    name: str
    plan: TrainingPlan
    shift: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeRecipe:
    """A VAE from nothing.

    Attributes:
        name: of the recipe.
        plan: of its run.
        shape: in :data:`track2view.model.make.SIZES`.
        frames, size: of the pieces it is trained on.
    """

    name: str
    plan: TrainingPlan
    shape: str
    frames: int
    size: Size


Recipe = AdapterRecipe | BaseRecipe | VaeRecipe


def micro() -> AdapterRecipe:
    """All weights of a small model, on one camera's clip seen from four others: that all of it can learn, in minutes."""
    return AdapterRecipe(
        name="micro",
        plan=TrainingPlan(
            steps=800,
            batch=4,
            micro_batch=4,
            learning_rate=2e-3,
            warmup=20,
            decay=300,
            average=0.98,
            weight_decay=0.0,
            log_every=1,
            validate_every=200,
            sample_every=800,
            save_every=100,
        ),
        queries=QueryPlan(rows=8, columns=14),
        conditioner=ConditionerShape(width=96, layers=2, heads=4),
        lora_rank=0,
        lora_alpha=0,
        all_weights=True,
        shift=2.0,
        guidance=1.0,
        examples=4,
        frames=9,
        size=(32, 56),
    )


def mini_vae() -> VaeRecipe:
    """The mini's VAE (design section 5, The mini)."""
    return VaeRecipe(
        name="mini-vae",
        plan=TrainingPlan(
            steps=12_000,
            batch=4,
            micro_batch=2,
            processes=2,
            learning_rate=1e-3,
            warmup=100,
            decay=3000,
            betas=(0.8, 0.9),
            average=0.998,
            weight_decay=0.0,
            validate_every=500,
            sample_every=1000,
            save_every=500,
        ),
        shape="mini",
        frames=17,
        size=(32, 32),
    )


def mini_base() -> BaseRecipe:
    """The mini's transformer: text to video on procedural worlds."""
    return BaseRecipe(
        name="mini-base",
        plan=TrainingPlan(
            steps=20_000,
            batch=16,
            micro_batch=8,
            processes=2,
            learning_rate=1e-3,
            warmup=300,
            decay=3000,
            average=0.998,
            precision="bfloat16",
            compiled=True,
            validate_every=500,
            sample_every=2000,
            save_every=250,
        ),
        shift=2.0,
    )


def mini() -> AdapterRecipe:
    """The mini's adapter: conditioner and LoRA on the frozen mini base."""
    return AdapterRecipe(
        name="mini",
        plan=TrainingPlan(
            steps=20_000,
            batch=8,
            micro_batch=4,
            processes=2,
            learning_rate=1e-3,
            warmup=100,
            decay=3000,
            average=0.998,
            precision="bfloat16",
            compiled=True,
            validate_every=500,
            sample_every=1000,
            save_every=250,
        ),
        queries=QueryPlan(rows=16, columns=28),
        conditioner=ConditionerShape(width=128, layers=4, heads=4),
        shift=2.0,
        guidance=1.0,
        sampling_steps=4,
        frames=17,
        size=(64, 112),
    )


def proof() -> AdapterRecipe:
    """The mini's adapter for three quarters of an hour of two cores, on twenty pairs of each world: so briefly that what tells a model
    its target camera can be compared over several seeds (docs/benchmarks.md). Checkpoints at each quarter stay."""
    short = mini()
    plan = replace(
        short.plan,
        steps=512,
        batch=4,
        micro_batch=2,
        warmup=50,
        decay=128,
        average=0.99,
        precision="float32",
        validate_every=128,
        sample_every=512,
        save_every=128,
        kept=8,
    )
    return replace(short, name="proof", plan=plan, pairs=20)


def paper() -> AdapterRecipe:
    """The paper's (section 3.4), on four GPUs with ZeRO-1; what it does not say is ours (design section 5)."""
    return AdapterRecipe(
        name="paper",
        plan=TrainingPlan(
            steps=10_000,
            batch=8,
            micro_batch=2,
            processes=4,
            learning_rate=1e-4,
            warmup=200,
            decay=1000,
            precision="bfloat16",
            checkpointing=True,
            average=0.999,
        ),
    )


def one_gpu() -> AdapterRecipe:
    """Wan2.1-1.3B on one GPU of 80 GB over a weekend: 49 frames, the source cached, a small LoRA."""
    return AdapterRecipe(
        name="one-gpu",
        plan=TrainingPlan(
            steps=15_000,
            batch=4,
            micro_batch=1,
            learning_rate=1e-4,
            warmup=200,
            decay=1500,
            precision="bfloat16",
            checkpointing=True,
            compiled=True,
            average=0.999,
        ),
        modes=DualViewModes(attention="cached-source"),
        lora_rank=32,
        lora_alpha=32,
        frames=49,
    )


def ablations(of: AdapterRecipe) -> dict[str, AdapterRecipe]:
    """Recipes that differ from one in a single choice (paper, ablations; ours beside them), by name.

    Raises:
        ValueError: one that reads no tracks.
    """
    shape, modes = of.conditioner, of.modes
    if not isinstance(shape, ConditionerShape):
        raise ValueError(f"recipe {of.name} reads no tracks, whose ablations these are")
    changes: dict[str, dict[str, Any]] = {
        "queries-first": {"tracks": "first"},
        "queries-half": {"tracks": "half"},
        "queries-quarter": {"tracks": "quarter"},
        "layers-2": {"conditioner": replace(shape, layers=2)},
        "layers-4": {"conditioner": replace(shape, layers=4)},
        "layers-8": {"conditioner": replace(shape, layers=8)},
        "joint": {"modes": replace(modes, attention="joint")},
        "cached-source": {"modes": replace(modes, attention="cached-source")},
        "timestep-shared": {"modes": replace(modes, timestep="shared", attention="joint")},
        "rope-synchronised": {"modes": replace(modes, rope="synchronised")},
        "scatter-confidence": {"conditioner": replace(shape, confidence_strength=1.0)},
        "scatter-nearness": {"conditioner": replace(shape, nearness_strength=2.0)},
    }
    return {f"{of.name}-{name}": replace(of, name=f"{of.name}-{name}", **change) for name, change in changes.items()}


def baselines(of: AdapterRecipe) -> dict[str, AdapterRecipe]:
    """The same run with another way to tell the model the target camera, or none, by name.

    Where the conditioner is small, a wider LoRA makes up for it: as many weights are trained, within a tenth.
    """
    wider = {"lora_rank": of.lora_rank + BASELINE_RANKS, "lora_alpha": of.lora_alpha + BASELINE_RANKS}
    changes: dict[str, dict[str, Any]] = {
        "camera": {"conditioner": CameraShape(), **wider},
        "trajectory": {"conditioner": TrajectoryShape()},
        "render": {"conditioner": RenderShape()},
        "unconditional": {"conditioner": UnconditionalShape(), **wider},
    }
    return {f"{of.name}-{name}": replace(of, name=f"{of.name}-{name}", **change) for name, change in changes.items()}


RECIPES: dict[str, Callable[[], Recipe]] = {
    "micro": micro,
    "mini-vae": mini_vae,
    "mini-base": mini_base,
    "mini": mini,
    "proof": proof,
    "one-gpu": one_gpu,
    "paper": paper,
}


def recipe_named(name: str) -> Recipe:
    """A recipe, or an ablation or baseline of "mini", "proof", "one-gpu" or "paper", as ``paper-layers-2`` or ``mini-camera``.

    Raises:
        UserError: no such, with the names of those that are.
    """
    if name in RECIPES:
        return RECIPES[name]()
    found = {key: each for of in (mini(), proof(), one_gpu(), paper()) for key, each in (ablations(of) | baselines(of)).items()}
    if name not in found:
        raise UserError(
            f"recipe: expected {', '.join(RECIPES)}, or mini-, proof-, one-gpu- or paper- followed by "
            f"{', '.join(key.removeprefix('paper-') for key in ablations(paper()) | baselines(paper()))}; got {name!r:.60}"
        )
    return found[name]
