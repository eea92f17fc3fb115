# SPDX-License-Identifier: Apache-2.0
"""Decoders of masked image modelling: from the visible cells' features to the image."""

from custom.networks.decoders.base import Decoder
from custom.networks.decoders.densify import Densify
from custom.networks.decoders.spark import SparKDecoder
from custom.networks.decoders.thin import ThinDecoder

__all__ = ["Decoder", "Densify", "SparKDecoder", "ThinDecoder"]
