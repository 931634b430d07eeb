"""Wrong settings in the environment of a launcher: which error comes, on which ranks, and that nothing
hangs. One row per wrong setting; several rows share a launch. Arguments: tests/single/test_launch.py."""

import itertools
import sys

import pytest

import horovod
from common import ROOT
from horovod.runner import launch as launch_module
from horovod.runner.common.util import config_parser
from horovod.runner.launch import parse_args

SCRIPT = str(ROOT / "tests/integration/scripts/wrong_environment.py")
pytestmark = pytest.mark.timeout(300)

# variable, value, what the error says of it
ENVIRONMENT = [
    # Checked first.
    ("STALENESS_COST", "-1", "staleness_cost=-1.0 must be a number from 0"),
    ("STALENESS_COST", "high", "staleness_cost='high'"),
    ("STALENESS_COST", "nan", "staleness_cost=nan"),
    ("POLICY", "most", "policy='most' is not a policy: use 'solo', 'majority', 'quorum:K'"),
    ("POLICY", "first:0", "policy='first:0'"),
    ("POLICY", "quorum:1.5", "policy='quorum:1.5'"),
    ("STALENESS_BOUND", "0", "staleness_bound=0 must be a whole number from 1"),
    ("STALENESS_BOUND", "-3", "staleness_bound=-3"),
    ("STALENESS_BOUND", "many", "staleness_bound='many'"),
    ("CATCH_UP", "skip", "catch_up='skip' is not known: use 'replay', 'sum' or 'latest'"),
    ("CATCH_UP", "1", "catch_up=1"),
    ("RESYNC_EVERY", "0", "resync_every=0 must be a whole number from 1"),
    ("RESYNC_EVERY", "often", "resync_every='often'"),
    ("SEED", "-1", "seed=-1 must be a whole number from 0"),
    ("SEED", "1.5", "seed='1.5'"),
    ("SUMMARY", "2", "summary=2 must be 1 (the default) or 0"),
]


def launches(rows):
    """The rows as dicts: a launch has at most one of each variable."""
    by_variable = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    return [[row for row in launch if row] for launch in itertools.zip_longest(*by_variable)]


@pytest.mark.parametrize("variable, value, message", ENVIRONMENT)
def test_horovodrun_starts_no_rank(monkeypatch, variable, value, message):
    monkeypatch.setattr(sys, "argv", ["horovodrun", "-np", "2", "true"])
    with pytest.raises(ValueError) as error:
        config_parser.set_env_from_args({f"HOROVOD_PARTIAL_{variable}": value}, parse_args())
    assert f"environment variable HOROVOD_PARTIAL_{variable}: {message}" in str(error.value)


@pytest.mark.parametrize("variable, value, message", [
    ("POLICY", "most", "policy='most' is not a policy"),
    ("STALENESS_COST", "high", "staleness_cost='high'")])
def test_horovod_run_starts_no_rank(monkeypatch, variable, value, message):
    """The function, whose settings are in its own environment."""
    monkeypatch.setenv(f"HOROVOD_PARTIAL_{variable}", value)
    # What starts ranks, whatever the controller.
    monkeypatch.setattr(launch_module, "run_controller", lambda *args: pytest.fail("ranks start"))
    with pytest.raises(ValueError) as error:
        horovod.run(print, num_proc=2, use_gloo=True)
    assert f"environment variable HOROVOD_PARTIAL_{variable}: {message}" in str(error.value)


def test_horovod_run_has_no_argument_of_ours():
    with pytest.raises(TypeError, match="unexpected keyword argument 'partial'"):
        horovod.run(print, num_proc=2, partial="solo")


def test_horovodrun_ends_with_the_error(launch):
    result = launch(2, ["-c", "print('a rank')"], env={"HOROVOD_PARTIAL_POLICY": "most"})
    assert result.returncode != 0
    assert "environment variable HOROVOD_PARTIAL_POLICY: policy='most'" in result.output
    assert "a rank" not in result.output, result.output


@pytest.mark.parametrize("module", ["horovod.torch", "horovod_partial.torch",
                                    "horovod.tensorflow.keras"])
@pytest.mark.parametrize("rows", launches(ENVIRONMENT),
                         ids=lambda rows: "+".join(value for _, value, _ in rows))
def test_ranks_of_a_launcher_that_knows_nothing_of_us(launch, module, rows):
    """An error on every rank that names variable, value and what is allowed, and ends the job."""
    result = launch(2, [SCRIPT, module], "mpi", imported=module, env={
        "HOROVOD_PARTIAL_POLICY": "solo",
        **{f"HOROVOD_PARTIAL_{variable}": value for variable, value, _ in rows}})
    assert result.returncode != 0, result.output
    for rank, (variable, _, message) in itertools.product(range(2), rows):
        expected = f"rank {rank}: environment variable HOROVOD_PARTIAL_{variable}: {message}"
        assert expected in result.output, result.output
    assert result.output.count("rank 0:") == len(rows), result.output
    variable, _, message = rows[0]
    assert f"ValueError: environment variable HOROVOD_PARTIAL_{variable}: {message}" in result.output


def test_variables_that_differ_between_hosts(launch):
    result = launch(2, [SCRIPT, "horovod.torch", "HOROVOD_PARTIAL_POLICY=first:1",
                        "HOROVOD_PARTIAL_STALENESS_BOUND=2", "HOROVOD_PARTIAL_CATCH_UP=sum",
                        "HOROVOD_PARTIAL_RESYNC_EVERY=7", "HOROVOD_PARTIAL_SEED=3"],
                    env={"HOROVOD_PARTIAL_POLICY": "solo"}, imported="torch")
    assert result.returncode != 0, result.output
    for rank, (setting, mine, others) in itertools.product(range(2), [
            ("policy", "'solo'", "'first:1'"), ("staleness_bound", "8", "2"),
            ("catch_up", "'replay'", "'sum'"), ("resync_every", "0", "7"), ("seed", "0", "3")]):
        message = (f"rank {rank}: group 'optimizer.{{}}': {setting} must be the same on every rank, "
                   f"but is {mine} on rank 0 and {others} on rank 1")
        assert any(message.format(n) in result.output for n in range(5)), result.output
