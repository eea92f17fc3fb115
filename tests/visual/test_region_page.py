# SPDX-License-Identifier: Apache-2.0
"""The parts of the page: pictures the right way up, an even sample, one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from custom.visual.region_page import EvenSample, make_pictures, render_page


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_pictures_are_upright():
    image, region = torch.zeros(1, 20, 30), torch.zeros(20, 30)
    image[0, 12:, :10], region[15, 3] = 9, 0.6
    made = make_pictures(image, region)
    assert pixels(made.region).shape == (30, 20)
    assert pixels(made.region)[3, 15] == 153
    scan = pixels(made.scan)
    assert scan.shape == (30, 20)
    assert scan[4, 16] > 200
    assert scan[20, 4] < 50
    assert made.aspect == pytest.approx(20 / 30, abs=1e-3)


def test_small_regions_of_large_pictures_stay():
    region = torch.zeros(1500, 1000)
    region[700, 300] = 1
    made = make_pictures(torch.rand(1, 1500, 1000), region)
    drawn, scan = pixels(made.region), pixels(made.scan)
    assert drawn.shape == scan.shape == (200, 300)
    assert drawn[60, 140] == 255
    assert (drawn > 0).sum() == 1


def test_colour_and_other_channels():
    assert pixels(make_pictures(torch.rand(3, 20, 30), torch.zeros(20, 30)).scan).shape == (30, 20, 3)
    assert pixels(make_pictures(torch.rand(2, 20, 30), torch.zeros(20, 30)).scan).shape == (30, 20)


def test_constant_scans_are_drawn():
    assert np.ptp(pixels(make_pictures(torch.full((1, 8, 8), 7.0), torch.ones(8, 8)).scan)) == 0


def test_a_volume_is_shown_where_its_region_is():
    region = torch.zeros(20, 30, 40)
    region[14:18, 5:10, 30:36] = 1  # right, at the back, above
    region[3, 3, 3] = 0.4
    drawn = pixels(make_pictures(torch.rand(1, 20, 30, 40), region).region)
    axial, coronal, sagittal = drawn[5:35, :20], drawn[:, 24:44], drawn[:, 48:]
    assert drawn.shape == (40, 20 + 4 + 20 + 4 + 30)
    # Right and front lie left, front and head above.
    assert {tuple(each) for each in np.argwhere(axial == 255)} == {(y, x) for y in range(20, 25) for x in range(2, 6)}
    assert np.argwhere(coronal == 255).mean(axis=0).tolist() == [6.5, 3.5]
    assert np.argwhere(sagittal == 255).mean(axis=0).tolist() == [6.5, 22]


def test_voxels_keep_their_shape():
    affine = torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0]))
    made = make_pictures(MetaTensor(torch.rand(1, 20, 20, 10), affine=affine), torch.zeros(20, 20, 10))
    assert pixels(made.scan).shape == (40, 20 + 4 + 20 + 4 + 20)
    flat = MetaTensor(torch.rand(1, 20, 20), affine=torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0])))
    assert make_pictures(flat, torch.zeros(20, 20)).aspect == 0.5


def test_a_sample_is_even_and_bounded():
    sample: EvenSample[int] = EvenSample(10)
    for number in range(1000):
        if sample.takes_next():
            sample.kept.append(number)
    assert 10 <= len(sample.kept) <= 21
    steps = np.diff(sample.kept)
    assert sample.kept[0] == 0
    assert len(set(steps)) == 1
    short: EvenSample[int] = EvenSample(10)
    for number in range(20):
        assert short.takes_next()
        short.kept.append(number)


def test_the_policy_names_the_hashes_of_what_is_inside():
    page = render_page({})
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("style", "script"):
        inside = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_nothing_points_to_a_network():
    page = render_page({}).replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", page) == []


def test_data_cannot_leave_its_element():
    hostile = "</script><script>alert(1)</script><!-- <script> & {{ script }} \u2028 'x' \"y\" \udcff"
    page = render_page({hostile: [hostile]})
    assert data_of(page) == {hostile: [hostile]}
    assert page.count("<script>") == render_page({}).count("<script>") == 1
    assert "alert(1)<" not in page
    page.encode("utf-8")


def test_numbers_that_json_lacks_become_null():
    page = render_page({"a": [float("nan"), float("inf"), 1.5], "b": {"c": b"xyz"}, "d": (None, True)})
    assert data_of(page) == {"a": [None, None, 1.5], "b": {"c": "eHl6"}, "d": [None, True]}
