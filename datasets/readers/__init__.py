# SPDX-License-Identifier: Apache-2.0
"""Readers of folders: each lists the scans of one layout, each format has one file."""
