# SPDX-License-Identifier: Apache-2.0
"""Tiny, randomly initialised models of the published classes, saved in the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WIDTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
VIT = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 2}
PLAIN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def clip_tokenizer(folder: Path, longest: int, pad: str = END):
    """A byte-pair tokenizer of ASCII letters and two whole words, from its two files; `END` has the highest id."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    merges = ["l u", "lu n", "lun g</w>", "b r", "br a", "bra i", "brai n</w>"]
    words = ["lu", "lun", "lung</w>", "br", "bra", "brai", "brain</w>"]
    tokens = letters + [letter + "</w>" for letter in letters] + words + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=longest, pad_token=pad)


def bert_tokenizer(folder: Path):
    """A WordPiece tokenizer with BERT's numbers for the tokens that Grounding DINO knows by number."""
    from transformers import BertTokenizer

    tokens = [f"[unused{index}]" for index in range(1100)]
    for index, token in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        tokens[index] = token
    tokens[1012], tokens[1029] = ".", "?"
    tokens[200:203] = ["lung", "brain", "tumor"]
    for index in range(26):
        tokens[300 + index], tokens[400 + index] = chr(97 + index), "##" + chr(97 + index)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return BertTokenizer.from_pretrained(folder)


def save(folder: Path, model: torch.nn.Module, processor) -> Path:
    """Save a model whose weights are large enough that pictures and prompts leave a trace in what comes out."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip_text(longest: int) -> dict:
    """Text encoder of a CLIP for the tokenizer above."""
    ids = {"bos_token_id": 195, "eos_token_id": 196, "pad_token_id": 196}
    return {"vocab_size": 197, "num_hidden_layers": 2, "max_position_embeddings": longest, **VIT, **ids}


def tiny_clipseg(folder: Path) -> Path:
    """CLIPSeg for 64 × 64 pixels in patches of 16."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessor

    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config=clip_text(16),
        vision_config={"num_hidden_layers": 3, "image_size": 32, "patch_size": 16, **VIT},
        projection_dim=WIDTH,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=WIDTH,
        use_complex_transposed_convolution=True,
    )
    pictures = ViTImageProcessor(size={"height": 64, "width": 64}, **PLAIN)
    tokenizer = clip_tokenizer(folder, 16)
    return save(folder, CLIPSegForImageSegmentation(config), CLIPSegProcessor(pictures, tokenizer))


def tiny_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with 10 queries for pictures with a short side of 96 pixels."""
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "window_size": 2,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": 1100,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            **VIT,
        },
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        max_text_len=24,
    )
    pictures = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 192}, **PLAIN)
    processor = GroundingDinoProcessor(pictures, bert_tokenizer(folder))
    return save(folder, GroundingDinoForObjectDetection(config), processor)


def tiny_owlv2(folder: Path) -> Path:
    """OWLv2 for 64 × 64 pixels in patches of 16: 16 boxes."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    torch.manual_seed(0)
    config = Owlv2Config(
        text_config={**clip_text(16), "pad_token_id": 0},
        vision_config={"num_hidden_layers": 2, "image_size": 64, "patch_size": 16, **VIT},
        projection_dim=WIDTH,
    )
    pictures = Owlv2ImageProcessor(size={"height": 64, "width": 64}, **PLAIN)
    tokenizer = clip_tokenizer(folder, 16, pad="!")
    return save(folder, Owlv2ForObjectDetection(config), Owlv2Processor(pictures, tokenizer))


def tiny_sam3(folder: Path) -> Path:
    """SAM 3 with 5 queries for 56 × 56 pixels in patches of 14."""
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    torch.manual_seed(0)
    small = {"hidden_size": WIDTH, "num_attention_heads": 2}
    detr = {**small, "num_layers": 2, "intermediate_size": 64, "dropout": 0.0}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "num_hidden_layers": 2,
                "image_size": 56,
                "pretrain_image_size": 56,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
                **VIT,
            },
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={"model_type": "clip_text_model", "projection_dim": WIDTH, **clip_text(32)},
        geometry_encoder_config=detr,
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": 5},
        mask_decoder_config=small,
    )
    pictures = Sam3ImageProcessor(size={"height": 56, "width": 56}, **PLAIN)
    return save(folder, Sam3Model(config), Sam3Processor(pictures, clip_tokenizer(folder, 32)))


def tiny_sam(folder: Path, **pictures: object) -> Path:
    """SAM for 64 × 64 pixels in patches of 16; ``pictures`` are further settings of its picture processor."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "hidden_size": WIDTH,
            "output_channels": WIDTH,
            "num_pos_feats": WIDTH // 2,
            "image_size": 64,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    )
    processor = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
        **{**PLAIN, **pictures},
    )
    return save(folder, SamModel(config), SamProcessor(processor))


def tiny_medsam(folder: Path) -> Path:
    """MedSAM as it was released: SAM, whose processor leaves colours as they are."""
    return tiny_sam(folder, do_normalize=False, image_mean=[0.0] * 3, image_std=[1.0] * 3)


def tiny_sam2(folder: Path) -> Path:
    """SAM 2 for 64 × 64 pixels."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    torch.manual_seed(0)
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 2, 2, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": WIDTH,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    )
    pictures = Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}, **PLAIN)
    return save(folder, Sam2Model(config), Sam2Processor(pictures))


def tiny_sam2_video(folder: Path) -> Path:
    """SAM 2 for films of 64 × 64 pixels, with the processor's file of its makers."""
    import transformers

    config = transformers.Sam2VideoConfig(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=transformers.Sam2HieraDetConfig(
                hidden_size=8,
                num_attention_heads=1,
                image_size=[64, 64],
                blocks_per_stage=[1, 1, 2, 1],
                embed_dim_per_stage=[8, 16, 24, 32],
                num_attention_heads_per_stage=[1, 1, 1, 1],
                window_positional_embedding_background_size=[4, 4],
                window_size_per_stage=[4, 4, 4, 4],
                global_attention_blocks=[3],
            ),
            backbone_channel_list=[32, 24, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=128,
        ),
        prompt_encoder_config=transformers.Sam2VideoPromptEncoderConfig(
            hidden_size=128, image_size=64, mask_input_channels=4
        ),
        mask_decoder_config=transformers.Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        image_size=64,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    torch.manual_seed(0)
    model = transformers.Sam2VideoModel(config)
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.proj_out.bias, 1)  # the object is always there
    model.save_pretrained(folder)
    recipe = {
        "image_processor_type": "Sam2ImageProcessorFast",
        "processor_class": "Sam2VideoProcessor",
        **{"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        "size": {"height": 64, "width": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe))
    return folder
