# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, process by process: this repository beside its peers, and beside the plain dense network."""
