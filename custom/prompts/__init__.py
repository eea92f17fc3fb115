# SPDX-License-Identifier: Apache-2.0
"""What to ask for: a library of prompts, phrasings of a prompt."""

from custom.prompts.library import NoPromptError, PromptLibrary, PromptLibraryError
from custom.prompts.phrasings import KINDS, Phrasing, phrasings

__all__ = ["KINDS", "NoPromptError", "Phrasing", "PromptLibrary", "PromptLibraryError", "phrasings"]
