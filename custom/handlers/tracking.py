# SPDX-License-Identifier: Apache-2.0
"""What `--tracking mlflow` adds to a config's engines, made to fit this project's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ignite.engine import Engine
from monai.handlers import MLFlowHandler
from torch import Tensor

LONGEST_VALUE = 300  # characters of a parameter: longer ones are lists of data, not settings
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


class TrackedRun:
    """Tell MONAI's ``MLFlowHandler`` the name and the settings of a run.

    The handlers that MONAI adds expect outputs that are lists, mix the losses of iterations and of epochs under one
    name, know no settings, and join whatever unfinished run they find. Here each run is one of its own, with its
    parameters; the losses of iterations are ``iteration_loss``, every ``log_interval`` iterations.

    Args:
        name: what the run is, ``pretrain``; the time is added.
        settings: its parameters, nested ones too. Empty ones are left out, and so are long ones: names of scans do not
            belong into a tracking server.
        log_interval: iterations between losses and learning rates.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], log_interval: int = 1) -> None:
        self.name = f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
        self.parameters = dict(_flat(settings))
        self.log_interval = log_interval

    def prepared(self, handlers: Iterable[Any]) -> list[Any]:
        """Return the handlers of an engine; those of MLflow have changed, if there are any.

        Args:
            handlers: for ``train_handlers`` or ``val_handlers``, before the engine attaches them.
        """
        handlers = list(handlers)
        for handler in handlers:
            if isinstance(handler, MLFlowHandler):
                self._prepare(handler)
        return handlers

    def _prepare(self, handler: MLFlowHandler) -> None:
        handler.run_name = handler.run_name or self.name
        handler.tag_name = "iteration_loss"
        handler.output_transform = _loss
        if handler.iteration_log:  # the trainer's: a run's parameters are told once
            handler.iteration_log = self._is_logged
            handler.experiment_param = {**self.parameters, **(handler.experiment_param or {})}

    def _is_logged(self, _: Engine, iteration: int) -> bool:
        return iteration % self.log_interval == 0


def _loss(output: Mapping[str, Any]) -> Any:
    return output["loss"]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
        return
    text = str(value.tolist() if isinstance(value, Tensor) else value)
    if text not in ("None", "", "[]", "()") and len(text) <= LONGEST_VALUE:
        yield _NOT_IN_NAMES.sub("_", name), text
