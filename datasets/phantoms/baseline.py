# SPDX-License-Identifier: Apache-2.0
"""What grey levels alone give away: the trivial classifier that every result on phantoms is read beside."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from datasets.phantoms.fields import Array


def read_image(path: Path) -> Array:
    """Read a phantom's image or label map as `[x, y]` or `[x, y, z]`."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).T
    return np.squeeze(np.asanyarray(nib.Nifti1Image.from_filename(path).dataobj))


def histogram_baseline(folder: str | Path, bins: int = 64) -> float:
    """Test accuracy of a logistic regression on grey-level histograms.

    Args:
        folder: a folder of phantoms with `manifest.csv`.
        bins: bins between the darkest and the brightest voxel of the training scans.

    Returns:
        Accuracy in [0, 1] on the test split; NaN where training has fewer than two classes or there is no test scan.
    """
    folder = Path(folder)
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] != "val"]
    images = [read_image(folder / row["file"]) for row in rows]
    labels = np.array([row["label"] for row in rows])
    train = np.array([row["split"] == "train" for row in rows], bool)
    if len(set(labels[train])) < 2 or train.all():
        return float("nan")
    seen = [image for image, used in zip(images, train, strict=True) if used]
    limits = (min(float(i.min()) for i in seen), max(float(i.max()) for i in seen))
    features = np.stack([np.histogram(i, bins, limits)[0] / i.size for i in images])
    return _fit_and_score(features, labels, train)


def _fit_and_score(features: Array, labels: Array, train: Array) -> float:
    # imported here: scikit-learn takes a second to load, and a set that exists needs none of it
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(features[train], labels[train])
    return float(model.score(features[~train], labels[~train]))
