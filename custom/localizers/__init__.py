# SPDX-License-Identifier: Apache-2.0
"""From a prompt to the region of a scan that it names."""

from custom.localizers.base import Localizer, UnknownPromptError
from custom.localizers.blind import BodyOnly, CentredDisc
from custom.localizers.concept import ConceptLocalizer
from custom.localizers.vocabulary import Vocabulary, VocabularyError

__all__ = [
    "BodyOnly",
    "CentredDisc",
    "ConceptLocalizer",
    "Localizer",
    "UnknownPromptError",
    "Vocabulary",
    "VocabularyError",
]
