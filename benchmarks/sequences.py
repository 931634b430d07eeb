"""Inherent imbalance: time to accuracy of an LSTM on real sequences of unequal length.

This is the eager-SGD paper's LSTM on videos (UCF101), on data that needs no download: spoken vowels
(JapaneseVowels) and recordings of appliances (PLAID), from sktime. Batches are made of sequences of
similar length, as usual, so that a step's work differs between ranks by as much as lengths do. The
compute time is EMULATED, proportional to the batch's longest sequence; the lengths are the data's
own.

The target is what synchronous training ends with: the mean of stock's scores over the last fifth of
its rounds, per seed, less one percentage point. Each policy trains for the same number of rounds."""

import sys

import numpy as np

from benchmarks import ROOT, common, training

TITLE = "Inherent imbalance"
STOCK = training.STOCK
# Per data set: rounds of the full and the short form (0: not in it), emulated milliseconds per step
# and frame, and how many values of a series make a frame (1: a step is one).
SETTINGS = {
    "JapaneseVowels": {"rounds": (100, 50), "ms": 4.0, "rate": 0.01, "fold": 1},
    "PLAID": {"rounds": (160, 0), "ms": 4.0, "rate": 0.02, "fold": 20},
}
TOLERANCE = 0.01


def add_options(parser):
    parser.add_argument("--np", type=int, default=8, help="ranks (default 8)")
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=None,
                        help="default: both; short: JapaneseVowels")
    parser.add_argument("--policies", nargs="+", default=None,
                        help="beside stock (default solo majority first:3 first:5; short: "
                             "majority first:5)")
    parser.add_argument("--seeds", type=common.positive(int), default=None,
                        help="trainings of each (default 5; short 2)")
    parser.add_argument("--rounds", type=common.positive(int), default=None,
                        help="of a training (default: by data set)")
    parser.add_argument("--speed", type=common.positive(float), default=1.0,
                        help="divides the emulated times (default 1)")
    parser.add_argument("--batch", type=common.positive(int), default=8,
                        help="sequences per rank and step (default 8)")


class Task:
    """Classes of series; see training.py."""

    def __init__(self, rank, size, seed, name, batch, rounds, ms):
        import torch

        sys.path.insert(0, str(ROOT / "examples"))
        import sequences

        self.torch, self.batch, self.rounds, self.ms = torch, batch, rounds, ms
        self.fold, self.start_rate = SETTINGS[name]["fold"], SETTINGS[name]["rate"]
        data = sequences.load(name)
        self.batches = sequences.batches(data.train, batch, seed, rank, size, bucketed=True)
        self.test = sequences.padded(data.test, range(len(data.test)))
        self.lowest = min(series.min() for series in data.train.x)
        torch.manual_seed(seed)
        self.model = classifier(data.channels if self.fold == 1 else self.fold // 2 + 1,
                                data.classes)

    def optimizer(self, parameters, rate):
        return self.torch.optim.Adam(parameters, lr=rate)

    def rate(self, round_index):
        return self.start_rate * (1 - 0.9 * min(round_index / self.rounds, 1))

    def framed(self, x, lengths):
        """What the model sees: steps as they are, or frames of a current's spectrum, as logarithms
        (appliances differ by harmonics and by powers of ten), and their numbers."""
        if self.fold > 1:
            batch, steps, _ = x.shape
            frames = -(-steps // self.fold)
            x = np.pad(np.maximum(x[:, :, 0] - self.lowest, 0),
                       ((0, 0), (0, frames * self.fold - steps)))
            x = np.abs(np.fft.rfft(x.reshape(batch, frames, self.fold)))
            x = ((np.log(x + 1e-4) + 4) / 3).astype(np.float32)
            lengths = -(-np.asarray(lengths) // self.fold)
        return self.torch.from_numpy(x), self.torch.from_numpy(np.asarray(lengths))

    def loss(self):
        x, lengths, y = next(self.batches)
        x, lengths = self.framed(x, lengths)
        self.frames = int(lengths.max())
        return self.torch.nn.functional.cross_entropy(
            self.model(x, lengths), self.torch.from_numpy(y))

    def seconds(self):
        return self.frames * self.ms / 1000

    def score(self, model):
        x, lengths, y = self.test
        with self.torch.no_grad():
            chosen = model(*self.framed(x, lengths)).argmax(1)
        return (chosen == self.torch.from_numpy(y)).float().mean().item()


def classifier(channels, classes, hidden=32):
    """An LSTM, and a linear layer on the mean of its outputs."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(channels, hidden, batch_first=True)
            self.out = torch.nn.Linear(hidden, classes)

        def forward(self, x, lengths):
            states, _ = self.lstm(x)
            there = torch.arange(x.shape[1])[None, :] < lengths[:, None]
            mean = (states * there[:, :, None]).sum(1) / lengths[:, None]
            return self.out(mean)

    return Classifier()


def run(args):
    from benchmarks.jobs import Jobs

    common.settle_defaults(
        args, data=(list(SETTINGS), ["JapaneseVowels"]), seeds=(5, 2),
        policies=(["solo", "majority", "first:3", "first:5"], ["majority", "first:5"]))
    ways = [STOCK, *args.policies]
    cases = {}
    with Jobs() as jobs, common.progress(TITLE, len(args.data) * args.seeds * len(ways)) as advance:
        jobs.start("stock", "stock", args.np).start("ours", "ours", args.np)
        for name in args.data:
            settings = SETTINGS[name]
            rounds = args.rounds or settings["rounds"][args.short] or settings["rounds"][0]
            options = {"name": name, "batch": args.batch, "rounds": rounds,
                       "ms": settings["ms"] / args.speed}
            runs = cases[name] = {how: [] for how in ways}
            for seed in range(args.seed, args.seed + args.seeds):
                for how in ways:
                    ranks = training.train(jobs, "stock" if how == STOCK else "ours", __name__,
                                           how, seed, options, rounds, max(rounds // 50, 1))
                    runs[how].append(training.compact(ranks))
                    advance(f"{how}, {name}, seed {seed}")
    return {"np": args.np, "cases": cases}


def target_of(ranks):
    """What a synchronous training ends with, less the tolerance."""
    curve = ranks[0]["curve"]
    return float(np.mean([score for _, _, score in curve[-max(len(curve) // 5, 1):]])) - TOLERANCE


def summarise(data):
    """Rows by data set and way. A seed in which the target is not reached has no ratio."""
    rows = []
    for name, ways in data["cases"].items():
        targets = [target_of(ranks) for ranks in ways[STOCK]]
        stock = [training.seconds_to(ranks[0]["curve"], target)
                 for ranks, target in zip(ways[STOCK], targets)]
        for how, runs in ways.items():
            seconds = [training.seconds_to(ranks[0]["curve"], target)
                       for ranks, target in zip(runs, targets)]
            pairs = [(a, b) for a, b in zip(seconds, stock) if a is not None and b is not None]
            steps = sum(len(rank["times"]) for ranks in runs for rank in ranks)
            rows.append({
                "data": name, "way": how, "targets": targets, "reached": len(pairs),
                "seeds": len(runs),
                "ratio": common.paired_ratio(*zip(*pairs)) if pairs else None,
                "seconds": common.spread([a for a, _ in pairs]) if pairs else None,
                "whole": common.spread([ranks[0]["seconds"] for ranks in runs]),
                "final": common.spread([training.final_score(ranks[0]["curve"])
                                        for ranks in runs]),
                "active": data["np"] if how == STOCK else
                float(np.mean([training.mean_of(ranks, "mean_active") for ranks in runs])),
                "staleness": 0.0 if how == STOCK else
                float(np.mean([training.mean_of(ranks, "mean_staleness") for ranks in runs])),
                "least": float(np.mean([training.least_ratio(ranks) for ranks in ways[STOCK]])),
                "over": sum(rank["over"] for ranks in runs for rank in ranks) / steps})
    return rows


def best_of(rows, name):
    """The policy that needs the least of stock's time, of those that reach the target in every
    seed."""
    able = [row for row in rows if row["data"] == name and row["way"] != STOCK
            and row["reached"] == row["seeds"]]
    return min(able, key=lambda row: row["ratio"]["ratio"], default=None)


def criteria(result):
    data = result["data"]
    rows = summarise(data)
    found = []
    for name in data["cases"]:
        best = best_of(rows, name)
        text = (f"Inherent imbalance, {name}, np = {data['np']}: time to the synchronous accuracy, "
                "best policy / stock")
        if best is None:
            found.append(common.Criterion(5, text, "at most 0.7", "never", False,
                                          "No policy reaches it in every seed."))
            continue
        found.append(common.Criterion(
            5, text, "at most 0.7", f"{common.show_ratio(best['ratio'])} (`{best['way']}`)",
            best["ratio"]["ratio"] <= 0.7,
            f"{best['seeds']} seeds. By the lengths alone, ranks that never wait would need "
            f"{best['least']:.2f} of stock's time for the same number of steps, were gradients "
            f"that are late worth as much as fresh ones; they are {best['staleness']:.2f} rounds "
            f"late on average. In {best['over']:.0%} of steps the real work took longer than what "
            "is emulated."))
    return found


def tell(result):
    data = result["data"]
    rows = [[f"{row['data']}: {row['way']}",
             "-" if row["seconds"] is None else common.show_spread(row["seconds"]),
             "-" if row["ratio"] is None else common.show_ratio(row["ratio"]),
             f"{row['reached']} of {row['seeds']}", common.show_spread(row["whole"]),
             f"{row['final']['median']:.1%}", f"{row['active']:.2f}", f"{row['staleness']:.2f}"]
            for row in summarise(data)]
    return [f"{data['np']} ranks.", "",
            *common.markdown_table(
                ["data, way", "time to target [s]", "this / stock [95 %]", "seeds that reach it",
                 "all rounds [s]", "final accuracy", "active ranks", "staleness [rounds]"], rows)]


def draw(result):
    return draw_curves(result["data"]["cases"], "Time to accuracy of an LSTM on real sequences "
                       f"({result['data']['np']} ranks, compute time emulated by length)")


def draw_curves(cases, title):
    """Scores over seconds; one panel per case."""
    figure = common.new_figure(5.5 * max(len(cases), 1) + 1, 4)
    for axis, (name, ways) in zip(np.atleast_1d(figure.subplots(1, len(cases))), cases.items()):
        for i, (how, runs) in enumerate(ways.items()):
            for j, ranks in enumerate(runs):
                when, _, scores = zip(*training.smoothed(ranks[0]["curve"]))
                axis.plot(when, [100 * score for score in scores], color=f"C{i}",
                          label=how if j == 0 else None, alpha=0.9 if j == 0 else 0.3,
                          linewidth=1.3)
        axis.set(xlabel="seconds", ylabel="test accuracy [%]", title=name)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
