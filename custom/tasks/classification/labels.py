# SPDX-License-Identifier: Apache-2.0
"""The labels of scans: one class each, or any number of them, from a column of names or from columns of 0 and 1."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from custom.tasks.labelled import SPLITS
from datasets.errors import ScanError

if TYPE_CHECKING:
    from datasets import Datalist

NO_CLASS = "none"
_KEPT = ("image", "scan_id", "series_uid")
_MARKS = {"0": False, "0.0": False, "1": True, "1.0": True}


class ScanLabels:
    """What a data set says of its scans' classes. Nothing is read before it is asked for.

    - One class per scan: a column of names, or folders.
    - Several labels per scan, names in one column: ``effusion|nodule`` with the separator ``|``; a scan of which is
      known that it has none of them says ``none``; an empty cell is a scan without labels.
    - Several labels per scan, one column a class: 1 where a scan has it, 0 where not; all of them empty is a scan
      without labels.

    Args:
        datalist: the scans.
        column: column of the manifest, or a list of columns of 0 and 1; as text ("[effusion, nodule]") as well.
        separator: between the names in a cell; None: a cell is one name.

    Raises:
        ValueError: if a separator is given along with a list of columns.
    """

    def __init__(self, datalist: Datalist, column: str | Sequence[str] = "label", separator: str | None = None) -> None:
        self.datalist = datalist
        self.column = _column(column)
        self.separator = separator
        if separator is not None and (not isinstance(self.column, str) or not separator.strip()):
            raise ValueError(
                f"label_separator {separator!r} is between the names in one column, such as label_separator '|' for "
                f"cells like effusion|nodule; with columns of 0 and 1 ({self.column}) it must be null."
            )

    @property
    def multi_label(self) -> bool:
        """Whether a scan may have several labels, or none."""
        return self.separator is not None or not isinstance(self.column, str)

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of each labelled scan, by scan id.

        Raises:
            ScanError: if a column is missing, or a cell holds neither 0 nor 1.
        """
        if isinstance(self.column, str):
            return self._from_names(self.column)
        return self._from_marks(self.column)

    @cached_property
    def classes(self) -> list[str]:
        """The classes: columns in the order given, or names, sorted."""
        if not isinstance(self.column, str):
            return list(self.column)
        return sorted({name for names in self.names.values() for name in names})

    def items(self, split: str, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the labelled scans of a split, with the entries that classification reads.

        ``label`` is an index into the classes, or with several labels per scan float32 ``[K]`` of zeros and ones.

        Args:
            split: "train", "val" or "test".
            classes: names in the order of the network's outputs.

        Raises:
            ValueError: if a scan has another class.
        """
        found = [item for item in self.datalist.split(split) if item["scan_id"] in self.names]
        unknown = sorted({name for item in found for name in self.names[item["scan_id"]]} - set(classes))
        if unknown:
            raise ValueError(
                f"{self.datalist.root}: the split {split!r} has scans of {unknown}, none of the classes "
                f"{list(classes)} that are told apart. Name the right column with --label_column, or clear these cells."
            )
        return [{**scan(item), "label": self._encoded(self.names[item["scan_id"]], classes)} for item in found]

    def _encoded(self, names: Sequence[str], classes: Sequence[str]) -> Any:
        if not self.multi_label:
            return list(classes).index(names[0])
        return np.array([name in names for name in classes], dtype=np.float32)

    def _from_names(self, column: str) -> dict[str, tuple[str, ...]]:
        cells = {item["scan_id"]: item.get("label_name", "") for item in self.datalist.items}
        if column != "label" and self.datalist.layout == "manifest":
            cells = {name: row[column] for name, row in self._rows([column]).items()}
        return {name: self._split(cell) for name, cell in cells.items() if cell}

    def _split(self, cell: str) -> tuple[str, ...]:
        if self.separator is None:
            return (cell,)
        names = dict.fromkeys(part.strip() for part in cell.split(self.separator))
        return tuple(name for name in names if name and name.lower() != NO_CLASS)

    def _from_marks(self, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
        rows = {name: row for name, row in self._rows(columns).items() if any(row.values())}
        for scan_id, row in rows.items():
            wrong = next((column for column in columns if row[column] not in _MARKS), None)
            if wrong is not None:
                problem = f"{scan_id}: the column {wrong!r} holds {row[wrong]!r}"
                remedy = "Write 1 if the scan has it, 0 if not; leave all label columns empty where nobody knows."
                raise ScanError(self.datalist.root / "manifest.csv", problem, remedy)
        return {name: tuple(column for column in columns if _MARKS[row[column]]) for name, row in rows.items()}

    def _rows(self, columns: Sequence[str]) -> dict[str, dict[str, str]]:
        """Cells of the manifest, which was checked when the scans were listed, by scan id."""
        manifest = self.datalist.root / "manifest.csv"
        if self.datalist.layout != "manifest":
            raise ScanError(self.datalist.root, f"label columns {list(columns)} need a manifest.csv", "Write one.")
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            rows = [{str(key).strip(): str(value).strip() for key, value in row.items()} for row in reader]
        missing = [column for column in columns if column not in rows[0]]
        if missing:
            problem = f"the column {' and '.join(map(repr, missing))} is missing, found {','.join(rows[0])}"
            raise ScanError(manifest, problem, "Name the column that holds the labels with --label_column.")
        # The list of scans keeps the manifest's order.
        pairs = zip(self.datalist.items, rows, strict=True)
        return {item["scan_id"]: {column: row[column] for column in columns} for item, row in pairs}


def labelled_items(labels: ScanLabels, split: str, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the labelled scans of a split, see :meth:`ScanLabels.items`; ScanError if there is none."""
    items = labels.items(split, classes)
    if not items:
        remedy = "Check --dataset_dir, --label_column and the column `split`."
        raise ScanError(labels.datalist.root, f"no labelled scan in the split {split!r}", remedy)
    return items


def new_items(datalist: Datalist, split: str | None = None) -> list[dict[str, Any]]:
    """Return scans without their labels.

    Args:
        datalist: the scans.
        split: "train", "val" or "test"; None: all of them.
    """
    return [scan(item) for item in (datalist.items if split is None else datalist.split(split))]


def scan(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of an item that say where the scan is."""
    return {key: item[key] for key in _KEPT if key in item}


def count_per_class(labels: Sequence[Any], classes: int) -> np.ndarray:
    """Number of scans that have each class, ``[K]``, from indices or ``[K]`` zeros and ones."""
    values = np.asarray(labels)
    return values.sum(axis=0) if values.ndim == 2 else np.bincount(values, minlength=classes)


def labels_by_split(labels: ScanLabels, classes: Sequence[str]) -> dict[str, list[Any]]:
    """Labels of the scans of every split."""
    return {split: [item["label"] for item in labels.items(split, classes)] for split in SPLITS}


def _column(column: str | Sequence[str]) -> str | list[str]:
    read = yaml.safe_load(column) if isinstance(column, str) and column.lstrip().startswith("[") else column
    if isinstance(read, str):
        return read
    columns = [str(name) for name in read]
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"label_column must name one column, or several different ones; received {column!r}.")
    return columns
