"""What a training left behind of its partial rounds: Horovod's timelines and files of
``hvd.partial_stats``, read for ``horovod_partial.report``."""

import dataclasses
import json
import re
import statistics
from pathlib import Path

_ROW = "partial."
_EVENT = re.compile(r'\{"(ph|name)": "')  # how one begins


class RecordError(ValueError):
    """A file that cannot be read as what it should be. Names the file, what is wrong, the fix."""


@dataclasses.dataclass
class Round:
    """A round in a timeline. Times are in seconds since the timeline began.

    Attributes:
        index: its number.
        start: when it was decided.
        end: when its result was there.
        active, stale, null: ranks of the process set, by what they contributed.
        waited_for: the ranks that were waited for last.
        ready: when each active rank was seen ready; empty for a group's first round.
        late: when ranks were seen to have made the late submission that this round carries.
        policy: why it started.
        flush: whether it is a flush, which has none of the above but its times.
    """

    index: int
    start: float
    end: float
    active: tuple = ()
    stale: tuple = ()
    null: tuple = ()
    waited_for: tuple = ()
    ready: dict = dataclasses.field(default_factory=dict)
    late: dict = dataclasses.field(default_factory=dict)
    policy: str | None = None
    flush: bool = False


@dataclasses.dataclass
class Record:
    """One partial group's rounds.

    Attributes:
        name: the group's; with a number when the file has several of this name, one after the
            other.
        source: the file.
        size: the number of ranks. Ranks are numbered within the group's process set.
        rounds: the Rounds, of a timeline only.
        steps: for each rank the seconds from getting a round to the next submission, in order.
        estimated: how many of the ``steps`` end in a late submission of which only the two rounds
            around it are known.
        staleness: for each submission, the pending rounds that it found; may be empty.
        policy: when rounds started, where known.
        contributions: for each rank a dict of its ``fresh``, ``stale`` and ``null`` ones.
        waits: for each rank the seconds that it waited in submissions.
        mean_active: active ranks per round.
        rounds_per_second: without the time around flushes; None where it is not known.
        round_seconds: the median from a round's start to its result; 0 where it is not known.
        notes: sentences on what is missing.
    """

    name: str
    source: str
    size: int
    rounds: list = dataclasses.field(default_factory=list)
    steps: list = dataclasses.field(default_factory=list)
    estimated: int = 0
    staleness: list = dataclasses.field(default_factory=list)
    policy: str | None = None
    contributions: list = dataclasses.field(default_factory=list)
    waits: list = dataclasses.field(default_factory=list)
    mean_active: float | None = None
    rounds_per_second: float | None = None
    round_seconds: float = 0.0
    notes: list = dataclasses.field(default_factory=list)

    @property
    def mean_staleness(self):
        return statistics.fmean(self.staleness) if self.staleness else None


def read(paths):
    """The Records in these files: timelines, or files of ``hvd.partial_stats``.

    Raises:
        RecordError: a file cannot be read, is neither, or has no partial rounds.
    """
    records, per_rank = [], {}
    for path in map(Path, paths):
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror or error}") from None
        values, note = _values(path, text)
        if all("ph" in value for value in values):
            found = _Timeline(str(path)).read(values)
            for record in found:
                record.notes += [note] if note else []
            records += found
        else:
            for value in values:
                _add_stats(path, value, per_rank)
    records += [_of_stats(name, *entry) for name, entry in per_rank.items()]
    return records


def _values(path, text):
    """The JSON objects in a file, and a sentence if it is cut short or has unreadable parts."""
    if not text.strip():
        raise RecordError(f"{path}: it is empty. Has the training begun, and was HOROVOD_TIMELINE "
                          "set for rank 0?")
    try:
        values, note = json.loads(text), None
    except ValueError:
        values, note = _salvage(path, text)
    if isinstance(values, dict):
        values = [values]
    if not isinstance(values, list) or not values or not all(
            isinstance(value, dict) for value in values):
        raise RecordError(_neither(path))
    return values, note


def _neither(path):
    return (f"{path}: it is neither a timeline of Horovod's (HOROVOD_TIMELINE={path}) nor JSON of "
            "hvd.partial_stats() or optimizer.stats(), of one rank or a list of all ranks'")


def _salvage(path, text):
    """The events of a timeline that has no end (the job was killed), or of several in one file."""
    decoder = json.JSONDecoder()
    events, unreadable, at = [], [], 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,[]":
            at += 1
        if at == len(text):
            break
        try:
            event, at = decoder.raw_decode(text, at)
            if isinstance(event, dict) and "ph" in event:
                events.append(event)
        except ValueError:
            unreadable.append(at)
            start = _EVENT.search(text, at + 1)
            at = start.start() if start else len(text)
    if not events:
        raise RecordError(_neither(path))
    note = None
    if unreadable:
        note = (f"{path} cannot be read at character {unreadable[0]:,} of {len(text):,}"
                + (f" and {len(unreadable) - 1} other places" if unreadable[1:] else "")
                + f": was the job killed? The other {len(events):,} events are here.")
    return events, note


# ------------------------------------------------------------------------------------ timelines

class _Timeline:
    """Reads the rows of partial groups in a timeline. The events of a row, as
    ``csrc/glue/coordinator.cc`` and Horovod write them: NEGOTIATE_ALLREDUCE from the first rank
    that is ready, with a mark for each; LATE for late submissions; ROUND, FLUSH or HEAL; ALLREDUCE
    or BROADCAST while it runs."""

    def __init__(self, source):
        self._source = source
        self._lives = []
        self._rows = {}  # by the "process" that stands for a row

    def read(self, events):
        for event in events:
            try:
                self._take(event)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise RecordError(f"{self._source}: this event is not as Horovod writes it: "
                                  f"{json.dumps(event)[:200]}") from None
        lives = [life for life in self._lives if any(not r.flush for r in life.rounds)]
        if not lives:
            raise RecordError(
                f"{self._source}: there is no partial round in this timeline. Was the training "
                "partial (horovodrun --partial ...), and the timeline on while it ran?")
        names = {}
        for life in lives:
            names.setdefault(life.name, []).append(life)
        return [life.record(self._source, number if len(same) > 1 else None)
                for same in names.values() for number, life in enumerate(same, 1)]

    def _take(self, event):
        phase, name = event["ph"], event.get("name")
        if phase == "M":
            if name == "process_name" and str(event["args"].get("name", "")).startswith(_ROW):
                self._rows[event["pid"]] = _Row(event["args"]["name"][len(_ROW):], self._lives)
            elif name == "process_name":
                self._rows.pop(event["pid"], None)  # of another timeline in the same file
            return
        row = self._rows.get(event.get("pid"))
        if row is not None and phase in "BEX":
            row.take(phase, name, event["ts"] / 1e6, event.get("args", {}))


class _Row:
    def __init__(self, name, lives):
        self._name = name
        self._lives = lives
        self._life = None
        self._ready, self._late = {}, {}
        self._open = []  # events without an end

    def take(self, phase, name, when, args):
        if phase == "B":
            self._open.append(name)
        elif phase == "E":
            if self._open and not self._open.pop().startswith("NEGOTIATE") and not self._open:
                if self._life is not None:
                    self._life.rounds[-1].end = when
        elif name == "ROUND":
            self._add(Round(
                index=int(args["round"]), start=when, end=when, waited_for=tuple(
                    args["waited_for"]), ready=self._ready, late=self._late,
                policy=args.get("policy"),
                **{how: tuple(map(int, args[how])) for how in ("active", "stale", "null")}))
        elif name == "FLUSH":
            self._add(Round(index=int(args["round"]), start=when, end=when, flush=True))
        elif name == "HEAL":
            if self._life is not None:
                self._life.rounds[-1].end = when
        elif name == "LATE":
            self._late.update(dict.fromkeys(map(int, args["ranks"]), when))
        elif name is not None and name.isdigit():
            self._ready[int(name)] = when

    def _add(self, new):
        self._ready, self._late = {}, {}
        life = self._life
        size = len(new.active) + len(new.stale) + len(new.null)
        if (life is None or new.index <= life.rounds[-1].index
                or (life.size and size and size != life.size)):
            life = self._life = _Life(self._name)
            self._lives.append(life)
        life.size = life.size or size
        life.rounds.append(new)


class _Life:
    """A group from its first round to its end: a later one of the same name begins anew."""

    def __init__(self, name):
        self.name = name
        self.size = 0
        self.rounds = []

    def record(self, source, number):
        name = self.name if number is None else f"{self.name} ({number})"
        record = Record(name, source, self.size, self.rounds)
        rounds = [r for r in self.rounds if not r.flush]
        record.policy = rounds[-1].policy
        record.contributions = [
            {how: sum(rank in of for of in ranks) for how, ranks in (
                ("fresh", [r.active for r in rounds]), ("stale", [r.stale for r in rounds]),
                ("null", [r.null for r in rounds]))}
            for rank in range(self.size)]
        record.waits = [sum(r.start - r.ready[rank] for r in rounds if rank in r.ready)
                        for rank in range(self.size)]
        # A group's first round has every rank active, whatever the policy.
        counted = [r for r in rounds if r.index > 0] or rounds
        record.mean_active = statistics.fmean(len(r.active) for r in counted)
        record.round_seconds = statistics.median(r.end - r.start for r in rounds)
        gaps = [b.end - a.end for a, b in zip(self.rounds, self.rounds[1:])
                if not a.flush and not b.flush and b.index == a.index + 1]
        if gaps and sum(gaps) > 0:
            record.rounds_per_second = len(gaps) / sum(gaps)
        for rank in range(self.size):
            steps = _Steps(rank)
            for before, this in zip([None, *self.rounds], self.rounds):
                steps.take(before, this)
            record.steps.append(steps.seconds)
            record.estimated += steps.estimated
            record.staleness += steps.staleness
        return record


class _Steps:
    """The steps of one rank, from what it contributed to each round.

    A rank that was passive in a round finds it pending: its next submission is late and returns at
    once, without a mark of its own. It came between the round before the one that carries it and
    that one. So the time from getting a round to being ready again is known, and how many late
    submissions were on the way, but each of these only to between two rounds. They are taken to be
    as evenly spaced as that allows.
    """

    def __init__(self, rank):
        self._rank = rank
        self._since = None  # when it got a round
        self._late = []  # since then: (earliest, latest) of late submissions
        self._taken = None  # the newest round that it has
        self.seconds = []
        self.estimated = 0
        self.staleness = []

    def take(self, before, this):
        active = self._rank in this.active
        if this.flush or before is None or this.index != before.index + 1:
            # What comes after a flush is more than a step: people validate there. Before a gap, or
            # the timeline's first round, nothing is known.
            self._close(None)
            self._since = this.end if active else None
            self._taken = this.index if active or this.flush else this.index - 1
            return
        behind = not before.flush and self._rank not in before.active
        mark = this.ready.get(self._rank)
        if self._rank in this.stale or (active and behind):
            self._submits_late(before, this, mark)
        if active:
            self.staleness.append(0)
            self._close(mark)
            self._since = this.end
            self._taken = this.index

    def _submits_late(self, before, this, mark):
        seen = this.late.get(self._rank)
        interval = (seen, seen) if seen is not None else (
            before.start, this.start if mark is None else mark)
        if self._since is None:
            self._since = sum(interval) / 2
        else:
            self._late.append(interval)
        self.staleness.append(before.index - self._taken)
        self._taken = before.index

    def _close(self, mark):
        """Ends a row of steps, by a mark that the rank was ready or else by its last late
        submission."""
        late, self._late = self._late, []
        if self._since is None:
            return
        if mark is None:
            if not late:
                return
            earliest, latest = late.pop()
            mark = (earliest + latest) / 2
            self.estimated += earliest < latest
        pace = (mark - self._since) / (len(late) + 1)
        times = [min(max(self._since + (i + 1) * pace, earliest), latest)
                 for i, (earliest, latest) in enumerate(late)]
        self.estimated += sum(earliest < latest for earliest, latest in late)
        for start, end in zip([self._since, *times], [*times, mark]):
            self.seconds.append(max(end - start, 0.0))


# ------------------------------------------------------------------------------------ statistics

def _add_stats(path, stats, per_rank):
    needed = {"name", "rank", "rounds", "fresh", "stale", "null", "wait_seconds", "mean_active"}
    if not needed <= stats.keys():
        missing = ", ".join(sorted(needed - stats.keys()))
        raise RecordError(f"{_neither(path)}: {missing} is missing")
    sources, ranks = per_rank.setdefault(stats["name"], ([], {}))
    if stats["rank"] in ranks:
        raise RecordError(f"{path}: there are two of rank {stats['rank']} of {stats['name']!r}: "
                          "give the files of one training only")
    ranks[stats["rank"]] = stats
    if str(path) not in sources:
        sources.append(str(path))


def _of_stats(name, sources, ranks):
    size = max(ranks) + 1
    missing = [rank for rank in range(size) if rank not in ranks]
    if missing:
        raise RecordError(f"{', '.join(sources)}: the statistics of rank "
                          f"{', '.join(map(str, missing))} of {name!r} are missing: write those of "
                          "all ranks")
    stats = [ranks[rank] for rank in range(size)]
    record = Record(name, ", ".join(sources), size)
    record.contributions = [{how: s[how] for how in ("fresh", "stale", "null")} for s in stats]
    record.waits = [s["wait_seconds"] for s in stats]
    record.mean_active = stats[0]["mean_active"]
    record.steps = [list(s.get("step_seconds", [])) for s in stats]
    for s in stats:
        for found, submissions in enumerate(s.get("staleness_histogram", [])):
            record.staleness += [found] * submissions
    record.policy = stats[0].get("policy")
    record.notes.append("Statistics do not say how long a round itself takes, which counts as no "
                        "time here, and have no picture of each round: a timeline has both.")
    return record
