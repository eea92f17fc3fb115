# SPDX-License-Identifier: Apache-2.0
"""Which codes of the label maps are which class."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from custom.options import mapping
from datasets import LoadScand, ScanError
from datasets.readers.coco import read_json

logger = logging.getLogger(__name__)

_RULE = re.compile(r"(?P<from>>=)?\s*(?P<code>\d+)")
_OTHERS = ("background", "error")
_EXAMPLE = "{1: anterior, 2: posterior}"
_MAX_SCANS = 20  # whose label maps are looked at for the codes that the user named
HOW_TO_LABEL = "Name label maps in the column `mask` of manifest.csv, or in the lists of a Decathlon dataset.json."
_FORM = 'Write for example --classes "{1: anterior, 2: posterior}", "{4: lesion, 5: lesion}" or "{\'>=2\': nodule}".'


@dataclass(frozen=True)
class LabelClasses:
    """The classes of a segmentation; index 0 is the background.

    Attributes:
        rules: what a label map's code means: "3" is that code, ">=2" all codes from there on -> name of the class.
            Codes with the same name are one class.
        others_are_background: whether codes without a rule are background; otherwise they are errors.
    """

    rules: Mapping[str, str]
    others_are_background: bool = True

    @property
    def names(self) -> list[str]:
        """Names of the classes, without the background, in the order of the rules."""
        return list(dict.fromkeys(self.rules.values()))

    @property
    def num_channels(self) -> int:
        """Channels of the network's output: the classes and the background."""
        return len(self.names) + 1

    @property
    def codes(self) -> list[int]:
        """The code that stands for each index in written label maps: 0, then the lowest of each class."""
        lowest = {name: min(_code(rule) for rule in self.rules if self.rules[rule] == name) for name in self.names}
        return [0, *lowest.values()]

    def encode(self, codes: Tensor) -> Tensor:
        """Turn a label map of codes into one of indices, uint8.

        Raises:
            ValueError: if it holds a code without a rule, unless those are background.
        """
        indices = torch.zeros_like(codes, dtype=torch.uint8)
        known = codes == 0
        for rule, name in self.rules.items():
            chosen = codes >= _code(rule) if rule.startswith(">=") else codes == _code(rule)
            indices[chosen] = self.names.index(name) + 1
            known |= chosen
        if not self.others_are_background and not bool(known.all()):
            unknown = sorted({int(code) for code in torch.unique(codes[~known])})
            raise ValueError(
                f"the label map holds the codes {unknown}, which are no class (from the training label maps: "
                f"{dict(self.rules)}). Name them with --classes, add such scans to the training split, or set "
                '--other_codes background (with evaluate.yaml: --options "{other_codes: background}").'
            )
        return indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Turn a label map of indices into one of codes, of the smallest integer type that holds them."""
        codes = np.array(self.codes)
        return codes.astype(np.min_scalar_type(int(codes.max())))[indices]


def label_classes(
    classes: Mapping[Any, str] | str | None,
    items: Sequence[Mapping[str, Any]],
    spatial_dims: int,
    root: str | Path | None = None,
    frame: int | None = None,
    other_codes: str = "background",
) -> LabelClasses:
    """Return the classes that the user named, or those of the training label maps.

    Args:
        classes: codes (3, ">=2") and names; codes with the same name are one class. None: every code found in the
            training label maps is a class, named by the Decathlon's
            ``dataset.json`` (its "labels") where there is one.
        items: training scans with ``label``, the path of a label map; read only if the user named no classes.
        spatial_dims: 2 or 3.
        root: folder of the data set.
        frame: see :class:`datasets.LoadScand`.
        other_codes: what codes without a class are: "background", or an "error".

    Raises:
        ValueError: a class that is no code, more than 255 classes, no label maps, or label maps of zeros only.
    """
    if other_codes not in _OTHERS:
        raise ValueError(f"other_codes must be one of {_OTHERS}, received {other_codes!r}.")
    rules = _named(mapping(classes, "classes", _EXAMPLE)) if classes else _found(items, spatial_dims, root, frame)
    result = LabelClasses(rules, other_codes == "background")
    if len(result.names) > 255:
        raise ValueError(f"{len(result.names)} classes; at most 255 can be told apart.")
    return result


def _found(
    items: Sequence[Mapping[str, Any]], spatial_dims: int, root: str | Path | None, frame: int | None
) -> dict[str, str]:
    if not items:
        raise ValueError(f"{root}: no training scan has a label map, so there is nothing to segment. {HOW_TO_LABEL}")
    found = codes_in(items, spatial_dims, frame)
    if not found:
        raise ValueError(f"The label maps of {len(items)} training scans hold no code but 0: nothing to segment.")
    names = _dataset_names(root)
    rules = {str(code): names.get(code, str(code)) for code in found}
    logger.info("Classes, from the label maps of %d training scans: %s", len(items), rules)
    return rules


def check_codes(
    classes: LabelClasses, items: Sequence[Mapping[str, Any]], spatial_dims: int, frame: int | None = None
) -> None:
    """Warn of classes of which the training label maps hold no code: nothing is learnt of them.

    At most 20 scans are looked at, evenly over the list, and no more than it takes to see every class.

    Args:
        classes: what is segmented.
        items: training scans with ``label``, the path of a label map.
        spatial_dims: 2 or 3.
        frame: see :class:`datasets.LoadScand`.

    Raises:
        ValueError: if all scans were looked at and none holds any class.
    """
    looked_at = [items[index * len(items) // _MAX_SCANS] for index in range(_MAX_SCANS)]
    looked_at = looked_at if len(items) > _MAX_SCANS else list(items)
    codes: set[int] = set()
    absent = classes.names
    for item in looked_at:
        codes |= set(codes_in([item], spatial_dims, frame))
        present = LabelClasses(classes.rules).encode(torch.tensor(sorted(codes), dtype=torch.int64)).tolist()
        absent = [name for index, name in enumerate(classes.names, 1) if index not in present]
        if not absent:
            return
    if absent:
        text = (
            f"the label maps of {len(looked_at)} of {len(items)} training scans, those looked at, hold no code of "
            f"{', '.join(absent)} (of {dict(classes.rules)}); codes that occur: {sorted(codes) or 'none but 0'}"
        )
        if len(looked_at) == len(items) and absent == classes.names:
            raise ValueError(f"{text}. {_FORM}")
        logger.warning("%s. Check --classes.", text)


def codes_in(items: Sequence[Mapping[str, Any]], spatial_dims: int, frame: int | None = None) -> list[int]:
    """Codes other than 0 in the label maps of scans, sorted; maps that cannot be read are passed over.

    Args:
        items: with ``label``, the path of a label map.
        spatial_dims: 2 or 3.
        frame: see :class:`datasets.LoadScand`.
    """
    load = LoadScand("image", spatial_dims, label_keys="label", allow_missing_keys=True, frame=frame)
    found: set[int] = set()
    for item in items:
        try:
            codes = load({"label": item["label"]})["label"]
        except ScanError:
            continue  # the dataset reports it
        found |= {int(code) for code in torch.unique(codes.as_tensor())}
    return sorted(found - {0})


class EncodeLabelsd(MapTransform):
    """Turn label maps of codes into maps of class indices ``[1, *spatial]``, uint8; 0 is the background.

    Args:
        keys: of the label maps.
        classes: what the codes mean.
        allow_missing_keys: whether data without them is passed on.

    Raises:
        ScanError: by the call, for a code that is no class; ``skip_bad`` leaves the scan out.
    """

    def __init__(self, keys: KeysCollection, classes: LabelClasses, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its label maps encoded."""
        result = dict(data)
        for key in self.key_iterator(result):
            codes = cast(MetaTensor, result[key])
            try:
                indices = self.classes.encode(codes.as_tensor())
            except ValueError as error:
                raise ScanError(codes.meta.get("filename_or_obj", key), str(error).rstrip(".")) from None
            result[key] = MetaTensor(indices, meta=codes.meta)
        return result


def _named(classes: Mapping[str, Any]) -> dict[str, str]:
    rules = {}
    for code, name in classes.items():
        match = _RULE.fullmatch(code.strip())
        if match is None or (int(match["code"]) == 0):
            raise ValueError(f"{code!r} is no code of a class (a whole number from 1 on, or such as '>=2'). {_FORM}")
        rules[f"{match['from'] or ''}{int(match['code'])}"] = str(name)
    return rules


def _code(rule: str) -> int:
    return int(rule.removeprefix(">="))


def _dataset_names(root: str | Path | None) -> dict[int, str]:
    """Names of codes in a dataset.json: {"1": "Anterior"}, or the other way round as nnU-Net writes it."""
    file = Path(root or ".") / "dataset.json"
    if root is None or not file.is_file():
        return {}
    labels = read_json(file).get("labels")
    pairs = [(key, value) for key, value in labels.items()] if isinstance(labels, dict) else []
    return {int(key): str(value) for key, value in pairs if str(key).isdigit()} | {
        int(value): str(key) for key, value in pairs if isinstance(value, int) and not str(key).isdigit()
    }
