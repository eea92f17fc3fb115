# SPDX-License-Identifier: Apache-2.0
"""Lungs on frontal chest radiographs: two lung shapes fitted to the dark fields, then weighed with darkness."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from custom.localizers.operators.grid import resized
from custom.localizers.operators.scan import Map, Scan, logistic, smooth

SIZE = 64  # side of the working grid
BAND = SIZE / 8  # darkness is taken relative to a neighbourhood of this sigma: shoulders and air are dark, too
MIDDLE, HEIGHT = 0.49, 0.46  # centre of a typical chest in the frame
LUNGS = (0.255, 0.725)  # centres of the lungs at low and high indices of axis 0
OUTER, INNER, HALF_HEIGHT = 0.19, 0.165, 0.37  # of a lung: half widths away from and towards the middle
TYPICAL = (0.0, 0.0, 1.0, 0.93)  # shifts along both axes, scales along both axes
SPREAD = (0.06, 0.08, 0.12, 0.16)  # their standard deviations on the train split of cxr_lungs, rounded
PENALTY = 0.01  # correlation lost a squared standard deviation
# Log-odds a unit, from a logistic regression on the train split of cxr_lungs, rounded: fitted shape, typical shape,
# darkness rank, darkness in the band, darkness rank at the bottom; offset.
WEIGHTS = (2.0, 0.85, -4.5, 7.3, 3.7)
OFFSET = 1.0


def xray_lungs(scan: Scan) -> Map:
    """Lungs on a frontal radiograph.

    Assumes one upright chest that fills the frame (black borders are cut off), air dark. The position and size of two
    lung shapes are searched on a grid of 1470 candidates for the best correlation with locally dark fields, with a
    penalty for untypical ones; shape and darkness give the log-odds. Lungs behind heart and diaphragm are only
    guessed by the shape, and white lungs, too.

    Args:
        scan: picture of any size; grey values in any units.

    Returns:
        Probability, zero outside the frame.
    """
    frame = _frame(scan.values)
    dark = _darkness(resized(scan.values[frame], (SIZE, SIZE)))
    band = np.clip(dark - smooth(dark, BAND), -0.3, 0.3)
    features = (_fitted_shape(band), _shape(*TYPICAL), dark, dark - smooth(dark, BAND), dark * _grid()[1])
    odds = OFFSET + sum(weight * feature for weight, feature in zip(WEIGHTS, features, strict=True))
    found = np.zeros_like(scan.values)
    found[frame] = resized(logistic(smooth(odds, 1.0)), scan.values[frame].shape)
    return found


def _frame(values: np.ndarray) -> tuple[slice, slice]:
    """The picture without black borders."""
    low, high = np.percentile(values, [0, 99.5])
    lit = smooth(values, 1.0) > low + 0.06 * (high - low)
    along = [np.flatnonzero(lit.mean(axis=1 - axis) > 0.15) for axis in (0, 1)]
    if min(len(each) for each in along) < 8:
        return slice(None), slice(None)
    return slice(along[0][0], along[0][-1] + 1), slice(along[1][0], along[1][-1] + 1)


def _darkness(values: np.ndarray) -> np.ndarray:
    """Rank of darkness in (-0.5, 0.5]; ranks make exposure and display window irrelevant."""
    ranks = np.argsort(np.argsort(smooth(values, 1.0), axis=None, kind="stable"), kind="stable")
    return (0.5 - ranks.reshape(values.shape) / values.size).astype(np.float32)


def _fitted_shape(band: np.ndarray) -> np.ndarray:
    """The candidate shape that correlates best with locally dark fields."""
    candidates, soft, penalties = _candidates()
    x, y = _grid()
    chest = np.exp(-(((np.abs(x - 0.5) / 0.42) ** 6) + (np.abs(y - 0.45) / 0.45) ** 8))
    target = ((band - np.median(band)) * chest).ravel()
    target = target - target.mean()
    correlation = soft @ target / (np.linalg.norm(target) + 1e-6)
    return candidates[int(np.argmax(correlation - PENALTY * penalties))].reshape(band.shape)


@cache
def _candidates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shapes, their soft masks (centred, unit norm) and penalties; the same for every scan."""
    parameters = np.array(
        list(
            product(
                np.linspace(-0.09, 0.09, 7),
                np.linspace(-0.15, 0.15, 7),
                (0.75, 0.85, 0.95, 1.05, 1.15),
                (0.55, 0.65, 0.75, 0.85, 0.95, 1.05),
            )
        )
    )
    shapes = np.stack([_shape(*each).ravel() for each in parameters])
    soft = logistic(6 * shapes)
    soft -= soft.mean(axis=1, keepdims=True)
    soft /= np.linalg.norm(soft, axis=1, keepdims=True)
    return shapes, soft, (((parameters - TYPICAL) / SPREAD) ** 2).sum(axis=1)


def _shape(shift_x: float, shift_y: float, scale_x: float, scale_y: float) -> np.ndarray:
    """Two superellipses that lean together at the top: 1 in the middle of a lung, 0 at its border, down to -2."""
    x, y = _grid()
    x = (x - MIDDLE - shift_x) / scale_x + MIDDLE
    y = (y - HEIGHT - shift_y) / scale_y + HEIGHT
    sides = []
    for centre in LUNGS:
        outwards = np.sign(centre - MIDDLE)
        half_width = np.where((x - centre) * outwards > 0, OUTER, INNER)
        axis = centre - outwards * 0.035 * np.clip((0.6 - y) / 0.5, -0.3, 1)
        sides.append(1 - np.abs((x - axis) / half_width) ** 2.3 - np.abs((y - HEIGHT) / HALF_HEIGHT) ** 2.8)
    return np.clip(np.maximum(*sides), -2, 1).astype(np.float32)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    x, y = np.meshgrid(line, line, indexing="ij")
    return x, y
