# SPDX-License-Identifier: Apache-2.0
"""Plain training scripts on MONAI and torchvision alone, to compare the bundle's workflows with.

Nothing of `custom` is used; `datasets` only lists the scans. What the workflows decide (anchors) is read from their
`metrics.json`, so that both train the same network on the same scans with the same schedule.
"""
