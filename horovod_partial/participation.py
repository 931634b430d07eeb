"""How a rank took part in the rounds of a training: what its statistics have beyond the core's
counters, how they changed since, and what is said of them at the end."""

import array
import time

KEPT = 1000  # newest steps
MOST = 100  # pending rounds that are told apart: an excused rank may find any number


class Journal:
    """The steps of one TrainingGroup on this rank, and how late its submissions were.

    Attributes:
        policy: the group's policy.
        staleness: the number of submissions by the rounds that they found pending: a list, whose
            entry 100, if there is one, stands for that many or more.
    """

    def __init__(self, policy):
        self.policy = policy
        self.staleness = []
        # Of full size from the start: a training's memory stays flat.
        self._seconds = array.array("d", [0.0]) * KEPT
        self._steps = 0
        self._since = None

    @property
    def steps(self):
        """The newest steps' seconds, from getting a round to the next submission, oldest first."""
        start = max(self._steps - KEPT, 0)
        return [self._seconds[step % KEPT] for step in range(start, self._steps)]

    def submitted(self):
        if self._since is not None:
            self._seconds[self._steps % KEPT] = time.monotonic() - self._since
            self._steps += 1

    def answered(self, rank, rounds):
        """Notes the RawRounds that came back to a submission of this member of the process set."""
        self._since = time.monotonic()
        pending = sum(raw.count for raw in rounds) - (rank in rounds[-1].active)
        pending = min(pending, MOST)
        self.staleness += [0] * (pending + 1 - len(self.staleness))
        self.staleness[pending] += 1

    def interrupted(self):
        """What comes until the next submission is more than a step: validation, say."""
        self._since = None

    def begin_anew(self):
        """With another life of Horovod, as the core's counters do."""
        self.staleness = []
        self._since = None

    def stats(self):
        return {"policy": str(self.policy), "staleness_histogram": list(self.staleness),
                "step_seconds": [round(seconds, 6) for seconds in self.steps]}


class Participation:
    """How rounds went on this rank since the last look.

    Args:
        optimizer: a partial optimizer.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._before = optimizer.stats()

    def since(self):
        """A dict, of what happened since the last call or else since this object was made:
        ``partial_round``: rounds applied so far; ``partial_mean_active``: ranks per round;
        ``partial_staleness``: pending rounds that a submission found, on average;
        ``partial_late``: submissions that found any; ``partial_wait_seconds``: blocked on
        submissions."""
        now, before = self._optimizer.stats(), self._before
        self._before = now
        if any(now[key] < before[key] for key in ("rounds", "submissions", "wait_seconds")):
            before = dict.fromkeys(before, 0)  # counted anew since Horovod was initialized again

        def since(key, weight=lambda stats: 1):
            return now[key] * weight(now) - before[key] * weight(before)

        counted = since("rounds") - since("flushes")
        submissions = since("submissions")
        return {
            "partial_round": now["round"],
            "partial_mean_active": since(
                "mean_active", lambda stats: stats["rounds"] - stats["flushes"]) / max(counted, 1),
            "partial_staleness": since(
                "mean_staleness", lambda stats: stats["submissions"]) / max(submissions, 1),
            "partial_late": since("late"),
            "partial_wait_seconds": since("wait_seconds"),
        }


def summary(stats):
    """A training's statistics in a line."""
    found = ", ".join(f"{times} with {pending}"
                      for pending, times in enumerate(stats["staleness_histogram"]) if times)
    changes = stats["k_changes"]
    k = ""
    if changes:
        k = (f" K: {changes[0]['before']}" + (", ..." if len(changes) > 3 else "")
             + "".join(f", {change['k']} from round {change['round']} on"
                       for change in changes[-3:]) + ".")
    merged = ""
    if stats["merged"]:
        merged = f" Merged beyond the staleness bound: {stats['merged']} rounds."
    return (f"{stats['name']!r} ({stats['policy']}): {stats['rounds']} rounds, "
            f"{stats['mean_active']:.1f} of {stats['size']} ranks active on average. Rank "
            f"{stats['rank']}: {stats['submissions']} submissions, {stats['wait_seconds']:.1f} s "
            f"waited, {stats['mean_staleness']:.2f} rounds stale on average ({found}).{merged}{k}")
