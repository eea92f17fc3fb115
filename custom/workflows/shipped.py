# SPDX-License-Identifier: Apache-2.0
"""Files that come with the code, under the name by which component files know them."""

from custom.files import shipped_file

__all__ = ["shipped_file"]
