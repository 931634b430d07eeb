"""A soak: episodes of partial rounds with everything drawn at random, on real processes.

    make soak                 # 20,000 rounds on 4 ranks
    make soak ROUNDS=1000000 SEED=7

Each episode draws a policy, a staleness bound, a group, who is slow, and where ranks meet in
synchronous operations, flush, are excused and join. Gradients are whole numbers, so that the checks are exact:

- conservation: the sum of all results is the sum of all submissions, and nothing is left behind;
- agreement: all ranks saw the same rounds, in the same order;
- replicas of an optimizer are identical, bit for bit, after a flush.

The seed is printed; the same seed draws the same episodes (who is late in them is up to the machine).
"""

import argparse
import random
import secrets
import sys
import time

import numpy as np
import torch

import horovod_partial.torch as hvd

POLICIES = ["solo", "majority", "quorum:2", "first:1", "first:2", "first:3", "full"]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000, help="rounds to run, at least")
    parser.add_argument("--seed", type=int, help="of the episodes; drawn if not given")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def compute(own, slow):
    """Keeps this rank's processor busy for a while; how long differs by rank."""
    for _ in range(own.randrange(slow + 1)):
        np.linalg.svd(np.ones((24, 24)))


class Episode:
    """What all ranks draw alike (`shared`) and what each draws for itself (`own`)."""

    def __init__(self, seed, number):
        self.number = number
        self.shared = random.Random(f"{seed}/{number}")
        self.own = random.Random(f"{seed}/{number}/{hvd.rank()}")
        self.settings = dict(policy=self.shared.choice(POLICIES),
                             staleness_bound=self.shared.randint(1, 6), seed=number)
        slows = [self.shared.choice([0, 0, 1, 4, 20]) for _ in range(hvd.size())]
        self.slow = slows[hvd.rank()]
        self.meetings = self.shared.randint(1, 4)
        self.joins = self.shared.random() < 0.3
        self.excuses = self.shared.random() < 0.3
        # Under `full` uneven numbers of steps before a meeting hang, as in Horovod.
        steps = self.shared if self.settings["policy"] == "full" else self.own
        self.steps = [steps.randint(5, 40) for _ in range(self.meetings)]
        self.kinds = [self.shared.choice(["allreduce", "broadcast", "flush", "allgather"])
                      for _ in range(self.meetings)]

    def meet(self, kind, flush):
        """Something that all ranks do at the same place of their programs."""
        if kind == "flush":
            flush()
        elif kind == "allreduce":
            total = hvd.allreduce(torch.ones(3), op=hvd.Sum, name="meet")
            check(self, total.tolist() == [hvd.size()] * 3, "allreduce", total)
        elif kind == "broadcast":
            check(self, hvd.broadcast_object(self.number) == self.number, "broadcast", None)
        else:
            ranks = hvd.allgather(torch.tensor([hvd.rank()]), name="meet")
            check(self, ranks.tolist() == list(range(hvd.size())), "allgather", ranks)

    def work(self, step, flush):
        for steps, kind in zip(self.steps, self.kinds):
            for _ in range(steps):
                compute(self.own, self.slow)
                if self.excuses and self.own.random() < 0.1:
                    with hvd.excused():
                        compute(self.own, 3 * self.slow)
                step()
            self.meet(kind, flush)
        if self.joins:
            for _ in range(self.own.randint(0, 10)):
                step()
            hvd.join()


def check(episode, fine, what, found):
    if not fine:
        sys.exit(f"rank {hvd.rank()}, episode {episode.number}, {episode.settings}: {what} broken: "
                 f"{found}")


def tensors(episode):
    """An episode of partial_allreduce; returns its rounds."""
    shapes = [(episode.shared.randint(1, 300),) for _ in range(episode.shared.randint(1, 4))]
    name = f"soak.{episode.number}"
    given = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    indexes = []

    def keep(new):
        indexes.extend((r.index, r.count, len(r.active)) for r in new)
        for r in new:
            for total, tensor in zip(got, r.tensors):
                total += tensor

    got = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]

    def step():
        mine = [torch.randint(-8, 9, shape).double() for shape in shapes]
        for total, tensor in zip(given, mine):
            total += tensor
        keep(hvd.partial_allreduce(mine, name, op=hvd.Sum, **episode.settings))

    def flush():
        keep(hvd.partial_flush(name))

    episode.work(step, flush)
    flush()
    for i, (mine, result) in enumerate(zip(given, got)):
        everybody = hvd.allreduce(mine, op=hvd.Sum, name=f"given.{i}")
        check(episode, torch.equal(everybody, result), "conservation", (i, everybody - result))
    stats = hvd.partial_stats(name)
    check(episode, not stats["holds"] and stats["pending"] == 0, "emptiness", stats)
    counted = sum(count for _, count, _ in indexes)
    check(episode, counted == stats["rounds"], "once", (counted, stats["rounds"]))
    check(episode, [index for index, _, _ in indexes] == sorted({i for i, _, _ in indexes}),
          "order", indexes)
    whole = torch.tensor([[index, active] for index, count, active in indexes if count == 1])
    for other in hvd.allgather_object(whole.tolist()):
        mine = dict(whole.tolist())
        check(episode, all(mine.get(index, active) == active for index, active in other),
              "agreement", other)
    return stats["rounds"], stats["merged"]


def optimizer(episode):
    """An episode of DistributedOptimizer; returns its rounds."""
    torch.manual_seed(episode.number)
    weights = [torch.nn.Parameter(torch.randn(episode.shared.randint(1, 300)))
               for _ in range(episode.shared.randint(1, 4))]
    inner = torch.optim.SGD(weights, lr=0.01, momentum=0.9)
    if episode.shared.random() < 0.5:
        inner = torch.optim.Adam(weights, lr=0.01)
    opt = hvd.DistributedOptimizer(
        inner, name=f"soak.{episode.number}", **episode.settings,
        catch_up=episode.shared.choice(["replay", "replay", "sum", "latest"]),
        resync_every=episode.shared.choice([None, 7, 20]))

    def step():
        for weight in weights:
            weight.grad = torch.randint(-8, 9, weight.shape).float()
        opt.step()

    episode.work(step, opt.flush)
    opt.flush()
    digests = hvd.allgather_object(opt.digest())
    check(episode, len(set(digests)) == 1, "replicas", digests)
    stats = opt.stats()
    check(episode, opt.round == stats["rounds"], "once", stats)
    return stats["rounds"], stats["merged"]


def main():
    args = parse_args()
    hvd.init()
    torch.set_num_threads(1)
    seed = hvd.broadcast_object(args.seed if args.seed is not None else secrets.randbits(32))
    rounds = merged = number = 0
    start = time.monotonic()
    next_line = 0.0
    while rounds < args.rounds:
        run = optimizer if number % 3 == 2 else tensors
        new, new_merged = run(Episode(seed, number))
        rounds += new
        merged += new_merged
        number += 1
        seconds = time.monotonic() - start
        if hvd.rank() == 0 and (seconds >= next_line or rounds >= args.rounds):
            next_line = seconds + 10
            print(f"soak: seed {seed}, {number} episodes, {rounds}/{args.rounds} rounds after "
                  f"{seconds:.0f} s, all checks exact", flush=True)
    totals = hvd.allgather_object(merged)
    if hvd.rank() == 0:
        print(f"soak passed: seed {seed}, {rounds} rounds, merged per rank {totals}", flush=True)


if __name__ == "__main__":
    main()
