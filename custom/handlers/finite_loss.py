# SPDX-License-Identifier: Apache-2.0
"""Training stops at the first loss that is no number, and says on which scans."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from custom.finite import first_not_finite
from custom.keys import MIMKeys

MOST_NAMES = 16
_REMEDY = (
    "Nothing of this epoch is written; what was written before is intact. Look at these scans; or lower "
    "--learning_rate, warm up for longer (--warmup_epochs), or do without mixed precision (--amp false)."
)


class FiniteLoss:
    """Stop at the first loss that is NaN or infinite, and name the scans of its batch.

    On a CPU a trainer's loss is looked at before the backward pass, so that the weights stay as they were. A GPU is not
    waited for: its losses are copied to the host while it works on, looked at as they arrive, and at the latest when
    the epoch ends, before anything is written. There the weights are looked at as well, once: the last step of an epoch
    may have spoilt them. (Steps with infinite gradients that the scaler of mixed precision leaves out are none of this:
    their losses are finite.)

    Attach it before the handlers that validate, and that write. On an evaluator it looks at ``output["loss"]``, see
    :class:`custom.handlers.ScanLosses`.

    Args:
        network: whose weights are looked at after every epoch; None: only losses are.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        self.network = network
        self._kind = "loss"
        self._awaited: deque[_Loss] = deque()
        self._before: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Look at every loss, and at the weights after every epoch."""
        is_trainer = isinstance(engine, Trainer)
        self._kind = "loss" if is_trainer else "validation loss"
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED if is_trainer else Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def __call__(self, engine: Engine) -> None:
        """Look at the losses that have arrived.

        Raises:
            FloatingPointError: if one is not finite.
        """
        output: Any = engine.state.output
        place = f"epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        self._awaited.append(_Loss(*_on_its_way(output["loss"].detach()), place, scans_of(engine.state.batch)))
        while self._awaited and self._awaited[0].has_arrived():
            self._check(self._awaited.popleft())

    def _begin(self, _: Engine) -> None:
        self._awaited.clear()
        self._before = []

    def _finish(self, engine: Engine) -> None:
        while self._awaited:
            loss = self._awaited.popleft()
            loss.wait()
            self._check(loss)
        name = first_not_finite(self.network.state_dict()) if self.network is not None else None
        if name is not None:
            raise FloatingPointError(
                f"{name} is not finite after epoch {engine.state.epoch}, whose losses all were: its last step, on "
                f"{_listed(self._before)}, spoilt the weights. {_REMEDY}"
            )

    def _check(self, loss: _Loss) -> None:
        if not bool(loss.value.isfinite().all()):
            earlier = f" The step before it was on {_listed(self._before)}." if self._before else ""
            value = loss.value.flatten()[~loss.value.flatten().isfinite()][0].item()
            raise FloatingPointError(
                f"The {self._kind} is {value} in {loss.place}, on {_listed(loss.bad_scans())}.{earlier} {_REMEDY}"
            )
        self._before = loss.scans


class _Loss(NamedTuple):
    """A loss on the host, or on its way there."""

    value: Tensor
    copied: torch.cuda.Event | None
    place: str
    scans: list[str]

    def has_arrived(self) -> bool:
        return self.copied is None or bool(self.copied.query())

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def bad_scans(self) -> list[str]:
        """The scans whose own losses are not finite; all of the batch where there is one loss for all."""
        if self.value.numel() != len(self.scans) or len(self.scans) == 1:
            return self.scans
        bad = (~self.value.flatten().isfinite()).tolist()
        return [name for name, is_bad in zip(self.scans, bad, strict=True) if is_bad]


def scans_of(batch: Any) -> list[str]:
    """Return the names of the scans of a batch: their ids, or the files of their images; empty if nobody knows."""
    if isinstance(batch, Mapping):
        names = batch.get(MIMKeys.SCAN_ID)
        if names is not None:
            return [str(names)] if isinstance(names, str) else [str(name) for name in names]
        image = batch.get(MIMKeys.IMAGE)
        files = image.meta.get("filename_or_obj", []) if isinstance(image, MetaTensor) else []
        return [files] if isinstance(files, str) else [str(file) for file in files]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return [name for item in batch for name in scans_of(item)]
    return []


def _on_its_way(loss: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if loss.device.type != "cuda":
        return loss, None
    host = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True)
    host.copy_(loss, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


def _listed(names: Sequence[str]) -> str:
    """The names in words, each once (patches share them)."""
    known = list(dict.fromkeys(names))
    if not known:
        return "scans without a name"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"the scans {', '.join(known[:MOST_NAMES])}{more}" if len(known) > 1 else f"the scan {known[0]}"
