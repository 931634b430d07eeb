"""benchmarks/: statistics with known answers, the model of a network, the report, and a job."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from common import ROOT

sys.path.append(str(ROOT))

from benchmarks import __main__ as driver  # noqa: E402
from benchmarks import (balanced, common, hyperplane, report, scale, sequences,  # noqa: E402
                        skewed, training)


def test_a_spread_is_the_median_and_the_quartiles():
    assert common.spread([5, 1, 4, 2, 3]) == {"median": 3, "low": 2, "high": 4, "n": 5}


def test_a_ratio_is_that_of_pairs():
    # Each pair doubles, however much the machine slows from one to the next.
    assert common.paired_ratio([2, 20, 6, 80, 10], [1, 10, 3, 40, 5]) == {
        "ratio": 2, "low": 2, "high": 2, "n": 5}


def test_an_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        ratio = common.paired_ratio(*random.lognormal([[0.7], [0]], 0.1, (2, 15)).tolist())
        held += ratio["low"] <= math.exp(0.7) <= ratio["high"]
    assert 50 <= held <= 60


def test_one_pair_has_no_interval_and_unequal_numbers_are_refused():
    assert common.paired_ratio([3], [2]) == {"ratio": 1.5, "low": None, "high": None, "n": 1}
    with pytest.raises(ValueError, match="2 and 1"):
        common.paired_ratio([1, 2], [1])


def test_resnet50_has_its_161_tensors():
    shapes = balanced.resnet50_shapes()
    assert len(shapes) == 161
    assert sum(math.prod(shape) for shape in shapes) == 25_557_032


def test_the_ideal_of_skewed_arrival():
    # Rank 7 of 8: 0 + 1 + ... + 7 times the delay. Over all initiators: the 2.67.
    assert skewed.ideal_latency(7, 8, 0.05) == pytest.approx(0.175)
    mean = np.mean([skewed.ideal_latency(rank, 8, 0.05) for rank in range(8)])
    assert 0.175 / mean == pytest.approx(8 / 3)


def test_time_to_accuracy():
    curve = [(1.0, 1, 0.0), (2.0, 2, 0.9), (3.0, 3, 0.9), (4.0, 4, 0.9), (5.0, 5, 0.9)]
    assert training.seconds_to(curve, 0.85) == 4.0  # the running mean of three
    assert training.seconds_to(curve, 0.95) is None
    ranks = [{"times": [1, 2, 3], "batch": 8}, {"times": [2.5], "batch": 8}]
    assert training.samples_at(ranks, 2.5) == 24
    rounds = [{"times": [1.0, 2.0, 4.0], "rounds": [1, 3, 7]}]
    assert training.round_rate(rounds) == 2.0


def test_the_tree_of_the_model_is_that_of_the_control_plane():
    source = (ROOT / "horovod_partial/csrc/glue/control_plane.cc").read_text()
    assert int(re.search(r"kFanOut = (\d+);", source).group(1)) == scale.FAN_OUT
    assert [scale.depth(size) for size in (1, 2, 9, 10, 73, 74)] == [0, 1, 1, 2, 2, 3]
    # 2 bits, who has ended, and 12 per rank for the group.
    assert scale.words_of(8) == scale.CACHE_WORDS + math.ceil((2 + 8 + 12 * 8) / 64)
    assert scale.negotiation(9, together=False)["messages"] == (3 * 2 * 8 / 9, 3 * 8)
    assert scale.negotiation(9, together=True)["messages"] == (4 * 2 * 8 / 9, 4 * 8)


def test_the_fit_finds_what_made_the_latencies():
    samples = {str(size): {"gloo": {"ours": {"empty round": [
        1e-4 + 2e-5 * 8 * (size - 1) / 2] * 3}}} for size in (2, 4, 8)}
    fit = scale.fit_handling(samples, cores=2)
    assert fit["handling"] == pytest.approx(2e-5)
    assert fit["constant"] == pytest.approx(1e-4)


@pytest.fixture
def results(tmp_path):
    """Made results, as the benchmarks write them: solo costs nothing, majority twice the ideal."""
    facts = {**common.machine(), "busy_at_start": 0.1}

    def made(name, data):
        (tmp_path / f"{name}.json").write_text(json.dumps({
            "benchmark": name, "short": False, "seconds": 1.0, "machine": facts, "options": {},
            "data": data}))

    made("control", {"samples": {"8": {"gloo": {
        "stock": {"allreduce": [0.04] * 5, "idle": [0.2] * 5, "waiting": [0.2] * 5},
        "ours": {"allreduce": [0.002] * 5, "empty round": [0.001] * 5, "idle": [0.01] * 5,
                 "waiting": [0.05] * 5, "waiting, partial": [0.01] * 5}}}}})
    first = skewed.initiators(0, skewed.name_of("majority", 4096), [1, 2], 2)
    block = {"began_late": [[0.0] * 2] * 2}
    made("skewed", {"np": 2, "delay": 0.05, "seed": 0, "blocks": {"4096": {
        "solo": [{**block, "latency": [[0.0001] * 2] * 2, "rounds": [[1, [0]], [2, [0]]]}] * 5,
        "majority": [{**block, "latency": [[0.0001] * 2] * 2,
                      "rounds": [[i + 1, list(range(rank + 1))]
                                 for i, rank in enumerate(first)]}] * 5,
        skewed.HOROVOD_GLOO: [{**block, "latency": [[0.05] * 2, [0.0] * 2],
                               "rounds": [None] * 2}] * 5}}})
    return tmp_path


def test_the_report_has_measured_and_wanted_values_and_verdicts(results, tmp_path):
    text = report.write(results).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "met" in line]
    assert len(rows) == 5
    by_text = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:5]]
               for row in rows}
    assert by_text["CPU of an idle rank, ours / stock, np = 8, Gloo"] == [
        "at most 0.1", "0.05 [0.05, 0.05]", "met"]
    assert by_text["CPU of a waiting rank, ours / stock, np = 8, Gloo"][2] == "**not met**"
    assert "- CPU of a waiting rank, ours / stock, np = 8, Gloo: 0.25 [0.25, 0.25]" in text
    solo, = [cells for name, cells in by_text.items() if "solo's" in name]
    assert solo == ["at least 50", "250 [250, 250]", "met"]
    assert "Not run: balanced, hyperplane" in text

    page = report.write_docs(results, tmp_path / "docs")
    assert "](images/benchmark-skewed.png)" in page.read_text()
    assert (tmp_path / "docs/images/benchmark-control.png").stat().st_size > 10_000


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="has no results"):
        report.write(tmp_path)
    with pytest.raises(SystemExit, match="control.json is missing"):
        driver.main(["scale", "--short", "--output", str(tmp_path)])


@pytest.mark.parametrize("name", driver.NAMES)
def test_help_teaches(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        driver.main([name, "--help"])
    text = capsys.readouterr().out
    assert report.module_of(name).__doc__.split("\n")[0] in text
    assert "--short" in text


def test_a_target_that_is_not_reached_counts_as_infinitely_late():
    def run(seconds, score):
        # A running mean of three reaches the score at the fourth of five points.
        curve = [[seconds * i / 5, i, score * (i > 1)] for i in range(1, 6)]
        stats = {"mean_active": 1.0, "mean_staleness": 0.5}
        return [{"seconds": seconds, "times": [1.0], "batch": 1, "over": 0, "stats": stats,
                 "planned": planned, "curve": curve} for planned in ([1.0, 1.0], [3.0, 1.0])]

    data = {"np": 2, "tests": {"made": 100}, "cases": {"made": {
        "stock": [run(10, 0.9), run(10, 0.9)], "solo": [run(1, 0.9), run(1, 0.5)],
        "first:2": [run(6, 0.9), run(6, 0.95)]}}}
    rows = sequences.summarise(data)
    assert [row["reached"] for row in rows] == [2, 1, 2]
    assert rows[1]["ratio"] == {"ratio": math.inf, "low": pytest.approx(0.1), "high": math.inf,
                                "n": 2}
    best = sequences.best_of(rows, "made")
    assert (best["way"], best["ratio"]["ratio"]) == ("first:2", pytest.approx(0.6))
    assert best["least"] == 1.5 / 2  # 1, 1 and 3, 1 against 3, 1


def test_the_unpatched_horovod_has_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import unpatched

    unpatched.unpack(tmp_path / "source")
    assert (tmp_path / "source/setup.py").exists()
    assert not [path for path in (tmp_path / "source/horovod").rglob("*")
                if path.is_file() and b"horovod_partial" in path.read_bytes()]


@pytest.mark.timeout(300)
def test_a_job_takes_turns_with_another(tmp_path):
    """Trains the hyperplane on 2 ranks, stock and solo, in a very short form."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "hyperplane", "--np", "2", "--base-ms", "20",
         "--seconds", "0.3", "--segments", "2", "--delays", "1", "--dimensions", "8", "--output",
         str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((tmp_path / "hyperplane.json").read_text())
    case = result["data"]["cases"]["20"]
    assert [len(case["segments"][how]) for how in ("stock", "solo")] == [2, 2]
    for ranks in case["segments"]["solo"]:
        assert len(ranks) == 2 and all(rank["times"] for rank in ranks)
        assert ranks[0]["curve"]
    # Synchronous ranks make as many steps as were asked for, all the same.
    assert {len(rank["times"]) for ranks in case["segments"]["stock"] for rank in ranks} == {8}
    # Nor can they be faster than their slowest: gradients come at the end of the emulated work.
    for ranks in case["segments"]["stock"]:
        assert ranks[0]["times"][-1] >= 0.95 * 8 * 0.04
    losses = [point[2] for point in hyperplane.curves(case["segments"]["stock"])]
    assert losses[-1] < losses[0]
    assert (tmp_path / "hyperplane.png").exists()
    assert "| 20 |" in run.stdout


def test_auto_finds_the_slow_worker_in_the_simulation(tmp_path):
    subprocess.run([sys.executable, ROOT / "benchmarks/auto_simulation.py", "--patterns",
                    "persistent", "--seeds", "2", "--output", tmp_path], check=True, timeout=120)
    results = json.loads((tmp_path / "results.json").read_text())
    for run in results["runs"]:
        if run["policy"] == "auto":  # one of 8 is slow for good
            assert [change[1:3] for change in run["changes"]] == [[8, 7]]
    seconds = {row["policy"]: row["seconds"] for row in results["summary"]["persistent"]}
    assert seconds["auto"] < min(seconds["solo"], seconds["majority"], seconds["full"])
    assert (tmp_path / "auto.png").stat().st_size > 10_000
