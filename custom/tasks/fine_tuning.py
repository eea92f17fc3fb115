# SPDX-License-Identifier: Apache-2.0
"""Training a network for a task by a MONAI trainer, up to and back to its best validation."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

from ignite.engine import Engine, Events
from monai.engines import Trainer

from custom.tasks.results import BestModel

logger = logging.getLogger(__name__)


class Method(Protocol):
    """A way to fit a network; leaves the best one, by the validation scans, in ``model`` and its file."""

    name: str
    model: BestModel

    def fit(self) -> dict[str, Any]:
        """Fit, and return facts to report."""


class History(Protocol):
    """Settings of a run, which may have changed when it was resumed."""

    def as_info(self) -> dict[str, Any]:
        """Return which epochs had which settings; empty if they never changed."""


class FineTuning:
    """Train the whole network with a MONAI trainer and go back to its best validation.

    Args:
        model: also a handler of the trainer's evaluator, which saves the best network.
        trainer: the trainer, validated by a ``ValidationHandler``.
        evaluator: that handler's evaluator.
        patience: validations without a better one after which training stops; None: train all epochs.
        settings: of the run; if they changed when it was resumed, their history is reported.

    Raises:
        ValueError: if patience is less than 1.
    """

    name = "fine-tuning"

    def __init__(
        self,
        model: BestModel,
        trainer: Trainer,
        evaluator: Any,
        patience: int | None = None,
        settings: History | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 validation, or null for none; got {patience}.")
        self.model = model
        self.trainer = trainer
        self.evaluator = evaluator
        self.patience = patience
        self.settings = settings

    def fit(self) -> dict[str, Any]:
        """Train; return the number of epochs, the best one and its key metric (None if it was never defined).

        Raises:
            ValueError: if no validation took place.
        """
        self.model.forget()  # a resumed run brings its own back
        if self.patience is not None:
            # Also at the start: a run that had stopped stays stopped when it is resumed.
            self.trainer.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, self._stop_if_stale)
        self.trainer.run()
        if self.model.score is None:
            raise ValueError(
                f"No validation took place in {self.trainer.state.max_epochs} epochs, so that no epoch can be chosen. "
                "Set --val_interval to at most --max_epochs."
            )
        self.model.restore()
        epoch, score = self.model.epoch, self.model.score
        name = self.evaluator.state.key_metric_name or "key metric"
        if score is not None and not math.isfinite(score):
            logger.warning("%s on val was undefined in every epoch: the first one was taken.", name)
            score = None  # JSON knows no NaN and no infinity
        else:
            logger.info("Best epoch: %d, %s on val %.3f.", epoch, name, score)
        history = self.settings.as_info() if self.settings is not None else {}
        return {"epochs": self.trainer.state.epoch, "best_epoch": epoch, "best_val_score": score, **history}

    def _stop_if_stale(self, engine: Engine) -> None:
        if self.patience is not None and self.model.stale >= self.patience:
            logger.info("No better validation in %d: training stops after epoch %d.", self.patience, engine.state.epoch)
            engine.terminate()
