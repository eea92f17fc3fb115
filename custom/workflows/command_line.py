# SPDX-License-Identifier: Apache-2.0
"""Options on the command line of ``python -m monai.bundle run`` that no config has.

MONAI adds whatever it is given to the config: a misspelt option changes nothing and says nothing.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.scripts import run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

_COMMAND = ("monai", "bundle", "__main__.py")
_FLAG = re.compile(r"--|-[a-zA-Z]")  # what Fire, MONAI's reader of command lines, takes for the name of an option


def check_options(argv: Sequence[str]) -> None:
    """Refuse options that change nothing.

    Args:
        argv: a process's arguments, as in ``sys.argv``; those of other programs than ``monai.bundle run`` pass.

    Raises:
        ValueError: if an option, on the command line or in ``--args_file``, names nothing in the configs.
    """
    if Path(argv[0]).parts[-3:] != _COMMAND or list(argv[1:2]) != ["run"]:
        return
    typed = dict(_flags(argv[2:]))
    given = {**_content(typed.get("args_file")), **typed}
    files = _files(given.get("config_file"))
    if not files:
        return  # MONAI says so
    parser = ConfigParser()
    parser.read_config(files)
    config: Any = parser.config
    known = {*config, *_accepted_by_monai(), *_tracked(given.get("tracking"))}
    known |= {str(given[name]) for name in ("init_id", "run_id", "final_id") if given.get(name)}
    for name in given:
        path = re.split("::|#", name.lstrip("+~"))
        is_new_and_used = any(re.search(rf"@{re.escape(path[0])}\b", str(value)) for value in given.values())
        if path[0] not in known and not is_new_and_used:
            raise ValueError(_unknown(name, path[0], sorted(known), files))
        if path[0] in config and not _has_place(config, path):
            raise ValueError(f"There is no option --{name}: {_listed(files)} no {'#'.join(path[:-1])!r} to change.")


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values (text; "" for a bare flag) as Fire reads them."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            return
        if not _FLAG.match(argument):
            continue
        name, has_value, value = argument.lstrip("-").partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else "--"
        is_bare = not has_value and bool(_FLAG.match(following))
        if is_bare and name.startswith("no"):
            name = name[2:]  # --noresume is Fire's way to say False
        yield name.replace("-", "_"), value if has_value else "" if is_bare else following


def _files(value: Any) -> list[str]:
    """Paths, from a path or a list of them in Python's way of writing one."""
    from fire.parser import DefaultParseValue

    read = DefaultParseValue(value) if isinstance(value, str) else value
    files = [str(each) for each in (read if isinstance(read, list | tuple) else [read] if read else [])]
    return files if all(Path(file).is_file() for file in files) else []


def _content(args_file: str | None) -> dict[str, Any]:
    files = _files(args_file)
    return {str(key): value for file in files for key, value in (ConfigParser.load_config_file(file) or {}).items()}


def _accepted_by_monai() -> set[str]:
    of_run = set(inspect.signature(run).parameters) - {"override"}
    return of_run | {"workflow_name", "workflow_type", "properties_path", "_meta_", "initialize", "run", "finalize"}


def _tracked(tracking: Any) -> set[str]:
    """Options that experiment tracking adds, if it is on."""
    if not tracking:
        return set()
    settings: Any = DEFAULT_EXP_MGMT_SETTINGS.get(str(tracking)) or _content(str(tracking))
    return {"output_dir", *settings.get("configs", {})}


def _has_place(config: Any, path: Sequence[str]) -> bool:
    """Whether the part of a config that an option changes is there; that its last key is new may be meant."""
    for key in path[:-1]:
        if isinstance(config, Mapping):
            if key not in config:
                return False
            config = config[key]
        elif isinstance(config, list):
            if not key.isdigit() or int(key) >= len(config):
                return False
            config = config[int(key)]
        else:
            return False
    return True


def _unknown(name: str, top: str, known: Sequence[str], files: Sequence[str]) -> str:
    if top in _tracked("mlflow"):
        return f"--{name} needs --tracking mlflow."
    close = [f"--{each}" for each in difflib.get_close_matches(top, known, n=3, cutoff=0.6)]
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no option --{name}.{meant} {_listed(files)} all of them, with what they do."


def _listed(files: Sequence[str]) -> str:
    return f"{' and '.join(files)} {'list' if len(files) > 1 else 'lists'}"
