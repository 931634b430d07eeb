"""A soak: episodes of partial rounds with everything drawn at random, on real processes.

    make soak                 # 20,000 rounds on 4 ranks
    make soak ROUNDS=1000000 SEED=7

Each episode draws some groups, with what each of them is (`partial_allreduce` or an optimizer) and its
policy, staleness bound, `catch_up`, `resync_every` and process set; who is slow; and where ranks
submit and come back later, are excused, meet in synchronous operations, flush and join. After some
episodes Horovod is shut down and initialized again. Gradients are whole numbers, so that the checks
are exact:

- conservation: the sum of all results is the sum of all submissions, and nothing is left behind;
- agreement: all ranks saw the same rounds, in the same order, with the same bits;
- once: each round came to each rank once, alone or merged;
- replicas of an optimizer are identical, bit for bit, after a flush;
- an optimizer that only subtracts sums from zeros has subtracted all gradients then.

The seed is printed first; the same seed draws the same episodes (who is late in them is up to the machine).
"""

import argparse
import collections
import contextlib
import faulthandler
import hashlib
import os
import random
import secrets
import sys
import time

import numpy as np
import torch

import horovod_partial.torch as hvd

POLICIES = ["solo", "majority", "quorum:2", "first:1", "first:2", "first:3", "full", "auto"]
LIFE = 25  # episodes from hvd.init() to hvd.shutdown()
HANG = 600  # seconds for an episode, of which most take a few

counts = collections.Counter()  # what was covered, for the closing line


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000, help="rounds to run, at least")
    parser.add_argument("--seed", type=int, help="of the episodes; drawn if not given")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


class Episode:
    """What all ranks draw alike (`shared`) and what each draws for itself (`own`)."""

    def __init__(self, seed, number):
        self.number = number
        self.shared = random.Random(f"{seed}/{number}")
        self.own = random.Random(f"{seed}/{number}/{hvd.rank()}")
        self.joins = self.shared.random() < 0.3
        self.excuses = self.shared.random() < 0.3
        self.slow = [self.shared.choice([0, 0, 1, 4, 20]) for _ in range(hvd.size())][hvd.rank()]

    def check(self, fine, what, found):
        if not fine:
            sys.exit(f"rank {hvd.rank()}, episode {self.number}: {what} broken: {found}")

    def compute(self, factor=1):
        """Keeps this rank's processor busy for a while; how long differs by rank."""
        for _ in range(self.own.randrange(factor * self.slow + 1)):
            np.linalg.svd(np.ones((24, 24)))

    def meet(self, kind, groups):
        """Something that all ranks do at the same place of their programs."""
        counts[kind] += 1
        if kind == "flush":
            for group in groups:
                group.flush()
        elif kind == "allreduce":
            total = hvd.allreduce(torch.ones(3), op=hvd.Sum, name="meet")
            self.check(total.tolist() == [hvd.size()] * 3, "allreduce", total)
        elif kind == "broadcast":
            self.check(hvd.broadcast_object(self.number) == self.number, "broadcast", None)
        elif kind == "barrier":
            hvd.barrier()
        else:
            ranks = hvd.allgather(torch.tensor([hvd.rank()]), name="meet")
            self.check(ranks.tolist() == list(range(hvd.size())), "allgather", ranks)

    def steps(self, groups):
        """Steps between two meetings. Those of groups under `full`, which would hang if ranks took
        them unevenly, as in Horovod, are in the same order on every rank."""
        full = [group for group in groups if group.full]
        others = [group for group in groups if not group.full and group.member]
        own = some_of(others, self.own)
        alike = some_of(full, self.shared)
        for step in sorted(self.own.sample(range(len(own) + len(alike)), len(alike))):
            own.insert(step, alike.pop(0))
        return [group for group in own if group.member]

    def run(self):
        """Returns the rounds of all groups."""
        with self.process_set() as process_set:
            groups = [self.shared.choice([Tensors, Tensors, Model])(self, i, process_set)
                      for i in range(self.shared.choice([1, 1, 2, 3]))]
            kinds = ["allreduce", "broadcast", "flush", "allgather", "barrier"]
            for _ in range(self.shared.randint(1, 4)):
                for group in self.steps(groups):
                    self.compute()
                    if self.excuses and self.own.random() < 0.1:
                        counts["excused"] += 1
                        with hvd.excused():
                            self.compute(3)
                    group.step()
                    if self.own.random() < 0.5:
                        group.settle()
                kind = self.shared.choice(kinds)
                if kind == "flush" or self.own.random() < 0.5:
                    self.settle(groups)
                self.meet(kind, groups)
            if self.joins:
                counts["join"] += 1
                for group in groups:
                    # Of two groups under `full`, ranks would wait in one each.
                    alone = not group.full or sum(g.full for g in groups) == 1
                    for _ in range((self.own if alone else self.shared).randint(0, 10)):
                        group.step()
                self.settle(groups)
                hvd.join()
            self.settle(groups)
            for group in groups:
                group.flush()
            return sum(group.verify() for group in groups)

    def settle(self, groups):
        for group in groups:
            group.settle()

    @contextlib.contextmanager
    def process_set(self):
        """Of some ranks, for some of the groups; all ranks, or for a while some of them."""
        ranks = sorted(self.shared.sample(range(hvd.size()),
                                          self.shared.randint(2, max(hvd.size(), 2))))
        # hvd.join() is for all ranks.
        if self.joins or len(ranks) == hvd.size() or self.shared.random() < 0.5:
            yield hvd.global_process_set
            return
        counts["process set"] += 1
        process_set = hvd.add_process_set(ranks)
        yield process_set
        hvd.remove_process_set(process_set)


def some_of(groups, draw):
    """Each of them, in any order, and then some more steps of any of them."""
    return [*draw.sample(groups, len(groups)),
            *(draw.choice(groups) for _ in range(draw.randint(5, 40)) if groups)]


class Group:
    """A group of the global process set, or of the episode's."""

    def __init__(self, episode, number, process_set):
        self.episode = episode
        draw = episode.shared
        self.name = f"soak.{episode.number}.{number}"
        self.process_set = draw.choice([hvd.global_process_set, process_set])
        self.member = self.process_set.included()
        self.settings = dict(policy=draw.choice(POLICIES), staleness_bound=draw.randint(1, 6),
                             seed=draw.randrange(100),
                             catch_up=draw.choice(["replay", "replay", "sum", "latest"]))
        self.full = self.settings["policy"] == "full"
        self.shapes = [(draw.randint(1, 300),) for _ in range(draw.randint(1, 4))]

    def check(self, fine, what, found):
        self.episode.check(fine, f"{self.name} {self.settings} on {self.process_set}: {what}", found)

    def gather(self, mine):
        """What the members of the group say."""
        gathered = hvd.allgather_object((self.member, mine))
        return [other for member, other in gathered if member]

    def settle(self):
        pass


class Tensors(Group):
    """`partial_allreduce`, with what went in and what came out."""

    def __init__(self, *args):
        super().__init__(*args)
        draw = self.episode.shared
        self.dtypes = [draw.choice([torch.float32, torch.float64]) for _ in self.shapes]
        size = self.process_set.size() if self.member else 1
        # An average is exact where the size is a power of two.
        self.average = draw.random() < 0.5 and size & (size - 1) == 0
        self.scale = size if self.average else 1
        self.given = [torch.zeros(shape, dtype=torch.float64) for shape in self.shapes]
        self.got = [torch.zeros(shape, dtype=torch.float64) for shape in self.shapes]
        self.rounds = []  # (index, count, active ranks, bits)
        self.handle = None

    def step(self):
        self.settle()
        if not self.member:
            return
        mine = [torch.randint(-8, 9, shape).to(dtype)
                for shape, dtype in zip(self.shapes, self.dtypes)]
        for total, tensor in zip(self.given, mine):
            total += tensor
        self.handle = hvd.partial_allreduce_async(
            mine, self.name, op=hvd.Average if self.average else hvd.Sum,
            process_set=self.process_set, **self.settings)

    def settle(self):
        """Takes the rounds of the last step."""
        if self.handle is None:
            return
        if self.episode.own.random() < 0.2:
            counts["poll"] += 1
            while not hvd.poll(self.handle):
                self.episode.compute()
        handle, self.handle = self.handle, None
        self.keep(hvd.synchronize(handle))

    def keep(self, rounds):
        for r in rounds:
            bits = hashlib.md5(b"".join(t.numpy().tobytes() for t in r.tensors)).digest()
            self.rounds.append((r.index, r.count, r.active, bits))
            for total, tensor in zip(self.got, r.tensors):
                total += self.scale * tensor

    def flush(self):
        if self.member:
            self.keep(hvd.partial_flush(self.name, process_set=self.process_set))

    def verify(self):
        if self.settings["catch_up"] != "latest":
            for given, got in zip(self.given, self.got):
                everybody = hvd.allreduce(given, op=hvd.Sum, name="given")
                self.check(not self.member or torch.equal(everybody, got), "conservation",
                           everybody - got)
        stats = (hvd.partial_stats(self.name, process_set=self.process_set) if self.member
                 else collections.Counter())
        self.check(not stats["holds"] and stats["pending"] == 0, "emptiness", stats)
        counted = sum(count for _, count, _, _ in self.rounds)
        self.check(counted == stats["rounds"], "once", (counted, stats))
        indexes = [index for index, _, _, _ in self.rounds]
        self.check(indexes == sorted(set(indexes)), "order", indexes)
        alone = {index: (active, bits) for index, count, active, bits in self.rounds if count == 1}
        for other in self.gather(alone):
            for index, seen in other.items():
                self.check(not self.member or alone.get(index, seen) == seen, "agreement",
                           (index, alone.get(index), seen))
        return account(self, stats)


class Model(Group):
    """An optimizer and what it trains."""

    def __init__(self, *args):
        super().__init__(*args)
        draw = self.episode.shared
        torch.manual_seed(self.episode.number)
        # Its weights tell what it was given: less the sum of all gradients, which is exact.
        self.sums = draw.random() < 0.7
        self.weights = [torch.nn.Parameter(torch.zeros(shape) if self.sums else torch.randn(shape))
                        for shape in self.shapes]
        self.given = [torch.zeros(shape, dtype=torch.float64) for shape in self.shapes]
        kinds = ([lambda: torch.optim.SGD(self.weights, lr=1)] if self.sums else
                 [lambda: torch.optim.SGD(self.weights, lr=0.01, momentum=0.9),
                  lambda: torch.optim.Adam(self.weights, lr=0.01)])
        inner = draw.choice(kinds)()
        resync_every = draw.choice([None, 7, 20])
        # None, one parameter in each bucket, some, or all.
        bucket_cap_mb = draw.choice([None, None, 1e-9, 0.001, 25])
        self.opt = hvd.DistributedOptimizer(
            inner, name=self.name, process_set=self.process_set, resync_every=resync_every,
            op=hvd.Sum if self.sums else hvd.Average, bucket_cap_mb=bucket_cap_mb,
            **self.settings) if self.member else None

    def backward(self):
        """Gives each weight a whole gradient; some have none."""
        loss = torch.zeros(())
        for weight, given in zip(self.weights, self.given):
            weight.grad = None
            if self.episode.own.random() < 0.95:
                gradient = torch.randint(-8, 9, weight.shape).float()
                given += gradient
                loss = loss + (weight * gradient).sum()
        if loss.requires_grad:
            loss.backward()

    def step(self):
        if not self.member:
            return
        self.backward()
        if self.episode.own.random() < 0.1:
            self.episode.compute()  # buckets may be on their way
        if self.episode.own.random() < 0.05:
            counts["skip_synchronize"] += 1
            self.opt.synchronize()
            with self.opt.skip_synchronize():
                self.opt.step()
        else:
            self.opt.step()

    def flush(self):
        if self.member:
            self.opt.flush()

    def verify(self):
        digests = self.gather(self.opt.digest() if self.member else None)
        self.check(len(set(digests)) == 1, "replicas", digests)
        stats = self.opt.stats() if self.member else collections.Counter()
        self.check(stats["round"] == stats["rounds"], "once", stats)
        if self.sums and self.settings["catch_up"] != "latest":
            counts["sums of an optimizer"] += 1
            for given, weight in zip(self.given, self.weights):
                everybody = hvd.allreduce(given, op=hvd.Sum, name="given")
                self.check(not self.member or torch.equal(everybody, -weight.detach().double()),
                           "conservation", everybody + weight.detach())
        counts["parts"] += stats["parts"] - stats["rounds"]
        return account(self, stats)


def account(group, stats):
    """The group's rounds, as all ranks know."""
    for key in ("late", "merged", "heals", "cut_short"):
        counts[key] += stats[key]
    return max(group.gather(stats["rounds"]))


def main():
    args = parse_args()
    os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
    os.environ["HOROVOD_PARTIAL_SUMMARY"] = "0"  # of every life
    hvd.init()
    torch.set_num_threads(1)
    seed = hvd.broadcast_object(args.seed if args.seed is not None else secrets.randbits(32))
    if hvd.rank() == 0:
        print(f"soak: seed {seed}", flush=True)  # now: the first episode may hang, too
    rounds = number = 0
    start = time.monotonic()
    next_line = 0.0
    while rounds < args.rounds:
        faulthandler.dump_traceback_later(HANG, exit=True)
        if number % LIFE == LIFE - 1:
            counts["init"] += 1
            hvd.shutdown()
            hvd.init()
        rounds += Episode(seed, number).run()
        number += 1
        seconds = time.monotonic() - start
        if hvd.rank() == 0 and (seconds >= next_line or rounds >= args.rounds):
            next_line = seconds + 10
            print(f"soak: seed {seed}, {number} episodes, {rounds}/{args.rounds} rounds after "
                  f"{seconds:.0f} s, all checks exact", flush=True)
    totals = hvd.allgather_object(counts)
    if hvd.rank() == 0:
        print(f"soak passed: seed {seed}, {rounds} rounds; on rank 0: " + ", ".join(
            f"{count} {what}" for what, count in sorted(totals[0].items())) + "; merged per rank "
            f"{[total['merged'] for total in totals]}", flush=True)


if __name__ == "__main__":
    main()
