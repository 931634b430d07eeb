"""Trainings with emulated compute time, for the benchmarks that compare time to accuracy.

A benchmark's `Task(rank, size, seed, **options)` says what is trained:

    model            a torch module, initialised from the seed alone
    optimizer(p, r)  a torch optimizer of parameters p with rate r
    rate(round)      its learning rate
    loss()           of this rank's next batch
    batch            its number of samples
    seconds()        that this step is to take, the batch's real work included
    score(model)     how good the model is, on rank 0

Rank 0 keeps a copy of the parameters as it goes and scores them after the training, so that scoring
takes no time from it."""

import copy
import importlib
import time

import numpy as np

from benchmarks.rank import sleep_until

STOCK = "stock"
MORE = 1.5  # rounds of a policy's training, in those of stock's


class Training:
    """One rank's part in a training. `how` is STOCK or a policy."""

    def __init__(self, world, module, how, seed, options):
        hvd = world.hvd
        self.hvd, self.rank, self.how = hvd, world.rank, how
        self.task = importlib.import_module(module).Task(world.rank, world.size, seed, **options)
        number = world.state["trainings"] = world.state.get("trainings", 0) + 1
        self.optimizer = self.task.optimizer(self.task.model.parameters(), self.task.rate(0))
        named = [(f"{number}.{name}", parameter)
                 for name, parameter in self.task.model.named_parameters()]
        more = {} if how == STOCK else {"policy": how, "seed": seed, "name": f"training.{number}"}
        self.optimizer = hvd.DistributedOptimizer(self.optimizer, named, **more)
        hvd.broadcast_parameters(self.task.model.state_dict(), root_rank=0)
        self.steps = 0
        self.backward_seconds = 0.0  # of the step before
        if how != STOCK:
            self.optimizer.register_before_round(self.set_rate)

    def set_rate(self, round_index):
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.rate(round_index)

    @property
    def rounds(self):
        return self.steps if self.how == STOCK else self.optimizer.round

    def step(self):
        begin = time.monotonic()
        self.optimizer.zero_grad()
        loss = self.task.loss()
        seconds = self.task.seconds()
        # Gradients are there at the end of the emulated work: stock reduces as they come.
        end = begin + seconds - self.backward_seconds
        over = time.monotonic() > end
        sleep_until(end)
        start = time.monotonic()
        loss.backward()
        self.backward_seconds = time.monotonic() - start
        if self.how == STOCK:
            self.set_rate(self.steps)
        self.optimizer.step()
        self.steps += 1
        return seconds, over

    def go(self, rounds, seconds, keep_every):
        """Trains for so many rounds, or steps within so many seconds."""
        import torch

        self.hvd.allreduce(torch.zeros(1), name="training.start")
        start, first = time.monotonic(), self.rounds
        times, counts, planned, kept, over = [], [], [], [], 0
        for _ in self.turns(rounds, seconds, start):
            took, longer = self.step()
            planned.append(took)
            over += longer
            times.append(time.monotonic() - start)
            counts.append(self.rounds - first)
            if self.rank == 0 and counts[-1] // keep_every > (kept[-1][1] // keep_every
                                                              if kept else -1):
                kept.append((times[-1], counts[-1], self.copy()))
        total = time.monotonic() - start
        if self.rank == 0:
            kept.append((total, self.rounds - first, self.copy()))
        return {"seconds": total, "times": times, "rounds": counts, "batch": self.task.batch,
                "planned": planned, "over": over, "curve": self.curve(kept), "stats": self.stats()}

    def turns(self, rounds, seconds, start):
        if rounds is not None:
            return range(rounds) if self.how == STOCK else self.hvd.rounds(self.optimizer, rounds)
        return iter(lambda: time.monotonic() - start < seconds, False)

    def copy(self):
        return copy.deepcopy(self.task.model.state_dict())

    def curve(self, kept):
        """(seconds, rounds, score) of what rank 0 kept."""
        now = self.copy()
        scores = []
        for when, count, state in kept:
            self.task.model.load_state_dict(state)
            scores.append((when, count, self.task.score(self.task.model)))
        self.task.model.load_state_dict(now)
        return scores

    def stats(self):
        if self.how == STOCK:
            return {}
        stats = self.optimizer.stats()
        return {key: stats[key] for key in ("rounds", "mean_active", "mean_staleness",
                                            "wait_seconds")}


# Called by the driver, on each rank

def begin(world, module, how, seed, options):
    world.state["training", how] = Training(world, module, how, seed, options)


def go(world, how, rounds=None, seconds=None, keep_every=1):
    return world.state["training", how].go(rounds, seconds, keep_every)


def end(world, how):
    """Together, so that nobody is missed by the others' rounds."""
    training = world.state.pop(("training", how))
    if how != STOCK:
        training.optimizer.flush()


# What the driver makes of it

def train(jobs, job, module, how, seed, options, rounds, keep_every):
    """A whole training of so many rounds, or of MORE times as many under a policy; the record of
    each rank."""
    if how != STOCK:
        rounds = int(MORE * rounds)
    jobs.call(job, begin, module=module, how=how, seed=seed, options=options)
    ranks = jobs.call(job, go, how=how, rounds=rounds, keep_every=keep_every)
    jobs.call(job, end, how=how)
    return ranks


def samples_at(ranks, when):
    """Samples that all ranks together had submitted by these seconds."""
    batch = ranks[0]["batch"]
    return batch * sum(np.searchsorted(rank["times"], when, side="right") for rank in ranks)


def round_rate(ranks):
    """Rounds per second: from each rank's first step to its last, so that beginning and end of the
    measurement do not count; the mean of the ranks."""
    rates = [(rank["rounds"][-1] - rank["rounds"][0]) / (rank["times"][-1] - rank["times"][0])
             for rank in ranks if len(rank["times"]) > 1]
    return float(np.mean(rates))


def sample_rate(ranks):
    """Samples per second of all ranks, counted likewise."""
    return float(sum(rank["batch"] * (len(rank["times"]) - 1)
                     / (rank["times"][-1] - rank["times"][0])
                     for rank in ranks if len(rank["times"]) > 1))


def smoothed(curve, window=3):
    """A curve's scores as running means over so many points, which a lucky one moves less."""
    scores = [score for _, _, score in curve]
    return [(when, count, float(np.mean(scores[max(i - window + 1, 0):i + 1])))
            for i, (when, count, _) in enumerate(curve)]


def seconds_to(curve, target):
    """When the smoothed score reaches a target; None if it does not."""
    return next((when for when, _, score in smoothed(curve) if score >= target), None)


def final_score(curve):
    return smoothed(curve)[-1][2]


def least_ratio(ranks):
    """The time of the same steps where nobody waits for anybody, over the time where all wait for
    the slowest one in each: for a synchronous training, by the emulated times."""
    planned = np.array([rank["planned"] for rank in ranks])
    return float(planned.mean() / planned.max(axis=0).mean())


def mean_of(ranks, key):
    return float(np.mean([rank["stats"].get(key, np.nan) for rank in ranks]))


def compact(ranks):
    """A record that is kept: times are short enough to read."""
    return [{**rank, "times": [round(t, 4) for t in rank["times"]],
             "planned": [round(t, 4) for t in rank["planned"]],
             "curve": [(round(t, 3), n, round(s, 6)) for t, n, s in rank["curve"]]}
            for rank in ranks]
