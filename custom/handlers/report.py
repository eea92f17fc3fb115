# SPDX-License-Identifier: Apache-2.0
"""One line an epoch for people who watch the console."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class EpochReport:
    """Log the engine's metrics after every epoch. Attach it after the handlers that compute them."""

    def attach(self, engine: Engine) -> None:
        """Report after every epoch."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Log one line."""
        metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in engine.state.metrics.items())
        logger.info("Epoch %d of %d: %s", engine.state.epoch, engine.state.max_epochs, metrics)
