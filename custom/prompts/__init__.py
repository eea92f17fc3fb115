# SPDX-License-Identifier: Apache-2.0
"""What to ask for: a library of prompts, prompts from DICOM tags, phrasings of a prompt, label leakage."""

from custom.prompts.leaks import LabelLeakWarning, leaks, warn_of_leak
from custom.prompts.library import NoPromptError, PromptLibrary, PromptLibraryError
from custom.prompts.phrasings import KINDS, Phrasing, phrasings
from custom.prompts.tags import prompts_from_tags

__all__ = [
    "KINDS",
    "LabelLeakWarning",
    "NoPromptError",
    "Phrasing",
    "PromptLibrary",
    "PromptLibraryError",
    "leaks",
    "phrasings",
    "prompts_from_tags",
    "warn_of_leak",
]
