"""Random bases and adapters in the real layout and of the real classes, small enough for a laptop: for trials and tests."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel  # pyrefly: ignore

from track2view.model.checkpoint import AdapterRecord, QueryPlan, add_lora, save_adapter
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.folders import OFFLINE
from track2view.model.parallel import trainable_parameters, whole_state
from track2view.model.text import MAX_TOKENS

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """Widths and depths of a base and its adapter."""

    blocks: int
    heads: int
    head_width: int
    feed_forward: int
    text_width: int
    vae_width: int
    conditioner_width: int
    conditioner_layers: int
    lora_rank: int
    vae_stages: tuple[int, ...] = (1, 2, 4, 4)
    vae_blocks: int = 1
    text_length: int = MAX_TOKENS


SIZES = {
    "micro": ModelSize(
        blocks=2,
        heads=2,
        head_width=24,
        feed_forward=96,
        text_width=32,
        vae_width=4,
        conditioner_width=32,
        conditioner_layers=2,
        lora_rank=4,
    ),
    "small": ModelSize(
        blocks=4,
        heads=4,
        head_width=32,
        feed_forward=512,
        text_width=32,
        vae_width=4,
        conditioner_width=64,
        conditioner_layers=2,
        lora_rank=8,
        vae_stages=(1, 2, 4),
        text_length=32,
    ),
    "mini": ModelSize(
        blocks=8,
        heads=4,
        head_width=64,
        feed_forward=1024,
        text_width=64,
        vae_width=16,
        conditioner_width=128,
        conditioner_layers=4,
        lora_rank=64,
        vae_stages=(1, 2, 4),
        text_length=128,
    ),
}
"""Those of three stages have latents of 4×4 pixels, those of four of 8×8 as Wan's; all of 4 frames."""


def new_transformer(size: ModelSize) -> WanTransformer3DModel:
    """A random transformer of the real class."""
    return WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.head_width,
        text_dim=size.text_width,
        ffn_dim=size.feed_forward,
        num_layers=size.blocks,
    ).eval()


def new_vae(size: ModelSize) -> AutoencoderKLWan:
    """A random VAE of the real class."""
    halvings = len(size.vae_stages) - 1
    return AutoencoderKLWan(
        base_dim=size.vae_width,
        z_dim=16,
        dim_mult=list(size.vae_stages),
        num_res_blocks=size.vae_blocks,
        temperal_downsample=[False] * (halvings - 2) + [True] * 2,
        scale_factor_spatial=2**halvings,
        scale_factor_temporal=4,
    )


def new_model(name: str, out: Path, *, modes: DualViewModes | None = None, seed: int = 0, vae: Path | None = None) -> None:
    """Write ``out/base`` (Wan's layout) and ``out/adapter``, all weights random, reproducible by ``seed``.

    Args:
        vae: folder of a VAE to take instead of a random one.
    """
    size = SIZES[name]
    torch.manual_seed(seed)
    transformer = new_transformer(size)
    own_vae = new_vae(size) if vae is None else AutoencoderKLWan.from_pretrained(vae, **OFFLINE)
    tokenizer = new_tokenizer(size.text_length)
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=size.text_width, d_kv=16, d_ff=2 * size.text_width, num_layers=2, num_heads=2)
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    base = WanPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=own_vae, scheduler=scheduler, transformer=transformer)  # pyrefly: ignore
    base.save_pretrained(out / "base")
    width = size.heads * size.head_width
    conditioner = TrackConditioner(token_width=width, width=size.conditioner_width, layers=size.conditioner_layers, heads=4)
    torch.nn.init.normal_(conditioner.out_proj.weight, std=0.02)
    add_lora(transformer, size.lora_rank, size.lora_rank)
    model = DualViewModel(transformer, conditioner, modes)
    record = AdapterRecord(
        base=f"track2view random {name}",
        width=width,
        modes=model.modes,
        queries=QueryPlan(),
        lora_rank=size.lora_rank,
        lora_alpha=size.lora_rank,
        recipe="random",
    )
    save_adapter(out / "adapter", whole_state(trainable_parameters(model)), record, conditioner.config)


def new_tokenizer(length: int = MAX_TOKENS) -> T5TokenizerFast:
    """One token a character, ``length`` at most: a tokenizer of the real class that needs no download."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((each, -3.0) for each in CHARACTERS)]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_ids=0, model_max_length=length
    )
