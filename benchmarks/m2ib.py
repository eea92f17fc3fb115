# SPDX-License-Identifier: Apache-2.0
"""CPU time of a saliency map by the information bottleneck, beside the authors' code.

    python -m benchmarks.m2ib --m2ib M2IB
    python -m benchmarks.m2ib --m2ib M2IB --quick   # a small network, to output/m2ib, to see that everything runs

``M2IB`` is a checkout of https://github.com/YingWANGG/M2IB (tried at ce4d7a0). Both sides get the same randomly
initialised CLIP ViT-B/16 of transformers, picture, phrase and noise, one thread, and take turns; the time is the
process's own on the CPU. The authors' code runs as it is but for what it takes to run at all: a stand-in for the
package ``clip`` where that is absent, its bottleneck's output unpacked (layers of transformers 5 return tensors, no
tuples), and its noise drawn from a seeded generator, so that maps can be compared.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from benchmarks.speed.rounds import processor
from benchmarks.tables import write_table
from custom.localizers.vision_language.bottleneck import InformationBottleneck
from custom.localizers.vision_language.gradient import GradientSaliency
from custom.localizers.vision_language.scale import stretch

RESULTS = Path(__file__).resolve().parent / "results" / "m2ib"
STEPS, DRAWS, SEED = 10, 10, 0
PUBLIC, FROZEN, OURS, GRADIENT = "authors' code", "authors' code, weights frozen", "ours", "ours, gradient"
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4}
HEAD = """# Saliency by the information bottleneck

Made by `python -m benchmarks.m2ib`: CPU seconds of one map (one picture, one phrase) in one thread, on a randomly
initialised CLIP {size}, {steps} steps and {draws} noise draws for all. The contenders took turns for {rounds} rounds;
medians, in brackets the smallest and the largest. *Share*: of the authors' code's time in the same round. *Map*: the
largest difference of a map in [0, 1] to that of the authors' code on the same noise. The authors' code computes the
text, all blocks, and gradients of all weights in every step; *weights frozen* is what it costs if the user switches the
latter off. Ours runs the blocks before the bottleneck and the text once, what follows in {passes} of {steps} steps (the
last step's result is never read), of the last block only what the class token needs. The gradient saliency is another
method: its map is not compared.

- {machine}, torch {torch}
"""


class Pair(nn.Module):
    """CLIP with the interface that the authors' code knows: features are tensors."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.vision_model, self.text_model = clip.vision_model, clip.text_model
        self.visual_projection, self.text_projection = clip.visual_projection, clip.text_projection

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """Features of pictures."""
        return self.visual_projection(self.vision_model(pixels).pooler_output)

    def get_text_features(self, ids: Tensor) -> Tensor:
        """Features of phrases."""
        return self.text_projection(self.text_model(ids).pooler_output)


class ClipTower:
    """The picture tower of a transformers CLIP, in two halves; see ``custom...towers.SplitTower``."""

    def __init__(self, pair: Pair) -> None:
        self.vision, self.projection = pair.vision_model, pair.visual_projection
        self.layers = self.vision.encoder.layers
        side = self.vision.config.image_size // self.vision.config.patch_size
        self.blocks, self.extra, self.grid = len(self.layers), 1, (side, side)

    def prefix(self, pictures: Tensor, layer: int) -> Tensor:
        """Tokens behind a layer."""
        tokens = self.vision.pre_layrnorm(self.vision.embeddings(pictures))
        for each in self.layers[: layer + 1]:
            tokens = each(tokens, None)
        return tokens

    def suffix(self, tokens: Tensor, layer: int) -> Tensor:
        """Features; of the last layer only what the class token needs."""
        for each in self.layers[layer + 1 : -1]:
            tokens = each(tokens, None)
        return self.projection(self.vision.post_layernorm(self._class_token(self.layers[-1], tokens)[:, 0]))

    @staticmethod
    def _class_token(layer: Any, tokens: Tensor) -> Tensor:
        attention, normed = layer.self_attn, layer.layer_norm1(tokens)

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(2, (attention.num_heads, attention.head_dim)).transpose(1, 2)

        query, key, value = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
        seen = F.scaled_dot_product_attention(heads(query), heads(key), heads(value)).transpose(1, 2).flatten(2)
        first = tokens[:, :1] + attention.out_proj(seen)
        return first + layer.mlp(layer.layer_norm2(first))


def load_authors_code(folder: Path) -> Any:
    """Import ``scripts.methods`` of a checkout, made to run beside transformers 5."""
    if importlib.util.find_spec("clip") is None:
        sys.modules["clip"] = types.ModuleType("clip")
    sys.path.insert(0, str(folder.resolve()))
    methods, iba = (importlib.import_module(f"scripts.{name}") for name in ("methods", "iba"))
    tupled = iba.InformationBottleneck.forward
    iba.InformationBottleneck.forward = lambda self, tokens: tupled(self, tokens)[0]
    return methods


def seed_authors_noise(seed: int) -> None:
    """Let the authors' code draw what :class:`InformationBottleneck` draws."""
    generator = torch.Generator().manual_seed(seed)

    def sample(mean: Tensor, variance: Tensor) -> Tensor:
        return mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)

    sys.modules["scripts.iba"].InformationBottleneck._sample_t = staticmethod(sample)


def build(quick: bool) -> Pair:
    """CLIP ViT-B/16 with random weights, large enough that a patch makes a difference to the features."""
    vision = {"image_size": 224, "patch_size": 32 if quick else 16, **(SMALL if quick else {})}
    torch.manual_seed(SEED)
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=SMALL if quick else {})).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
    return Pair(model)


def contenders(pair: Pair, methods: Any, layer: int, beta: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """From pixels and ids of a phrase to a map ``[224, 224]`` in [0, 1]."""
    tower = ClipTower(pair)

    def authors(pixels: Tensor, ids: Tensor, train: bool) -> Tensor:
        pair.requires_grad_(train).zero_grad(set_to_none=True)
        seed_authors_noise(SEED)
        found = methods.vision_heatmap_iba(ids, pixels, pair, layer, beta, 1, train_steps=STEPS, progbar=False)
        return torch.from_numpy(found)

    def ours(pixels: Tensor, ids: Tensor, method: Callable[..., Tensor], blank: bool) -> Tensor:
        pair.requires_grad_(False)
        with torch.no_grad():
            tokens, text = tower.prefix(pixels, layer), pair.get_text_features(ids)
            reference = (tower.prefix(torch.zeros_like(pixels), layer),) if blank else ()
        salient = method(tower, tokens, text, *reference)[:, :, 1:].unflatten(2, tower.grid)
        return stretch(F.interpolate(salient, size=pixels.shape[2:], mode="bilinear"))[0, 0]

    bottleneck = InformationBottleneck(beta, layer, STEPS, DRAWS, 1.0, SEED)
    return {
        PUBLIC: lambda pixels, ids: authors(pixels, ids, True),
        FROZEN: lambda pixels, ids: authors(pixels, ids, False),
        OURS: lambda pixels, ids: ours(pixels, ids, bottleneck, False),
        GRADIENT: lambda pixels, ids: ours(pixels, ids, GradientSaliency(layer), True),
    }


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one measurement after the other: layer, round, contender, seconds, map."""
    pair, methods = build(arguments.quick), load_authors_code(arguments.m2ib)
    generator = torch.Generator().manual_seed(SEED)
    for turn in range(arguments.rounds):
        pixels = F.interpolate(torch.randn((1, 3, 28, 28), generator=generator), size=224, mode="bicubic")
        words = torch.randint(1000, 40000, (1, 6), generator=generator)
        ids = torch.cat([torch.tensor([[49406]]), words, torch.tensor([[49407]])], dim=1)
        for layer in arguments.layers:
            for name, run in contenders(pair, methods, layer, arguments.beta).items():
                start = time.process_time()
                found = run(pixels, ids)
                seconds = time.process_time() - start
                print(f"round {turn}, layer {layer}, {name}: {seconds:.2f} CPU s", flush=True)
                yield {"layer": layer, "round": turn, "contender": name, "seconds": seconds, "map": found}


def table(rows: list[dict[str, Any]], beta: float) -> list[dict[str, str]]:
    """One line a layer and contender."""
    lines = []
    for layer in sorted({row["layer"] for row in rows}):
        turns = [
            {row["contender"]: row for row in rows if row["layer"] == layer and row["round"] == turn}
            for turn in sorted({row["round"] for row in rows if row["layer"] == layer})
        ]
        turns = [turn for turn in turns if len(turn) == 4]
        for name in turns[0] if turns else ():
            difference = max(float((turn[name]["map"] - turn[PUBLIC]["map"]).abs().max()) for turn in turns)
            lines.append(
                {
                    "layer": str(layer),
                    "beta": str(beta),
                    "contender": name,
                    "rounds": str(len(turns)),
                    "CPU s": spread([turn[name]["seconds"] for turn in turns], 2),
                    "share": spread([turn[name]["seconds"] / turn[PUBLIC]["seconds"] for turn in turns], 3),
                    "map": f"{difference:.1e}" if name in (FROZEN, OURS) else "–",
                }
            )
    return lines


def spread(values: list[float], digits: int) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def main() -> None:
    """Measure, and write the table after every layer and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m2ib", type=Path, required=True, help="checkout of the authors' code")
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 7], help="blocks behind which the bottleneck sits")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small network, to output/m2ib unless --results says")
    parser.add_argument("--results", type=Path, help="the table without suffix (benchmarks/results/m2ib)")
    arguments = parser.parse_args()
    stem = arguments.results or (Path("output/m2ib/m2ib") if arguments.quick else RESULTS)
    torch.set_num_threads(1)
    size = "of small size" if arguments.quick else "ViT-B/16 at 224 px"
    values = {"size": size, "steps": STEPS, "draws": DRAWS, "passes": STEPS - 1, "rounds": arguments.rounds}
    head = HEAD.format(machine=processor(), torch=torch.__version__, **values)
    rows = []
    for row in measure(arguments):
        rows.append(row)
        lines = table(rows, arguments.beta)
        if lines:
            write_table(lines, stem, head)
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
