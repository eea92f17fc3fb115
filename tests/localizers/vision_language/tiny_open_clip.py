# SPDX-License-Identifier: Apache-2.0
"""A small model of BiomedCLIP's classes with random weights, in the layout of the published repository."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertTokenizerFast

SIDE, GRID = 160, 10
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.3, 0.2]
WORDS = ["brain", "tumor", "lung", "left", "medical", "image", "chair", "##s", "##a", "##b", "a", "b", "of", "the"]


def save_tiny_model(folder: Path, safetensors: bool = False) -> Path:
    """Write config, weights and tokenizer of a vision transformer (160 px, 6 blocks) and a BERT (2 layers)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {
        "hf_model_name": "nobody/that-is-not-on-this-machine",
        "hf_tokenizer_name": "nobody/that-is-not-on-this-machine",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 32,
    }
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    config = {"embed_dim": 48, "vision_cfg": {**vision, "image_size": SIDE}, "text_cfg": text}
    published = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(published))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    state = _random_weights(config, folder.parent / "bert", len(vocabulary))
    if safetensors:
        save_file(state, folder / "open_clip_model.safetensors")
    else:
        # The published weights hold this, later releases of transformers do not.
        state["text.transformer.embeddings.position_ids"] = torch.arange(32)[None]
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    return folder


def _random_weights(config: dict, bert: Path, vocabulary: int) -> dict[str, torch.Tensor]:
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    BertConfig(vocab_size=vocabulary, max_position_embeddings=32, **sizes).save_pretrained(bert)
    text = {**config["text_cfg"], "hf_model_name": str(bert), "hf_model_pretrained": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text)
        for parameter in model.parameters():
            # Weights that let a patch and a word make a difference: timm's own start makes them nearly vanish.
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
        model.logit_scale.data.fill_(4.4)  # about the published model's
    return {name: value.clone() for name, value in model.state_dict().items()}
