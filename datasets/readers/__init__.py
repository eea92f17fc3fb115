# SPDX-License-Identifier: Apache-2.0
"""One module a layout: ``matches(root)`` says whether a folder has it, ``read(root, ...)`` returns its items."""
