"""Inherent imbalance: time to accuracy of an LSTM on real sequences of unequal length.

This is the eager-SGD paper's LSTM on videos (UCF101), on data that needs no download: spoken vowels
(JapaneseVowels) and recordings of appliances (PLAID), from sktime. Batches are made of sequences of
similar length, as usual, so that a step's work differs between ranks by as much as lengths do. The
compute time is EMULATED, proportional to the batch's longest sequence; the lengths are the data's
own.

The target is what synchronous training ends with: the mean of stock's scores over the last fifth of
its rounds, per seed, less the standard error of an accuracy on a test set of that size. A round of a
policy takes less time, and its gradients are partly late, so that each policy has half as many
rounds again; the learning rate follows the round, alike for all."""

import sys

import numpy as np

from benchmarks import ROOT, common, training

TITLE = "Inherent imbalance"
STOCK = training.STOCK
# Per data set: rounds of the full and the short form (0: not in it), emulated milliseconds per step
# and frame, and how many values of a series make a frame (1: a step is one).
SETTINGS = {
    "JapaneseVowels": {"rounds": (100, 50), "ms": 4.0, "rate": 0.01, "fold": 1},
    "PLAID": {"rounds": (200, 0), "ms": 2.0, "rate": 0.02, "fold": 20},
}


def add_options(parser):
    parser.add_argument("--np", type=int, default=8, help="ranks (default 8)")
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=None,
                        help="default: both; short: JapaneseVowels")
    parser.add_argument("--policies", nargs="+", default=None,
                        help="beside stock (default solo majority first:4 first:5; short: "
                             "majority first:5)")
    parser.add_argument("--seeds", type=common.positive(int), default=None,
                        help="trainings of each (default 5; short 2)")
    parser.add_argument("--rounds", type=common.positive(int), default=None,
                        help="of stock's training (default: by data set)")
    parser.add_argument("--speed", type=common.positive(float), default=1.0,
                        help="divides the emulated times (default 1)")
    parser.add_argument("--batch", type=common.positive(int), default=8,
                        help="sequences per rank and step (default 8)")


class Task:
    """Classes of series; see training.py."""

    def __init__(self, rank, size, seed, name, batch, rounds, ms):
        import torch

        sequences = series()
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


def series():
    """examples/sequences.py, which has this module's name."""
    sys.path.insert(0, str(ROOT / "examples"))
    import sequences

    return sequences


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
        policies=(["solo", "majority", "first:4", "first:5"], ["majority", "first:5"]))
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
    return {"np": args.np, "cases": cases,
            "tests": {name: len(series().load(name).test) for name in cases}}


def target_of(ranks, tests):
    """What a synchronous training ends with, less the standard error of an accuracy on so many
    tests."""
    curve = ranks[0]["curve"]
    score = float(np.mean([score for _, _, score in curve[-max(len(curve) // 5, 1):]]))
    return score - (score * (1 - score) / tests) ** 0.5


def summarise(data):
    """Rows by data set and way. Where the target is not reached, the time to it is infinite."""
    rows = []
    for name, ways in data["cases"].items():
        targets = [target_of(ranks, data["tests"][name]) for ranks in ways[STOCK]]

        def seconds_of(runs):
            found = [training.seconds_to(ranks[0]["curve"], target)
                     for ranks, target in zip(runs, targets)]
            return [np.inf if seconds is None else seconds for seconds in found]

        # What it ends with, stock has at its end at the latest.
        stock = [min(seconds, ranks[0]["seconds"])
                 for seconds, ranks in zip(seconds_of(ways[STOCK]), ways[STOCK])]
        for how, runs in ways.items():
            seconds = stock if how == STOCK else seconds_of(runs)
            reached = [each for each in seconds if each < np.inf]
            steps = sum(len(rank["times"]) for ranks in runs for rank in ranks)
            rows.append({
                "data": name, "way": how, "targets": targets, "reached": len(reached),
                "seeds": len(runs), "ratio": common.paired_ratio(seconds, stock),
                "seconds": common.spread(reached) if reached else None,
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
    """The policy that needs the least of stock's time."""
    return min((row for row in rows if row["data"] == name and row["way"] != STOCK),
               key=lambda row: row["ratio"]["ratio"])


def criteria(result):
    data = result["data"]
    rows = summarise(data)
    found = []
    for name in data["cases"]:
        best = best_of(rows, name)
        text = (f"Inherent imbalance, {name}, np = {data['np']}: time to the synchronous accuracy, "
                "best policy / stock")
        found.append(common.Criterion(
            5, text, "at most 0.7", f"{common.show_ratio(best['ratio'])} (`{best['way']}`, reached "
            f"in {best['reached']} of {best['seeds']} seeds)", best["ratio"]["ratio"] <= 0.7,
            f"By the lengths alone, ranks that never wait would need "
            f"{best['least']:.2f} of stock's time for the same number of steps, were gradients "
            f"that are late worth as much as fresh ones; they are {best['staleness']:.2f} rounds "
            f"late on average. In {best['over']:.0%} of steps the real work took longer than what "
            "is emulated."))
    return found


def tell(result):
    data = result["data"]
    rows = [[f"{row['data']}: {row['way']}",
             "-" if row["seconds"] is None else common.show_spread(row["seconds"]),
             common.show_ratio(row["ratio"]),
             f"{row['reached']} of {row['seeds']}", common.show_spread(row["whole"]),
             f"{row['final']['median']:.1%}", f"{row['active']:.2f}", f"{row['staleness']:.2f}"]
            for row in summarise(data)]
    return [f"{data['np']} ranks. Times to the target are those of seeds that reach it; in the "
            "ratio, a seed that does not counts as infinitely slow.", "",
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
