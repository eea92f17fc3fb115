# SPDX-License-Identifier: Apache-2.0
"""The gate as a picture: how near each phrase's map comes to the prompt's, and the figures of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = MappingProxyType({"use": "#1a7f37", "use with care": "#9a6700", "do not use": "#b42318"})
_SAME, _FOREIGN, _REFUSED = "#2f6fb2", "#d97b29", "#9aa0a6"
_SAME_KINDS = ("synonym", "paraphrase", "misspelling", "word order")
_FIGURES = ("sensitivity", "stability", "heeding", "presence", "found", "coverage")


def gate_figure(prompts: Mapping[str, Mapping[str, Any]], subtitle: str) -> Figure:
    """Draw a row of two panels a prompt.

    Args:
        prompts: prompt -> ``verdict``, ``measures`` and ``phrasings`` as in ``gate.json``.
        subtitle: what was looked at.
    """
    heights = [0.8 + 0.17 * max(len(each["phrasings"]), len(_FIGURES)) for each in prompts.values()]
    figure = Figure(figsize=(11, sum(heights) + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(prompts), 2, squeeze=False, height_ratios=heights, width_ratios=(3, 1.4))
    for (left, right), (prompt, each) in zip(grid, prompts.items(), strict=True):
        _draw_phrases(left, each["phrasings"])
        left.set_title(f'"{prompt}": {each["verdict"]}', color=_COLOURS[each["verdict"]], fontsize=11, loc="left")
        _draw_measures(right, each["measures"])
    figure.supxlabel(f"{subtitle}. Blue should be long, orange short.", fontsize=8)
    return figure


def _draw_phrases(axes: Axes, phrasings: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(phrasings))[::-1]
    colours = [_SAME if each["kind"] in _SAME_KINDS else _FOREIGN for each in phrasings]
    axes.barh(places, [each["similarity"] for each in phrasings], color=colours, height=0.7)
    for place, each in zip(places, phrasings, strict=True):
        if each["refused"]:
            axes.text(0.01, place, "not understood", va="center", fontsize=6, color=_REFUSED)
    labels = [f"{_short(each['text'])}  [{each['kind']}]" for each in phrasings]
    axes.set_yticks(places, labels, fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(phrasings) - 0.4)
    axes.set_xlabel("similarity to the prompt's map", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _draw_measures(axes: Axes, measures: Mapping[str, Any]) -> None:
    shown = [(name, measures.get(name)) for name in _FIGURES]
    shown += [(f"distance: {name}", value) for name, value in (measures.get("blind_distance") or {}).items()]
    shown += [(f"agreement: {name}", value) for name, value in (measures.get("agreement") or {}).items()]
    shown += [(f"truth: {name}", value) for name, value in (measures.get("truth") or {}).items() if name != "found"]
    places = np.arange(len(shown))[::-1]
    axes.barh(places, [value or 0 for _, value in shown], color="#c9ced6", height=0.7)
    for place, (name, value) in zip(places, shown, strict=True):
        interval = (measures.get("intervals") or {}).get(name)
        if interval:
            axes.plot(interval, [place, place], color="#444444", linewidth=1)
        axes.text(1.02, place, "unknown" if value is None else f"{value:.2f}", va="center", fontsize=7)
    axes.set_yticks(places, [name for name, _ in shown], fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.tick_params(axis="x", labelsize=7)


def _short(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
