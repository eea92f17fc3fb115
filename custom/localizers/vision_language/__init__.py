# SPDX-License-Identifier: Apache-2.0
"""Localizers made from published models of pictures and words."""
