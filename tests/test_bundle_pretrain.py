# SPDX-License-Identifier: Apache-2.0
"""pretrain.yaml as a user runs it: from scans to an encoder, resumed, in 2D and 3D, and with bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks import nets
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from custom.finite import first_not_finite
from custom.handlers import read_history
from custom.handlers.checkpoint import checkpoints
from custom.networks import encoder_record, load_encoder

QUICK = {
    "backbone": "resnet18_narrow",
    "decoder_options": {"width": 8},
    "batch_size": 4,
    "prompt": "brain tumor",
    "warmup_epochs": 1,
    "device": torch.device("cpu"),
}


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Eight pictures: a grey disc on black with a bright spot somewhere in it."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for index in range(8):
        picture = 90.0 * ((x - 24) ** 2 + (y - 24) ** 2 < 20**2)
        at = random.integers(14, 34, 2)
        picture[(x - at[0]) ** 2 + (y - at[1]) ** 2 < 25] = 220
        noisy = np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"scan_{index}.png")
    return folder


@pytest.fixture(scope="session")
def airy(tmp_path_factory) -> Path:
    """Four pictures of 96 px: a textured disc 40 px wide, off the centre, in black."""
    folder = tmp_path_factory.mktemp("airy")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    for index in range(4):
        disc = (x - 36) ** 2 + (y - 40) ** 2 < 20**2
        picture = np.where(disc, random.integers(60, 250, (96, 96)), 0).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"scan_{index}.png")
    return folder


@pytest.fixture(scope="session")
def volumes(tmp_path_factory) -> Path:
    """Three small volumes of another shape each."""
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.default_rng(0)
    for index, shape in enumerate([(35, 50, 35), (30, 40, 33), (36, 44, 31)]):
        values = random.normal(100, 10, shape).astype(np.float32)
        values[12:20, 18:26, 12:20] += 120
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"volume_{index}.nii.gz")
    return folder


def workflow(dataset: Path, output: Path, **overrides) -> ConfigWorkflow:
    options = {**QUICK, "image_size": [32, 32], "dataset_dir": str(dataset), "output_dir": str(output), **overrides}
    made = ConfigWorkflow(
        "bundle/configs/pretrain.yaml",
        meta_file="bundle/configs/metadata.json",
        logging_file=False,
        workflow_type="train",
        **options,
    )
    made.initialize()
    return made


def run(dataset: Path, output: Path, stop_after: int | None = None, **overrides) -> list[float]:
    """Run the workflow and return the loss of every iteration; ``stop_after``: as if killed after that epoch."""
    made, losses = workflow(dataset, output, **overrides), []
    trainer = made.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    if stop_after:

        def kill(engine):
            if engine.state.epoch == stop_after:
                raise KeyboardInterrupt

        trainer.add_event_handler(Events.EPOCH_COMPLETED, kill)
        with pytest.raises(KeyboardInterrupt):
            made.run()
    else:
        made.run()
    return losses


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory, request) -> Path:
    """One complete run on pictures."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    output = tmp_path_factory.mktemp("finished")
    run(pictures, output, max_epochs=2, preview_interval=1, checkpoint_interval=1)
    monkeypatch.undo()
    return output


def test_a_run_leaves_everything_that_was_promised(finished):
    assert {"encoder.safetensors", "encoder.json", "history.csv", "pretraining.png", "checkpoints", "regions"} <= {
        path.name for path in finished.iterdir()
    }
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == [
        "checkpoint_epoch=1.pt",
        "checkpoint_epoch=2.pt",
    ]
    assert len(list((finished / "regions").rglob("*.png"))) >= 8
    with Image.open(finished / "pretraining.png") as sheet:
        assert min(sheet.size) > 300


def test_the_encoder_rebuilds_and_loads_into_plain_monai(finished):
    record = encoder_record(finished / "encoder.safetensors")
    assert record["prompts"] == ["brain tumor"]
    assert record["epochs"] == 2
    assert record["skip_empty"] is False
    assert record["preprocessing"] == {
        "channels": 1, "frame": None, "orientation": "RAS", "spacing": None, "crop_to_body": True,
        "air_threshold": 0.05, "image_size": [32, 32], "patch_size": None, "fit": "pad", "voxel_size": None,
        "intensity": {"scheme": "percentile", "lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True,
                      "relative": False, "channel_wise": False},
    }  # fmt: skip
    assert load_encoder(finished / "encoder.safetensors").strides == [4, 8, 16, 32]
    plain = nets.resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.25, feed_forward=False)
    plain.load_state_dict(load_file(finished / "encoder.safetensors"), strict=True)


def test_pretraining_starts_from_weights(finished, pictures, tmp_path):
    weights = finished / "encoder.safetensors"
    made = workflow(pictures, tmp_path, encoder=str(weights), execution="masked_dense", max_epochs=1)
    encoder = made.parser.get_parsed_content("network").encoder
    assert encoder.execution == "masked_dense"
    before = {name: value.clone() for name, value in encoder.plain_state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in load_file(weights).items())
    made.run()
    record = encoder_record(tmp_path / "encoder.safetensors")
    assert record["started_from"] == encoder_record(weights)["sha256"]
    assert not torch.equal(before["conv1.weight"], load_file(tmp_path / "encoder.safetensors")["conv1.weight"])


def test_weights_of_other_scans_are_refused(finished, volumes, tmp_path, raises_cause):
    with raises_cause(r"takes 2D images with 1 channels; the scans are 3D"):
        workflow(volumes, tmp_path, encoder=str(finished / "encoder.safetensors"), image_size=[16, 16, 16])


def test_a_checkpoint_holds_all_that_training_needs(finished):
    content = torch.load(finished / "checkpoints" / "checkpoint_epoch=2.pt", weights_only=True)
    assert content.keys() == {"network", "optimizer", "lr_scheduler", "trainer", "seed", "settings"}
    assert content["trainer"]["iteration"] == 4


def test_tensorboard_has_losses_rates_ratios_and_pictures(finished):
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert {"train_loss", "hidden_ratio", "region_hidden_ratio", "background_hidden_ratio", "learning_rate"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Tags()["images"]


def test_region_cells_are_hidden_more_than_the_rest(finished):
    last = read_history(finished / "history.csv")[-1]
    assert float(last["region_hidden_ratio"]) > float(last["background_hidden_ratio"])


def test_resumed_losses_equal_those_of_an_uninterrupted_run(pictures, tmp_path):
    whole = run(pictures, tmp_path / "whole", max_epochs=4)
    first = run(pictures, tmp_path / "parts", max_epochs=4, checkpoint_interval=1, stop_after=2)
    second = run(pictures, tmp_path / "parts", max_epochs=4, checkpoint_interval=1, resume=True)
    assert first == whole[:4]
    assert second == whole[4:]
    ends = [load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert read_history(tmp_path / "whole" / "history.csv") == read_history(tmp_path / "parts" / "history.csv")


@pytest.mark.parametrize("masking", ["random", "region_matched_random"])
def test_other_maskings_run(pictures, tmp_path, masking):
    run(pictures, tmp_path, max_epochs=1, masking=masking)
    history = read_history(tmp_path / "history.csv")[-1]
    assert 0 < float(history["hidden_ratio"]) < 1


def test_random_masking_needs_no_prompt(pictures, tmp_path):
    run(pictures, tmp_path, max_epochs=1, masking="random", prompt=None)
    assert float(read_history(tmp_path / "history.csv")[-1]["hidden_ratio"]) == pytest.approx(0.7, abs=0.04)
    assert not (tmp_path / "regions").exists()


def test_losses_of_iterations_are_logged_at_intervals(pictures, tmp_path):
    run(pictures, tmp_path, max_epochs=3, batch_size=2, log_interval=5, masking="random", prompt=None)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("iteration_loss")] == [5, 10]
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]


class NumbersRead(TorchDispatchMode):
    """Counts floats that are read from tensors: on a GPU each one waits for all that was asked of it before."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_number_back(pictures, tmp_path):
    counts = []
    for batch_size in (4, 2):  # 2 and 4 iterations: what is read once an epoch is the same
        made = workflow(pictures, tmp_path / str(batch_size), max_epochs=1, batch_size=batch_size, log_interval=99,
                        val_interval=9, masking="random", prompt=None)  # fmt: skip
        with NumbersRead() as numbers:
            made.run()
        counts.append(numbers.count)
    assert counts[0] == counts[1] > 0


def test_a_training_that_diverges_ends_with_an_error_and_writes_nothing(finished, pictures, tmp_path, raises_cause):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = {name: (tmp_path / name).read_bytes() for name in ("encoder.safetensors", "encoder.json")}
    with raises_cause(r"loss is (nan|inf).*scan_\d\.png.*--learning_rate"):
        run(pictures, tmp_path, max_epochs=9, checkpoint_interval=1, learning_rate=1e30, clip_norm=1e30)
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    for _, checkpoint in checkpoints(tmp_path / "checkpoints"):
        assert first_not_finite(torch.load(checkpoint, weights_only=True)["network"]) is None


def test_the_validation_loss_is_a_mean_over_scans_however_they_fall_into_batches(pictures, tmp_path):
    found = []
    for batch_size in (1, 3, 8):  # 3: the last batch has two scans
        evaluator = workflow(pictures, tmp_path, batch_size=batch_size).parser.get_parsed_content("validate#evaluator")
        evaluator.run()
        found.append(float(evaluator.state.metrics["val_loss"]))
    assert found == pytest.approx(found[:1] * 3, rel=1e-5)


def images_and_regions(dataset: Path, output: Path, **overrides) -> list[tuple[torch.Tensor, torch.Tensor]]:
    items = workflow(dataset, output, localizer="body", **overrides).parser.get_parsed_content("validate#dataset")
    return [(item["image"][0], item["region"][0]) for item in items]


def test_scans_and_regions_are_cropped_to_the_body_alike(airy, tmp_path):
    for image, region in images_and_regions(airy, tmp_path):
        assert (image > 0.1).any(1).sum() == pytest.approx(32 * 40 / 52, abs=2)
        body = region > 0.5
        assert (body & (image > 0.1)).sum() / (body | (image > 0.1)).sum() > 0.85
    # Maps belong to the scan as it was loaded, whatever is cropped later.
    with Image.open(next(path for path in (tmp_path / "regions").rglob("*.png") if path.is_file())) as stored:
        assert stored.size == (96, 96)


def test_without_the_crop_scans_are_whole(airy, tmp_path):
    for image, _ in images_and_regions(airy, tmp_path, crop_to_body="false"):
        assert (image > 0.1).any(1).sum() == pytest.approx(32 * 40 / 96, abs=2)


@pytest.mark.parametrize("masking", ["region", "random"])
def test_empty_cells_are_left_out(airy, tmp_path, masking):
    options = {"masking": masking, "skip_empty": "true", "crop_to_body": "false", "localizer": "disc", "cell_size": 4}
    assert all(np.isfinite(run(airy, tmp_path, max_epochs=2, preview_interval=1, **options)))
    last = read_history(tmp_path / "history.csv")[-1]
    # A disc of 13 px touches at most 5 x 5 of 8 x 8 cells; the augmentation makes it larger or smaller.
    assert 0.4 < float(last["empty_share"]) < 0.95
    assert 0 < float(last["hidden_ratio"]) < 1
    assert encoder_record(tmp_path / "encoder.safetensors")["skip_empty"] is True
    assert (tmp_path / "pretraining.png").is_file()


def test_maps_made_before_are_read_and_missing_ones_named(pictures, finished, tmp_path, raises_cause):
    run(pictures, tmp_path / "out", max_epochs=1, region_dir=str(finished / "regions"))
    assert not (tmp_path / "out" / "regions").exists()
    (tmp_path / "empty").mkdir()
    with raises_cause(r"scan_\d\.png.*localize\.yaml"):
        run(pictures, tmp_path / "out2", max_epochs=1, region_dir=str(tmp_path / "empty"))


@pytest.mark.parametrize("masking", ["region", "random"])
def test_volumes(volumes, tmp_path, masking):
    sizes = {"image_size": [32, 40, 32], "cell_size": 8, "backbone": "resnet18_small"}
    run(volumes, tmp_path, max_epochs=1, masking=masking, prompt="bright lesion", **sizes)
    assert load_encoder(tmp_path / "encoder.safetensors").spatial_dims == 3


def test_empty_cells_of_volumes_are_left_out(volumes, tmp_path):
    sizes = {"image_size": [32, 40, 32], "cell_size": 8, "backbone": "resnet18_small"}
    losses = run(volumes, tmp_path, max_epochs=1, masking="random", prompt=None, skip_empty=True, **sizes)
    assert all(np.isfinite(losses))
    assert float(read_history(tmp_path / "history.csv")[-1]["empty_share"]) < 0.5


def test_sparks_decoder_and_lamb(pictures, tmp_path):
    run(pictures, tmp_path, max_epochs=1, decoder="spark", decoder_options={"width": 32}, cell_size=32,
        image_size=[64, 64], optimizer_name="lamb")  # fmt: skip


def test_colour_pictures_work_by_config(tmp_path):
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{index}.jpg")
    run(tmp_path, tmp_path / "out", max_epochs=1, channels=3, masking="random", prompt=None)
    assert load_encoder(tmp_path / "out" / "encoder.safetensors").in_channels == 3


def test_a_dataset_of_one_scan_trains(pictures, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "scan.png").write_bytes((pictures / "scan_0.png").read_bytes())
    # One picture of 64 px with cells of 8: the coarsest map has 2 x 2 positions, enough for batch normalisation.
    assert len(run(tmp_path / "one", tmp_path / "out", max_epochs=2, image_size=[64, 64])) == 2


def test_a_bad_scan_is_named_or_skipped(pictures, tmp_path, raises_cause):
    for path in pictures.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "scan_3.png").write_bytes((pictures / "scan_3.png").read_bytes()[:60])
    with raises_cause(r"scan_3\.png"):
        run(tmp_path, tmp_path / "out", max_epochs=1)
    run(tmp_path, tmp_path / "out", max_epochs=1, skip_bad=True)
    assert (tmp_path / "out" / "encoder.safetensors").is_file()


def test_settings_that_cannot_work_say_why(pictures, tmp_path, raises_cause):
    for overrides, message in [
        ({"prompt": None}, "--prompt"),
        ({"image_size": [40, 40]}, r"divisible by \(32, 32\)"),
        ({"cell_size": 64}, "smaller than a cell|divisible"),
        ({"masking": "regoin"}, "Known: random, region"),
        ({"backbone": "vit"}, "Known: dynunet, .*resnet10"),
    ]:
        with raises_cause(message):
            run(pictures, tmp_path / "out", max_epochs=1, **overrides)


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (64, r'image_size 64 is no list of numbers. Set --image_size "\[64, 64\]"'),
        ([64, 64, 64], r"has 3 numbers for 2D scans"),
        ([100, 96], r'Image sides \(100, 96\) must be divisible by \(32, 32\).*Set --image_size "\[96, 96\]"'),
    ],
)
def test_a_size_that_cannot_work_is_refused_before_any_map_is_made(
    image_size, message, pictures, tmp_path, raises_cause
):
    with raises_cause(message):
        workflow(pictures, tmp_path / "out", image_size=image_size)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_unwritable_output_folder_is_said_before_any_work(pictures, tmp_path, raises_cause):
    (tmp_path / "file").write_text("not a folder")
    with raises_cause(r"cannot write there.*--output_dir"):
        run(pictures, tmp_path / "file" / "out", max_epochs=1)


def test_properties_are_those_that_monai_expects(pictures, tmp_path):
    assert not workflow(pictures, tmp_path).check_properties()


def test_metadata_describes_the_network(configs):
    metadata = json.loads((configs / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    assert required | {"task", "description", "authors", "copyright", "network_data_format"} <= metadata.keys()
    assert all(isinstance(value, str) for value in metadata["required_packages_version"].values())
    assert list(metadata["network_data_format"]["inputs"]) == ["image"]
    assert list(metadata["network_data_format"]["outputs"]) == ["pred"]


def test_network_takes_and_returns_what_the_metadata_says(configs, tmp_path):
    from monai.bundle import verify_net_in_out

    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "pretrain.yaml"),
        device="cpu",
        **{"spatial_dims": 2, "backbone": "resnet18_narrow"},
    )


def test_a_resumed_run_follows_the_new_plan_and_says_so(pictures, tmp_path, caplog):
    run(pictures, tmp_path, max_epochs=2)
    losses = run(pictures, tmp_path, max_epochs=4, batch_size=3, resume=True)
    assert len(losses) == 2 * 3  # every epoch sees all eight scans
    assert "batch_size was 4, is 3; max_epochs was 2, is 4" in caplog.text
    rates = [float(row["learning_rate"]) for row in read_history(tmp_path / "history.csv")]
    assert rates[2] == pytest.approx(0.5e-3 * (1 + np.cos(np.pi * 2 / 3)))  # a warm epoch, then a cosine of three
    assert rates[3] == pytest.approx(0, abs=1e-9)
    history = encoder_record(tmp_path / "encoder.safetensors")["settings_history"]
    assert [(each["from_epoch"], each["settings"]["batch_size"]) for each in history] == [(1, 4), (3, 3)]


def test_a_run_is_not_resumed_with_what_changes_the_learning(finished, pictures, tmp_path, raises_cause):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    refused = r"checkpoint_epoch=2\.pt was learnt with other settings: learning_rate was 0.001, is 0.1; prompts was "
    with raises_cause(refused + r".*; seed was 0, is 1\..*--resume_changed true"):
        workflow(pictures, tmp_path, resume=True, max_epochs=4, learning_rate=0.1, seed=1, prompt="edema")
    assert not list((tmp_path / "regions").rglob("edema*")), "refused before any work"
    assert encoder_record(tmp_path / "encoder.safetensors") == encoder_record(finished / "encoder.safetensors")


def test_settings_that_change_the_learning_are_compared(configs, finished, pictures, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(pictures, fewer)
    (fewer / "scan_0.png").unlink()

    def values(**overrides):
        parser = ConfigParser(ConfigParser.load_config_file(str(configs / "pretrain.yaml")))
        parser.update({**QUICK, "dataset_dir": str(pictures), "output_dir": str(tmp_path), **overrides})
        return parser.get_parsed_content("run_settings").values

    before = values()
    moved = shutil.copytree(pictures, tmp_path / "moved")
    assert {**values(dataset_dir=str(moved), num_workers=1, log_interval=3), "dataset": ""} == {**before, "dataset": ""}
    changes = {
        "dataset_dir": str(fewer), "masking": "spark", "mask_options": {"region_ratio": 0.8}, "prompt": "edema",
        "seed": 1, "image_size": [64, 64], "crop_to_body": False, "cell_size": 4, "spacing": [1, 1],
        "optimizer_name": "lamb", "loss#normalize": False, "decoder": "spark", "localizer": "disc",
        "encoder": str(finished / "encoder.safetensors"),
    }  # fmt: skip
    for name, value in changes.items():
        found = values(**{name: value})
        assert [key for key in before if key != "dataset" and found[key] != before[key]], name


def test_changes_that_were_asked_for_are_on_record(finished, pictures, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    options = {"resume": True, "resume_changed": True, "masking": "random", "checkpoint_interval": 1}
    run(pictures, tmp_path, max_epochs=3, preview_interval=9, **options)
    record = encoder_record(tmp_path / "encoder.safetensors")
    assert record["masking"] == "random"
    told = [(each["from_epoch"], each["settings"]["masking"]) for each in record["settings_history"]]
    assert told == [(1, "region"), (3, "random")]


def test_a_checkpoint_of_before_settings_were_kept_is_resumed(finished, pictures, tmp_path, caplog):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for _, file in checkpoints(tmp_path / "checkpoints"):
        content = torch.load(file, weights_only=True)
        content.pop("settings")
        torch.save(content, file)
    run(pictures, tmp_path, max_epochs=3, resume=True, masking="random")
    assert "its seed can be compared" in caplog.text
    assert encoder_record(tmp_path / "encoder.safetensors")["epochs"] == 3


def test_maps_of_other_scans_of_the_same_names_are_refused(finished, pictures, tmp_path, raises_cause):
    others = tmp_path / "others"
    shutil.copytree(pictures, others)
    for file in others.iterdir():
        Image.fromarray(np.flipud(np.asarray(Image.open(file)))).save(file)
    with raises_cause(r"scan_\d\.png: its region map for 'brain tumor' in .*made from another scan"):
        run(others, tmp_path / "out", max_epochs=1, region_dir=str(finished / "regions"))
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
