# SPDX-License-Identifier: Apache-2.0
"""From a coarse map to a better one: models that outline what a map points at, and plain image analysis."""
