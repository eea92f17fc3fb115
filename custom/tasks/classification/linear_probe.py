# SPDX-License-Identifier: Apache-2.0
"""Linear probe: logistic regression on the features of a frozen encoder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from custom.metrics.classification import classification_figures, to_probabilities
from custom.tasks.classification.classifier import Classifier
from custom.tasks.classification.collect import Collected, collect
from custom.tasks.results import BestModel

logger = logging.getLogger(__name__)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class LinearProbe:
    """Fit a classifier's linear head in closed steps, the encoder run once over each scan.

    The standard linear probe: features are standardised on the training scans, logistic regressions of several
    regularisation strengths are fitted (with several labels per scan one for each label), and the strength with the
    best figure on the validation scans is taken, the strongest regularisation among equals. Scaling and weights are
    folded into the classifier's own head, so that what is measured and saved afterwards is the same network as after
    fine-tuning. Features are computed in full precision.

    Args:
        model: where the fitted network is saved; its network must be a :class:`Classifier` with a frozen encoder.
        train_loader: training scans, without augmentation.
        val_loader: validation scans.
        key_metric: figure to choose by, see :data:`custom.metrics.FIGURES`.
        strengths: inverse regularisation strengths C to try, in ascending order.
        weights: of the classes, see :func:`custom.tasks.classification.weights.class_weights`; None: all alike.
        device: where the encoder runs.
    """

    name = "linear probe"

    def __init__(
        self,
        model: BestModel,
        train_loader: Iterable,
        val_loader: Iterable,
        key_metric: str = "macro_auroc",
        strengths: Sequence[float] = STRENGTHS,
        weights: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model
        self.train_loader, self.val_loader = train_loader, val_loader
        self.key_metric = key_metric
        self.strengths = tuple(strengths)
        self.weights = weights
        self.device = device

    def fit(self) -> dict[str, Any]:
        """Fit and save the head; return the chosen strength C and the figure of each on the validation scans."""
        network = self._network()
        network.eval()
        train, val = (
            collect(network.features, loader, self.device, "features")
            for loader in (self.train_loader, self.val_loader)
        )
        fitted = {strength: fit_head(train, strength, self.weights) for strength in self.strengths}
        scores = {strength: self._score(head, val) for strength, head in fitted.items()}
        best = max(self.strengths, key=lambda strength: scores[strength])
        logger.info("Linear probe: C = %g, %s on val %.3f.", best, self.key_metric, scores[best])
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(fitted[best].weight))
            network.head.bias.copy_(torch.from_numpy(fitted[best].bias))
        self.model.save()
        return {"strength": best, "val_scores": {f"{strength:g}": score for strength, score in scores.items()}}

    def _network(self) -> Classifier:
        network = self.model.network
        if not isinstance(network, Classifier) or not network.freeze:
            raise ValueError("A linear probe needs a Classifier whose encoder is frozen: build it with freeze=True.")
        return network

    def _score(self, head: Head, val: Collected) -> float:
        logits = torch.from_numpy(val.values @ head.weight.T + head.bias)
        return classification_figures(to_probabilities(logits, val.labels.ndim == 2), val.labels)[self.key_metric]


class Head(NamedTuple):
    """A linear layer on features as they are: ``weight`` ``[K, C]`` and ``bias`` ``[K]``."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def fit_head(train: Collected, strength: float, weights: Sequence[float] | None = None) -> Head:
    """Fit logistic regressions to standardised features, and return them with the standardisation folded in.

    Args:
        train: features ``[N, C]`` with labels ``[N]`` (one regression) or ``[N, K]`` (one for each label).
        strength: inverse regularisation strength C.
        weights: of the classes; of the scans that have the label, with several labels per scan.
    """
    scaler = StandardScaler().fit(train.values.astype(np.float64))
    features = scaler.transform(train.values.astype(np.float64))
    if train.labels.ndim == 1:
        weight, bias = _regression(
            features, train.labels, strength, None if weights is None else dict(enumerate(weights))
        )
        if len(weight) == 1:
            # scikit-learn keeps one row for two classes: the difference of the two logits.
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    else:
        chosen = [None] * train.labels.shape[1] if weights is None else [{0: 1.0, 1: value} for value in weights]
        heads = [
            _regression(features, column, strength, own) for column, own in zip(train.labels.T, chosen, strict=True)
        ]
        weight, bias = (np.concatenate(parts) for parts in zip(*heads, strict=True))
    weight = weight / scaler.scale_
    return Head(weight, bias - weight @ scaler.mean_)


def _regression(
    features: NDArray[np.float64], labels: NDArray[Any], strength: float, weights: dict[int, float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    regression = LogisticRegression(C=strength, max_iter=2000, class_weight=weights)
    with warnings.catch_warnings():
        # Weakly regularised fits of separable features have no finite optimum; val decides whether they are any good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(features, labels.astype(np.int64))
    return regression.coef_, regression.intercept_
