# SPDX-License-Identifier: Apache-2.0
"""Components chosen by name: one small YAML file each, in a folder that users may extend."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser
from torch import nn

from custom.options import mapping


def load_component(
    folder: str | Path, name: str, options: Mapping[str, Any] | str | None = None, **defaults: Any
) -> Any:
    """Build the component described by ``<folder>/<name>.yaml``.

    Args:
        folder: folder of component files, for example ``bundle/configs/masking``.
        name: file name without ``.yaml``, or the path of any file that ends in ``.yaml``.
        options: arguments that replace those of the file (what the user gives on the command line); see
            :func:`custom.options.mapping`.
        defaults: arguments that the caller knows and the file may leave out, for example ``spatial_dims``.

    Returns:
        The object that the file's ``_target_`` builds.

    Raises:
        ValueError: if there is no such file (the message lists those that are there), it has no ``_target_``, or what
            that builds takes no such option (the message lists those that it takes).
    """
    path = component_file(folder, name)
    config = ConfigParser.load_config_file(str(path))
    if "_target_" not in config:
        raise ValueError(f"{path} has no `_target_`: it must name the class to build, see the files beside it.")
    changes = mapping(options, f"options of {path.stem}")
    _check_options(path, {**config, **changes}, changes, defaults)
    return ConfigParser({"component": {**defaults, **config, **changes}}).get_parsed_content("component")


def _check_options(path: Path, config: Mapping[str, Any], given: Collection[str], defaults: Collection[str]) -> None:
    target = config["_target_"]
    built = (
        pydoc.locate(str(ConfigComponent(dict(config)).resolve_module_name())) if isinstance(target, str) else target
    )
    if not inspect.isroutine(built) and not inspect.isclass(built):
        return  # the parser says so
    try:
        parameters = inspect.signature(built).parameters.values()
    except ValueError:  # some builtin classes tell nothing
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters]
    # _disabled_, _mode_, ... are the parser's own.
    unknown = [name for name in given if name not in known and not name.startswith("_")]
    if unknown:
        options = ", ".join(name for name in known if name not in defaults) or "none"
        raise ValueError(f"{path} has no option {unknown[0]!r}. Known: {options}.")


def component_file(folder: str | Path, name: str) -> Path:
    """Return the YAML file of a component; raise ValueError listing the known names if there is none."""
    is_path = str(name).endswith(".yaml")
    path = Path(name) if is_path else Path(folder) / f"{name}.yaml"
    if not path.is_file() or not (is_path or path.parent == Path(folder)):  # a name is no way out of the folder
        known = ", ".join(component_names(folder)) or "none"
        raise ValueError(f"No component {name!r} in {folder}. Known: {known}; or give the path of a .yaml file.")
    return path


def component_names(folder: str | Path) -> list[str]:
    """Names that :func:`load_component` accepts for a folder, sorted (files without a ``_target_`` are data)."""
    files = sorted(Path(folder).glob("*.yaml"))
    return [file.stem for file in files if "_target_" in (ConfigParser.load_config_file(str(file)) or {})]


def described(component: Any) -> dict[str, Any]:
    """Return what a component is: its class and its public attributes of plain values, those of its parts, too.

    Args:
        component: any object; the parts of a module are its submodules, buffers (weights of classes) count as values.
    """
    known = {
        name: value
        for name, value in getattr(component, "__dict__", {}).items()
        if not name.startswith("_") and _is_plain(value)
    }
    if isinstance(component, nn.Module):
        known |= {name: value.tolist() for name, value in component.named_buffers(recurse=False)}
        known |= {name: described(part) for name, part in component.named_children()}
    return {"class": f"{type(component).__module__}.{type(component).__qualname__}", **known}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in (*value, *value.values()))
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float)
