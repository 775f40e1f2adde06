"""Two views through one unmodified Wan transformer (design section 5): target tokens attend to source tokens.

Shapes: B clips, C latent channels, F latent frames, Y X latent rows and columns, D model width, S tokens of one view.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformer3DModel, WanTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

from track2view.errors import UserError
from track2view.model.conditioners.protocol import AroundAttention, Conditioner, Conditioning, Views
from track2view.model.room import keep_blocks, offload_blocks

MAX_SCORES_BYTES = 16e9
CUDNN_CAPABILITY = (9, 0)

Rotary = tuple[Tensor, Tensor]
Memory = tuple[Float[Tensor, "B K heads e"], Float[Tensor, "B K heads e"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class DualViewModes:
    """How the two views meet. An adapter is trained with one choice and works with that alone.

    Attributes:
        timestep: "segmented" modulates the clean source at t = 0 and the target at t (ours); "shared" both at t (ReCamMaster).
        rope: "sequential" puts the source after the target in time (the paper's concatenation); "synchronised" gives both
            the same frames and tells them apart by a learned embedding (ours).
        attention: "joint" lets all tokens see all (the paper); "cached-source" lets the source see itself alone, so that it is
            computed once for all steps (ours).
    """

    timestep: Literal["segmented", "shared"] = "segmented"
    rope: Literal["sequential", "synchronised"] = "sequential"
    attention: Literal["joint", "cached-source"] = "joint"

    def __post_init__(self) -> None:
        if self.attention == "cached-source" and self.timestep == "shared":
            raise UserError(
                'DualViewModes: attention "cached-source" needs timestep "segmented": a shared one changes the source at every step'
            )


class DualViewBlock(nn.Module):
    """One unmodified diffusers `WanTransformerBlock`, run over one or two views with a modulation each.

    Args:
        block: the base's.
        attention: see :class:`DualViewModes`.
    """

    def __init__(self, block: WanTransformerBlock, attention: Literal["joint", "cached-source"]) -> None:
        super().__init__()
        self.block, self.attention = block, attention
        self.gradient_checkpointing = False

    def forward(
        self,
        views: Views,
        texts: tuple[Float[Tensor, "B L D"], ...],
        modulations: Views,
        rotaries: Views,
        *,
        memory: Memory | None = None,
        around: AroundAttention | None = None,
        asking: tuple[bool, bool] = (True, True),
    ) -> tuple[tuple[Views, ...], Views]:
        """Views after the block, once per text (self-attention is computed once for all), and their keys and values.

        Args:
            views: tokens, (B, S, D) each.
            texts: embedded prompts of the guidance branches.
            modulations: of each view, (B, 6, D).
            rotaries: of each view.
            memory: the source's keys and values, in place of the source.
            around: what the conditioner does about self-attention.
            asking: whether target and source ask and go on; one that does not is only seen.
        """
        given = (views, texts, modulations, rotaries, memory, around, asking)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._through, *given, use_reentrant=False)
        return self._through(*given)

    def _through(
        self,
        views: Views,
        texts: tuple[Tensor, ...],
        modulations: Views,
        rotaries: Views,
        memory: Memory | None,
        around: AroundAttention | None,
        asking: tuple[bool, bool],
    ) -> tuple[tuple[Views, ...], Views]:
        block = self.block
        parts = modulations.map(lambda each: (block.scale_shift_table + each.float()).chunk(6, dim=1))
        read = views.map(lambda view, part: (block.norm1(view.float()) * (1 + part[1]) + part[0]).type_as(view), parts)
        read = read if around is None else around.reads(read)
        known = read.map(lambda view, rotary: _keys_and_values(block.attn1, view, rotary), rotaries)
        asked = Views(*(view if asks else None for view, asks in zip(read, asking, strict=True)))
        attended = asked.map(lambda view, rotary, seen: _attend(block.attn1, view, rotary, seen), rotaries, self._seen(known, memory))
        attended = attended if around is None else around.gives(read, attended)

        def finished(view: Tensor, attention: Tensor, part: tuple[Tensor, ...], text: Tensor) -> Tensor:
            _, _, gate, shift, scale, feed_gate = part
            tokens = (view.float() + attention * gate).type_as(view)
            tokens = tokens + block.attn2(block.norm2(tokens.float()).type_as(tokens), text, None, None)
            fed = block.ffn((block.norm3(tokens.float()) * (1 + scale) + shift).type_as(tokens))
            return (tokens.float() + fed.float() * feed_gate).type_as(tokens)

        out = tuple(
            attended.map(lambda attention, view, part: finished(view, attention, part, text), views, parts)  # noqa: B023
            for text in texts
        )
        return out, known

    def _seen(self, known: Views, memory: Memory | None) -> Views:
        """The keys and values that each view sees."""
        source = known.source if memory is None else memory
        everything = [each for each in (known.target, source) if each is not None]
        both = everything[0] if len(everything) == 1 else tuple(torch.cat(pair, dim=1) for pair in zip(*everything, strict=True))
        return Views(target=both, source=both if self.attention == "joint" else source)


class DualViewModel(nn.Module):
    """A Wan transformer and a conditioner as one module; what DDP, FSDP2, compile, checkpointing and offload wrap.

    With one view it equals the transformer bit for bit; with a fresh (zero) conditioner it equals itself without one.

    The transformer's parts are children of this module, each of its blocks inside a :class:`DualViewBlock`; the transformer
    itself is kept beside them (:attr:`transformer`), so that every tensor has one place and one name.

    Args:
        transformer: a text-to-video Wan model, used as it is.
        conditioner: of the same width.
        modes: how views meet.

    Raises:
        UserError: a transformer that is not text-to-video, or a conditioner that does not fit it.
    """

    _no_split_modules: ClassVar = ["DualViewBlock"]

    def __init__(self, transformer: WanTransformer3DModel, conditioner: Conditioner, modes: DualViewModes | None = None) -> None:
        super().__init__()
        width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
        conditioner.check_base(width, len(transformer.blocks))
        if transformer.config["in_channels"] != transformer.config["out_channels"] or transformer.config["image_dim"] is not None:
            raise UserError("the base is not a Wan text-to-video model (it takes images or masks beside latents)")
        self._transformer = (transformer,)
        self.conditioner, self.modes = conditioner, modes or DualViewModes()
        self.rope, self.patch_embedding, self.condition_embedder = (
            transformer.rope,
            transformer.patch_embedding,
            transformer.condition_embedder,
        )
        self.blocks = nn.ModuleList(DualViewBlock(cast(WanTransformerBlock, block), self.modes.attention) for block in transformer.blocks)
        self.norm_out, self.proj_out, self.scale_shift_table = transformer.norm_out, transformer.proj_out, transformer.scale_shift_table
        self._offloaded = False
        self.view_embedding = nn.Parameter(torch.zeros(2, width)) if self.modes.rope == "synchronised" else None

    @property
    def transformer(self) -> WanTransformer3DModel:
        """The base, sharing its modules with this model."""
        return self._transformer[0]

    def forward(
        self,
        target: Float[Tensor, "B C F Y X"],
        timestep: Float[Tensor, "B"],
        texts: tuple[Float[Tensor, "B L E"], ...],
        source: Float[Tensor, "B C F Y X"] | None = None,
        condition: Any = None,
        memories: list[list[Memory]] | None = None,
    ) -> tuple[Float[Tensor, "B C F Y X"], ...]:
        """Velocity of the noisy target latents, once per text.

        Args:
            target: latents at ``timestep`` (0…1000).
            texts: encoder states of each guidance branch's prompt.
            source: clean latents; None for the base model alone.
            condition: from :meth:`condition`, once for all steps; or what the conditioner reads, as in training, where it must
                run inside what DDP wraps; None for the views alone.
            memories: per text, from :meth:`remember`, in place of ``source`` where the modes cache it.

        Raises:
            ValueError: memories where the modes do not cache, or nothing to read a condition with.
            UserError: attention that would need tens of gigabytes because no fast kernel takes it.
        """
        if memories is not None and self.modes.attention == "joint":
            raise ValueError('memories stand for a source that never changes; with attention "joint" it changes: give source instead')
        if condition is not None and not isinstance(condition, Conditioning):
            if source is None:
                raise ValueError("a condition is read through a source: give it, or what condition() made with it")
            condition = self._conditioning(source, condition)
        grid, rotaries = self._grid(target), self._rotaries(target)
        temb, modulation, _, _ = self.condition_embedder(timestep, texts[0], None)
        modulations = Views(target=modulation.unflatten(1, (6, -1)))
        embedded = tuple(self.condition_embedder.text_embedder(text) for text in texts)
        alone = source is None and memories is None
        views = Views(target=self._tokens(target) if alone else self._marked(target, 0))
        if source is not None and memories is None:
            clean = modulations.target if self.modes.timestep == "shared" else self._clean_modulation(timestep, texts[0])
            views, modulations = views._replace(source=self._marked(source, 1)), modulations._replace(source=clean)
        self._refuse_costly_attention(views.target, keys=(1 if alone else 2) * views.target.shape[1])
        states = self._through_blocks(views, embedded, modulations, rotaries, condition, memories)
        return tuple(self._velocity(state, temb, grid) for state in states)

    def condition(self, source: Float[Tensor, "B C F Y X"], given: Any) -> Conditioning:
        """What the conditioner has to say; constant over steps and guidance branches."""
        return self._conditioning(source, given)

    def remember(
        self, source: Float[Tensor, "B C F Y X"], text: Float[Tensor, "B L E"], condition: Conditioning | None = None
    ) -> list[Memory]:
        """Keys and values of the source in every block, for ``attention="cached-source"``: once per clip, camera and text."""
        modulations = Views(source=self._clean_modulation(torch.zeros(len(source), device=source.device), text))
        embedded = self.condition_embedder.text_embedder(text)
        views, rotaries, memory = Views(source=self._marked(source, 1)), self._rotaries(source), []
        self._refuse_costly_attention(views.source, keys=views.source.shape[1])
        for index, block in enumerate(self.blocks):
            views, around = _conditioned(condition, index, views)
            (views,), known = block(views, (embedded,), modulations, rotaries, around=around, asking=(False, index < len(self.blocks) - 1))
            memory.append(known.source)
        return memory

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only what enters each block and each part of the conditioner, and compute the rest again for gradients."""
        for block in cast("Iterable[DualViewBlock]", self.blocks):
            block.gradient_checkpointing = enabled
        if enabled:
            self.conditioner.enable_gradient_checkpointing()
        else:
            self.conditioner.disable_gradient_checkpointing()

    def offload_blocks(self, device: torch.device | str, folder: Path | None = None) -> None:
        """Keep blocks in the computer's memory (or in files in ``folder``), and bring each to ``device`` when its turn comes.

        :meth:`keep_blocks` ends this.
        """
        if self._offloaded:
            return
        self._offloaded = True
        offload_blocks(self, ("blocks",), device, folder)

    def keep_blocks(self) -> None:
        """The opposite of :meth:`offload_blocks`: blocks stay where the model is moved to."""
        if not self._offloaded:
            return
        self._offloaded = False
        keep_blocks(self.blocks)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """``torch.compile`` every block in place, one whole graph for all, for they have the same shapes; and the conditioner, another."""
        for part in (*self.blocks, self.conditioner):
            part.compile(backend=backend, fullgraph=True)

    def _conditioning(self, source: Float[Tensor, "B C F Y X"], given: Any) -> Conditioning:
        return self.conditioner(self._tokens(source).unflatten(1, self._grid(source)), given)

    def _through_blocks(
        self,
        views: Views,
        texts: tuple[Tensor, ...],
        modulations: Views,
        rotaries: Views,
        condition: Conditioning | None,
        memories: list[list[Memory]] | None,
    ) -> list[Tensor]:
        """Target tokens after all blocks, per text. What does not differ between texts is computed once; the last block
        leaves out what nobody reads: the source's own queries."""
        states = [views]
        for index, block in enumerate(self.blocks):
            asking = (True, index < len(self.blocks) - 1)
            shared = len(states) == 1 and memories is None
            branches = (
                [(states[0], texts, None)]
                if shared
                else [
                    (states[0] if len(states) == 1 else states[branch], (text,), None if memories is None else memories[branch][index])
                    for branch, text in enumerate(texts)
                ]
            )
            states = []
            for before, prompts, memory in branches:
                tokens, around = _conditioned(condition, index, before)
                out, _ = block(tokens, prompts, modulations, rotaries, memory=memory, around=around, asking=asking)
                states.extend(out)
        return [state.target for state in states]

    def _grid(self, latents: Float[Tensor, "B C F Y X"]) -> tuple[int, int, int]:
        frames, height, width = (
            side // patch for side, patch in zip(latents.shape[2:], self.transformer.config["patch_size"], strict=True)
        )
        return frames, height, width

    def _tokens(self, latents: Float[Tensor, "B C F Y X"]) -> Float[Tensor, "B S D"]:
        return self.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()

    def _rotaries(self, latents: Float[Tensor, "B C F Y X"]) -> Views:
        batch, channels, frames, height, width = latents.shape
        sequential = self.modes.rope == "sequential"
        shape = (batch, channels, 2 * frames if sequential else frames, height, width)
        cos, sin = self.rope(torch.empty(shape, device="meta"))
        if not sequential:
            return Views(target=(cos, sin), source=(cos, sin))
        half = cos.shape[1] // 2
        return Views(target=(cos[:, :half], sin[:, :half]), source=(cos[:, half:], sin[:, half:]))

    def _clean_modulation(self, timestep: Float[Tensor, "B"], text: Float[Tensor, "B L E"]) -> Float[Tensor, "B 6 D"]:
        _, modulation, _, _ = self.condition_embedder(torch.zeros_like(timestep), text, None)
        return modulation.unflatten(1, (6, -1))

    def _marked(self, latents: Float[Tensor, "B C F Y X"], view: int) -> Float[Tensor, "B S D"]:
        """Tokens of the target (0) or the source (1), in synchronised positions with the mark of their view."""
        tokens = self._tokens(latents)
        return tokens if self.view_embedding is None else tokens + self.view_embedding[view].to(tokens.dtype)

    def _refuse_costly_attention(self, tokens: Float[Tensor, "B S D"], keys: int) -> None:
        """Before any block runs: scores of all pairs are only ever held at once where torch falls back to plain mathematics."""
        device, heads = tokens.device.type, self.transformer.config["num_attention_heads"]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        needed = 2 * len(tokens) * heads * tokens.shape[1] * keys * dtype.itemsize
        if needed <= MAX_SCORES_BYTES:
            return
        asked = tokens.new_empty(1, heads, 1, tokens.shape[2] // heads, dtype=dtype).requires_grad_(torch.is_grad_enabled())
        if torch._fused_sdp_choice(asked, asked, asked) == SDPBackend.MATH.value:
            raise UserError(
                f"attention over {keys} tokens needs {needed / 1e9:.0f} GB here, because no fast kernel takes "
                f"{str(dtype).removeprefix('torch.')} on {device}: use --dtype bfloat16, a smaller --size or fewer --frames"
            )

    def _velocity(self, tokens: Float[Tensor, "B S D"], temb: Float[Tensor, "B D"], grid: tuple[int, int, int]) -> Tensor:
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        tokens = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        patches = tokens.reshape(len(tokens), *grid, *self.transformer.config["patch_size"], -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def attention_backends(device: torch.device | str, dtype: torch.dtype = torch.bfloat16, *, training: bool = False) -> list[str]:
    """Diffusers' names of exact attention kernels that take ``dtype``, the fastest first (by their makers' word, until measured).

    Args:
        training: leave out kernels without a backward.
    """
    if torch.device(device).type != "cuda" or dtype == torch.float32:
        return ["native"]
    found = ["_flash_3"] if find_spec("flash_attn_interface") and not training else []
    found += ["_native_cudnn"] if torch.cuda.get_device_capability(device) >= CUDNN_CAPABILITY else []
    return [*found, *(["flash"] if find_spec("flash_attn") else []), "native"]


def _conditioned(condition: Conditioning | None, index: int, views: Views) -> tuple[Views, AroundAttention | None]:
    """A block's tokens, and what happens about its attention."""
    if condition is None:
        return views, None
    return condition.before_block(index, views), condition.around_attention(index)


def _keys_and_values(attention: WanAttention, tokens: Float[Tensor, "B S D"], rotary: Rotary) -> Memory:
    """What a view shows to others in self-attention, as diffusers' processor computes it."""
    key = attention.norm_k(attention.to_k(tokens)).unflatten(2, (attention.heads, -1))
    return _rotate(key, *rotary), attention.to_v(tokens).unflatten(2, (attention.heads, -1))


def _attend(attention: WanAttention, tokens: Float[Tensor, "B S D"], rotary: Rotary, seen: Memory) -> Float[Tensor, "B S D"]:
    """Self-attention of one view to what it sees, as diffusers' processor computes it."""
    query = _rotate(attention.norm_q(attention.to_q(tokens)).unflatten(2, (attention.heads, -1)), *rotary)
    out = dispatch_attention_fn(query, *seen, backend=attention.processor._attention_backend)  # pyrefly: ignore
    return attention.to_out[1](attention.to_out[0](out.flatten(2, 3).type_as(query)))


def _rotate(states: Float[Tensor, "B S heads e"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B S heads e"]:
    """Rotary positions on interleaved pairs."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    turned = torch.empty_like(states)
    turned[..., 0::2] = first * cos - second * sin
    turned[..., 1::2] = first * sin + second * cos
    return turned.type_as(states)
