"""What the dual-view model costs, on random weights of the real classes; prints Markdown (docs/benchmarks.md records it).

python benchmarks/model.py            micro and medium on the CPU: time, the conditioner's share, cached-source, operations
python benchmarks/model.py --memory   the full-size conditioner's peak memory on the CPU, with and without checkpointing
python benchmarks/model.py --cuda     full size on a GPU: time and memory by backend, compiled or not, against the floor
"""

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.multiprocessing
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, ViewCondition
from track2view.model.cost import Shape, conditioner_flops, conditioner_memory_needed, remember_flops, step_flops
from track2view.model.dual_view import DualViewModel, DualViewModes, attention_backends
from track2view.model.latents import WAN_STRIDES, LatentGrid
from track2view.model.make import SIZES, ModelSize, new_transformer

FULL = ModelSize(
    blocks=30,
    heads=12,
    head_width=128,
    feed_forward=8960,
    text_width=4096,
    vae_width=96,
    conditioner_width=512,
    conditioner_layers=8,
    lora_rank=0,
)
MEDIUM = ModelSize(
    blocks=12,
    heads=6,
    head_width=64,
    feed_forward=1536,
    text_width=256,
    vae_width=16,
    conditioner_width=192,
    conditioner_layers=4,
    lora_rank=0,
)
TRACKS, STEPS, BRANCHES, TEXT_TOKENS = 1152, 50, 2, 512


@dataclass(frozen=True)
class Case:
    """A model with everything that one step needs."""

    model: DualViewModel
    shape: Shape
    grid: LatentGrid
    latents: Tensor
    source: Tensor
    condition: TrackCondition
    texts: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        frames, height, width = self.grid.token_grid
        return frames * height * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--size", choices=["full", *SIZES], default="full", help="with --cuda")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.cuda:
        size = FULL if given.size == "full" else SIZES[given.size]
        with torch.no_grad():
            on_gpu(size, LatentGrid(frames=81, size=(480, 832), strides=WAN_STRIDES), given.repeats)
    elif given.memory:
        print("| conditioner, one clip of 81 × 480×832, 1,152 tracks, float32 | peak GB | formula |\n|---|---|---|")
        for way in ("inference", "training", "training, checkpointed"):
            torch.multiprocessing.spawn(conditioner_memory, (way,))
    else:
        with torch.no_grad():
            on_cpu(given.repeats)


def make(size: ModelSize, grid: LatentGrid, modes: DualViewModes, device: str, dtype: torch.dtype) -> Case:
    torch.manual_seed(0)
    with torch.device(device):
        transformer = new_transformer(size)
        if dtype != torch.float32:
            transformer.to(dtype)
        width = size.heads * size.head_width
        conditioner = TrackConditioner(
            token_width=width, width=size.conditioner_width, layers=size.conditioner_layers, heads=8 if size is FULL else 4
        )
        model = DualViewModel(transformer, conditioner, modes).eval()
        height, columns = grid.latent_size
        latents = [torch.randn(1, 16, grid.latent_frames, height, columns, dtype=dtype) for _ in range(2)]
        views = [
            ViewCondition(
                uv=torch.rand(1, grid.latent_frames, TRACKS, 2),
                disparity=torch.rand(1, grid.latent_frames, TRACKS),
                valid=torch.rand(1, grid.latent_frames, TRACKS) < 0.8,
            )
            for _ in range(2)
        ]
        condition = TrackCondition(source=views[0], target=views[1], confidence=torch.ones(1, grid.latent_frames, TRACKS))
        texts = tuple(torch.randn(1, TEXT_TOKENS, size.text_width, dtype=dtype) for _ in range(BRANCHES))
    return Case(model, Shape.of(transformer, conditioner), grid, latents[0], latents[1], condition, texts)


def conditioner_memory(_: int, way: str) -> None:
    """Peak of a process that runs the full-size conditioner once, over what it held before."""
    grid = LatentGrid(frames=81, size=(480, 832), strides=WAN_STRIDES)
    frames, rows, columns = grid.token_grid
    size = FULL
    conditioner = TrackConditioner(token_width=size.heads * size.head_width, width=size.conditioner_width)
    views = [
        ViewCondition(
            uv=torch.rand(1, frames, TRACKS, 2), disparity=torch.rand(1, frames, TRACKS), valid=torch.rand(1, frames, TRACKS) < 0.8
        )
        for _ in range(2)
    ]
    condition = TrackCondition(source=views[0], target=views[1], confidence=torch.ones(1, frames, TRACKS))
    tokens = torch.randn(1, frames, rows, columns, size.heads * size.head_width)
    if way == "training, checkpointed":
        conditioner.enable_gradient_checkpointing()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.set_grad_enabled(way != "inference"):
        context = conditioner(tokens, condition)
        if way != "inference":
            context.target.square().mean().backward()
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    transformer, other = _parts(size)
    formula = conditioner_memory_needed(Shape.of(transformer, other), grid.token_grid, TRACKS) if way == "inference" else 0.0
    print(f"| {way} | {peak / 1e9:.2f} | {f'{formula / 1e9:.2f}' if formula else ''} |", flush=True)


def step_of(case: Case, branches: int = BRANCHES) -> Callable[[], object]:
    """One denoising step, with all that is computed once computed already."""
    contexts = case.model.condition(case.source, case.condition)
    when, texts = torch.tensor([500.0], device=case.latents.device), case.texts[:branches]
    if case.model.modes.attention == "cached-source":
        memories = [case.model.remember(case.source, text, contexts) for text in texts]
        return lambda: case.model(case.latents, when, texts, None, contexts, memories)
    return lambda: case.model(case.latents, when, texts, case.source, contexts)


def seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median over repeats, after one to warm up."""
    call()
    taken = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def counted(call: Callable[[], object]) -> float:
    """Operations by torch's counter, which must be told of the CPU's attention kernel."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formula = {kernel: lambda query, key, value, *_, **__: sdpa_flop(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=formula) as counter:
        call()
    return counter.get_total_flops()


def on_cpu(repeats: int) -> None:
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, float32, {STEPS} steps with guidance, {TRACKS} tracks\n")
    columns = (
        "size",
        "video",
        "attention",
        "s a step",
        "once, s",
        "conditioner of a video",
        "faster than joint",
        "GFLOP a step, counted / formula",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|")
    grid = LatentGrid(frames=33, size=(128, 224), strides=WAN_STRIDES)
    for name, size in (("micro", SIZES["micro"]), ("medium", MEDIUM)):
        joint_video = 0.0
        for attention in ("joint", "cached-source"):
            case = make(size, grid, DualViewModes(attention=attention), "cpu", torch.float32)
            step = seconds(step_of(case), repeats, "cpu")
            conditioner = seconds(lambda: case.model.condition(case.source, case.condition), repeats, "cpu")  # noqa: B023
            once = 0.0
            if attention == "cached-source":
                contexts = case.model.condition(case.source, case.condition)
                once = seconds(lambda: [case.model.remember(case.source, text, contexts) for text in case.texts], repeats, "cpu")  # noqa: B023
            video = STEPS * step + once + conditioner
            joint_video = joint_video or video
            formula = step_flops(case.shape, case.model.modes, case.tokens, BRANCHES).total
            ratio = counted(step_of(case)) / formula
            faster = "" if attention == "joint" else f"{joint_video / video:.2f}×"
            video_size = f"{grid.frames} × {grid.size[0]}×{grid.size[1]}"
            print(
                f"| {name} | {video_size} | {attention} | {step:.3f} | {once + conditioner:.3f} | {conditioner / video:.2%} | {faster} "
                f"| {formula / 1e9:.2f}, {ratio:.3f} |",
                flush=True,
            )


def on_gpu(size: ModelSize, grid: LatentGrid, repeats: int) -> None:
    """Rows of (attention, backend, compiled): one branch's forward, as the floor is stated."""
    tokens = grid.token_grid[0] * grid.token_grid[1] * grid.token_grid[2]
    matmul = matmul_ceiling(repeats)
    attention = {name: attention_ceiling(size, 2 * tokens, name, repeats) for name in attention_backends("cuda")}
    best = max(attention.values())
    ceilings = ", ".join(f"{name} {value / 1e12:.0f}" for name, value in attention.items())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16, {grid.frames} × {grid.size[0]}×{grid.size[1]}")
    print(f"{2 * tokens:,} tokens; ceilings in TFLOP/s: matmul {matmul / 1e12:.0f}, attention {ceilings}\n")
    print("| attention | backend | compiled | ms a forward | s a guided video | over the floor | conditioner of a video | peak GB |")
    print("|---|---|---|---|---|---|---|---|")
    for mode in ("joint", "cached-source"):
        for backend in attention_backends("cuda"):
            for compiled in (False, True):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                case = make(size, grid, DualViewModes(attention=mode), "cuda", torch.bfloat16)
                case.model.transformer.set_attention_backend(backend)
                if compiled:
                    case.model.compile_blocks()
                forward = seconds(step_of(case, 1), repeats, "cuda")
                step = seconds(step_of(case, BRANCHES), 2, "cuda")
                conditioner = seconds(lambda: case.model.condition(case.source, case.condition), repeats, "cuda")  # noqa: B023
                flops = step_flops(case.shape, case.model.modes, tokens, 1)
                once = remember_flops(case.shape, tokens, 1).total / flops.total * forward if mode == "cached-source" else 0.0
                video = STEPS * step + BRANCHES * once + conditioner
                floor = flops.attention / best + flops.linear / matmul
                peak = torch.cuda.max_memory_allocated() / 1e9
                print(
                    f"| {mode} | {backend} | {'yes' if compiled else 'no'} | {1e3 * forward:.0f} | {video:.1f} | {forward / floor:.2f}× "
                    f"| {conditioner / video:.2%} | {peak:.1f} |",
                    flush=True,
                )
                del case
    print(f"\nconditioner: {conditioner_flops(Shape.of(*_parts(size)), grid.token_grid, TRACKS).total / 1e12:.2f} TFLOP")


def _parts(size: ModelSize) -> tuple:
    with torch.device("meta"):
        return new_transformer(size), TrackConditioner(token_width=size.heads * size.head_width, width=size.conditioner_width)


def matmul_ceiling(repeats: int, side: int = 8192) -> float:
    """Operations a second of one large matrix product."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, 4 * repeats, "cuda")


def attention_ceiling(size: ModelSize, tokens: int, backend: str, repeats: int) -> float:
    """Operations a second of bare attention over all tokens, by one backend."""
    query, key, value = (torch.randn(1, tokens, size.heads, size.head_width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    call = lambda: dispatch_attention_fn(query, key, value, backend=AttentionBackendName(backend))  # noqa: E731
    return 4 * tokens**2 * size.heads * size.head_width / seconds(call, repeats, "cuda")


if __name__ == "__main__":
    main()
