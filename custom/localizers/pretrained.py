# SPDX-License-Identifier: Apache-2.0
"""Weights of published models: a local folder or a hub id, offline unless the user asks for a download."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # in the order in which libraries look for them
WEIGHT_FORMATS = ("*.safetensors", "pytorch_model*.bin")  # of the transformers library
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
LEAST_WORDS = 0.9  # of the text encoder's, that a tokenizer knows: published ones lack padding and special tokens


@dataclass(frozen=True)
class PretrainedModel:
    """What must be known to fetch a published model.

    Args:
        repo_id: on the Hugging Face hub, ``owner/name``.
        revision: commit, tag or branch of the repository.
        licence: of the weights.
        megabytes: size of what is downloaded.
        files: patterns of the files that are needed; one of them must hold the weights.
        gated: whether the owner must grant access first.
        reads_text: whether it needs the files of a tokenizer, too.
    """

    repo_id: str
    revision: str
    licence: str
    megabytes: int
    files: Sequence[str] = ("*.json", "*.txt", "*.safetensors")
    gated: bool = False
    reads_text: bool = False


class MissingWeightsError(ValueError):
    """Weights are neither in the folder that was named nor in the hub's local cache; the message says what to run."""


def find_weights(model: PretrainedModel, source: str | Path | None = None, download: bool = False) -> Path:
    """Return the local folder that holds a model.

    Args:
        model: the published model.
        source: a local folder; or a hub id ``owner/name`` or ``owner/name@revision`` of weights of the same class;
            None: ``model`` itself.
        download: fetch what is missing from the hub; False: no network access.

    Raises:
        MissingWeightsError: if the folder holds no weights, or no tokenizer for a model that reads text, or they are
            not in the local cache and may not (or cannot) be downloaded.
    """
    folder = Path(source).expanduser() if source is not None else None
    if folder is not None and folder.is_dir():
        advice = how_to_get(model, str(folder))
    else:
        repo_id, revision = _hub_id(model, source)
        advice = how_to_get(model, "FOLDER", repo_id, revision)
        folder = _from_hub(model, repo_id, revision, download, advice)
    if not weight_files(folder):
        patterns = ", ".join("*" + suffix for suffix in WEIGHT_SUFFIXES)
        raise MissingWeightsError(f"{folder} holds no weights ({patterns}). {advice}")
    if model.reads_text and not has_vocabulary(folder):
        raise MissingWeightsError(f"{folder} holds weights, but no tokenizer ({', '.join(VOCABULARIES)}). {advice}")
    return folder


def weight_files(folder: str | Path) -> list[Path]:
    """Files of a folder that hold weights, sorted; of several formats, the one that libraries prefer."""
    files = sorted(file for file in Path(folder).iterdir() if file.is_file())
    kinds = ([file for file in files if file.suffix == suffix] for suffix in WEIGHT_SUFFIXES)
    return next((kind for kind in kinds if kind), [])


def has_vocabulary(folder: str | Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((Path(folder) / name).is_file() for name in VOCABULARIES)


def tokenizer_problem(tokenizer: Any, words: int) -> str:
    """Say what is wrong with a tokenizer that was made without all of its files; empty if nothing is.

    The transformers library goes on without them: every word is then read as the same unknown one, or by letters.

    Args:
        tokenizer: of the transformers library.
        words: size of the vocabulary of the text encoder that it reads for.
    """
    if len(tokenizer) < LEAST_WORDS * words:
        return f"its tokenizer knows {len(tokenizer)} words of {words}: a file of the vocabulary is missing or cut off"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = json.loads(backend.to_str())["model"] if backend is not None else {}
    if known.get("type") == "BPE" and not known.get("merges"):
        return "its tokenizer reads letters, not words: merges.txt, or tokenizer.json, is missing"
    return ""


def weights_digest(folder: str | Path) -> str:
    """Short hash of the weights in a folder: the same for the same content, wherever it lies."""
    stamps = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in weight_files(folder))
    return _digest(stamps)


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    state = hashlib.blake2b(digest_size=8)
    for name, _, _ in files:
        with open(name, "rb") as stream:
            state.update(hashlib.file_digest(stream, "blake2b").digest())
    return state.hexdigest()


def _hub_id(model: PretrainedModel, source: str | Path | None) -> tuple[str, str]:
    if source is None:
        return model.repo_id, model.revision
    repo_id, _, revision = str(source).partition("@")
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise MissingWeightsError(
            f"{source!r} is neither a folder that exists nor a hub id (owner/name). {how_to_get(model)}"
        )
    return repo_id, revision or (model.revision if repo_id == model.repo_id else "main")


def _from_hub(model: PretrainedModel, repo_id: str, revision: str, download: bool, advice: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            repo_id, revision=revision, allow_patterns=list(model.files), local_files_only=not download
        )
        if download and not weight_files(found):  # someone else's weights may come in another format
            patterns = [*model.files, *WEIGHT_FORMATS]
            found = snapshot_download(repo_id, revision=revision, allow_patterns=patterns, local_files_only=False)
    except Exception as error:
        # The hub's client raises a dozen types for "not cached", "no network", "no access"; all end in one advice.
        raise MissingWeightsError(
            f"The weights {repo_id}@{revision} {'could not be downloaded' if download else 'are not on this machine'} "
            f"({type(error).__name__}). {advice}"
        ) from error
    return Path(found)


def how_to_get(model: PretrainedModel, folder: str = "FOLDER", repo_id: str = "", revision: str = "") -> str:
    """Say what to do to have a model, or another one of its class, in a folder."""
    repo_id, revision = repo_id or model.repo_id, revision or model.revision
    access = f" Ask for access at https://huggingface.co/{repo_id} first (gated)." if model.gated else ""
    # repositories hold the weights in further formats, too, twice as much to download; of others' it is not known which
    patterns = model.files if repo_id == model.repo_id else dict.fromkeys([*model.files, *WEIGHT_FORMATS])
    files = "".join(f" --include '{pattern}'" for pattern in patterns)
    return (
        f"They take {model.megabytes} MB (licence: {model.licence}). Either allow the download into the hub's cache "
        "(~/.cache/huggingface, or HF_HOME) with the option {download: true}, or run `hf download "
        f"{repo_id} --revision {revision}{files} --local-dir {folder}` on a machine with network access, copy the "
        f"folder, and give it with the option {{source: {folder}}}.{access}"
    )
