# SPDX-License-Identifier: Apache-2.0
"""Vision transformers in two halves: what lies before a layer is computed once, what lies behind it many times."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNDERFLOW = 256.0  # half precision would round small gradients to nothing; a power of two changes no other digit


class SplitTower(Protocol):
    """The picture tower of a two-tower model, cut behind one of its blocks.

    - ``blocks``: number of transformer blocks.
    - ``grid``: rows and columns of patches.
    - ``extra``: tokens in front of the patches (the class token).
    """

    blocks: int
    grid: tuple[int, int]
    extra: int

    def prefix(self, pictures: Tensor, layer: int) -> Tensor:
        """From normalised pictures ``[N, 3, S, S]`` to the tokens ``[N, T, C]`` behind block ``layer`` (from 0)."""
        ...

    def suffix(self, tokens: Tensor, layer: int) -> Tensor:
        """From tokens ``[N, T, C]`` behind block ``layer`` to features ``[N, D]``; differentiable in the tokens."""
        ...


class TimmTower:
    """A timm vision transformer that pools its class token, as open_clip wraps it (``TimmModel``).

    Nothing behind the last block but its class token is used, so only that is computed of it: keys and values for all
    tokens, one query, one row through the MLP.

    Args:
        visual: ``open_clip.timm_model.TimmModel``; it is frozen.

    Raises:
        ValueError: if its trunk is another network, or pools in another way.
    """

    def __init__(self, visual: Any) -> None:
        from timm.models.vision_transformer import VisionTransformer

        trunk = getattr(visual, "trunk", None)
        if not isinstance(trunk, VisionTransformer) or trunk.global_pool != "token" or trunk.attn_pool is not None:
            raise ValueError(
                "The picture tower must be a timm VisionTransformer that pools its class token (timm_model_name "
                f"vit_..., timm_pool '' or 'token' in open_clip_config.json), received {type(trunk).__name__}."
            )
        self.trunk: Any = trunk.eval().requires_grad_(False)
        self.head: Any = visual.head.eval().requires_grad_(False)
        self.blocks: int = len(trunk.blocks)
        self.extra: int = trunk.num_prefix_tokens
        rows, columns = trunk.patch_embed.grid_size
        self.grid: tuple[int, int] = (rows, columns)

    def prefix(self, pictures: Tensor, layer: int) -> Tensor:
        """Tokens behind a block; see :class:`SplitTower`."""
        trunk = self.trunk
        tokens = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pictures))))
        for block in trunk.blocks[: layer + 1]:
            tokens = block(tokens)
        return tokens

    def suffix(self, tokens: Tensor, layer: int) -> Tensor:
        """Features of the tokens behind a block; see :class:`SplitTower`."""
        *blocks, last = self.trunk.blocks[layer + 1 :]
        for block in blocks:
            tokens = block(tokens)
        tokens = _class_token(last, tokens) if _is_plain(last) else last(tokens)
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens)))


def check_layer(layer: int, tower: SplitTower) -> None:
    """Raise ValueError unless at least one whole block follows: behind the last one, patches have no say."""
    if not 0 <= layer <= tower.blocks - 2:
        raise ValueError(
            f"layer counts the blocks of the picture tower from 0 and must leave at least one behind it: 0 to "
            f"{tower.blocks - 2}, received {layer}."
        )


def _is_plain(block: nn.Module) -> bool:
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    is_gated = getattr(block.attn, "gate", None) is not None  # timm has gates from 1.0.23 on
    return type(block) is Block and type(block.attn) is Attention and not is_gated


def _class_token(block: Any, tokens: Tensor) -> Tensor:
    """What a timm ``Block`` gives for the first token: ``[N, 1, C]``."""
    attention, normed = block.attn, block.norm1(tokens)
    width, bias = attention.num_heads * attention.head_dim, attention.qkv.bias
    query = F.linear(normed[:, :1], attention.qkv.weight[:width], None if bias is None else bias[:width])
    pair = F.linear(normed, attention.qkv.weight[width:], None if bias is None else bias[width:])
    key, value = pair.unflatten(2, (2, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
    query = query.unflatten(2, (attention.num_heads, attention.head_dim)).transpose(1, 2)
    seen = F.scaled_dot_product_attention(attention.q_norm(query), attention.k_norm(key), value)
    seen = attention.proj(attention.norm(seen.transpose(1, 2).flatten(2)))
    first = tokens[:, :1] + block.ls1(seen)
    return first + block.ls2(block.mlp(block.norm2(first)))


def cosine_slopes(tower: SplitTower, tokens: Tensor, texts: Tensor, layer: int) -> Tensor:
    """Gradient of the cosine between each picture and its text with respect to the picture's tokens.

    Args:
        tower: frozen.
        tokens: behind block ``layer``, ``[N, T, C]``.
        texts: ``[N, D]``.
        layer: from 0.

    Returns:
        ``[N, T, C]``, float32.
    """
    tokens = tokens.detach().requires_grad_()
    with torch.enable_grad():
        cosines = F.cosine_similarity(tower.suffix(tokens, layer).float(), texts)
        (slopes,) = torch.autograd.grad(UNDERFLOW * cosines.sum(), tokens)
    return slopes.float() / UNDERFLOW


def batch_size_for(tokens: Tensor, asked: int | None) -> int:
    """How many pictures go through a suffix at once: more than ten gain nothing on a CPU, and take memory."""
    return asked or (320 if tokens.is_cuda else 10)


def features_of(tower: SplitTower, tokens: Tensor, layer: int) -> Tensor:
    """Features ``[N, D]`` of tokens behind block ``layer``, without gradients."""
    with torch.no_grad():
        return torch.cat([tower.suffix(part, layer).float() for part in tokens.split(64)])
