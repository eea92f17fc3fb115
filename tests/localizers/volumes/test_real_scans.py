# SPDX-License-Identifier: Apache-2.0
"""Slices of real scans: thick ones, oblique ones, and nodules followed from one of their slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from custom.localizers.pictures import PictureRefiner, scaled
from custom.localizers.volumes import Propagation, SliceView, Slicewise, voxel_sizes
from datasets.datalist import load_datalist
from datasets.loading import LoadScand


class BrighterThanAround(PictureRefiner):
    """The bright pixels within the box of the coarse map, cut midway between its inside and its surroundings."""

    def describe(self):
        return {}

    def refine_pictures(self, pictures, probabilities):
        return torch.stack(
            [self.one(grey, each[0])[None] for grey, each in zip(pictures[:, 0], probabilities, strict=True)]
        )

    def one(self, grey, coarse):
        inside = (coarse >= 0.5)[None].float()
        if not inside.any():
            return torch.zeros_like(coarse)
        around = F.max_pool2d(inside, 9, 1, 4) > inside
        rows, columns = inside[0].nonzero(as_tuple=True)
        box = torch.zeros_like(coarse)
        box[max(0, rows.min() - 1) : rows.max() + 2, max(0, columns.min() - 1) : columns.max() + 2] = 1
        bright = grey > (grey[inside[0] > 0].mean() + grey[around[0]].mean()) / 2
        parts, count = ndimage.label((bright * box).numpy())
        if not count:
            return torch.zeros_like(coarse)
        return torch.from_numpy(
            parts == 1 + np.argmax(ndimage.sum(inside[0].numpy(), parts, range(1, count + 1)))
        ).float()


@pytest.mark.parametrize(
    "name", ["aniso_vox.nii.gz", "example_ct_sm.nii.gz", "dcm_generic_anatomical_002_non_isotropic"]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_keep_the_body_s_proportions(data_root, brightness, name, axis):
    image = LoadScand("image", 3)({"image": str(data_root / "odd3d" / name), "scan_id": name})["image"]
    sizes, view = voxel_sizes(image), SliceView(axis, image.shape[1:], voxel_sizes(image))
    millimetres = [count * size for count, size in zip(image.shape[1:], sizes, strict=True)]
    across, up = (each for each in range(3) if each != axis)
    height, width = view.picture_size
    assert height / width == pytest.approx(millimetres[up] / millimetres[across], rel=0.1)
    found = Slicewise(brightness, axes=axis).localize(image, ["a"])[0]
    assert found.shape == image.shape[1:]
    assert (found - scaled(image, (3,))[0]).abs().mean() < 0.02


def test_nodules_are_followed_from_one_slice(data_root):
    """The coarse map knows the nodule in one slice, and has a faint idea of where it is in the others."""
    datalist = load_datalist(data_root / "ct3d_lidc_nodules")
    load, before, after = LoadScand("image", 3, label_keys="mask"), [], []
    for item in datalist.split("val")[:6]:
        scan = load(item)
        mask = scan["mask"][0].as_tensor() > 0
        start = int(mask.sum(dim=(0, 1)).argmax())
        coarse = torch.from_numpy(ndimage.gaussian_filter(mask.numpy().astype(np.float32), 2))
        coarse *= 0.3 / coarse.max()
        coarse[..., start] = 0.9 * mask[..., start]
        found = Propagation(BrighterThanAround()).refine(scan["image"], coarse[None])[0]
        before.append(dice(coarse >= 0.5, mask))
        after.append(dice(found >= 0.5, mask))
    assert np.mean(before) < 0.35
    assert np.mean(after) > 0.65


def dice(found, truth):
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))
