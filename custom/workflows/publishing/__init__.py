# SPDX-License-Identifier: Apache-2.0
"""A pretrained encoder as a folder for the Hugging Face hub."""

from custom.workflows.publishing.hub import HubFolder

__all__ = ["HubFolder"]
