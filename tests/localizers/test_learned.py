# SPDX-License-Identifier: Apache-2.0
"""The operator behind self-taught networks: contract, grids, and files that do not fit."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from custom.localizers.operators import OPERATORS, Scan
from custom.localizers.operators.finder import AREAS, build_network, load_finder, search_area, to_grid
from custom.localizers.vocabulary import Vocabulary

SIZES = {2: [32, 32], 3: [16, 16, 16]}


def write(folder, dims=2, seed=0, **changes):
    """A tiny network with random weights, as self_teach.yaml leaves it."""
    spec = {"class": "UNet", "spatial_dims": dims, "in_channels": 1, "out_channels": 1, "channels": [4, 8, 8]}
    spec |= {"strides": [2, 2], "num_res_units": 0, "norm": "BATCH"}
    torch.manual_seed(seed)
    weights = build_network(spec).state_dict()
    path = folder / "self_taught.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    record = {"network": spec, "spatial_dims": dims, "image_size": SIZES[dims], "flips": [0], "blur": 0.02, "half": 0.3}
    record |= {"area": "anywhere", "modality": "mri", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record | changes))
    return path


def noise(shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize(("dims", "shape"), [(2, (50, 41)), (2, (20, 32)), (3, (21, 30, 9))])
def test_maps_are_probabilities_on_the_scans_grid(tmp_path, dims, shape):
    path, scan = write(tmp_path, dims), Scan(noise(shape), "mri", "right")
    found = OPERATORS["learned"](scan, weights=str(path))
    assert found.shape == shape
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 1
    again = OPERATORS["learned"](Scan(noise(shape), "mri", "right"), weights=str(path))
    assert np.array_equal(found, again)


def test_a_flat_scan_holds_nothing(tmp_path):
    flat = Scan(np.full((30, 30), 7, dtype=np.float32), "mri", "right")
    assert not OPERATORS["learned"](flat, weights=str(write(tmp_path))).any()


def test_brightness_and_contrast_of_the_scan_do_not_matter(tmp_path):
    path, values = str(write(tmp_path)), noise((40, 40))
    one, other = (
        OPERATORS["learned"](Scan(each, "mri", "right"), weights=path) for each in (values, 300 * values + 20)
    )
    assert np.allclose(one, other, atol=1e-4)


def test_flips_make_the_map_mirror_with_the_scan(tmp_path):
    path, values = str(write(tmp_path)), noise((32, 32))
    one, other = (
        OPERATORS["learned"](Scan(each, "mri", "right"), weights=path) for each in (values, values[::-1].copy())
    )
    assert np.allclose(one, other[::-1], atol=1e-4)


def test_only_the_search_area_is_searched(tmp_path):
    values = np.zeros((64, 64), dtype=np.float32)
    values[16:48, 16:48] = noise((32, 32)) + 1
    found = OPERATORS["learned"](Scan(values, "mri", "right"), weights=str(write(tmp_path, area="body", blur=0.0)))
    assert found[20:44, 20:44].max() > 0.1
    assert found[:10].max() == 0


def test_half_shifts_the_odds_and_keeps_the_order(tmp_path):
    values = noise((32, 32))
    plain = load_finder(write(tmp_path, half=0.5)).probability(values).ravel()
    shifted = load_finder(write(tmp_path, half=0.2)).probability(values).ravel()
    assert (np.diff(shifted[np.argsort(plain)]) >= 0).all()
    assert (shifted[plain > 0.201] > 0.5).all()
    assert (shifted[plain < 0.199] < 0.5).all()


def test_new_weights_are_read_anew(tmp_path):
    scan = noise((32, 32))
    first = load_finder(write(tmp_path)).probability(scan)
    assert load_finder(tmp_path / "self_taught.safetensors") is load_finder(tmp_path / "self_taught.safetensors")
    second = load_finder(write(tmp_path, seed=1)).probability(scan)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0"}, "belongs to other weights"),
        ({"network": {"class": "os.system"}}, "which monai.networks.nets has not"),
        ({"network": {"class": "UNet"}}, "cannot be read"),
        ({"blur": None}, "cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_finder(write(tmp_path, **changes))


def test_missing_or_damaged_files_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"self_taught\.json: no such file.*self_teach\.yaml"):
        load_finder(tmp_path / "self_taught.safetensors")
    path = write(tmp_path)
    record = path.with_suffix(".json").read_text()
    path.write_bytes(path.read_bytes()[:100])
    record = json.loads(record) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"self_taught\.safetensors: cannot be read"):
        load_finder(path)


def test_scans_of_other_dimensions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="trained on 2D scans, received a 3D scan"):
        OPERATORS["learned"](Scan(noise((8, 8, 8)), "mri", "left"), weights=str(write(tmp_path)))


def test_grid_and_search_area():
    ramp = np.broadcast_to(np.linspace(-5, 30, 64, dtype=np.float32)[:, None], (64, 20))
    grid = to_grid(ramp, (32, 16))
    assert grid.shape == (32, 16)
    assert (grid.min() >= 0, grid.max() <= 1) == (True, True)
    assert np.allclose(grid[:, 0], grid[:, -1])
    assert (np.diff(grid[:, 0])[1:-1] > 0).all()
    for name in AREAS:
        assert search_area(np.zeros((16, 16), dtype=np.float32), name, "mri").all()  # nothing to see: everything
    with pytest.raises(ValueError, match="Unknown search area 'liver'"):
        search_area(grid, "liver", "ct")


def test_weights_in_the_file_are_those_of_the_network(tmp_path):
    path = write(tmp_path)
    state = load_finder(path).network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_file(path).items())


@pytest.mark.parametrize(("name", "concept"), [("self_taught", "brain tumor"), ("self_taught_lung", "lung nodule")])
def test_the_vocabularies_understand_the_same_words_as_the_embedded_one(tmp_path, configs, name, concept):
    embedded = Vocabulary(configs / "localizers" / "vocabulary.yaml").concepts
    taught = Vocabulary(configs / "localizers" / f"{name}_vocabulary.yaml", write(tmp_path)).concepts
    assert taught.keys() == embedded.keys()
    for each, entry in taught.items():
        assert set(entry.phrases) == set(embedded[each].phrases)
        assert (entry.chains == embedded[each].chains) == (each != concept)
