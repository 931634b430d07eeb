"""horovodrun's arguments for partial training, up to where ranks would start."""

import sys

import pytest

from horovod.runner import launch
from horovod.runner.common.util import config_parser


def environment_of(monkeypatch, *arguments, **environment):
    """The environment that horovodrun would give the ranks."""
    monkeypatch.setattr(sys, "argv", ["horovodrun", "-np", "2", *arguments, "true"])
    return config_parser.set_env_from_args(environment, launch.parse_args())


def partial(environment):
    prefix = "HOROVOD_PARTIAL_"
    return {name[len(prefix):]: value for name, value in environment.items()
            if name.startswith(prefix)}


def test_arguments_become_environment_variables(monkeypatch):
    environment = environment_of(
        monkeypatch, "--partial", "first:3", "--partial-staleness-bound", "4",
        "--partial-catch-up", "sum", "--partial-resync-every", "100", "--partial-seed", "7",
        "--partial-staleness-cost", "0.5", "--partial-summary", "0")
    assert partial(environment) == {"POLICY": "first:3", "STALENESS_BOUND": "4", "CATCH_UP": "sum",
                                    "RESYNC_EVERY": "100", "SEED": "7",
                                    "STALENESS_COST": "0.5", "SUMMARY": "0"}


def test_without_arguments_the_environment_stays_as_it_is(monkeypatch):
    assert partial(environment_of(monkeypatch)) == {}
    assert partial(environment_of(monkeypatch, HOROVOD_PARTIAL_POLICY="solo")) == {"POLICY": "solo"}


def test_the_command_line_wins_over_the_configuration_file(monkeypatch, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("partial:\n  policy: majority\n  staleness_bound: 3\n  seed: 5\n")
    environment = environment_of(monkeypatch, "--config-file", str(file), "--partial", "solo")
    assert partial(environment) == {"POLICY": "solo", "STALENESS_BOUND": "3", "SEED": "5"}


@pytest.mark.parametrize("arguments, words", [
    (["--partial", "most"], ["--partial", "most", "first:K"]),
    (["--partial", "first:0"], ["--partial", "first:0", "at least 1"]),
    (["--partial", "quorum:two"], ["--partial", "quorum:two", "whole number"]),
    (["--partial-staleness-bound", "0"], ["--partial-staleness-bound", "0", "from 1"]),
    (["--partial-staleness-bound", "many"], ["--partial-staleness-bound", "many", "whole number"]),
    (["--partial-catch-up", "skip"], ["--partial-catch-up", "skip", "replay"]),
    (["--partial-resync-every", "-5"], ["--partial-resync-every", "-5", "from 1"]),
    (["--partial-seed", "-1"], ["--partial-seed", "-1", "from 0"]),
    (["--partial", "auto:x"], ["--partial", "auto:x", "'auto:COST'"]),
    (["--partial-staleness-cost", "-1"], ["--partial-staleness-cost", "-1", "from 0"]),
    (["--partial-summary", "maybe"], ["--partial-summary", "maybe", "1 (the default) or 0"]),
])
def test_a_wrong_argument_stops_before_a_process_starts(monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        environment_of(monkeypatch, *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text, words", [
    ("partial:\n  policy: most\n", ["most", "first:K"]),
    ("partial:\n  staleness_bound: 0\n", ["staleness_bound", "0"]),
    ("partial:\n  catch_up: skip\n", ["catch_up='skip'", "'replay'"]),
    ("partial:\n  resync_every: 0\n", ["resync_every=0", "from 1"]),
    ("partial:\n  seed: 1.5\n", ["seed=1.5", "from 0"]),
    ("partial:\n  staleness_cost: high\n", ["staleness_cost='high'", "from 0"]),
    ("partial:\n  summary: no\n", ["summary=False", "1 (the default) or 0"]),
    ("partial:\n  stalenes: 3\n", ["stalenes", "staleness_bound"]),
    ("partial: solo\n", ["partial: 'solo' in the configuration file", "'policy: majority'"]),
    ("partial:\n- policy: solo\n", ["partial: [{'policy': 'solo'}]", "'policy: majority'"]),
    ("partial: no\n", ["partial: False in", "'policy: majority'"]),
])
def test_a_wrong_configuration_file(monkeypatch, tmp_path, text, words):
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        environment_of(monkeypatch, "--config-file", str(file))
    assert all(word in str(error.value) for word in words)


def test_a_wrong_environment_variable(monkeypatch):
    with pytest.raises(ValueError, match="HOROVOD_PARTIAL_CATCH_UP.*skip.*replay"):
        environment_of(monkeypatch, HOROVOD_PARTIAL_CATCH_UP="skip")


def test_help_has_a_line_for_each_policy(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        environment_of(monkeypatch, "--help")
    lines = capsys.readouterr().out.splitlines()
    for policy in ("solo", "majority", "quorum:K", "first:K", "full"):
        assert any(line.split()[:1] == [policy] for line in lines)
