# SPDX-License-Identifier: Apache-2.0
"""Saliency by an information bottleneck: which tokens must get through for the picture to match the text."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.vision_language.towers import SplitTower, batch_size_for, check_layer, cosine_slopes

START = 5.0  # alpha of an open bottleneck: sigmoid(5) = 0.993


class InformationBottleneck:
    """M2IB (Wang, Rudner and Wilson, NeurIPS 2023): noise takes the place of what the similarity does not need.

    Behind block ``layer``, the tokens ``x`` become ``t = lambda x + (1 - lambda) eps`` with standard normal ``eps`` and
    ``lambda = sigmoid(alpha)`` for each token and channel. Adam minimises ``beta * mean(KL) - cosine(text, image)``,
    where ``KL = KL(N(lambda x, (1 - lambda)^2) || N(0, 1))`` and the cosine is a mean over the noise draws. What is
    left of KL, summed over channels, is how much a token tells, in nats.

    The authors' code reads KL from the last forward pass, which sees ``alpha`` before the last update: of ``steps``
    steps, ``steps - 1`` count, and the last needs no pass. Its setting ``var`` is stored and never used, so there is
    none here.

    Each picture and prompt sees the same noise: a map does not depend on those computed beside it.

    Args:
        beta: weight of compression; the authors' code and "Mask What Matters" have 0.1, MedCLIP-SAMv2
            on brain MRI 2.0.
        layer: block behind which the bottleneck sits, from 0; "Mask What Matters" has 7, the authors' evaluation and
            MedCLIP-SAMv2 on brain MRI 9 (of 12).
        steps: of the optimiser.
        draws: of noise, each step.
        lr: learning rate.
        seed: of the noise.
        batch_size: how many noisy pictures go through the network at once; None: 10, on a GPU 320. Maps do not depend
            on it but for rounding.
    """

    def __init__(
        self,
        beta: float = 0.1,
        layer: int = 7,
        steps: int = 10,
        draws: int = 10,
        lr: float = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        if beta < 0 or lr <= 0 or steps < 1 or draws < 1 or (batch_size is not None and batch_size < 1):
            raise ValueError(
                "beta must not be negative, lr positive, steps, draws and batch_size at least 1; received "
                f"{beta}, {lr}, {steps}, {draws} and {batch_size}."
            )
        self.beta, self.layer, self.steps, self.draws = beta, layer, steps, draws
        self.lr, self.seed, self.batch_size = lr, seed, batch_size

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine a map."""
        names = ("beta", "layer", "steps", "draws", "lr", "seed")
        return {"method": "m2ib", **{name: getattr(self, name) for name in names}}

    def __call__(self, tower: SplitTower, tokens: Tensor, texts: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Measure the information of each token for each text.

        Args:
            tower: frozen.
            tokens: of pictures, behind block ``layer``, ``[N, T, C]`` float32.
            texts: features of prompts, ``[P, D]``, any length.
            wanted: which pictures and texts, boolean ``[N, P]``; None: all.

        Returns:
            Nats ``[N, P, T]``, float32; 0 where not wanted.

        Raises:
            ValueError: if no block is left behind ``layer``.
        """
        check_layer(self.layer, tower)
        if wanted is None:
            wanted = torch.ones(len(tokens), len(texts), dtype=torch.bool, device=tokens.device)
        nats = tokens.new_zeros(*wanted.shape, tokens.shape[1])
        if not bool(wanted.any()):
            return nats
        batch_size = batch_size_for(tokens, self.batch_size)
        # Groups of whole maps, so that memory is bounded however many pictures and prompts there are.
        groups = wanted.nonzero().split(max(1, batch_size // self.draws))
        for picture, prompt in (group.unbind(dim=1) for group in groups):
            nats[picture, prompt] = self._optimise(tower, tokens[picture], texts.float()[prompt], batch_size)
        return nats

    def _optimise(self, tower: SplitTower, tokens: Tensor, texts: Tensor, batch_size: int) -> Tensor:
        """Nats ``[M, T]`` of ``M`` maps: tokens ``[M, T, C]``, texts ``[M, D]``."""
        alpha = torch.full_like(tokens, START)
        optimizer = torch.optim.Adam([alpha], lr=self.lr)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps - 1):
            noise = torch.randn((self.draws, *tokens.shape[1:]), generator=generator).to(tokens.device)
            alpha.grad = self._gradient(tower, alpha, tokens, texts, noise, batch_size)
            optimizer.step()
        return information(alpha, tokens).sum(dim=-1)

    def _gradient(
        self, tower: SplitTower, alpha: Tensor, tokens: Tensor, texts: Tensor, noise: Tensor, batch_size: int
    ) -> Tensor:
        """Gradient of the loss of each map with respect to its ``alpha``.

        Autograd runs through the suffix only, from the cosine to ``t``; the rest is written down.
        """
        passed, held = torch.sigmoid(alpha), torch.sigmoid(-alpha)
        similarity = torch.zeros_like(alpha)
        for eps in noise.split(max(1, batch_size // len(tokens))):
            noisy = (passed * tokens)[:, None] + held[:, None] * eps
            slopes = cosine_slopes(tower, noisy.flatten(0, 1), texts.repeat_interleave(len(eps), dim=0), self.layer)
            similarity += (slopes.view_as(noisy) * (tokens[:, None] - eps)).sum(dim=1)
        compression = passed + (passed * tokens).square() * held - passed * held.square()
        size = tokens.shape[1] * tokens.shape[2]
        return self.beta / size * compression - similarity * (passed * held / self.draws)


def information(alpha: Tensor, tokens: Tensor) -> Tensor:
    """``KL(N(lambda x, (1 - lambda)^2) || N(0, 1))`` in nats, each token and channel; lambda = sigmoid(alpha)."""
    closed = torch.sigmoid(-alpha)
    # log(1 - lambda) from alpha itself: 1 - lambda would round to 0 for large alpha.
    return 0.5 * ((torch.sigmoid(alpha) * tokens).square() + closed.square() - 1) - F.logsigmoid(-alpha)
