"""Compares policy auto with every fixed K, by the time that a training takes to an accuracy.

    python benchmarks/auto_simulation.py
    python benchmarks/auto_simulation.py --patterns random switch --seeds 5

A simulation with real learning: 8 workers train a small network (64-64-10, SGD with momentum) on
scikit-learn's images of digits. Which worker submits when, which round starts with whom, and which
K auto takes, comes from the core that real ranks run, with its tuner, against a virtual clock
(horovod_partial._core.replay_source). The durations of steps are EMULATED; gradients, staleness and
accuracy are real. A few minutes on one core.

The tuner's constants were chosen with the seeds 0 to 20. The seeds from 100 on, which this takes by
default, had no part in that.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices are too small for more

import numpy as np  # noqa: E402

from horovod_partial import _core  # noqa: E402

RANKS = 8
BASE = 0.1  # seconds of a step
TARGET = 0.95
SMOOTHED = 5  # rounds whose mean accuracy has to be at the target
SWITCH = 4.0  # seconds
MOST_ROUNDS = 600

PATTERNS = {
    "random": "in every step, a worker drawn at random takes four times as long",
    "skew": "worker i takes 1 + 3 i / 7 times as long",
    "persistent": "one worker takes three times as long for good",
    "heavy": "every step takes longer by a heavy-tailed time (Pareto, 1.5)",
    "switch": f"persistent, and after {SWITCH:g} s random",
    "none": "all take the same time",
}


class Steps:
    """The durations of the workers' steps; those of a seed are the same under every policy."""

    def __init__(self, pattern, seed):
        self.pattern = pattern
        self.hit = np.random.default_rng([seed, 1]).integers(RANKS, size=100_000)
        self.slow = int(np.random.default_rng([seed, 2]).integers(RANKS))
        self.random = [np.random.default_rng([seed, 3, rank]) for rank in range(RANKS)]
        self.done = [0] * RANKS

    def __call__(self, rank, now):
        step = self.done[rank]
        self.done[rank] += 1
        pattern = self.pattern
        if pattern == "switch":
            pattern = "persistent" if now < SWITCH else "random"
        noise, tail = self.random[rank].standard_normal(), self.random[rank].pareto(1.5)
        factor = {
            "random": 4 if self.hit[step] == rank else 1,
            "skew": 1 + 3 * rank / (RANKS - 1),
            "persistent": 3 if rank == self.slow else 1,
            "heavy": 1 + min(tail / 2, 15),
            "none": 1,
        }[pattern]
        return BASE * factor * (1 + 0.02 * noise)


class Network:
    """Two layers; parameters are one flat array."""

    def __init__(self, hidden):
        self.shapes = [(64, hidden), (hidden,), (hidden, 10), (10,)]
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.ends = np.cumsum([0, *sizes])

    def start(self, seed):
        random = np.random.default_rng([seed, 4])
        return np.concatenate([
            (random.standard_normal(shape) / np.sqrt(shape[0]) if len(shape) == 2
             else np.zeros(shape)).astype(np.float32).ravel() for shape in self.shapes])

    def parts(self, flat):
        return [flat[a:b].reshape(shape)
                for a, b, shape in zip(self.ends, self.ends[1:], self.shapes)]

    def gradient(self, flat, x, y):
        w1, b1, w2, b2 = self.parts(flat)
        hidden = np.maximum(x @ w1 + b1, 0)
        scores = hidden @ w2 + b2
        wrong = np.exp(scores - scores.max(1, keepdims=True))
        wrong /= wrong.sum(1, keepdims=True)
        wrong[np.arange(len(y)), y] -= 1
        wrong /= len(y)
        back = (wrong @ w2.T) * (hidden > 0)
        return np.concatenate([(x.T @ back).ravel(), back.sum(0), (hidden.T @ wrong).ravel(),
                               wrong.sum(0)])

    def accuracy(self, flat, x, y):
        w1, b1, w2, b2 = self.parts(flat)
        return float(((np.maximum(x @ w1 + b1, 0) @ w2 + b2).argmax(1) == y).mean())


def load_data():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0,
        stratify=labels)
    return train_x, train_y, test_x, test_y


def learn(events, data, seed, args):
    """Seconds until the mean accuracy of the newest rounds is at the target, of a training whose
    submissions and rounds are ``events``; inf if it is not reached."""
    train_x, train_y, test_x, test_y = data
    network = Network(args.hidden)
    batches = [np.random.default_rng([seed, 5, rank]) for rank in range(RANKS)]
    versions = [network.start(seed)]  # parameters after so many rounds, alike on all workers
    velocity, pending = np.zeros_like(versions[0]), np.zeros_like(versions[0])
    curve = []
    for seconds, rank, known in events:
        if rank >= 0:
            chosen = batches[rank].integers(len(train_x), size=args.batch_size)
            pending += network.gradient(versions[known], train_x[chosen], train_y[chosen])
            continue
        velocity = args.momentum * velocity + pending / RANKS
        versions.append(versions[-1] - args.learning_rate * velocity)
        pending[:] = 0
        curve.append(network.accuracy(versions[-1], test_x, test_y))
        if len(curve) >= SMOOTHED and np.mean(curve[-SMOOTHED:]) >= TARGET:
            return seconds
    return float("inf")


def train(pattern, policy, seed, data, args):
    replayed = _core.replay_source(RANKS, Steps(pattern, seed), policy, rounds=MOST_ROUNDS,
                                   staleness_bound=args.staleness_bound,
                                   round_seconds=args.round_seconds, seed=seed, trace=True)
    seconds = learn(replayed.events, data, seed, args)
    return {"pattern": pattern, "policy": policy, "seed": seed, "seconds_to_target": seconds,
            "score": replayed.score(), "mean_staleness": replayed.mean_staleness,
            "mean_active": replayed.mean_active, "changes": replayed.changes}


def policies():
    return ["solo", *(f"first:{k}" for k in range(2, RANKS)), "full", "majority", "auto"]


def summarise(runs, pattern):
    """Rows of the table, and whether auto is where it is wanted."""
    rows = []
    for policy in policies():
        of = [run for run in runs if run["pattern"] == pattern and run["policy"] == policy]
        times = sorted(run["seconds_to_target"] for run in of)
        rows.append({"policy": policy, "seconds": statistics.median(times),
                     "fastest": times[0], "slowest": times[-1],
                     **{key: statistics.fmean(run[key] for run in of)
                        for key in ("score", "mean_staleness", "mean_active")},
                     "changes": statistics.fmean(len(run["changes"]) for run in of)})
    best = min(row["seconds"] for row in rows if row["policy"] not in ("auto", "majority"))
    for row in rows:
        row["against_best"] = row["seconds"] / best
    by = {row["policy"]: row["seconds"] for row in rows}
    good = by["auto"] <= 1.15 * best and all(
        by["auto"] < by[policy] for policy in ("solo", "majority", "full"))
    return rows, good


def print_table(console, pattern, rows, good, seeds):
    from rich.table import Table

    table = Table(title=f"{pattern}: {PATTERNS[pattern]} (emulated), {seeds} seeds")
    for title in ("policy", f"s to {TARGET:.0%}", "fastest", "slowest", "against best K", "staleness",
                  "active", "score", "changes"):
        table.add_column(title, justify="left" if title == "policy" else "right")
    for row in rows:
        table.add_row(row["policy"], f"{row['seconds']:.2f}", f"{row['fastest']:.2f}",
                      f"{row['slowest']:.2f}", f"{row['against_best']:.2f}x",
                      f"{row['mean_staleness']:.2f}", f"{row['mean_active']:.2f}",
                      f"{row['score']:.1f}",
                      f"{row['changes']:.1f}" if row["policy"] == "auto" else "",
                      style="bold" if row["policy"] == "auto" else None)
    console.print(table)
    if pattern != "none":
        console.print("auto: " + ("within 15 % of the best fixed K, and ahead of solo, majority and "
                                  "full" if good else "NOT as good as wanted"))


def plot(summary, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(summary), figsize=(3.2 * len(summary), 3.6), squeeze=False)
    for ax, (pattern, rows) in zip(axes[0], summary.items()):
        by = {row["policy"]: row for row in rows}
        fixed = [by["solo"], *(by[f"first:{k}"] for k in range(2, RANKS)), by["full"]]
        ks = range(1, RANKS + 1)
        ax.fill_between(ks, [row["fastest"] for row in fixed], [row["slowest"] for row in fixed],
                        color="C0", alpha=0.15, linewidth=0)
        ax.plot(ks, [row["seconds"] for row in fixed], "o-", color="C0", label="first:K")
        ax.axhline(by["majority"]["seconds"], color="C2", linestyle="--", label="majority")
        ax.axhline(by["auto"]["seconds"], color="C3", linewidth=2, label="auto")
        ax.set(title=pattern, xlabel="K", xticks=ks, ylim=(0, None))
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"seconds to {TARGET:.0%} accuracy, median")
    axes[0][0].legend()
    figure.suptitle("8 workers, real digits, emulated durations of steps; band: all seeds")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse_args(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS), metavar="PATTERN",
        help="; ".join(f"{name}: {text}" for name, text in PATTERNS.items()))
    add("--seeds", type=int, default=21, help="trainings for each policy (default: 21)")
    add("--first-seed", type=int, default=100, help="the lowest seed (default: 100)")
    add("--learning-rate", type=float, default=0.1, help="(default: 0.1)")
    add("--momentum", type=float, default=0.9, help="(default: 0.9)")
    add("--batch-size", type=int, default=16, help="images per worker and step (default: 16)")
    add("--hidden", type=int, default=64, help="hidden units (default: 64)")
    add("--staleness-bound", type=int, default=8, help="(default: 8)")
    add("--round-seconds", type=float, default=0.002, help="of an allreduce (default: 0.002)")
    add("--output", type=Path, default=Path("results/auto_simulation"), metavar="DIR",
        help="where results.json and the figure go (default: results/auto_simulation)")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    return args


def main(arguments=None):
    args = parse_args(arguments)
    from rich.console import Console
    from rich.progress import track

    console = Console(width=110)
    data = load_data()
    work = [(pattern, policy, seed) for pattern in args.patterns for policy in policies()
            for seed in range(args.first_seed, args.first_seed + args.seeds)]
    runs = [train(*what, data, args) for what in track(work, "training", console=console)]
    summary, all_good = {}, True
    for pattern in args.patterns:
        summary[pattern], good = summarise(runs, pattern)
        all_good = all_good and (good or pattern == "none")
        print_table(console, pattern, summary[pattern], good, args.seeds)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps({
        "emulated_durations": True,
        "options": {key: str(value) if isinstance(value, Path) else value
                    for key, value in vars(args).items()},
        "patterns": PATTERNS, "summary": summary, "runs": runs}, indent=1))
    plot(summary, args.output / "auto.png")
    console.print(f"written: {args.output / 'results.json'} and {args.output / 'auto.png'}")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
