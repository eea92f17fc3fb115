# SPDX-License-Identifier: Apache-2.0
"""Handlers for MONAI's Ignite engines."""

from custom.handlers.checkpoint import ResumeTraining, TrainingCheckpoint, check_resumed
from custom.handlers.export import EncoderExport
from custom.handlers.finite_loss import FiniteLoss
from custom.handlers.gradient_clipping import GradientClipping
from custom.handlers.history import TrainingHistory, read_history
from custom.handlers.mask_statistics import MaskStatistics
from custom.handlers.preview import ReconstructionPreview
from custom.handlers.report import EpochReport
from custom.handlers.run_settings import RunSettings
from custom.handlers.scan_losses import ScanLosses
from custom.handlers.seeding import EpochSeeding, RunSeed
from custom.handlers.tracking import TrackedRun

__all__ = [
    "EncoderExport",
    "EpochReport",
    "EpochSeeding",
    "FiniteLoss",
    "GradientClipping",
    "MaskStatistics",
    "ReconstructionPreview",
    "ResumeTraining",
    "RunSeed",
    "RunSettings",
    "ScanLosses",
    "TrackedRun",
    "TrainingCheckpoint",
    "TrainingHistory",
    "check_resumed",
    "read_history",
]
