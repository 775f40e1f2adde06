"""A dual-view model made ready for training on one device or many: what wraps what, in which order."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.benchmark import Timer

from track2view.model.dual_view import DualViewModel


def parallelize(
    model: DualViewModel,
    *,
    checkpointing: bool = True,
    compile_backend: str | None = None,
    mesh: DeviceMesh | None = None,
    precision: MixedPrecisionPolicy | None = None,
) -> DualViewModel:
    """Checkpointing, then compiled parts, then FSDP2 shards around them, in place.

    Checkpointing is innermost, so that a graph holds a block and its recomputation; FSDP2 is outermost, so that its hooks gather
    weights before either runs. DDP and ZeRO-1 wrap the model that this returns without ``mesh``.

    Args:
        compile_backend: "inductor"; None leaves blocks and conditioner as they are.
        mesh: shard every block and the rest, this model's root, over it; None for none.
        precision: of gathered weights and reduced gradients; weights' own by default.
    """
    model.enable_gradient_checkpointing(checkpointing)
    if compile_backend is not None:
        model.compile_blocks(compile_backend)
    if mesh is not None:
        policy = precision or MixedPrecisionPolicy()
        for part in (*model.blocks, model):
            # the root too is sharded again after its forward: else a sampled clip between two steps leaves whole weights in the
            # place of shards, and what asks for parameters then gets those
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        for name in ("condition", "remember"):
            register_fsdp_forward_method(model, name)
    return model


def can_compile(device: torch.device) -> bool:
    """Whether torch compiles here: on a CPU that takes a C++ compiler and Python's headers."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except TorchDynamoException:
        return False
    return True


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are slower here than float32's: CPUs without instructions for them. Measured, in milliseconds."""
    half = torch.randn(512, 512, device=device).bfloat16()
    whole = half.float()
    return device.type == "cpu" and Timer("a @ a", globals={"a": half}).timeit(3).mean > Timer("a @ a", globals={"a": whole}).timeit(3).mean


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes, by name: the one list for optimiser, clipping, average and checkpoint. It is what asks for gradients.

    Args:
        model: alone or in DDP, whose own prefix names do not have.
    """
    inside = model.module if isinstance(model, DistributedDataParallel) else model
    return {name: each for name, each in inside.named_parameters() if each.requires_grad}


def whole_state(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the CPU's memory, gathered where parameters are sharded (all ranks take part); training on does not change them."""
    return {
        name: (each.full_tensor() if isinstance(each, DTensor) else each).detach().to("cpu", copy=True) for name, each in parameters.items()
    }
