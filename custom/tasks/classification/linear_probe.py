# SPDX-License-Identifier: Apache-2.0
"""Linear probe: logistic regression on the features of a frozen encoder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from custom.metrics import classification_figures
from custom.tasks.classification.classifier import Classifier
from custom.tasks.classification.collect import Collected, collect
from custom.tasks.results import BestModel

logger = logging.getLogger(__name__)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class LinearProbe:
    """Fit a classifier's linear head in closed steps, the encoder run once over each scan.

    The standard linear probe: features are standardised on the training scans, logistic regressions of several
    regularisation strengths are fitted, and the one with the best figure on the validation scans is taken, the
    strongest regularisation among equals. Scaling and weights are folded into the classifier's own head, so that what
    is measured and saved afterwards is the same network as after fine-tuning.

    Args:
        model: where the fitted network is saved; its network must be a :class:`Classifier` with a frozen encoder.
        train_loader: training scans, without augmentation.
        val_loader: validation scans.
        key_metric: figure to choose by, see :data:`custom.metrics.FIGURES`.
        strengths: inverse regularisation strengths C to try, in ascending order.
        device: where the encoder runs.
        amp: mixed precision.
    """

    name = "linear probe"

    def __init__(
        self,
        model: BestModel,
        train_loader: Iterable,
        val_loader: Iterable,
        key_metric: str = "macro_auroc",
        strengths: Sequence[float] = STRENGTHS,
        device: torch.device | str = "cpu",
        amp: bool = False,
    ) -> None:
        self.model = model
        self.train_loader, self.val_loader = train_loader, val_loader
        self.key_metric = key_metric
        self.strengths = tuple(strengths)
        self.device, self.amp = device, amp

    def fit(self) -> dict[str, Any]:
        """Fit and save the head; return the chosen strength C and the figure of each on the validation scans."""
        network = self._network()
        network.eval()
        train, val = (
            collect(network.features, loader, self.device, self.amp, "features")
            for loader in (self.train_loader, self.val_loader)
        )
        fitted = {strength: _regression(train, strength) for strength in self.strengths}
        scores = {strength: self._score(regression, val) for strength, regression in fitted.items()}
        best = max(self.strengths, key=lambda strength: scores[strength])
        logger.info("Linear probe: C = %g, %s on val %.3f.", best, self.key_metric, scores[best])
        _fold(fitted[best], network.head)
        self.model.save()
        return {"strength": best, "val_scores": {f"{strength:g}": score for strength, score in scores.items()}}

    def _network(self) -> Classifier:
        network = self.model.network
        if not isinstance(network, Classifier) or not network.freeze:
            raise ValueError("A linear probe needs a Classifier whose encoder is frozen: build it with freeze=True.")
        return network

    def _score(self, regression: Pipeline, val: Collected) -> float:
        return classification_figures(regression.predict_proba(val.values), val.labels)[self.key_metric]


def _regression(train: Collected, strength: float) -> Pipeline:
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    with warnings.catch_warnings():
        # Weakly regularised fits of separable features have no finite optimum; val decides whether they are any good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return regression.fit(train.values.astype(np.float64), train.labels)


@torch.no_grad()
def _fold(regression: Pipeline, head: torch.nn.Linear) -> None:
    """Write scaling and weights of a regression into a linear layer."""
    scaler, linear = regression[0], regression[1]
    weight = linear.coef_ / scaler.scale_
    bias = linear.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:
        # scikit-learn keeps one row for two classes: the difference of the two logits.
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias))
