# SPDX-License-Identifier: Apache-2.0
"""The page as one file: template, style, script and data put together."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def render_page(data: Mapping[str, Any]) -> str:
    """Return the page for the browser, ASCII only.

    Everything that differs between pages is data: it is embedded as JSON in which no character can end the element
    that holds it, and the script puts it into the page as text, never as markup. The policy of the page allows this
    one script, this one style sheet and embedded pictures; it forbids everything that would need a network.

    Args:
        data: what ``page.js`` reads (its first lines list it), ready for JSON; ``bytes`` become base64 and numbers
            that are not finite become null.
    """
    style, script = (_FOLDER / "page.css").read_text("utf-8"), (_FOLDER / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    content = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    page = (_FOLDER / "page.html").read_text("utf-8")
    for place, text in {"policy": policy, "style": style, "script": script, "data": content}.items():
        # Each place is there once; what was put in is not searched, because the data comes last.
        page = page.replace("{{ " + place + " }}", text, 1)
    return page


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
