"""Whole jobs: how ranks end, how they fail, and scripts that know nothing of us."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from common import ROOT

SCRIPTS = ROOT / "tests/integration/scripts"
BACKENDS = ["gloo", "mpi"]
pytestmark = pytest.mark.timeout(300)


def script(name, *arguments):
    return [str(SCRIPTS / f"{name}.py"), *arguments]


TORCH, TENSORFLOW = "horovod_partial.torch", "horovod_partial.tensorflow"
UNMODIFIED = {"HOROVOD_PARTIAL_POLICY": "first:2", "HOROVOD_PARTIAL_STALENESS_BOUND": "2"}


@pytest.mark.parametrize("module, how, backend, np", [
    *[(TORCH, how, "gloo", 3)
      for how in ("end", "flush", "join", "shutdown", "exit0", "synchronous", "unmatched")],
    (TORCH, "in-flight", "gloo", 2),
    (TORCH, "flush", "mpi", 3), ("horovod.torch", "end", "gloo", 2),
    ("horovod.torch", "exit0", "mpi", 2), (TENSORFLOW, "join", "gloo", 2),
    (TENSORFLOW, "synchronous", "mpi", 2), ("horovod.tensorflow", "shutdown", "gloo", 2),
    ("horovod.tensorflow", "end", "mpi", 2)])
def test_a_rank_that_ends_early_drains(launch, module, how, backend, np):
    checks = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "1"} if how == "in-flight" else {}
    result = launch(np, script("uneven_end", module, how), backend, {**UNMODIFIED, **checks},
                    imported=module)
    assert result.returncode == 0, result.output
    assert "rank 0 did 3 steps" in result.output
    for rank in range(1, np):
        assert f"rank {rank} did 40 steps" in result.output
        assert (f"rank {rank} could not" in result.output) == (how in ("synchronous", "in-flight"))


def test_a_rank_ends_with_an_operation_outstanding(launch):
    result = launch(3, script("uneven_end", TORCH, "outstanding"), imported=TORCH)
    assert result.returncode == 0, result.output
    assert result.output.count("rank 1 could not") == 2
    assert "with what rank 0 left: 2.0" in result.output
    assert result.output.count("did 40 steps") == 2


def test_a_rank_that_ends_early_drains_in_keras(launch):
    result = launch(3, script("uneven_end_keras"), imported=TENSORFLOW)
    assert result.returncode == 0, result.output
    assert "rank 0 did 3 steps" in result.output
    assert result.output.count("did 40 steps") == 2


def test_what_was_in_no_round_and_what_was_merged_is_reported(launch, tmp_path):
    result = launch(2, script("left_behind", str(tmp_path / "store")), imported=TORCH)
    assert result.returncode == 0, result.output
    # Of the rank that submitted last, and of no group that was flushed.
    assert re.findall(r"\[rank (\d)\] horovod_partial: what was (.*)", result.output) == [
        ("1", "submitted last to optimizer.0, plain was in no round (flush() and hvd.rounds() carry "
              "it)")], result.output
    # Rank 0 says how it went. Rank 1 speaks because it has merged: of five rounds, two are its bound.
    said = dict(re.findall(r"\[rank (\d)\] horovod_partial: 'optimizer.0' \(solo\): .*\. "
                           r"Rank \1: (.*)", result.output))
    assert said.keys() == {"0", "1"}, result.output
    assert said["0"].startswith("8 submissions") and "Merged" not in said["0"], said
    assert said["1"].startswith("3 submissions"), said
    assert said["1"].endswith(". Merged beyond the staleness bound: 3 rounds."), said


# How a rank fails, and what the launcher says.
FAILURES = {"raise": "a bug in step 3", "raise-and-shut-down": "a bug in step 3",
            "raise-to-another-hook": "caught: a bug in step 3", "exit": r"exit(ed)? .*code:?\s+3",
            "quit": r"exit(ed)? .*code:?\s+3", "SIGKILL": "137|signal 9", "SIGTERM": "143|signal 15"}


@pytest.mark.parametrize("module, how, backend", [
    *[(TORCH, how, backend) for how in FAILURES for backend in BACKENDS],
    *[(TENSORFLOW, how, "gloo") for how in ("raise", "exit", "SIGTERM")],
    (TENSORFLOW, "raise-and-shut-down", "mpi"), (TENSORFLOW, "SIGKILL", "mpi")])
def test_a_rank_that_fails_ends_the_job_for_all(launch, module, how, backend):
    result = launch(2, script("failing", module, how), backend, timeout=90,
                    imported=module)
    assert result.returncode != 0
    assert re.search(FAILURES[how], result.output, re.IGNORECASE), result.output
    assert "went through" not in result.output


@pytest.mark.parametrize("module", ["horovod.torch", TENSORFLOW])
def test_a_function_that_ends_early_drains(module):
    result = run_function("uneven_end", module, "end")
    assert result.returncode == 0, result.stderr
    assert "horovod.run: [3, 40]" in result.stdout


@pytest.mark.parametrize("module, how, said", [
    (TORCH, "raise", "a bug in step 3"), (TORCH, "exit", "User function raise error: 3"),
    (TENSORFLOW, "raise", "a bug in step 3")])
def test_a_function_that_fails_ends_the_job_for_all(module, how, said):
    result = run_function("failing", module, how)
    assert result.returncode != 0
    assert said in result.stderr
    assert "horovod.run: " not in result.stdout


def run_function(*arguments):
    return subprocess.run([sys.executable, *script("run_function", *arguments)], timeout=90,
                          cwd=SCRIPTS, capture_output=True, text=True, env={**os.environ, **UNMODIFIED})


@pytest.mark.parametrize("backend", [*BACKENDS, "horovodrun-mpi"])
def test_a_stock_script_runs_unchanged(launch, backend):
    result = launch(2, script("stock"), backend, imported=TORCH)
    assert result.returncode == 0, result.output
    assert result.output.count("trained synchronously") == 2


def test_tensorflow_runs_synchronously(launch):
    result = launch(2, script("stock_tensorflow"), imported=TENSORFLOW)
    assert result.returncode == 0, result.output
    assert result.output.count("has TensorFlow") == 2


def test_a_stock_script_trains_partially_by_the_environment(launch):
    result = launch(2, script("stock"), env={"HOROVOD_PARTIAL_POLICY": "solo"},
                    imported=TORCH)
    assert result.returncode == 0, result.output
    assert result.output.count("trained partially: solo") == 2
    # Rank 0 says how it went, once.
    said = re.findall(r"\[rank (\d)\] horovod_partial: 'optimizer.0' \(solo\): \d+ rounds, .* of 2 "
                      r"ranks active on average. Rank 0: 5 submissions", result.output)
    assert said == ["0"], result.output


def test_the_summary_can_be_switched_off(launch):
    result = launch(2, script("stock"), imported=TORCH,
                    env={"HOROVOD_PARTIAL_POLICY": "solo", "HOROVOD_PARTIAL_SUMMARY": "0"})
    assert result.returncode == 0, result.output
    assert "trained partially: solo" in result.output
    assert "ranks active on average" not in result.output


KERAS = SCRIPTS / "stock_keras.py"


@pytest.mark.parametrize("np", [1, 2])
def test_a_stock_keras_script_trains_synchronously(launch, np):
    result = launch(np, [str(KERAS)], imported=TENSORFLOW)
    assert result.returncode == 0, result.output
    assert result.output.count("trained synchronously; weights equal") == np


@pytest.mark.parametrize("np", [1, 4])
def test_a_stock_keras_script_becomes_partial_by_its_import_line(launch, tmp_path, np):
    changed = KERAS.read_text().replace("\nimport horovod.tensorflow.keras as hvd",
                                        "\nimport horovod_partial.tensorflow.keras as hvd")
    assert changed != KERAS.read_text()
    path = tmp_path / "changed.py"
    path.write_text(changed)
    result = launch(np, [str(path)], imported=TENSORFLOW)
    assert result.returncode == 0, result.output
    assert len(re.findall(r"partially: majority, \d+ late; weights equal",
                          result.output)) == np, result.output


def test_a_stock_keras_script_becomes_partial_by_the_environment(launch):
    result = launch(2, [str(KERAS)], env={"HOROVOD_PARTIAL_POLICY": "solo"}, imported=TENSORFLOW)
    assert result.returncode == 0, result.output
    assert len(re.findall(r"partially: solo, \d+ late; weights equal", result.output)) == 2


@pytest.mark.parametrize("np, backend", [(4, "gloo"), (3, "mpi")])
def test_a_short_soak(launch, np, backend):
    result = launch(np, [str(ROOT / "tests/soak/soak.py"), "--rounds", "1000"], backend,
                    imported=TORCH)
    assert result.returncode == 0, result.output
    assert "soak passed" in result.output, result.output


def test_the_version_is_local():
    version = subprocess.run([sys.executable, "-c", "import horovod; print(horovod.__version__)"],
                             capture_output=True, text=True, cwd="/", check=True).stdout.strip()
    assert re.fullmatch(r"0\.28\.1\+partial\.\d+\.\d+\.\d+", version)
    installed = subprocess.run([sys.executable, "-m", "pip", "list", "--format=json"],
                               capture_output=True, text=True, cwd="/", check=True).stdout
    versions = {entry["name"]: entry["version"] for entry in json.loads(installed)}
    assert versions["horovod"] == version
    assert "horovod-partial" not in versions  # one distribution


def test_check_build_names_us():
    output = subprocess.run(["horovodrun", "--check-build"], capture_output=True, text=True,
                            check=True).stdout
    assert "[X] Partial collectives" in output
    assert "[X] PyTorch" in output and "[X] TensorFlow" in output and "[X] Gloo" in output


FRAMEWORKS = {"pytorch_digits": TORCH, "tensorflow2_keras_digits": TENSORFLOW,
              "tensorflow2_custom_loop": TENSORFLOW}
DEMOS = list(FRAMEWORKS)


class TestDemos:
    """The main job and its likes, short."""

    def run(self, launch, tmp_path, demo, np, *options):
        result = launch(np, [f"examples/{demo}.py", "--rounds", "12", "--seeds", "1",
                             "--base-ms", "5", "--delay-ms", "10", "--output", str(tmp_path),
                             *options], imported=FRAMEWORKS[demo])
        assert result.returncode == 0, result.output
        assert (tmp_path / "accuracy.png").stat().st_size > 10_000
        return json.loads((tmp_path / "results.json").read_text()), result.output

    @pytest.mark.parametrize("demo, imbalance", [
        *[("pytorch_digits", pattern)
          for pattern in ("persistent", "random", "skew", "heavy", "none")],
        ("tensorflow2_keras_digits", "persistent"), ("tensorflow2_custom_loop", "random")])
    def test_four_ranks(self, launch, tmp_path, demo, imbalance):
        results, output = self.run(launch, tmp_path, demo, 4, "--imbalance", imbalance)
        assert [row["policy"] for row in results["summary"]] == [
            "full", "solo", "majority", "first:3", "auto"]
        assert results["emulated_compute"] and "emulated" in output
        for run in results["runs"]:
            assert run["rounds"] >= 12 and run["replicas_identical"]
            assert run["samples_per_second"] > 0 and run["curve"]
        assert results["summary"][0]["mean_active"] == 4

    @pytest.mark.parametrize("demo", DEMOS)
    def test_one_process(self, launch, tmp_path, demo):
        results, _ = self.run(launch, tmp_path, demo, 1, "--policies", "full", "majority")
        assert all(row["mean_active"] == 1 for row in results["summary"])

    @pytest.mark.parametrize("demo, module", [
        ("pytorch_digits", "torch"), ("tensorflow2_keras_digits", "tensorflow.keras")])
    def test_stock_horovod_by_one_import(self, launch, tmp_path, demo, module):
        text = (ROOT / f"examples/{demo}.py").read_text()
        changed = text.replace(f"\nimport horovod_partial.{module} as hvd",
                               f"\nimport horovod.{module} as hvd")
        assert changed != text
        (tmp_path / "stock.py").write_text(changed)
        for shared in ("common.py", "digits.py"):
            shutil.copy(ROOT / "examples" / shared, tmp_path)
        result = launch(2, [str(tmp_path / "stock.py"), "--rounds", "8", "--seeds", "1",
                            "--base-ms", "2", "--delay-ms", "2", "--output", str(tmp_path)],
                        imported=module)
        assert result.returncode == 0, result.output
        assert (tmp_path / "results.json").exists() and "same" in result.output

    @pytest.mark.parametrize("demo", DEMOS)
    def test_help_and_wrong_options(self, demo):
        command = [sys.executable, str(ROOT / f"examples/{demo}.py")]
        shown = subprocess.run([*command, "--help"], capture_output=True, text=True)
        assert shown.returncode == 0 and "--imbalance" in shown.stdout
        wrong = subprocess.run([*command, "--rounds", "0"], capture_output=True, text=True)
        assert wrong.returncode == 2 and "--rounds: must be at least 1" in wrong.stderr
