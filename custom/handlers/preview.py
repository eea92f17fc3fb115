# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the network sees, is asked for and answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, list_data_collate
from monai.transforms import Randomizable
from torch.utils.tensorboard import SummaryWriter

from custom.handlers.history import read_history
from custom.keys import MIMKeys
from custom.visual.planes import are_sides_known
from custom.visual.reconstruction import Example, make_example, reconstruction_figure, save_figure


class ReconstructionPreview:
    """Draw scan, region, mask and reconstruction of a few scans: in TensorBoard while training, as a PNG at the end.

    Args:
        dataset: scans with their masks; the first ``count`` are shown, with the same masks every time.
        cell_size: of the masks, in voxels.
        file: the PNG, with the loss curve below the scans.
        history: the run's :class:`custom.handlers.TrainingHistory` file.
        summary_writer: TensorBoard; None: only the PNG.
        interval: epochs between pictures in TensorBoard.
        count: number of scans.
        seed: of the masks shown.
    """

    def __init__(
        self,
        dataset: Dataset,
        cell_size: int | Sequence[int],
        file: str | Path,
        history: str | Path,
        summary_writer: SummaryWriter | None = None,
        interval: int = 10,
        count: int = 4,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        self.cell_size = cell_size
        self.file = Path(file)
        self.history = Path(history)
        self.summary_writer = summary_writer
        self.interval = interval
        self.count = count
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Draw every ``interval`` epochs and at the end."""
        if self.summary_writer is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._log, self.summary_writer)
        engine.add_event_handler(Events.COMPLETED, self._save)

    def _log(self, engine: Engine, summary_writer: SummaryWriter) -> None:
        figure = reconstruction_figure(self._examples(engine))
        summary_writer.add_figure("scan, region, mask, reconstruction", figure, engine.state.epoch)

    def _save(self, engine: Engine) -> None:
        save_figure(reconstruction_figure(self._examples(engine), read_history(self.history)), self.file)

    @torch.no_grad()
    def _examples(self, engine: Any) -> list[Example]:
        batch = self._batch()
        image, target, _, arguments = engine.prepare_batch(batch, engine.state.device)
        training = engine.network.training
        prediction = engine.network.eval()(image, **arguments)
        engine.network.train(training)
        regions, known = batch.get(MIMKeys.REGION), self._known(image.ndim - 2)
        return [
            make_example(
                target.image[index], target.visible[index], prediction[index], self.cell_size,
                None if regions is None else torch.as_tensor(regions[index]).to(image.device),
                None if target.wanted is None else target.wanted[index],
                known[index],
            )
            for index in range(len(image))
        ]  # fmt: skip

    def _known(self, dims: int) -> list[bool]:
        """Whether the patient's sides are known, for each scan; what the network sees no longer says so."""
        return [are_sides_known(item.get(MIMKeys.IMAGE), dims) for item in list(self.dataset.data)[: self.count]]

    def _batch(self) -> dict:
        if isinstance(self.dataset.transform, Randomizable):
            self.dataset.transform.set_random_state(seed=self.seed)
        items = [self.dataset[index] for index in range(min(self.count, len(self.dataset)))]
        return list_data_collate(items)
