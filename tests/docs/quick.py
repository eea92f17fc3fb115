# SPDX-License-Identifier: Apache-2.0
"""What is added to the documentation's commands, so that all of them run in two minutes; nothing else is changed."""

from __future__ import annotations

ON_CPU = {"device": "cpu"}
TASK = {**ON_CPU, "max_epochs": "1", "resamples": "20"}
# These replace what a command says, too.
QUICK = {
    "pretrain": {**ON_CPU, "max_epochs": "1"},
    "classify": TASK,
    "detect": TASK,
    "train": TASK,
    "self_teach": {**ON_CPU, "max_epochs": "1", "samples_per_epoch": "8", "batch_size": "4"},
    "evaluate": ON_CPU,
    "inference": ON_CPU,
    "study": {
        "seeds": "[0]",
        "pretrain_seeds": "[0]",
        "ratios": "[0.5]",
        "pretrain_options": "{max_epochs: 1, image_size: [64, 64], backbone: resnet18_narrow, device: cpu}",
        "task_options": "{max_epochs: 1, resamples: 20, device: cpu}",
    },
}
# These are for commands that do not say it themselves.
SMALL = {
    "localize": {
        "gate_scans": "2",
        "phrases_per_kind": "1",
        # of generated sets of 168 scans, the gate takes a few
        "other_dirs": "$'.elsewhere/chest_ct_' + str(@spatial_dims) + 'd'",
    },
    "pretrain": {"image_size": "$[64] * @spatial_dims", "backbone": "resnet18_narrow", "decoder_options": "{width: 8}"},
    "classify": {"backbone": "resnet18_narrow"},
    "detect": {"backbone": "resnet18_narrow"},
    "train": {"backbone": "resnet18_narrow"},
    "self_teach": {"image_size": "$[32] * @spatial_dims", "channels": "[8, 16, 16]"},
}
