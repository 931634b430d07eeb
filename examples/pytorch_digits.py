"""Trains a small network on scikit-learn's images of digits, once per policy, on ranks of uneven
speed, and shows what partial rounds gain.

    horovodrun -np 4 python examples/pytorch_digits.py
    horovodrun -np 4 python examples/pytorch_digits.py --imbalance random --policies full first:2

The images are real. The compute time is EMULATED: each step sleeps in place of a GPU's work, for
the base time and what the pattern of imbalance adds. It also runs with one process, and with stock
Horovod: change the import below to `import horovod.torch as hvd`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import horovod_partial.torch as hvd

PARTIAL = hasattr(hvd, "rounds")
TARGET = 0.95

PATTERNS = {
    "persistent": "the last rank takes `delay` longer in every step",
    "random": "in every step, a rank drawn at random takes `delay` longer",
    "skew": "rank i takes i / (ranks - 1) of `delay` longer in every step",
    "heavy": "every rank takes longer by a heavy-tailed time (Pareto, mean about `delay` / 4)",
    "none": "all ranks take the base time",
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["full", "solo", "majority", "first:3"],
                        metavar="POLICY",
                        help="solo, majority, quorum:K, first:K or full, in this order")
    parser.add_argument("--rounds", type=int, default=160, help="length of a training, in rounds")
    parser.add_argument("--seeds", type=int, default=3,
                        help="trainings per policy; the table shows medians")
    parser.add_argument("--imbalance", choices=PATTERNS, default="persistent",
                        help="; ".join(f"{name}: {text}" for name, text in PATTERNS.items()))
    parser.add_argument("--base-ms", type=float, default=100, help="emulated time of a step")
    parser.add_argument("--delay-ms", type=float, default=200,
                        help="what the imbalance adds to a step")
    parser.add_argument("--batch-size", type=int, default=32, help="images per rank and step")
    parser.add_argument("--learning-rate", type=float, default=0.2,
                        help="at the beginning; it falls to a tenth, linearly with the rounds")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--catch-up", choices=["replay", "sum", "latest"], default="replay",
                        help="what a late rank does with the rounds that it has missed")
    parser.add_argument("--staleness-bound", type=int, default=8,
                        help="rounds that a rank may be behind before it is waited for")
    parser.add_argument("--output", type=Path, default=Path("results/pytorch_digits"),
                        help="folder for results.json and accuracy.png")
    args = parser.parse_args()
    for name in ("rounds", "seeds", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


class EmulatedCompute:
    """Sleeps as long as this rank's step would take."""

    def __init__(self, args, seed):
        self.pattern = args.imbalance
        self.base = args.base_ms / 1000
        self.delay = args.delay_ms / 1000
        # Drawn alike on every rank where ranks share it, else each its own.
        shared = self.pattern == "random"
        self.random = np.random.default_rng([seed, 0 if shared else 1 + hvd.rank()])

    def step(self):
        ranks = hvd.size()
        extra = 0.0
        if self.pattern == "persistent" and ranks > 1 and hvd.rank() == ranks - 1:
            extra = self.delay
        elif self.pattern == "random" and self.random.integers(ranks) == hvd.rank():
            extra = self.delay
        elif self.pattern == "skew" and ranks > 1:
            extra = self.delay * hvd.rank() / (ranks - 1)
        elif self.pattern == "heavy":
            extra = min(self.random.pareto(1.5) * self.delay / 8, 8 * self.delay)
        time.sleep(self.base + extra)


def load_data():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train_x, test_x = (torch.tensor(x, dtype=torch.float32) for x in split[:2])
    train_y, test_y = (torch.tensor(y) for y in split[2:])
    return train_x, train_y, test_x, test_y


def batches(train_x, train_y, batch_size, seed):
    """This rank's endless share of the images."""
    generator = torch.Generator().manual_seed(1000 * seed + hvd.rank())
    mine = torch.arange(hvd.rank(), len(train_x), hvd.size())
    while True:
        order = mine[torch.randperm(len(mine), generator=generator)]
        for start in range(0, len(order) - batch_size + 1, batch_size):
            chosen = order[start:start + batch_size]
            yield train_x[chosen], train_y[chosen]


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def replicas_identical(model):
    """Whether all ranks have the same parameters, bit for bit."""
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).view(torch.uint8)
    root = hvd.broadcast(mine, 0, name="replica")
    return hvd.allreduce(torch.tensor([float(torch.equal(mine, root))]), name="same").item() == 1


def set_learning_rate(optimizer, args, round_index):
    progress = min(round_index / args.rounds, 1)
    for group in optimizer.param_groups:
        group["lr"] = args.learning_rate * (1 - 0.9 * progress)


def train(args, policy, seed, data, show):
    train_x, train_y, test_x, test_y = data
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum)
    partial = dict(policy=policy, catch_up=args.catch_up, seed=seed,
                   staleness_bound=args.staleness_bound) if PARTIAL else {}
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), **partial)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    if PARTIAL:
        # The schedule follows rounds, so that replicas stay identical.
        optimizer.register_before_round(lambda index: set_learning_rate(optimizer, args, index))

    compute = EmulatedCompute(args, seed)
    share = batches(train_x, train_y, args.batch_size, seed)
    curve = []  # (seconds, accuracy), on rank 0
    steps = 0
    hvd.allreduce(torch.zeros(1), name="start")
    start = time.perf_counter()
    for round_index in hvd.rounds(optimizer, args.rounds) if PARTIAL else range(args.rounds):
        x, y = next(share)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        compute.step()
        if not PARTIAL:
            set_learning_rate(optimizer, args, round_index)
        optimizer.step()
        steps += 1
        if hvd.rank() == 0:
            curve.append((time.perf_counter() - start, accuracy(model, test_x, test_y)))
            show(policy, seed, round_index + 1, curve[-1])
    seconds = time.perf_counter() - start

    final = accuracy(model, test_x, test_y)
    curve.append((seconds, final))
    stats = optimizer.stats() if PARTIAL else {}
    samples = hvd.allreduce(torch.tensor([float(steps)]), op=hvd.Sum, name="steps").item()
    staleness = hvd.allreduce(torch.tensor([stats.get("mean_staleness", 0.0)]), name="stale")
    largest = hvd.allreduce(torch.tensor([stats.get("max_staleness", 0)]), op=hvd.Max,
                            name="stalest")
    reached = [when for when, how_good in curve if how_good >= TARGET]
    return {
        "policy": policy,
        "seed": seed,
        "seconds": seconds,
        "samples_per_second": samples * args.batch_size / seconds,
        "rounds": stats.get("rounds", args.rounds),
        "rounds_per_second": stats.get("rounds", args.rounds) / seconds,
        "mean_active": stats.get("mean_active", float(hvd.size())),
        "mean_staleness": staleness.item(),
        "max_staleness": largest.item(),
        "final_accuracy": final,
        "seconds_to_target": reached[0] if reached else None,
        "replicas_identical": replicas_identical(model),
        "curve": curve,
    }


def median(runs, key):
    values = [run[key] for run in runs]
    return None if None in values else statistics.median(values)


def summarise(results, policies):
    """Medians over the seeds, one row per policy."""
    rows = []
    for policy in policies:
        runs = [run for run in results if run["policy"] == policy]
        row = {key: median(runs, key) for key in runs[0]
               if key not in ("policy", "seed", "curve", "replicas_identical")}
        row["policy"] = policy
        row["replicas_identical"] = all(run["replicas_identical"] for run in runs)
        rows.append(row)
    full = next((row for row in rows if row["policy"] == "full"), None)
    for row in rows:
        times = full and (full["seconds_to_target"], row["seconds_to_target"])
        row["speedup_to_target"] = times[0] / times[1] if times and None not in times else None
    return rows


def print_table(args, rows):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{hvd.size()} ranks, {args.rounds} rounds, imbalance "
                        f"'{args.imbalance}' (emulated compute), medians of {args.seeds}")
    columns = [("policy", "policy", "{}"), ("wall s", "seconds", "{:.1f}"),
               ("samples/s", "samples_per_second", "{:.0f}"),
               ("rounds/s", "rounds_per_second", "{:.1f}"),
               ("active", "mean_active", "{:.2f}"), ("staleness", "mean_staleness", "{:.2f}"),
               ("largest", "max_staleness", "{:.0f}"),
               ("accuracy", "final_accuracy", "{:.1%}"),
               (f"s to {TARGET:.0%}", "seconds_to_target", "{:.1f}"),
               ("vs full", "speedup_to_target", "{:.2f}x"),
               ("replicas", "replicas_identical", "{}")]
    for title, _, _ in columns:
        table.add_column(title, justify="left" if title == "policy" else "right")
    for row in rows:
        shown = {**row, "replicas_identical": "same" if row["replicas_identical"] else "DIFFER"}
        table.add_row(*["-" if shown[key] is None else form.format(shown[key])
                        for _, key, form in columns])
    Console(width=118).print(table)


def plot(args, results, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for i, policy in enumerate(args.policies):
        for run in [run for run in results if run["policy"] == policy]:
            when, how_good = zip(*run["curve"])
            axes.plot(when, [100 * value for value in how_good], color=f"C{i}",
                      label=policy if run["seed"] == 0 else None,
                      alpha=0.9 if run["seed"] == 0 else 0.35, linewidth=1.5)
    axes.axhline(100 * TARGET, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="wall time [s]", ylabel="test accuracy [%]", ylim=(60, 100),
             title=f"Digits on {hvd.size()} ranks, imbalance '{args.imbalance}' "
                   f"(emulated: {args.base_ms:.0f} ms + {args.delay_ms:.0f} ms), "
                   f"{args.rounds} rounds")
    axes.legend(loc="lower right", title="policy")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    args = parse_args()
    hvd.init()
    torch.set_num_threads(1)
    if not PARTIAL:
        args.policies = ["full"]
    data = load_data()
    total = len(args.policies) * args.seeds
    shown = {}

    def show(policy, seed, round_index, latest):
        tenth = 10 * round_index // args.rounds
        if shown.get((policy, seed)) != tenth:
            shown[policy, seed] = tenth
            number = args.policies.index(policy) + seed * len(args.policies) + 1
            print(f"training {number}/{total}: {policy:10} round {round_index:4}/{args.rounds} "
                  f"after {latest[0]:5.1f} s, accuracy {latest[1]:.1%}", flush=True)

    results = [train(args, policy, seed, data, show)
               for seed in range(args.seeds) for policy in args.policies]
    if hvd.rank() == 0:
        rows = summarise(results, args.policies)
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "results.json").write_text(json.dumps({
            "ranks": hvd.size(),
            "emulated_compute": True,
            "options": {key: str(value) if isinstance(value, Path) else value
                        for key, value in vars(args).items()},
            "summary": rows,
            "runs": results,
        }, indent=1))
        plot(args, results, args.output / "accuracy.png")
        print_table(args, rows)
        print(f"written: {args.output / 'results.json'} and {args.output / 'accuracy.png'}")
        if not all(row["replicas_identical"] for row in rows):
            raise SystemExit("replicas differ after a flush")


if __name__ == "__main__":
    main()
