"""What the examples share: options, emulated compute, measuring, tables and plots. No framework.

An example either *compares* policies, ``Comparison`` and ``Training``: the same training once per
policy and seed, as `pytorch_digits.py` does. Or it trains a model once, with a ``History``, as
`pytorch_cifar10_resnet.py` does.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import time
from pathlib import Path

import numpy as np

POLICIES = "solo, majority, quorum:K, first:K, full or auto"

PATTERNS = {
    "persistent": "the last rank takes `delay` longer in every step",
    "random": "in every step, a rank drawn at random takes `delay` longer",
    "skew": "rank i takes i / (ranks - 1) of `delay` longer in every step",
    "heavy": "every rank takes longer by a heavy-tailed time (Pareto, mean about `delay` / 4)",
    "none": "all ranks take the base time",
}


# -------------------------------------------------------------------------------------- options

def parser(description, output, outputs):
    """``--output``, and a help that shows defaults. ``outputs``: what the folder will have."""
    result = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--output", type=Path, default=Path(output), help=f"folder for {outputs}")
    return result


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def not_negative(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def add_imbalance_options(options, imbalance, base_ms, delay_ms):
    options.add_argument("--imbalance", choices=PATTERNS, default=imbalance,
                         help="; ".join(f"{name}: {text}" for name, text in PATTERNS.items()))
    options.add_argument("--base-ms", type=not_negative, default=base_ms,
                         help="emulated time of a step")
    options.add_argument("--delay-ms", type=not_negative, default=delay_ms,
                         help="what the imbalance adds to a step")


def add_partial_options(options, catch_up="replay", staleness_bound=8):
    """None as a default stands for what the launcher or the environment says."""
    options.add_argument("--catch-up", choices=["replay", "sum", "latest"], default=catch_up,
                         help="what a late rank does with the rounds that it has missed")
    options.add_argument("--staleness-bound", type=positive, default=staleness_bound,
                         help="rounds that a rank may be behind before it is waited for")


def partial_settings(args, policy, seed=None):
    """The arguments of a partial DistributedOptimizer."""
    return dict(policy=policy, catch_up=args.catch_up, seed=seed,
                staleness_bound=args.staleness_bound)


def add_training_options(options, batch_size, epochs, delay_ms=300):
    """Of an example that trains one model on images, with ``rounds_of`` and ``step_schedule``."""
    add = options.add_argument
    add("--data", metavar="FOLDER", help="where the images are")
    add("--make-sample", metavar="FOLDER",
        help="write a small set in the same format there, of scikit-learn's digits, and end: to try "
             "this example without the data")
    add("--policy", help=f"{POLICIES}; None: what the launcher or the environment says, else majority")
    add_partial_options(options, catch_up=None, staleness_bound=None)
    add("--batch-size", type=positive, default=batch_size, help="images per rank and step")
    add("--epochs", type=positive, default=epochs,
        help="length of the training. An epoch is as many rounds as it takes, where all ranks are "
             "active in each, to see all images")
    add("--learning-rate", type=float, default=0.1,
        help="for 256 images in a round; it is scaled with batch size and ranks, as in Horovod's "
             "examples")
    add("--warm-up", type=int, default=5, help="epochs in which the learning rate rises to this")
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=1e-4)
    add("--seed", type=int, default=0)
    add("--tensorboard", metavar="FOLDER", help="TensorBoard scalars: how rounds went, on each rank")
    add_imbalance_options(options, "none", 0, delay_ms)


def parse_training_args(options, make_sample):
    """The options, with ``--data``. ``--make-sample`` calls ``make_sample(folder)``, and that is
    all."""
    args = options.parse_args()
    if args.make_sample:
        make_sample(args.make_sample)
        print(f"written: {args.make_sample}, for --data")
        raise SystemExit
    if not args.data:
        options.error("--data FOLDER is needed, or --make-sample FOLDER")
    return args


def rounds_of(args, images, ranks):
    """The rounds of an epoch; ``args.rounds`` becomes those of the training."""
    per_epoch = max(images // (args.batch_size * ranks), 1)
    args.rounds = args.epochs * per_epoch
    return per_epoch


def step_schedule(args, per_epoch, ranks, drops):
    """The learning rate of a round: it rises during ``--warm-up``, and falls to a tenth at each of
    ``drops``, in parts of the training. A function of the round's number alone, so that it is the
    same on all ranks."""
    peak = args.learning_rate * args.batch_size * ranks / 256
    warm_up = args.warm_up * per_epoch

    def learning_rate(round_index):
        dropped = sum(round_index >= part * args.rounds for part in drops)
        return peak * min((round_index + 1) / max(warm_up, 1), 1) * 0.1 ** dropped

    return learning_rate


# ----------------------------------------------------------------------------- emulated compute

class EmulatedCompute:
    """Sleeps as long as this rank's step would take, by ``--imbalance`` and its times."""

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


# -------------------------------------------------------------------------- comparing policies

@dataclasses.dataclass(frozen=True)
class Metric:
    """What is followed while training: ``accuracy``, to rise, or ``loss``, to fall, to ``target``."""

    name: str
    target: float

    @property
    def rises(self):
        return self.name == "accuracy"

    @property
    def form(self):
        return "{:.1%}" if self.rises else "{:.4f}"

    def reached(self, value):
        return value >= self.target if self.rises else value <= self.target


class Comparison:
    """The same training, once per policy and seed.

    Args:
        title: of the plot.
        description, output: of ``--help``.
        metric: a ``Metric``; its target gets an option.
        rounds, learning_rate, momentum, imbalance, batch_size: defaults of options. Momentum None:
            there is none.
        samples: what a batch holds.
        base_ms, delay_ms: as well. None: the example has an emulation, and options, of its own.

    Attributes:
        parser: for options of the example's own.
        emulated, imbalance: whether compute time is emulated, and what is said of it.
    """

    def __init__(self, title, description, output, metric, rounds=160, learning_rate=0.2,
                 momentum=0.9, imbalance="persistent", batch_size=32, samples="images",
                 base_ms=100, delay_ms=200):
        self.title, self.metric = title, metric
        self.emulated = True
        self.imbalance = None
        self.parser = parser(description, output, f"results.json and {metric.name}.png")
        add = self.parser.add_argument
        add("--policies", nargs="+", default=["full", "solo", "majority", "first:3", "auto"],
            metavar="POLICY", help=f"{POLICIES}, in this order")
        add("--rounds", type=positive, default=rounds, help="length of a training, in rounds")
        add("--seeds", type=positive, default=3,
            help="trainings per policy; the table shows medians")
        if base_ms is not None:
            add_imbalance_options(self.parser, imbalance, base_ms, delay_ms)
        add("--batch-size", type=positive, default=batch_size, help=f"{samples} per rank and step")
        add("--learning-rate", type=float, default=learning_rate,
            help="at the beginning; it falls to a tenth, linearly with the rounds")
        if momentum is not None:
            add("--momentum", type=float, default=momentum)
        add("--target", type=float, default=metric.target,
            help=f"{metric.name} to which the time is measured")
        add_partial_options(self.parser)

    def parse_args(self):
        return self.parser.parse_args()

    def run(self, args, train, rank, ranks):
        """``train(training)`` gives ``training.result(...)``, for every policy and seed, on every
        rank; rank 0 writes and prints the report."""
        self.metric = dataclasses.replace(self.metric, target=args.target)
        if self.imbalance is None:
            self.imbalance = (f"imbalance '{args.imbalance}' (emulated compute: {args.base_ms:g} ms "
                              f"+ {args.delay_ms:g} ms)")
        results = [train(Training(self, args, policy, seed, rank, ranks))
                   for seed in range(args.seeds) for policy in args.policies]
        if rank != 0:
            return
        rows = self._summarise(results, args.policies)
        plot = args.output / f"{self.metric.name}.png"
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "results.json").write_text(json.dumps({
            "ranks": ranks,
            "emulated_compute": self.emulated,
            "options": _plain(args),
            "summary": rows,
            "runs": results,
        }, indent=1))
        self._plot(args, ranks, results, plot)
        self._print_table(args, ranks, rows)
        print(f"written: {args.output / 'results.json'} and {plot}")
        if not all(row["replicas_identical"] for row in rows):
            raise SystemExit("replicas differ after a flush")

    def _summarise(self, results, policies):
        """Medians over the seeds, one row per policy."""
        rows = []
        for policy in policies:
            runs = [run for run in results if run["policy"] == policy]
            row = {key: _median(runs, key) for key in runs[0]
                   if key not in ("policy", "seed", "curve", "replicas_identical")}
            row["policy"] = policy
            row["replicas_identical"] = all(run["replicas_identical"] for run in runs)
            rows.append(row)
        full = next((row for row in rows if row["policy"] == "full"), None)
        for row in rows:
            times = full and (full["seconds_to_target"], row["seconds_to_target"])
            row["speedup_to_target"] = times[0] / times[1] if times and None not in times else None
        return rows

    def _print_table(self, args, ranks, rows):
        from rich.console import Console
        from rich.table import Table

        metric = self.metric
        table = Table(title=f"{ranks} ranks, {args.rounds} rounds, {self.imbalance}, medians of "
                            f"{args.seeds}")
        columns = [("policy", "policy", "{}"), ("wall s", "seconds", "{:.1f}"),
                   ("samples/s", "samples_per_second", "{:.0f}"),
                   ("rounds/s", "rounds_per_second", "{:.1f}"),
                   ("active", "mean_active", "{:.2f}"), ("staleness", "mean_staleness", "{:.2f}"),
                   ("largest", "max_staleness", "{:.0f}"),
                   (metric.name, f"final_{metric.name}", metric.form),
                   (f"s to {metric.target:{'.0%' if metric.rises else 'g'}}", "seconds_to_target",
                    "{:.1f}"),
                   ("vs full", "speedup_to_target", "{:.2f}x"),
                   ("replicas", "replicas_identical", "{}")]
        for title, _, _ in columns:
            table.add_column(title, justify="left" if title == "policy" else "right")
        for row in rows:
            shown = {**row, "replicas_identical": "same" if row["replicas_identical"] else "DIFFER"}
            table.add_row(*["-" if shown[key] is None else form.format(shown[key])
                            for _, key, form in columns])
        Console(width=118).print(table)

    def _plot(self, args, ranks, results, path):
        plt = pyplot()
        figure, axes = plt.subplots(figsize=(8, 5))
        scale = 100 if self.metric.rises else 1
        for i, policy in enumerate(args.policies):
            for run in [run for run in results if run["policy"] == policy]:
                when, how_good = zip(*run["curve"])
                axes.plot(when, [scale * value for value in how_good], color=f"C{i}",
                          label=policy if run["seed"] == 0 else None,
                          alpha=0.9 if run["seed"] == 0 else 0.35, linewidth=1.5)
        axes.axhline(scale * self.metric.target, color="grey", linestyle=":", linewidth=1)
        axes.set(xlabel="wall time [s]",
                 title=f"{self.title} on {ranks} ranks, {args.rounds} rounds\n{self.imbalance}")
        if self.metric.rises:
            lowest = min(value for run in results for _, value in run["curve"][len(run["curve"]) // 5:])
            axes.set(ylabel="test accuracy [%]", ylim=(min(60, 100 * lowest), 100))
        else:
            axes.set(ylabel=f"test {self.metric.name}", yscale="log")
        axes.legend(title="policy")
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(path, dpi=120)


class Training:
    """One training of a comparison: what it is to be, its progress, and what came of it.

    Attributes:
        args, policy, seed, rank, ranks: what it is to be.
        partial: the arguments of a partial DistributedOptimizer.
    """

    def __init__(self, comparison, args, policy, seed, rank, ranks):
        self.comparison, self.args, self.policy, self.seed = comparison, args, policy, seed
        self.rank, self.ranks = rank, ranks
        self.partial = partial_settings(args, policy, seed)
        self._curve = []  # (seconds, metric), on rank 0
        self._steps = self._evaluated = 0
        self._tenth = None
        self.start()

    def emulated_compute(self):
        return EmulatedCompute(self.args, self.seed, self.rank, self.ranks)

    def learning_rate(self, round_index):
        return self.args.learning_rate * (1 - 0.9 * min(round_index / self.args.rounds, 1))

    def start(self):
        """Time counts from here: call it where all ranks are ready."""
        self._start = time.perf_counter()

    def after_step(self, rounds, evaluate, every=1):
        """After each local step, when so many rounds have been applied. ``evaluate()`` gives the
        metric; it is called on rank 0 only, about every ``every`` rounds."""
        self._steps += 1
        if self.rank != 0 or rounds < self._evaluated + every:
            return
        self._evaluated = rounds
        self._curve.append((time.perf_counter() - self._start, evaluate()))
        tenth = 10 * rounds // self.args.rounds
        if tenth != self._tenth:
            self._tenth = tenth
            policies, metric = self.args.policies, self.comparison.metric
            number = policies.index(self.policy) + self.seed * len(policies) + 1
            seconds, value = self._curve[-1]
            print(f"training {number}/{len(policies) * self.args.seeds}: {self.policy:10} round "
                  f"{rounds:4}/{self.args.rounds} after {seconds:5.1f} s, {metric.name} "
                  f"{metric.form.format(value)}", flush=True)

    def result(self, evaluate, parameters, stats, gather):
        """What is kept of the training, which ends here, on every rank after a flush.

        Args:
            evaluate: gives the metric.
            parameters: numpy arrays, to see whether replicas are identical, bit for bit.
            stats: ``optimizer.stats()``; empty with stock Horovod.
            gather: ``hvd.allgather_object``.
        """
        seconds = time.perf_counter() - self._start
        final = evaluate()
        self._curve.append((seconds, final))
        everyone = gather((self._steps, stats.get("mean_staleness", 0.0),
                           stats.get("max_staleness", 0), fingerprint(parameters)))
        steps, staleness, largest, fingerprints = zip(*everyone)
        rounds = stats.get("rounds", self.args.rounds)
        reached = [when for when, value in self._curve if self.comparison.metric.reached(value)]
        return {
            "policy": self.policy,
            "seed": self.seed,
            "seconds": seconds,
            "samples_per_second": sum(steps) * self.args.batch_size / seconds,
            "rounds": rounds,
            "rounds_per_second": rounds / seconds,
            "mean_active": stats.get("mean_active", float(self.ranks)),
            "mean_staleness": statistics.mean(staleness),
            "max_staleness": max(largest),
            f"final_{self.comparison.metric.name}": final,
            "seconds_to_target": reached[0] if reached else None,
            "replicas_identical": len(set(fingerprints)) == 1,
            "curve": self._curve,
        }


# ------------------------------------------------------------------------- training one model

class History:
    """How a training goes: lines of progress, `history.json` and `history.png`, on rank 0.

    Args:
        args: with ``rounds`` and ``output``; what the file says of options.
        rank, ranks: this rank, and their number.
        begin: rounds that are done already.
        points: of a ``History`` that this one carries on; None: of the one in `history.json`, as
            far as these rounds.

    Attributes:
        points: a dict of each flush: ``round``, ``seconds``, and what ``add`` was given.
    """

    def __init__(self, args, rank, ranks, begin=0, points=None):
        self.args, self.rank, self.ranks = args, rank, ranks
        if points is None:
            points = self._earlier(begin)
        self.points = list(points)
        self._shown = begin  # rounds, when the last line of progress was printed
        self._last = time.perf_counter()
        self._start = self._last - (self.points[-1]["seconds"] if self.points else 0)

    def _earlier(self, rounds):
        path = self.args.output / "history.json"
        if rounds == 0 or not path.exists():
            return []
        return [point for point in json.loads(path.read_text())["history"]
                if point["round"] <= rounds]

    def after_step(self, rounds, loss):
        """After each local step, when so many rounds have been applied. ``loss()`` is called where
        a line is printed: every 10 seconds."""
        now = time.perf_counter()
        if self.rank != 0 or now < self._last + 10 or rounds <= self._shown:
            return
        left = (now - self._last) * max(self.args.rounds - rounds, 0) / (rounds - self._shown)
        self._last, self._shown = now, rounds
        print(f"round {rounds:6}/{self.args.rounds}: loss {loss():.4f}, about {left:.0f} s left",
              flush=True)

    def add(self, rounds, **values):
        """At a flush, on every rank: these numbers, alike on all of them, and files of all so far."""
        seconds = time.perf_counter() - self._start
        self.points.append({"round": rounds, "seconds": seconds, **values})
        if self.rank != 0:
            return
        print(f"round {rounds:6}/{self.args.rounds} after {seconds:6.1f} s: "
              + ", ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
        self.write()

    def write(self, **more):
        """The files, with what else is to be said in `history.json`."""
        if self.rank != 0:
            return
        self.args.output.mkdir(parents=True, exist_ok=True)
        (self.args.output / "history.json").write_text(json.dumps(
            {"ranks": self.ranks, "options": _plain(self.args), "history": self.points, **more},
            indent=1))
        if self.points:
            self._plot(self.args.output / "history.png")

    def _plot(self, path):
        plt = pyplot()
        names = [name for name in self.points[-1] if name not in ("round", "seconds")]
        figure, panels = plt.subplots(len(names), figsize=(8, 2.2 * len(names)), sharex=True,
                                      squeeze=False)
        for panel, name in zip(panels[:, 0], names):
            panel.plot([point["round"] for point in self.points],
                       [point[name] for point in self.points], marker=".")
            panel.set(ylabel=name)
            panel.grid(alpha=0.3)
        panel.set(xlabel="round")
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)

    def finish(self, parameters, stats, gather):
        """At the end, on every rank after a flush: whether replicas are identical, and how rounds
        went. Arguments as those of ``Training.result``."""
        same = len(set(gather(fingerprint(parameters)))) == 1
        self.write(replicas_identical=same, rounds=stats.get("rounds"),
                   mean_active=stats.get("mean_active"))
        if self.rank == 0:
            print(f"written: {self.args.output / 'history.json'} and "
                  f"{self.args.output / 'history.png'}; replicas are "
                  f"{'identical' if same else 'DIFFERENT'}", flush=True)
        if not same:
            raise SystemExit("replicas differ after a flush")


def fingerprint(parameters):
    """Of numpy arrays: differs where one bit does."""
    digest = hashlib.sha256()
    for array in parameters:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def pyplot():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _median(runs, key):
    values = [run[key] for run in runs]
    return None if None in values else statistics.median(values)


def _plain(args):
    return {key: value if isinstance(value, (int, float, list, type(None))) else str(value)
            for key, value in vars(args).items()}
