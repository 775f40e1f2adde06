"""Adapters of random weights on a base of random weights, of whatever kind."""

from pathlib import Path

import torch

from track2view.model.bases import load_transformer
from track2view.model.checkpoint import AdapterRecord, QueryPlan, save_adapter
from track2view.model.conditioners import Conditioner
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.parallel import trainable_parameters


def random_adapter(folder: Path, kind: type[Conditioner], *, frames: int) -> None:
    """``folder/adapter`` on ``folder/base``: one step, no guidance; every weight of its conditioner says something."""
    transformer = load_transformer(folder / "base").requires_grad_(False)
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    if kind is RenderConditioner:
        channels = transformer.config["in_channels"]
        conditioner: Conditioner = RenderConditioner(
            token_width=width, blocks=len(transformer.blocks), latent_channels=channels, guide_width=8
        )
    else:
        conditioner = TrackConditioner(token_width=width, width=24, layers=1, heads=2, bands=4)
    torch.manual_seed(0)
    for each in conditioner.parameters():
        torch.nn.init.normal_(each, std=0.3)
    record = AdapterRecord(
        base="base",
        width=width,
        conditioner=kind.__name__,
        modes=DualViewModes(),
        queries=QueryPlan(rows=6, columns=10),
        lora_rank=0,
        lora_alpha=0,
        frames=frames,
        guidance=1.0,
        steps=1,
    )
    model = DualViewModel(transformer, conditioner)
    save_adapter(folder / "adapter", trainable_parameters(model), record, conditioner.config)
