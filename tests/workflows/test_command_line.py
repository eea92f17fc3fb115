# SPDX-License-Identifier: Apache-2.0
"""Options that no config has are refused, with what was probably meant; all others pass."""

import re
import shlex

import pytest

from custom.workflows.command_line import check_options

PROGRAM = "/env/lib/python3.11/site-packages/monai/bundle/__main__.py"


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


def check(options: str, config: str = "bundle/configs/pretrain.yaml") -> None:
    check_options([PROGRAM, "run", "--config_file", config, *shlex.split(options)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max_epoch 3", r"no option --max_epoch\. Did you mean --max_epochs\b.*bundle/configs/pretrain\.yaml lists"),
        ("--max-epoch=3", "Did you mean --max_epochs"),
        ("--limit 20", "no option --limit"),
        ("--resum", "Did you mean --resume"),
        ("--trainr#trainer#max_epochs 3", "Did you mean .*--train"),
        ("--train#trainr#max_epochs 3", "lists no 'train#trainr'"),
        ("--validate::evaluatr::amp False", "lists no 'validate#evaluatr'"),
        ("--run_name first", "needs --tracking mlflow"),
    ],
)
def test_a_misspelt_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check(options)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "training --run_id run --init_id initialize --meta_file a.json --logging_file b.conf",
        "--max-epochs 3 --learning_rate=0.1 --seed -1 -batch_size 4 --noresume",
        "--train#trainer#max_epochs 3 --train::handlers::0::folder x --localizer_options#source /a",
        "--mask_options '{soft: true}' --prompt --resume",
        "--tracking mlflow --tracking_uri x --experiment_name y --run_name z --save_execute_config False",
        "--rate 0.1 --learning_rate '$@rate * 2'",
        "--bundle_root /b -- --verbose",
    ],
)
def test_what_the_config_or_monai_knows_passes(options):
    check(options)


@pytest.mark.parametrize("files", ["['{0}','{1}']", "('{0}', '{1}')"])
def test_every_file_counts(files, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("of_my_own: 1\n")
    files = files.format("bundle/configs/localize.yaml", own)
    check("--of_my_own 2 --limit 3", files)
    with pytest.raises(ValueError, match=r"localize\.yaml and .*own\.yaml list all"):
        check("--of_my_one 2", files)


def test_a_file_of_arguments_is_read_too(tmp_path):
    arguments = tmp_path / "arguments.yaml"
    arguments.write_text("config_file: bundle/configs/pretrain.yaml\nmax_epochs: 3\n")
    check_options([PROGRAM, "run", "--args_file", str(arguments), "--seed", "1"])
    arguments.write_text("config_file: bundle/configs/pretrain.yaml\nmax_epoch: 3\n")
    with pytest.raises(ValueError, match="Did you mean --max_epochs"):
        check_options([PROGRAM, "run", "--args_file", str(arguments)])


@pytest.mark.parametrize(
    "argv",
    [
        ["/env/bin/pytest", "run", "--max_epoch", "3"],
        [""],
        [PROGRAM],
        [PROGRAM, "verify_metadata", "--max_epoch", "3"],
        [PROGRAM, "run", "--config_file", "none.yaml", "--max_epoch", "3"],
    ],
)
def test_other_programs_are_left_alone(argv):
    check_options(argv)


def test_every_config_begins_with_it(configs):
    for file in configs.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        if "\ninitialize:\n" in text:
            assert re.search(r"\ninitialize:\n- _target_: custom\.workflows\.explain_mistakes\n", text), file
