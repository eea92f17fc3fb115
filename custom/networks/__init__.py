# SPDX-License-Identifier: Apache-2.0
"""Sparse masked image modelling of unmodified MONAI networks, in 2D and 3D."""

from custom.networks.decoders import SparKDecoder, ThinDecoder
from custom.networks.encoder import Encoder, EncoderSpec
from custom.networks.masked_layers import UnsupportedLayerError
from custom.networks.mim import MaskedImageModel
from custom.networks.parameters import parameter_groups
from custom.networks.visibility import Visibility
from custom.networks.weights import KeyReport, encoder_record, file_hash, load_encoder, load_weights, save_encoder

__all__ = [
    "Encoder",
    "EncoderSpec",
    "KeyReport",
    "MaskedImageModel",
    "SparKDecoder",
    "ThinDecoder",
    "UnsupportedLayerError",
    "Visibility",
    "encoder_record",
    "file_hash",
    "load_encoder",
    "load_weights",
    "parameter_groups",
    "save_encoder",
]
