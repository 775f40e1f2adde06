"""Two views through one unmodified Wan transformer (design section 5): target tokens attend to source tokens.

Shapes: B clips, C latent channels, F latent frames, Y X latent rows and columns, D model width, S tokens of one view.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformer3DModel, WanTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

from track2view.errors import UserError
from track2view.model.conditioner import TrackCondition, TrackConditioner

MAX_SCORES_BYTES = 16e9
CUDNN_CAPABILITY = (9, 0)

Rotary = tuple[Tensor, Tensor]
Memory = tuple[Float[Tensor, "B S heads e"], Float[Tensor, "B S heads e"]]
Contexts = tuple[Float[Tensor, "B F h w D"], Float[Tensor, "B F h w D"]]


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
    """One unmodified diffusers `WanTransformerBlock`, run over one or two views with a modulation each, and keys from memory if given."""

    def __init__(self, block: WanTransformerBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self,
        views: tuple[Tensor, ...],
        texts: tuple[Tensor, ...],
        modulations: tuple[Tensor, ...],
        rotaries: tuple[Rotary, ...],
        memory: Memory | None = None,
        asking: int | None = None,
    ) -> tuple[tuple[tuple[Tensor, ...], ...], Memory]:
        """Views after the block, once per text (self-attention is computed once for all), and the views' keys and values.

        Args:
            views: tokens, (B, S, D) each.
            texts: embedded prompts of the guidance branches, (B, L, D) each.
            modulations: of each view, (B, 6, D).
            rotaries: of each view.
            memory: keys and values of tokens that are seen but do not ask.
            asking: how many of the views ask and go on; the others are only seen. All by default.
        """
        block = self.block
        asking = len(views) if asking is None else asking
        parts = [(block.scale_shift_table + each.float()).chunk(6, dim=1) for each in modulations]
        normed = [
            (block.norm1(view.float()) * (1 + scale) + shift).type_as(view) for view, (shift, scale, *_) in zip(views, parts, strict=True)
        ]
        attended, remembered = _attend(block.attn1, normed, rotaries, memory, asking)
        out = []
        for text in texts:
            after = []
            for view, attention, (_, _, gate, shift, scale, feed_gate) in zip(views[:asking], attended, parts[:asking], strict=True):
                tokens = (view.float() + attention * gate).type_as(view)
                tokens = tokens + block.attn2(block.norm2(tokens.float()).type_as(tokens), text, None, None)
                fed = block.ffn((block.norm3(tokens.float()) * (1 + scale) + shift).type_as(tokens))
                after.append((tokens.float() + fed.float() * feed_gate).type_as(tokens))
            out.append(tuple(after))
        return tuple(out), remembered


class DualViewModel(nn.Module):
    """A Wan transformer and a track conditioner as one module; what DDP, FSDP2, compile, checkpointing and offload wrap.

    With one view it equals the transformer bit for bit; with a fresh (zero) conditioner it equals itself without tracks.

    Args:
        transformer: a text-to-video Wan model, used as it is.
        conditioner: of the same width.
        modes: how views meet.

    Raises:
        UserError: a transformer that is not text-to-video, or a conditioner of another width.
    """

    def __init__(self, transformer: WanTransformer3DModel, conditioner: TrackConditioner, modes: DualViewModes | None = None) -> None:
        super().__init__()
        width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
        if conditioner.config["token_width"] != width:
            raise UserError(f"the adapter was made for a base of width {conditioner.config['token_width']}, this base has {width}")
        if transformer.config["in_channels"] != transformer.config["out_channels"] or transformer.config["image_dim"] is not None:
            raise UserError("the base is not a Wan text-to-video model (it takes images or masks beside latents)")
        self.transformer, self.conditioner, self.modes = transformer, conditioner, modes or DualViewModes()
        self.blocks = nn.ModuleList(DualViewBlock(cast(WanTransformerBlock, block)) for block in transformer.blocks)
        self.view_embedding = nn.Parameter(torch.zeros(2, width)) if self.modes.rope == "synchronised" else None
        self.gradient_checkpointing = False

    def forward(
        self,
        target: Float[Tensor, "B C F Y X"],
        timestep: Float[Tensor, "B"],
        texts: tuple[Float[Tensor, "B L E"], ...],
        source: Float[Tensor, "B C F Y X"] | None = None,
        contexts: Contexts | TrackCondition | None = None,
        memories: list[list[Memory]] | None = None,
    ) -> tuple[Float[Tensor, "B C F Y X"], ...]:
        """Velocity of the noisy target latents, once per text.

        Args:
            target: latents at ``timestep`` (0…1000).
            texts: encoder states of each guidance branch's prompt.
            source: clean latents; None for the base model alone.
            contexts: from :meth:`condition`, once for all steps; or the tracks themselves, as in training, where the conditioner
                must run inside what DDP wraps; None for no tracks.
            memories: per text, from :meth:`remember`: they stand in place of ``source`` where the modes cache it; computed
                from it where not given.

        Raises:
            ValueError: memories where the modes do not cache.
            UserError: attention that would need tens of gigabytes because no fast kernel takes it.
        """
        if memories is not None and self.modes.attention == "joint":
            raise ValueError('memories stand for a source that never changes; with attention "joint" it changes: give source instead')
        if isinstance(contexts, TrackCondition):
            if source is None:
                raise ValueError("tracks are followed through a source: give it, or contexts made from it")
            contexts = self.condition(source, contexts)
        model = self.transformer
        grid = self._grid(target)
        rotaries = self._rotaries(target)
        temb, modulation, _, _ = model.condition_embedder(timestep, texts[0], None)
        modulations = [modulation.unflatten(1, (6, -1))]
        embedded = tuple(model.condition_embedder.text_embedder(text) for text in texts)
        alone = source is None and memories is None
        views = [self._tokens(target) if alone else self._marked(target, contexts, 0)]
        if source is not None and self.modes.attention == "cached-source":
            memories = memories or [self.remember(source, text, contexts) for text in texts]
        elif source is not None:
            views.append(self._marked(source, contexts, 1))
            modulations.append(modulations[0] if self.modes.timestep == "shared" else self._clean_modulation(timestep, texts[0]))
        states = self._through_blocks(tuple(views), embedded, tuple(modulations), rotaries[: len(views)], memories)
        return tuple(self._velocity(state, temb, grid) for state in states)

    def condition(self, source: Float[Tensor, "B C F Y X"], condition: TrackCondition) -> Contexts:
        """The conditioner's context for target and source; constant over steps and guidance branches."""
        tokens = self._tokens(source).unflatten(1, self._grid(source)).to(self.conditioner.dtype)
        for_source, for_target = self.conditioner(tokens, condition)
        return for_target, for_source

    def remember(self, source: Float[Tensor, "B C F Y X"], text: Float[Tensor, "B L E"], contexts: Contexts | None = None) -> list[Memory]:
        """Keys and values of the source in every block, for ``attention="cached-source"``: once per clip, camera and text."""
        modulation = self._clean_modulation(torch.zeros(len(source), device=source.device), text)
        embedded = self.transformer.condition_embedder.text_embedder(text)
        view, rotary, memory = self._marked(source, contexts, 1), self._rotaries(source)[1], []
        for block in self.blocks:
            ((view,),), kept = self._run(block, (view,), (embedded,), (modulation,), (rotary,), None, None)
            memory.append(kept)
        return memory

    def offload_blocks(self, device: torch.device | str, folder: Path | None = None) -> None:
        """Keep blocks in the computer's memory (or in files in ``folder``), and bring each to ``device`` when its turn comes."""
        for name, part in self.transformer.named_children():
            if name != "blocks":
                part.to(device)
        nn.Module.to(self.conditioner, device)
        for parameter in (self.transformer.scale_shift_table, self.view_embedding):
            if parameter is not None:
                parameter.data = parameter.data.to(device)
        holder = nn.Module()
        holder.blocks = self.blocks
        apply_group_offloading(
            holder,
            onload_device=torch.device(device),
            offload_type="block_level",
            num_blocks_per_group=1,
            offload_to_disk_path=None if folder is None else str(folder),
        )

    def compile_blocks(self, backend: str = "inductor") -> None:
        """``torch.compile`` every block in place: one graph serves all, for they have the same shapes."""
        for block in self.blocks:
            block.compile(backend=backend)

    def _through_blocks(
        self,
        views: tuple[Tensor, ...],
        texts: tuple[Tensor, ...],
        modulations: tuple[Tensor, ...],
        rotaries: tuple[Rotary, ...],
        memories: list[list[Memory]] | None,
    ) -> list[Tensor]:
        """Target tokens after all blocks, per text. What does not differ between texts is computed once; the last block
        leaves out what nobody reads: the source's own queries."""
        last = len(self.blocks) - 1
        states = [views]
        for index, block in enumerate(self.blocks):
            asking = 1 if index == last else None
            shared = index == 0 and memories is None
            if shared:
                out, _ = self._run(block, views, texts, modulations, rotaries, None, asking)
                states = list(out)
                continue
            before = states * len(texts) if len(states) == 1 else states
            states = []
            for branch, (state, text) in enumerate(zip(before, texts, strict=True)):
                memory = None if memories is None else memories[branch][index]
                out, _ = self._run(block, state, (text,), modulations, rotaries, memory, asking)
                states.append(out[0])
        return [state[0] for state in states]

    def _run(self, block: nn.Module, *given: object) -> tuple[tuple[tuple[Tensor, ...], ...], Memory]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)

    def _grid(self, latents: Float[Tensor, "B C F Y X"]) -> tuple[int, int, int]:
        frames, height, width = (
            side // patch for side, patch in zip(latents.shape[2:], self.transformer.config["patch_size"], strict=True)
        )
        return frames, height, width

    def _tokens(self, latents: Float[Tensor, "B C F Y X"]) -> Float[Tensor, "B S D"]:
        return self.transformer.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()

    def _rotaries(self, latents: Float[Tensor, "B C F Y X"]) -> tuple[Rotary, Rotary]:
        """Of the target and of the source."""
        batch, channels, frames, height, width = latents.shape
        sequential = self.modes.rope == "sequential"
        shape = (batch, channels, 2 * frames if sequential else frames, height, width)
        cos, sin = self.transformer.rope(torch.empty(shape, device="meta"))
        half = cos.shape[1] // 2
        if not sequential:
            return (cos, sin), (cos, sin)
        return (cos[:, :half], sin[:, :half]), (cos[:, half:], sin[:, half:])

    def _clean_modulation(self, timestep: Float[Tensor, "B"], text: Float[Tensor, "B L E"]) -> Float[Tensor, "B 6 D"]:
        _, modulation, _, _ = self.transformer.condition_embedder(torch.zeros_like(timestep), text, None)
        return modulation.unflatten(1, (6, -1))

    def _marked(self, latents: Float[Tensor, "B C F Y X"], contexts: Contexts | None, view: int) -> Float[Tensor, "B S D"]:
        """Tokens of the target (0) or the source (1) with their context and, in synchronised positions, the mark of their view."""
        tokens = self._tokens(latents)
        if contexts is not None:
            tokens = tokens + contexts[view].flatten(1, 3).to(tokens.dtype)
        if self.view_embedding is not None:
            tokens = tokens + self.view_embedding[view].to(tokens.dtype)
        return tokens

    def _velocity(self, tokens: Float[Tensor, "B S D"], temb: Float[Tensor, "B D"], grid: tuple[int, int, int]) -> Tensor:
        model = self.transformer
        shift, scale = (model.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        tokens = model.proj_out((model.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        patches = tokens.reshape(len(tokens), *grid, *model.config["patch_size"], -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def attention_backends(device: str, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """Diffusers' names of exact attention kernels that take ``dtype``, the fastest first (by their makers' word, until measured)."""
    if device != "cuda" or dtype == torch.float32:
        return ["native"]
    found = ["_flash_3"] if find_spec("flash_attn_interface") else []
    found += ["_native_cudnn"] if torch.cuda.get_device_capability() >= CUDNN_CAPABILITY else []
    return [*found, *(["flash"] if find_spec("flash_attn") else []), "native"]


def _attend(
    attention: WanAttention, normed: list[Tensor], rotaries: tuple[Rotary, ...], memory: Memory | None, asking: int
) -> tuple[list[Tensor], Memory]:
    """Self-attention over all views and the memory, as diffusers' processor computes it, for the first ``asking`` views."""
    everything = torch.cat(normed, dim=1) if len(normed) > 1 else normed[0]
    cos, sin = (torch.cat([rotary[part] for rotary in rotaries], dim=1) for part in (0, 1))
    lengths = [view.shape[1] for view in normed[:asking]]
    count = sum(lengths)
    query = attention.norm_q(attention.to_q(everything[:, :count])).unflatten(2, (attention.heads, -1))
    key = attention.norm_k(attention.to_k(everything)).unflatten(2, (attention.heads, -1))
    value = attention.to_v(everything).unflatten(2, (attention.heads, -1))
    query, key = _rotate(query, cos[:, :count], sin[:, :count]), _rotate(key, cos, sin)
    keys, values = key, value
    if memory is not None:
        keys, values = torch.cat([key, memory[0]], dim=1), torch.cat([value, memory[1]], dim=1)
    _refuse_costly_attention(query, keys)
    out = dispatch_attention_fn(query, keys, values, backend=attention.processor._attention_backend)  # pyrefly: ignore
    out = attention.to_out[1](attention.to_out[0](out.flatten(2, 3).type_as(query)))
    return list(out.split(lengths, dim=1)), (key, value)


def _refuse_costly_attention(query: Float[Tensor, "B S heads e"], key: Float[Tensor, "B K heads e"]) -> None:
    """Scores of all pairs are only ever held at once where torch falls back to plain mathematics."""
    batch, queries, heads, _ = query.shape
    needed = 2 * batch * heads * queries * key.shape[1] * query.element_size()
    if needed <= MAX_SCORES_BYTES:
        return
    asked, known = query[:, :1].transpose(1, 2), key[:, :1].transpose(1, 2)
    choice = torch._fused_sdp_choice(asked, known, known)
    if choice == SDPBackend.MATH.value:
        raise UserError(
            f"attention over {key.shape[1]} tokens needs {needed / 1e9:.0f} GB here, because no fast kernel takes "
            f"{str(query.dtype).removeprefix('torch.')} on {query.device.type}: use --dtype bfloat16, a smaller --size or fewer --frames"
        )


def _rotate(states: Float[Tensor, "B S heads e"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B S heads e"]:
    """Rotary positions on interleaved pairs."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    turned = torch.empty_like(states)
    turned[..., 0::2] = first * cos - second * sin
    turned[..., 1::2] = first * sin + second * cos
    return turned.type_as(states)
