"""The report: what timelines and statistics say of ranks' steps, what is advised, and the page."""

import gzip
import json
import re
import statistics
import sys

import pytest

from common import ROOT
from horovod_partial import advice, records, report

# examples/pytorch_digits.py on 4 ranks: 20 rounds under full, then 20 under first:3. A step took
# rank 3 180 ms, the others 60 ms.
RECORDED = gzip.decompress((ROOT / "tests/data/timeline.json.gz").read_bytes()).decode()


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "timeline.json"
    path.write_text(RECORDED)
    return path


class Timeline:
    """Writes a timeline as the coordinator does; times in milliseconds."""

    def __init__(self):
        self.events = []

    def row(self, number, name):
        self.events.append({"name": "process_name", "ph": "M", "pid": number,
                            "args": {"name": name}})
        return self

    def add(self, phase, when, name=None, pid=1, **args):
        event = {"ph": phase, "ts": 1000 * when, "pid": pid}
        if name is not None:
            event["name"] = name
        if args:
            event["args"] = args
        self.events.append(event)

    def round(self, index, when, ready, stale=(), null=(), took=10, waited_for=()):
        """Decided at `when`; `ready`: rank -> since when."""
        self.add("B", min(ready.values()), "NEGOTIATE_ALLREDUCE")
        for rank, since in ready.items():
            self.add("X", since, str(rank))
        self.add("E", when)
        self.add("X", when, "ROUND", round=index, active=sorted(ready), stale=list(stale),
                 null=list(null), waited_for=list(waited_for))
        self.allreduce(when, took)

    def allreduce(self, when, took=10):
        self.add("B", when, "ALLREDUCE")
        self.add("B", when, "GLOO_ALLREDUCE")
        self.add("E", when + took)
        self.add("E", when + took)

    def write(self, path):
        path.write_text(json.dumps(self.events))
        return path


def test_a_recorded_training(recorded):
    full, first = records.read([recorded])
    assert [(r.name, r.size) for r in (full, first)] == [("optimizer.0", 4), ("optimizer.1", 4)]
    assert full.contributions == 4 * [{"fresh": 19, "stale": 0, "null": 0}]
    assert first.contributions == 3 * [{"fresh": 19, "stale": 0, "null": 0}] + [
        {"fresh": 0, "stale": 10, "null": 9}]
    assert (full.mean_active, first.mean_active) == (4, 3)
    assert (full.estimated, first.estimated) == (0, 9)
    assert full.mean_staleness == 0 < first.mean_staleness
    for record, policy in ((full, "full"), (first, "first:3")):
        medians = [statistics.median(steps) for steps in record.steps]
        assert all(0.06 < median < 0.09 for median in medians[:3])
        assert 0.18 < medians[3] < 0.21
        # Replayed under the policy that it had, a training goes as fast as it did.
        replayed = advice.predict(record.steps, policy, round_seconds=record.round_seconds)
        assert replayed.rounds_per_second == pytest.approx(record.rounds_per_second, rel=0.05)
        assert advice.advise(record.steps).best.policy == "first:3"
    # Late submissions, which have no mark, give the same steps as those that were seen.
    assert statistics.median(first.steps[3]) == pytest.approx(
        statistics.median(full.steps[3]), rel=0.05)


def test_the_steps_of_a_late_rank(tmp_path):
    timeline = Timeline().row(1, "partial.g")
    timeline.round(0, 0, {0: 0, 1: 0})
    timeline.round(1, 100, {0: 100}, null=[1])
    timeline.round(2, 200, {0: 200}, null=[1])
    timeline.round(3, 300, {0: 300}, stale=[1])
    timeline.round(4, 400, {0: 400}, stale=[1])
    timeline.round(5, 500, {0: 500, 1: 490})
    record, = records.read([timeline.write(tmp_path / "t.json")])
    assert record.steps[0] == pytest.approx(5 * [0.09])
    # From 10 to 490 ms, rank 1 was late between 200 and 300, 300 and 400, 400 and 490: it found
    # round 4 pending before it was ready for round 5.
    assert record.steps[1] == pytest.approx([0.19, 0.1, 0.1, 0.09])
    assert record.estimated == 3
    assert sorted(record.staleness) == 6 * [0] + [1, 1, 2]
    assert record.waits == pytest.approx([0, 0.01])
    assert record.rounds_per_second == pytest.approx(10)
    assert record.round_seconds == pytest.approx(0.01)


def test_late_submissions_that_were_seen(tmp_path):
    timeline = Timeline().row(1, "partial.g")
    timeline.round(0, 0, {0: 0, 1: 0})
    timeline.round(1, 100, {0: 100}, null=[1])
    timeline.add("X", 190, "LATE", ranks=[1])
    timeline.round(2, 200, {0: 200}, stale=[1])
    timeline.add("X", 360, "LATE", ranks=[1])
    timeline.round(3, 400, {0: 400, 1: 390})
    timeline.events[-5]["args"]["policy"] = "solo"
    record, = records.read([timeline.write(tmp_path / "t.json")])
    assert record.steps[1] == pytest.approx([0.18, 0.17, 0.03])
    assert (record.estimated, record.policy) == (0, "solo")


def test_what_comes_after_a_flush_is_no_step(tmp_path):
    timeline = Timeline().row(1, "partial.g")
    timeline.round(0, 0, {0: 0, 1: 0})
    timeline.round(1, 100, {0: 100, 1: 50})
    timeline.add("X", 200, "FLUSH", round=2, empty=False)
    timeline.allreduce(200, took=500)
    timeline.round(3, 5000, {0: 5000, 1: 5000})
    timeline.round(4, 5100, {0: 5100, 1: 5060})
    record, = records.read([timeline.write(tmp_path / "t.json")])
    assert record.steps == [pytest.approx([0.09, 0.09]), pytest.approx([0.04, 0.05])]
    assert record.rounds_per_second == pytest.approx(10)


def test_a_heal_belongs_to_its_round(tmp_path):
    timeline = Timeline().row(1, "partial.g")
    timeline.round(0, 0, {0: 0, 1: 0})
    timeline.add("X", 60, "HEAL", round=1, root=0)
    timeline.round(1, 100, {0: 100, 1: 90})
    record, = records.read([timeline.write(tmp_path / "t.json")])
    assert record.steps == [pytest.approx([0.04]), pytest.approx([0.03])]


def test_groups_that_begin_anew(tmp_path):
    """Another optimizer of the same name, and a job that went on with less ranks."""
    timeline = Timeline().row(1, "partial.g").row(2, "allreduce.loss")
    timeline.add("B", 0, "ALLREDUCE", pid=2)
    for size, first in ((3, 0), (3, 0), (2, 2)):
        timeline.round(first, 0, dict.fromkeys(range(size), 0))
        timeline.round(first + 1, 100, dict.fromkeys(range(size), 100))
    found = records.read([timeline.write(tmp_path / "t.json")])
    assert [(r.name, r.size, len(r.rounds)) for r in found] == [
        ("g (1)", 3, 2), ("g (2)", 3, 2), ("g (3)", 2, 2)]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9, 0.999])
def test_a_timeline_that_is_cut_short(recorded, share):
    text = RECORDED[:int(share * len(RECORDED))]
    recorded.write_text(text)
    found = records.read([recorded])
    assert sum(len(r.rounds) for r in found) == len(re.findall(r'"round": \d+[^}]*\}\}', text)) > 10
    assert f"of {len(text):,}: was the job killed?" in found[0].notes[0]


def test_timelines_in_one_file(recorded):
    """Of jobs that were started anew, one of which was killed."""
    cut = RECORDED.index("FLUSH")
    recorded.write_text(RECORDED + RECORDED[:cut] + "\n" + RECORDED + RECORDED)
    found = records.read([recorded])
    assert [(r.name, len(r.rounds)) for r in found] == [
        (f"optimizer.{i} ({life})", 21) for i in (0, 1) for life in (1, 2, 3)]
    assert "was the job killed?" in found[0].notes[0]


STATS = {"name": "g", "size": 2, "rounds": 8, "fresh": 8, "stale": 0, "null": 0,
         "wait_seconds": 1.5, "mean_active": 1.5, "policy": "majority"}
FAST = {**STATS, "rank": 0, "step_seconds": [0.1] * 8, "staleness_histogram": [8]}
SLOW = {**STATS, "rank": 1, "step_seconds": [0.4] * 3, "staleness_histogram": [1, 0, 2]}


def test_statistics_of_all_ranks_in_one_file_or_in_several(tmp_path):
    both, fast, slow = (tmp_path / name for name in ("both.json", "0.json", "1.json"))
    both.write_text(json.dumps([FAST, SLOW]))
    fast.write_text(json.dumps(FAST))
    slow.write_text(json.dumps(SLOW))
    for paths in ([both], [slow, fast]):
        record, = records.read(paths)
        assert record.steps == [[0.1] * 8, [0.4] * 3]
        assert (record.size, record.policy, record.waits) == (2, "majority", [1.5, 1.5])
        assert sorted(record.staleness) == 9 * [0] + 2 * [2]
        assert record.contributions[1] == {"fresh": 8, "stale": 0, "null": 0}


@pytest.mark.parametrize("content, words", [
    ("", ["it is empty", "HOROVOD_TIMELINE"]),
    ("epoch,loss\n1,0.5\n", ["neither a timeline", "hvd.partial_stats()"]),
    ("[1, 2]", ["neither"]),
    ("[]", ["neither"]),
    (json.dumps({"accuracy": 0.9}), ["neither", "fresh", "is missing"]),
    (json.dumps([SLOW]), ["rank 0 of 'g'", "all ranks"]),
    (json.dumps([FAST, FAST]), ["two of rank 0", "one training"]),
    (json.dumps(Timeline().row(1, "allreduce.loss").events), ["no partial round", "--partial"]),
    (json.dumps(Timeline().row(1, "partial.g").events + [
        {"ph": "X", "name": "ROUND", "ts": 1, "pid": 1, "args": {"round": "one"}}]),
     ["not as Horovod writes it", "ROUND"]),
])
def test_files_that_cannot_be_read(tmp_path, capsys, content, words):
    path = tmp_path / "file.json"
    path.write_text(content)
    assert report.main([str(path), "-o", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: ")
    assert all(word in message for word in words), message


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert report.main([str(tmp_path / "none.json")]) == 1
    assert "none.json: No such file" in capsys.readouterr().err


EVEN = [0.1, 0.11, 0.09]


@pytest.mark.parametrize("steps, best, words", [
    (3 * [[0.1]] + [[0.3]], "first:3", ["Rank 3 takes 3.0 times as long"]),
    ([[0.5]] + 4 * [EVEN] + [[0.3]], "first:4", ["Ranks 0 and 5 take 5.0 and 3.0 times"]),
    (4 * [EVEN], "full", ["even enough"]),
    ([[0.1]], "full", ["even enough"]),
])
def test_advice_for_steps_of_known_durations(steps, best, words):
    advised = advice.advise(steps)
    assert advised.best.policy == best
    assert all(word in advised.reason for word in words), advised.reason
    by_name = {p.policy: p for p in advised.predictions}
    assert advised.full is by_name["full"]
    assert advised.best.score >= (1 - advice.TOLERANCE) * max(p.score for p in advised.predictions)
    # It takes some rounds to find its K.
    assert (len(steps) == 1) == (advised.auto is None)
    assert advised.auto is None or 0.9 < advised.auto.score / advised.best.score < 1.05


def test_advice_where_ranks_are_slow_in_turn():
    steps = [[0.5 if turn == rank else 0.1 for turn in range(4)] for rank in range(4)]
    advised = advice.advise(steps)
    assert advised.best is not advised.full
    assert advised.best.score > 1.3 * advised.full.score
    assert "No rank is slow for good, but single steps are" in advised.reason


def test_the_cost_of_staleness_decides():
    steps = 4 * [[0.1]] + 4 * [[0.2]]
    free, dear = (advice.advise(steps, staleness_cost=cost) for cost in (0, 100))
    assert (free.best.policy, dear.best.policy) == ("first:4", "full")


def test_the_page_needs_nothing_from_elsewhere(recorded, tmp_path, capsys):
    assert report.main([str(recorded), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("Slowest: rank 3") == said.count("Advice: --partial first:3") == 2
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("horovodrun --partial first:3") == 2
    assert "gradients submitted per second / (1 + 0.7 × mean staleness)" in page
    assert not re.search("https?:|<script|<link|@import|url\\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 6 and all(s.startswith("data:image/png;base64,") for s in sources)
    figures = sorted((tmp_path / "out").glob("*.png"))
    assert [f.name for f in figures] == [
        f"{i}-optimizer.{i}-{kind}.png" for i in (0, 1)
        for kind in ("arrivals", "participation", "policies")]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in figures)


def test_a_page_of_statistics_and_one_without_steps(tmp_path):
    stats = [{**FAST, "name": "<b>/../g"}, {**SLOW, "name": "<b>/../g"}]
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats))
    assert report.main([str(path), "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<b>/" not in page and "&lt;b&gt;/../g" in page
    assert "policy majority" in page and "horovodrun --partial solo" in page
    assert len(list((tmp_path / "out").glob("*.png"))) == 3

    for one in stats:
        del one["step_seconds"]
    path.write_text(json.dumps(stats))
    assert report.main([str(path), "-o", str(tmp_path / "out2")]) == 0
    assert "No advice: there is no complete step of rank 0, 1" in (
        tmp_path / "out2/report.html").read_text()


def test_more_rounds_than_columns():
    """Rounds that share a column are shown as what they mostly were."""
    rounds = [records.Round(i, i, i, active=(0,), null=(1,)) for i in range(1000)]
    rounds += [records.Round(i, i, i, active=(0, 1)) for i in range(1000, 2500)]
    record = records.Record("g", "t.json", 2, rounds)
    columns = report._columns(record)
    assert len(columns) <= 800 and sum(map(len, columns)) == 2500
    assert {report._state(column, 1) for column in columns[:200]} == {2}
    assert {report._state(column, 1) for column in columns[260:]} == {0}


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("HOROVOD_TIMELINE=timeline.json", "optimizer.stats()",
                                         "--staleness-cost", "default: 0.7"))


@pytest.mark.parametrize("arguments", [["--staleness-cost", "-1"], ["--staleness-bound", "0"], []])
def test_wrong_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        report.main([*arguments, *(["x"] if arguments else [])])
    assert stop.value.code == 2


def test_without_matplotlib_the_fix_is_named(monkeypatch, capsys, recorded):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(recorded)]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
