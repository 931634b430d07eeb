"""What the digits examples share: options, data, emulated compute, and the report. No framework."""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

TARGET = 0.95

PATTERNS = {
    "persistent": "the last rank takes `delay` longer in every step",
    "random": "in every step, a rank drawn at random takes `delay` longer",
    "skew": "rank i takes i / (ranks - 1) of `delay` longer in every step",
    "heavy": "every rank takes longer by a heavy-tailed time (Pareto, mean about `delay` / 4)",
    "none": "all ranks take the base time",
}


def parse_args(description, output):
    parser = argparse.ArgumentParser(description=description,
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
    parser.add_argument("--output", type=Path, default=Path(output),
                        help="folder for results.json and accuracy.png")
    args = parser.parse_args()
    for name in ("rounds", "seeds", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


def partial_settings(args, policy, seed):
    """The arguments of a partial DistributedOptimizer."""
    return dict(policy=policy, catch_up=args.catch_up, seed=seed,
                staleness_bound=args.staleness_bound)


class EmulatedCompute:
    """Sleeps as long as this rank's step would take."""

    def __init__(self, args, seed, rank, ranks):
        self.pattern = args.imbalance
        self.base = args.base_ms / 1000
        self.delay = args.delay_ms / 1000
        self.rank, self.ranks = rank, ranks
        # Drawn alike on every rank where ranks share it, else each its own.
        shared = self.pattern == "random"
        self.random = np.random.default_rng([seed, 0 if shared else 1 + rank])

    def step(self):
        extra = 0.0
        if self.pattern == "persistent" and self.ranks > 1 and self.rank == self.ranks - 1:
            extra = self.delay
        elif self.pattern == "random" and self.random.integers(self.ranks) == self.rank:
            extra = self.delay
        elif self.pattern == "skew" and self.ranks > 1:
            extra = self.delay * self.rank / (self.ranks - 1)
        elif self.pattern == "heavy":
            extra = min(self.random.pareto(1.5) * self.delay / 8, 8 * self.delay)
        time.sleep(self.base + extra)


def load_data():
    """Images of 64 values and labels: train_x, train_y, test_x, test_y."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0,
        stratify=labels)
    return train_x, train_y, test_x, test_y


def batches(train_x, train_y, batch_size, seed, rank, ranks):
    """This rank's endless share of the images."""
    random = np.random.default_rng([seed, rank])
    mine = np.arange(rank, len(train_x), ranks)
    while True:
        order = random.permutation(mine)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            chosen = order[start:start + batch_size]
            yield train_x[chosen], train_y[chosen]


def learning_rate(args, round_index):
    return args.learning_rate * (1 - 0.9 * min(round_index / args.rounds, 1))


class Curve:
    """Accuracy over time on rank 0, with progress as it goes."""

    def __init__(self, args, policy, seed, rank):
        self.args, self.policy, self.seed, self.rank = args, policy, seed, rank
        self.points = []  # (seconds, accuracy)
        self._tenth = None
        self._start = time.perf_counter()

    def seconds(self):
        return time.perf_counter() - self._start

    def add(self, rounds, accuracy):
        """``accuracy()`` is evaluated on rank 0 only, after so many rounds."""
        if self.rank != 0:
            return
        self.points.append((self.seconds(), accuracy()))
        tenth = 10 * rounds // self.args.rounds
        if tenth != self._tenth:
            self._tenth = tenth
            policies = self.args.policies
            number = policies.index(self.policy) + self.seed * len(policies) + 1
            print(f"training {number}/{len(policies) * self.args.seeds}: {self.policy:10} round "
                  f"{rounds:4}/{self.args.rounds} after {self.points[-1][0]:5.1f} s, accuracy "
                  f"{self.points[-1][1]:.1%}", flush=True)


def result(args, policy, seed, ranks, curve, seconds, final, samples, stats, staleness, largest,
           same):
    """What is kept of a training. ``samples``, ``staleness`` (mean) and ``largest`` are over all
    ranks; ``stats`` are this rank's, of a partial optimizer."""
    curve.points.append((seconds, final))
    rounds = stats.get("rounds", args.rounds)
    reached = [when for when, how_good in curve.points if how_good >= TARGET]
    return {
        "policy": policy,
        "seed": seed,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
        "rounds": rounds,
        "rounds_per_second": rounds / seconds,
        "mean_active": stats.get("mean_active", float(ranks)),
        "mean_staleness": staleness,
        "max_staleness": largest,
        "final_accuracy": final,
        "seconds_to_target": reached[0] if reached else None,
        "replicas_identical": same,
        "curve": curve.points,
    }


def run(args, train, rank, ranks):
    """``train(args, policy, seed, data)`` gives a ``result`` for every policy and seed; rank 0
    writes and prints the report."""
    data = load_data()
    results = [train(args, policy, seed, data)
               for seed in range(args.seeds) for policy in args.policies]
    if rank != 0:
        return
    rows = summarise(results, args.policies)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps({
        "ranks": ranks,
        "emulated_compute": True,
        "options": {key: str(value) if isinstance(value, Path) else value
                    for key, value in vars(args).items()},
        "summary": rows,
        "runs": results,
    }, indent=1))
    plot(args, ranks, results, args.output / "accuracy.png")
    print_table(args, ranks, rows)
    print(f"written: {args.output / 'results.json'} and {args.output / 'accuracy.png'}")
    if not all(row["replicas_identical"] for row in rows):
        raise SystemExit("replicas differ after a flush")


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


def print_table(args, ranks, rows):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{ranks} ranks, {args.rounds} rounds, imbalance "
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


def plot(args, ranks, results, path):
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
             title=f"Digits on {ranks} ranks, imbalance '{args.imbalance}' "
                   f"(emulated: {args.base_ms:.0f} ms + {args.delay_ms:.0f} ms), "
                   f"{args.rounds} rounds")
    axes.legend(loc="lower right", title="policy")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
