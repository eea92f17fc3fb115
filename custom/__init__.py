# SPDX-License-Identifier: Apache-2.0
"""Components of Mask What Matters, named by the bundle's configs through their `_target_` paths."""
