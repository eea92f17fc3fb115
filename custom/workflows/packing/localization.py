# SPDX-License-Identifier: Apache-2.0
"""`pack_localizer.yaml`: a text-prompted localizer as a bundle."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from custom.components import component_file
from custom.localizers import ConceptLocalizer
from custom.localizers.operators.finder import load_finder
from custom.localizers.pretrained import MissingWeightsError
from custom.options import mapping
from custom.workflows.localizers import load_localizer
from custom.workflows.packing.metadata import localization_metadata
from custom.workflows.packing.pack import BundlePacking, Content
from custom.workflows.prompted import PromptedNetwork, read_prompts, read_threshold

logger = logging.getLogger(__name__)

_WEIGHTS = "models/self_taught.safetensors"  # as the operator `learned` wants them, with a .json beside it
_VOCABULARY = "configs/localizers/packed_vocabulary.yaml"
_KEPT_FACTS = {"network", "spatial_dims", "image_size", "flips", "blur", "area", "modality", "half", "sha256"}
_KEPT_FACTS |= {"lesions", "shots", "seed", "num_scans", "versions"}
_FIGURES = Path(__file__).parent / "templates" / "localization" / "performance.md"


class LocalizationPacking(BundlePacking):
    """Pack a localizer as a bundle whose inference takes a scan and a prompt, see :class:`BundlePacking`.

    Weights of a self-taught network and a vocabulary that ``localizer_options`` name go into the bundle; those of
    published models do not, their README says where they come from.

    Args:
        localizer: a file of ``configs/localizers``.
        localizer_options: changes to it.
        refiners: files of ``configs/refiners``, applied in order.
        refiner_options: changes to those.
        prompt: that the bundle asks for unless told otherwise.
        threshold: probability from which a voxel is region, unless told otherwise.
        spatial_dims: of the scans.
        options: of every bundle.

    Raises:
        ValueError: for dimensions that a part does not take, or a prompt or threshold that is none.
    """

    kind = "localization"
    # Nothing is trained here that the other configs would evaluate or export.
    left_out = frozenset({"inference.yaml", "train.yaml", "evaluate.yaml", "export.yaml"})

    def __init__(
        self,
        localizer: str,
        localizer_options: Mapping[str, Any] | str | None = None,
        refiners: str | Sequence[str] = (),
        refiner_options: Mapping[str, Any] | str | None = None,
        prompt: str | Sequence[str] = "brain tumor",
        threshold: float | str = 0.5,
        spatial_dims: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.localizer, self.localizer_options = localizer, mapping(localizer_options, "localizer_options")
        self.refiners = [refiners] if isinstance(refiners, str) else list(refiners)
        self.refiner_options = mapping(refiner_options, "refiner_options")
        self.prompt, self.threshold, self.spatial_dims = read_prompts(prompt), read_threshold(threshold), spatial_dims

    def content(self, base: Mapping[str, Any], temporary: Path) -> Content:
        """Return what the localizer needs."""
        network = self._checked_network()
        weights = temporary / "model.pt"
        torch.save(network.state_dict(), weights)
        metadata = localization_metadata(base, self.spatial_dims, self.modality, self.changes)
        texts, files = self._shipped()
        prompt = self.prompt[0] if len(self.prompt) == 1 else str(self.prompt)
        chosen = {"localizer": "packed", "refiners": self.refiners, "refiner_options": self.refiner_options}
        phantom = f"phantom:brain_mri_{self.spatial_dims}d"
        return Content(
            metadata=metadata,
            words=self._words(metadata, prompt, network.localizer),
            weights=weights,
            texts=texts,
            files=files,
            defaults={
                "inference.yaml": {
                    **chosen,
                    "displayable_configs": {"text_prompt": prompt, "threshold": self.threshold},
                    "dataset_dir": phantom,
                    "spatial_dims": self.spatial_dims,
                },
                "localize.yaml": {**chosen, "dataset_dir": phantom, "threshold": self.threshold},
                "pretrain.yaml": chosen,
            },
        )

    def _checked_network(self) -> PromptedNetwork:
        """The network as the bundle will build it, asked once where its weights are on this machine."""
        localizer = load_localizer(
            self.bundle_root / "configs",
            self.localizer,
            self.localizer_options,
            self.refiners,
            self.refiner_options,
            self.spatial_dims,
        )
        network = PromptedNetwork(localizer, self.prompt)
        scan = torch.rand(1, 1, *[32] * self.spatial_dims, generator=torch.Generator().manual_seed(0))
        try:
            network(scan)
        except MissingWeightsError as error:
            logger.warning("The default prompt %s was not tried: %s", self.prompt, error)
        return network

    def _shipped(self) -> tuple[dict[str, str], dict[str, Path]]:
        """Texts and files that the localizer needs, its component file among them."""
        file = component_file(self.bundle_root / "configs" / "localizers", self.localizer)
        component = {**yaml.safe_load(file.read_text()), **self.localizer_options}
        texts, files = {}, {}
        if self.localizer_options.get("weights"):
            weights = _one_file(component["weights"])
            load_finder(weights)  # whatever the prompt: what is given away can be read, and builds what it may
            component["weights"] = _in_bundle(_WEIGHTS)
            files[_WEIGHTS] = weights
            texts[f"{_WEIGHTS.rpartition('.')[0]}.json"] = _packed_facts(weights.with_suffix(".json"))
        if "vocabulary" in self.localizer_options:
            texts[_VOCABULARY] = self._packed_vocabulary(Path(component["vocabulary"]).expanduser())
            component["vocabulary"] = _in_bundle(_VOCABULARY)
        about = f"# {_first_sentence(file)}" if files else _comments(file)  # how to give weights is no matter here
        texts["configs/localizers/packed.yaml"] = (
            f"# The localizer of this bundle, made of {file.stem}.yaml:\n{about}\n"
            + yaml.safe_dump(component, sort_keys=False)
        )
        return texts, files

    def _packed_vocabulary(self, file: Path) -> str:
        text = file.read_text()
        base = yaml.safe_load(text).get("extends")
        if base and (file.parent / base).resolve().parent != (self.bundle_root / "configs" / "localizers").resolve():
            raise ValueError(f"{file} extends {base}; to be packed it may extend files of configs/localizers only.")
        return text if base is None else text.replace(base, Path(base).name)

    def _words(self, metadata: Mapping[str, Any], prompt: str, localizer: Any) -> dict[str, str]:
        """Words that the template of ``docs/README.md`` leaves open."""
        file = component_file(self.bundle_root / "configs" / "localizers", self.localizer)
        about = _first_sentence(file)
        refined = f" Refined by: {', '.join(self.refiners)}." if self.refiners else ""
        has_vocabulary = isinstance(localizer, ConceptLocalizer)
        taught = bool(self.localizer_options.get("weights"))
        embedded = has_vocabulary and not taught and not self.refiners and "vocabulary" not in self.localizer_options
        concepts = ", ".join(localizer.vocabulary.concepts) if has_vocabulary else ""
        modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
        return {
            "tags": f"Localization, segmentation, text prompt, {modality}, {self.spatial_dims}D",
            "prompt": prompt,
            "model": f"Localizer `{file.stem}`: {about}{refined}",
            "knows": f"It knows: {concepts}; with synonyms, spellings, and the words left, right, bright and dark "
            "beside them. `configs/localizers/vocabulary.yaml` has them all, and says how to add to them."
            if has_vocabulary
            else "It takes any phrase, and need not understand it.",
            "data": _data(has_vocabulary, taught),
            "performance": _FIGURES.read_text().strip()
            if embedded
            else "No figures were packed: measure it on scans of your own.",
            "weights": _weights(has_vocabulary, taught),
            "scripting": "the localizer is image analysis in NumPy and SciPy behind a parser of words"
            if has_vocabulary
            else "the localizer takes words, and runs another library's model",
            "system": "Runs on a CPU, in 0.01 to 0.25 seconds a scan and prompt (one thread)."
            if embedded
            else "Runs on a CPU; models of other libraries want a GPU.",
        }


def _in_bundle(path: str) -> dict[str, str]:
    """A path inside the bundle, as a component's file has it."""
    return {"_target_": "custom.workflows.shipped.shipped_file", "path": path}


def _packed_facts(record: Path) -> str:
    """The record of a self-taught network without what belongs to one data set."""
    facts = json.loads(record.read_text())
    return json.dumps({key: value for key, value in facts.items() if key in _KEPT_FACTS}, indent=2) + "\n"


def _one_file(weights: Any) -> Path:
    if not isinstance(weights, str | Path):
        raise ValueError(f"--localizer_options weights: one file can be packed, received {weights!r}.")
    return Path(weights).expanduser()


def _comments(file: Path) -> str:
    """The comment at the top of a component file."""
    return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines()))


def _first_sentence(file: Path) -> str:
    text = " ".join(line.lstrip("# ") for line in _comments(file).splitlines())
    return f"{text.partition('. ')[0].rstrip('.')}."


def _data(has_vocabulary: bool, taught: bool) -> str:
    if taught:
        return (
            "The network behind lesions was taught on unlabelled scans of the one who packed the bundle; they are not "
            "part of it. `models/self_taught.json` says how. Everything else is image analysis."
        )
    if has_vocabulary:
        return "None: image analysis behind a vocabulary, without training (but see Performance). No data are shipped."
    return "See the publication of the model that the localizer runs. No data are shipped."


def _weights(has_vocabulary: bool, taught: bool) -> str:
    empty = "`models/model.pt` is an empty state dict, there because tools ask for one."
    if taught:
        return f"`models/self_taught.safetensors`, read by the localizer itself; {empty}"
    if has_vocabulary:
        return f"None. {empty}"
    return (
        "Not part of the bundle: `configs/localizers/packed.yaml` names them with their licence. They are read from "
        'the hub\'s local cache, from a folder (`--localizer_options "{source: folder}"`), or fetched on request '
        f"(`{{download: true}}`). {empty}"
    )
