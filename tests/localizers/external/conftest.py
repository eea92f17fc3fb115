# SPDX-License-Identifier: Apache-2.0
"""A package that has VoxTell's interface (version 0.1.2) and none of its weights; it obeys what prompts tell it."""

from __future__ import annotations

import pytest

PREDICTOR = """
import os, sys, time
import numpy as np
import torch

print("importing noisily")
os.write(1, b'{"done": true}\\n')


class OnGpu:  # a GPU that holds the logits and nothing beside them
    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return (OnGpu(each) for each in self.values)

    def __getitem__(self, index):
        return OnGpu(self.values[index])

    def cpu(self):
        return self.values

    def __getattr__(self, name):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


class VoxTellPredictor:
    def __init__(self, model_dir=None, device=torch.device("cuda"), text_encoding_model="Qwen/Qwen3-Embedding-4B",
                 embedding_bank=None, use_precomputed_embeddings=True):
        if model_dir is None:
            raise OSError("cannot reach the hub, HF_HUB_OFFLINE=" + os.environ.get("HF_HUB_OFFLINE", "0"))
        assert isinstance(device, torch.device) and embedding_bank is None or embedding_bank.endswith(".npz")
        self.perform_everything_on_device = True
        self.embedding_bank = {"right": None}

    def preprocess(self, data):
        assert data.ndim == 4 and data.shape[0] == 1, data.shape
        found = np.argwhere(data[0] != 0)
        box = [[int(low), int(high) + 1] for low, high in zip(found.min(0), found.max(0))]
        crop = data[(slice(None), *(slice(low, high) for low, high in box))].astype(np.float32)
        return torch.from_numpy((crop - crop.mean()) / crop.std()), box, data.shape[1:]

    def embed_text_prompts(self, prompts):
        self.words = [prompt.lower() for prompt in prompts]
        if "unheard of" in self.words:
            raise OSError("no text encoder here")
        return torch.zeros(1, len(prompts), 8)

    def predict_sliding_window_return_logits(self, image, embeddings, progress_callback=None):
        assert embeddings.shape[1] == len(self.words)
        logits = torch.stack([self.one(word, image[0]) for word in self.words])
        return OnGpu(logits) if "far" in self.words else logits

    def one(self, word, image):
        print("50%|#####     | 1/2", end="\\r")
        os.write(1, b"noise from a library\\n")
        logits = torch.full(image.shape, -20.0, dtype=torch.half)
        if word == "right":  # [Z, Y, X] of RAS+: X grows to the right
            logits[:, :, image.shape[2] // 2 :] = 20
        elif word == "front":
            logits[:, image.shape[1] // 2 :] = 20
        elif word == "head":
            logits[image.shape[0] // 2 :] = 20
        elif word == "half":
            logits[:] = 0
        elif word == "bright":
            logits = (10 * image).half()
        elif word == "raise":
            raise ValueError("this prompt cannot be embedded")
        elif word == "die":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
        elif word == "abort":
            os.abort()
        elif word == "sleep":
            time.sleep(600)
        elif word == "big" and self.perform_everything_on_device:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        elif word == "hidden" and self.perform_everything_on_device:
            try:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            except RuntimeError as error:  # as VoxTell's thread does that fills the GPU
                raise RuntimeError("Sliding-window patch producer thread failed") from error
        elif word == "broken":
            raise RuntimeError("Sliding-window patch producer thread failed") from ValueError("no such patch")
        elif word == "variable":
            logits[:] = 20 if "VOXTELL_MODEL" in os.environ else -20
        elif word == "pid":
            logits[:] = (os.getpid() % 97) / 10
        return logits
"""


@pytest.fixture(scope="session")
def fake_voxtell(tmp_path_factory):
    """Variables that put the package on a worker's path."""
    root = tmp_path_factory.mktemp("fake_voxtell")
    package = root / "voxtell" / "inference"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "predictor.py").write_text(PREDICTOR)
    return {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "voxtell_v1.1"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    return folder
