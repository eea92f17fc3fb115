# SPDX-License-Identifier: Apache-2.0
"""What every bundle has: the folder that goes into the zoo's repository, and the zip that it hosts."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import yaml

from custom.options import mapping
from custom.tasks.results import write_json
from custom.workflows.packing.archive import write_zip
from custom.workflows.packing.checks import LARGEST_FILE, check_contents
from custom.workflows.packing.defaults import with_defaults
from custom.workflows.packing.readme import shared_words
from custom.workflows.packing.renaming import outside_names, renamed

logger = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"
_SOURCES = Path(__file__).resolve().parents[2]  # custom/, beside datasets/
_NOT_PACKED = ("workflows/packing", "workflows/publishing")
_CONFIGS_NOT_PACKED = {"metadata.json", "pack.yaml", "pack_localizer.yaml", "publish.yaml"}
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = ("custom", "datasets", "scripts", "monai")


@dataclass(frozen=True)
class Content:
    """What one bundle has of its own.

    Args:
        metadata: ``configs/metadata.json``.
        words: what the template of ``docs/README.md`` leaves open, beside :func:`shared_words`.
        weights: file that becomes ``models/model.pt``.
        defaults: config -> values of its top-level keys.
        texts: file in the bundle -> its text.
        files: file in the bundle -> the one that is copied.
    """

    metadata: Mapping[str, Any]
    words: Mapping[str, str]
    weights: Path
    defaults: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict)


class BundlePacking(ABC):
    """Pack a bundle of MONAI's Model Zoo.

    Writes into ``output_dir``, laid out as the zoo's repository is: ``models/<name>/``,
    ``ci/unit_tests/test_<name>.py`` and ``<name>_v<version>.zip``. An earlier bundle of that name is replaced once the
    new one has passed all checks.

    Args:
        bundle_root: the repository's ``bundle`` folder.
        output_dir: where it goes.
        name: of the bundle, ending in :attr:`kind`: MONAI Label takes the kind of task from it.
        package: name of the Python package inside the bundle. It should be no other bundle's: programs that serve
            several bundles import them side by side.
        modality: of the scans, for the metadata.
        metadata: keys of ``metadata.json`` to replace (authors, version, ...), see :func:`custom.options.mapping`.
        weights_url: where the weights will lie. The folder then has ``large_files.yml`` in their place; the zip holds
            them in any case. Needed for more than 25 MB.
    """

    kind: ClassVar[str]  # last word of the name; folder of the templates
    left_out: ClassVar[frozenset[str]]  # further configs of the repository that do not go into the bundle

    def __init__(
        self,
        bundle_root: str | Path,
        output_dir: str | Path,
        name: str,
        package: str,
        modality: str = "any",
        metadata: Mapping[str, Any] | str | None = None,
        weights_url: str | None = None,
    ) -> None:
        self.bundle_root, self.output_dir = Path(bundle_root), Path(output_dir)
        self.name, self.package, self.modality = name, package, modality
        self.changes = mapping(metadata, "metadata")
        self.weights_url = weights_url

    @abstractmethod
    def content(self, base: Mapping[str, Any], temporary: Path) -> Content:
        """Return what this bundle has of its own.

        Args:
            base: ``metadata.json`` of the repository.
            temporary: folder for files that are made for it.
        """

    def run(self) -> Path:
        """Do it.

        Returns:
            The bundle's folder.

        Raises:
            ValueError: for a model that cannot be packed, names that the zoo would refuse, or content that must not be
                given away.
            OSError: if a file cannot be written.
        """
        self._check_names()
        final = self.output_dir / "models" / self.name
        base = json.loads((self.bundle_root / "configs" / "metadata.json").read_text())
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.output_dir) as temporary:
            content = self.content(base, Path(temporary))
            self._check_size(content.weights)
            if final.exists() and not (final / "configs" / "metadata.json").is_file():
                raise ValueError(f"{final} is there and no bundle. Move it away, or choose another --output_dir.")
            folder = Path(temporary) / self.name
            self._fill(folder, content)
            check_contents(folder)
            archive = self.output_dir / f"{self.name}_v{content.metadata['version']}.zip"
            weights = {"models/model.pt": content.weights}
            write_zip(archive, folder, extra=weights, without=("large_files.yml",))
            shutil.rmtree(final, ignore_errors=True)
            final.parent.mkdir(exist_ok=True)
            folder.rename(final)
        self._write_unit_test()
        logger.info("Packed: %s (%.1f MB) and the folder %s.", archive, archive.stat().st_size / 1e6, final)
        return final

    def _check_names(self) -> None:
        if not _WORD.fullmatch(self.name) or not self.name.endswith(f"_{self.kind}"):
            raise ValueError(f"--name {self.name!r}: lower case, with underscores, ending in _{self.kind}.")
        if not _WORD.fullmatch(self.package) or self.package in _TAKEN:
            raise ValueError(f"--package {self.package!r}: a name of its own, lower case, with underscores.")

    def _check_size(self, weights: Path) -> None:
        size = weights.stat().st_size
        if size > LARGEST_FILE and not self.weights_url:
            raise ValueError(
                f"{weights} has {size / 2**20:.0f} MB; the zoo takes files of more than 25 MB by link only. Say "
                "where it will lie with --weights_url."
            )

    def _fill(self, folder: Path, content: Content) -> None:
        self._write_package(folder)
        self._write_configs(folder / "configs", content.defaults)
        for name, text in content.texts.items():
            _write(folder / name, renamed(text, self.package))
        write_json(folder / "configs" / "metadata.json", dict(content.metadata))
        shutil.copy(self.bundle_root / "LICENSE", folder / "LICENSE")
        (folder / "docs").mkdir()
        shutil.copy(self.bundle_root / "docs" / "data_license.txt", folder / "docs" / "data_license.txt")
        words = {**shared_words(self.name, self.package, content.metadata), **content.words}
        readme = Template((_TEMPLATES / self.kind / "README.md").read_text()).substitute(words)
        (folder / "docs" / "README.md").write_text(readme)
        self._write_weights(folder, content)

    def _write_package(self, folder: Path) -> None:
        for source, target in (
            (_SOURCES, folder / self.package),
            (_SOURCES.parent / "datasets", folder / self.package / "datasets"),
        ):
            for path in sorted(source.rglob("*")):
                name = path.relative_to(source).as_posix()
                if path.is_dir() or "__pycache__" in name or name.startswith(_NOT_PACKED):
                    continue
                self._write_renamed(path, target / name)
        left = {
            path.relative_to(folder).as_posix(): names
            for path in folder.rglob("*.py")
            if (names := outside_names(path.read_text()))
        }
        if left:
            raise ValueError(
                f"Imports that would not work in the bundle: {left}. Write them as `from custom.x import y`."
            )

    def _write_configs(self, target: Path, defaults: Mapping[str, Mapping[str, Any]]) -> None:
        source = self.bundle_root / "configs"
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_file() and name not in self.left_out | _CONFIGS_NOT_PACKED:
                self._write_renamed(path, target / name)
        for path in sorted((_TEMPLATES / self.kind).glob("*.yaml")):
            self._write_renamed(path, target / path.name)
        for name, values in defaults.items():
            path = target / name
            try:
                path.write_text(with_defaults(path.read_text(), values))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def _write_weights(self, folder: Path, content: Content) -> None:
        (folder / "models").mkdir(exist_ok=True)
        for name, file in content.files.items():
            shutil.copyfile(file, folder / name)
        if not self.weights_url:
            shutil.copy(content.weights, folder / "models" / "model.pt")
            return
        digest = hashlib.sha256(content.weights.read_bytes()).hexdigest()
        entry = {"path": "models/model.pt", "url": self.weights_url, "hash_val": digest, "hash_type": "sha256"}
        _write(folder / "large_files.yml", yaml.safe_dump({"large_files": [entry]}, sort_keys=False))

    def _write_unit_test(self) -> None:
        text = (_TEMPLATES / self.kind / "unit_test.py").read_text().replace("NAME_OF_THE_BUNDLE", self.name)
        _write(self.output_dir / "ci" / "unit_tests" / f"test_{self.name}.py", text)

    def _write_renamed(self, source: Path, target: Path) -> None:
        try:
            text = source.read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is no text. Move it away; data and caches are not packed.") from error
        _write(target, renamed(text, self.package))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
