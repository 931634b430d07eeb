"""The examples, in tiny forms. The digits: see test_jobs.py; data loaders: tests/single/test_data.py."""

import json
import os
import re
import subprocess
import sys

import pytest

from common import ROOT

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.timeout(300)


def example(name):
    return str(EXAMPLES / f"{name}.py")


def run(launch, tmp_path, name, np, *options, **launching):
    result = launch(np, [example(name), *map(str, options), "--output", str(tmp_path)], **launching)
    assert result.returncode == 0, result.output
    return result.output


def compared(tmp_path, plot):
    """What a comparison of policies has written."""
    results = json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / plot).stat().st_size > 10_000
    assert all(run["replicas_identical"] and run["curve"] for run in results["runs"])
    return results


def trained(tmp_path):
    """What the training of a model has written."""
    history = json.loads((tmp_path / "history.json").read_text())
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert history["replicas_identical"] is True
    return history


def test_hyperplane(launch, tmp_path):
    output = run(launch, tmp_path, "pytorch_hyperplane", 2, "--dimensions", 64, "--points", 1024,
                 "--rounds", 80, "--seeds", 1, "--policies", "full", "majority", "--base-ms", 1,
                 "--delay-ms", 2, "--learning-rate", 0.04)
    results = compared(tmp_path, "loss.png")
    assert results["emulated_compute"] and "emulated" in output
    for result in results["runs"]:
        # From the variance of the heights towards that of the noise, which is 0.01.
        assert result["curve"][0][1] > 0.5 > 0.1 > result["final_loss"] > 0.005, result
        assert result["seconds_to_target"] is not None


@pytest.mark.parametrize("np, data, options, emulated", [
    (4, "JapaneseVowels", ["--ms-per-step", "0.2", "--rounds", "60"], True),
    (2, "PLAID", ["--real-compute", "--rounds", "60"], False)])
def test_lstm(launch, tmp_path, np, data, options, emulated):
    output = run(launch, tmp_path, "pytorch_lstm", np, "--data", data, "--seeds", 1, "--policies",
                 "majority", *options)
    results = compared(tmp_path, "accuracy.png")
    assert results["emulated_compute"] is emulated
    assert ("emulated compute" in output) is emulated
    result, = results["runs"]
    # Among 9 and 11 classes.
    assert result["final_accuracy"] > (0.8 if emulated else 0.25)
    assert result["mean_active"] < np


def sample(name, tmp_path):
    subprocess.run([sys.executable, example(name), "--make-sample", tmp_path / "sample"], check=True)
    return tmp_path / "sample"


def test_resnet_on_cifar10(launch, tmp_path):
    data = sample("pytorch_cifar10_resnet", tmp_path)
    run(launch, tmp_path, "pytorch_cifar10_resnet", 2, "--data", data, "--batch-size", 50,
        "--epochs", 3, "--warm-up", 1, "--policy", "solo", "--imbalance", "random", "--delay-ms", 5,
        "--learning-rate", 0.2, "--tensorboard", tmp_path / "scalars")
    points = trained(tmp_path)["history"]
    assert [point["round"] >= 15 * (i + 1) for i, point in enumerate(points)] == [True] * 3
    assert points[-1]["test_loss"] < points[0]["test_loss"]
    for rank in range(2):
        assert list((tmp_path / f"scalars/rank-{rank}").glob("events.*"))


def imagenet(data, *options):
    return ["--data", data, "--image-size", 32, "--batch-size", 8, "--warm-up", 1, *options]


def test_resnet_on_imagenet_by_slurm_carries_on_from_a_checkpoint(launch, tmp_path):
    data = sample("pytorch_imagenet_resnet50", tmp_path)
    options = imagenet(data, "--model", "resnet18", "--policy", "majority")
    run(launch, tmp_path, "pytorch_imagenet_resnet50", 2, *options, "--epochs", 2, "--workers", 1)
    first = trained(tmp_path)["history"]
    assert [point["round"] // 8 for point in first] == [1, 2]

    # There is no SLURM here: a stand-in for srun starts the ranks by mpirun.
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\n'
                    'exec mpirun -np 2 --oversubscribe --bind-to none "$@"\n')
    srun.chmod(0o755)
    result = subprocess.run(
        ["bash", EXAMPLES / "slurm/imagenet.sbatch", "pytorch", *map(str, options[1:]),
         "--epochs", "3", "--workers", "0", "--output", str(tmp_path)],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT),
             "SLURM_JOB_ID": "1", "HOROVOD_TIMELINE": str(tmp_path / "timeline.json")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
    assert f"carries on from {tmp_path}/checkpoint.pt, round {first[-1]['round']}" in result.stdout
    assert "differ between ranks" not in result.stdout
    # The file goes on as well.
    assert [point["round"] // 8 for point in trained(tmp_path)["history"]] == [1, 2, 3]
    assert "NEGOTIATE" in (tmp_path / "timeline.json").read_text()


def test_keras_on_imagenet_carries_on_from_a_checkpoint(launch, tmp_path):
    data = sample("tensorflow2_keras_imagenet_resnet50", tmp_path)
    name = "tensorflow2_keras_imagenet_resnet50"
    options = imagenet(data, "--model", "mobilenet", "--policy", "majority")
    run(launch, tmp_path, name, 2, *options, "--epochs", 1)
    first, = trained(tmp_path)["history"]
    # After a flush a checkpoint is good for any number of ranks. An epoch of one has 16 rounds.
    output = run(launch, tmp_path, name, 1, *options, "--epochs", 1)
    assert f"carries on from {tmp_path}/checkpoint.keras, round {first['round']}" in output
    assert "differ between ranks" not in output
    again, second = trained(tmp_path)["history"]
    assert again == first
    assert first["round"] < second["round"] <= 16  # flushes are rounds, but no updates


def test_mpi4py(launch, tmp_path):
    output = run(launch, tmp_path, "mpi4py_init", 2, "--rounds", 50, backend="mpi")
    for name in ("even", "odd"):
        slope, height = map(float, re.search(
            rf"{name} ranks: 1 different line\(s\): y = ([\d.]+) x \+ ([\d.]+)", output).groups())
        assert abs(slope - 3) < 0.1 and abs(height - 1) < 0.1
    assert trained(tmp_path)["history"][-1]["round"] >= 50


def test_an_ordinary_horovod_script_by_the_launcher(launch, tmp_path):
    assert "partial" not in (EXAMPLES / "pytorch_synthetic_benchmark.py").read_text()
    output = run(launch, tmp_path, "pytorch_synthetic_benchmark", 2, "--model", "resnet20",
                 "--image-size", 32, "--batch-size", 4, "--num-warmup-batches", 1, "--num-iters", 3,
                 "--num-batches-per-iter", 2, options=["--partial", "first:1"])
    assert "Total img/sec on 2 ranks" in output
    assert "'optimizer.0' (first:1)" in output
    results = json.loads((tmp_path / "results.json").read_text())
    assert [len(rates) for rates in results["images_per_second"]] == [3, 3]
    assert (tmp_path / "images_per_second.png").stat().st_size > 10_000


def test_elastic_digits(launch, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost:2\n")
    output = run(launch, tmp_path, "elastic_digits", 2, "--rounds", 120, "--commit-every", 20,
                 "--base-ms", 2, "--delay-ms", 4, env={"HOSTS": str(hosts)}, options=[
                     "--min-np", "2", "--max-np", "3", "--host-discovery-script",
                     str(EXAMPLES / "discover_hosts.sh"), "--network-interfaces", "lo"])
    points = trained(tmp_path)["history"]
    assert points[-1]["accuracy"] > 0.7 and points[-1]["round"] >= 120, output


NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())
IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys
for path, *arguments in json.loads(sys.argv[1]):
    sys.argv = [path, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            runpy.run_path(path, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, out.getvalue()]), flush=True)
"""


def test_help_and_wrong_options():
    wrong = {name: (["--rounds", "0"], "--rounds: must be at least 1") for name in NAMES}
    for name in NAMES:
        if "resnet" in name:
            wrong[name] = [], "--data FOLDER is needed"
    wrong["pytorch_lstm"] = ["--data", "nothing"], "--data: invalid choice: 'nothing'"
    wrong["pytorch_synthetic_benchmark"] = ["--num-iters", "0"], "--num-iters must be at least 1"
    calls = [[example(name), *options] for name in NAMES
             for options in (["--help"], wrong[name][0])]
    ran = subprocess.run([sys.executable, "-c", IN_ONE_PROCESS, json.dumps(calls)],
                         cwd=EXAMPLES, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    answers = iter(map(json.loads, ran.stdout.splitlines()))
    for name in NAMES:
        status, shown = next(answers)
        assert status == 0 and "--output" in shown and "default" in shown, (name, shown)
        status, said = next(answers)
        assert status == 2 and wrong[name][1] in said, (name, said)


def test_the_readme_names_all_examples():
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.rglob("*.*"):
        if "__pycache__" not in path.parts and path.name != "README.md":
            assert path.name in readme, path
