# SPDX-License-Identifier: Apache-2.0
"""Packed execution: feature maps of which only the visible positions exist, as rows of a matrix."""
