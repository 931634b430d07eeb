"""Hyperplane regression: throughput and validation loss when one random rank is slow in each step.

This is the eager-SGD paper's first training: 8 ranks learn the coefficients of a hyperplane from
noisy points. Every step takes base time, and one rank, drawn anew for each step, takes delay
longer. The compute time is EMULATED: ranks sleep, the little real work included. Stock and solo
alternate in segments of one training each.

Throughput is rounds (updates of the model) per second. The ideal, (base + delay) / base, is that a
late rank costs nobody anything. `core` is what the code that decides rounds gives for the same
drawn delays if messages cost nothing."""

import numpy as np

from benchmarks import common, training

TITLE = "Hyperplane regression"
STOCK = training.STOCK


def add_options(parser):
    parser.add_argument("--np", type=int, default=8, help="ranks (default 8)")
    parser.add_argument("--policy", default="solo", help="beside stock (default solo)")
    parser.add_argument("--base-ms", type=common.positive(float), default=None,
                        help="emulated time of a step (default 400; short 100)")
    parser.add_argument("--delays", type=common.positive(float), nargs="+",
                        default=[0.5, 0.75, 1.0],
                        help="of the slow rank, in base times (default 0.5 0.75 1)")
    parser.add_argument("--segments", type=common.positive(int), default=5,
                        help="alternations (default 5)")
    parser.add_argument("--seconds", type=common.positive(float), default=None,
                        help="of a segment (default 14; short 1.8)")
    parser.add_argument("--dimensions", type=common.positive(int), default=2048,
                        help="of the hyperplane (default 2048)")
    parser.add_argument("--batch", type=common.positive(int), default=64,
                        help="points per rank and step (default 64)")


class Task:
    """y = x . w + noise; see training.py."""

    noise = 0.5

    def __init__(self, rank, size, seed, dimensions, batch, base, delay):
        import torch

        self.torch, self.batch, self.base, self.delay = torch, batch, base, delay
        self.rank, self.size, self.seed, self.steps = rank, size, seed, 0
        shared = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(dimensions, generator=shared) / dimensions**0.5
        self.valid = self.points(2048, shared)
        self.own = torch.Generator().manual_seed(1000 * (seed + 1) + rank)
        self.model = torch.nn.Linear(dimensions, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)

    def optimizer(self, parameters, rate):
        return self.torch.optim.SGD(parameters, lr=rate)

    def rate(self, round_index):
        return 0.02

    def points(self, count, generator):
        x = self.torch.randn(count, len(self.weights), generator=generator)
        noise = self.noise * self.torch.randn(count, generator=generator)
        return x, x @ self.weights + noise

    def loss(self):
        x, y = self.points(self.batch, self.own)
        return self.torch.nn.functional.mse_loss(self.model(x).squeeze(1), y)

    def seconds(self):
        slow = slow_rank(self.seed, self.steps, self.size) == self.rank
        self.steps += 1
        return self.base + slow * self.delay

    def score(self, model):
        """The validation loss above the noise floor: above what the true weights have."""
        x, y = self.valid
        with self.torch.no_grad():
            floor = self.torch.mean((x @ self.weights - y) ** 2)
            return (self.torch.mean((model(x).squeeze(1) - y) ** 2) - floor).item()


def slow_rank(seed, step, size):
    return int(np.random.default_rng([seed, step]).integers(size))


def run(args):
    from benchmarks.jobs import Jobs

    common.settle_defaults(args, base_ms=(400.0, 100.0), seconds=(14.0, 1.8))
    base = args.base_ms / 1000
    cases = {}
    ways = {STOCK: "stock", args.policy: "ours"}
    with Jobs() as jobs, common.progress(
            TITLE, len(args.delays) * args.segments * len(ways)) as advance:
        jobs.start("stock", "stock", args.np).start("ours", "ours", args.np)
        for share in args.delays:
            delay = share * base
            options = {"dimensions": args.dimensions, "batch": args.batch, "base": base,
                       "delay": delay}
            for how, job in ways.items():
                jobs.call(job, training.begin, module=__name__, how=how, seed=args.seed,
                          options=options)
            segments = {how: [] for how in ways}
            for _ in range(args.segments):
                for how, job in ways.items():
                    length = ({"rounds": max(round(args.seconds / (base + delay)), 2)}
                              if how == STOCK else {"seconds": args.seconds})
                    segments[how].append(training.compact(
                        jobs.call(job, training.go, how=how, **length)))
                    advance(f"{how}, {1000 * delay:.0f} ms")
            for how, job in ways.items():
                jobs.call(job, training.end, how=how)
            cases[f"{1000 * delay:g}"] = {"segments": segments, "core": core(args, base, delay)}
    return {"np": args.np, "policy": args.policy, "base_ms": args.base_ms,
            "floor": Task.noise**2, "cases": cases}


def core(args, base, delay):
    """Ratios to `full` of rounds and samples per second that the core gives for these delays."""
    from horovod_partial import _core

    steps = [[base + delay * (slow_rank(args.seed, step, args.np) == rank)
              for step in range(500)] for rank in range(args.np)]
    full, other = (_core.replay(steps, policy, rounds=500) for policy in ("full", args.policy))
    return {"rounds": other.rounds_per_second / full.rounds_per_second,
            "samples": other.submissions_per_second / full.submissions_per_second}


def curves(segments):
    """(seconds, samples, loss above the floor) over all segments of a training, on rank 0."""
    points, seconds, samples = [], 0.0, 0
    for ranks in segments:
        points += [(seconds + when, samples + int(training.samples_at(ranks, when)), score)
                   for when, _, score in ranks[0]["curve"]]
        seconds += ranks[0]["seconds"]
        samples += sum(rank["batch"] * len(rank["times"]) for rank in ranks)
    return points


def at_equal_samples(data, case):
    """Losses above the floor, stock's and the policy's, means over the last third of the samples
    that both have had."""
    stock, other = (curves(case["segments"][how]) for how in (STOCK, data["policy"]))
    end = min(stock[-1][1], other[-1][1])
    grid = np.linspace(2 * end / 3, end, 50)
    return [float(np.mean(np.interp(grid, [p[1] for p in points], [p[2] for p in points])))
            for points in (stock, other)]


def summarise(data):
    rows = []
    for delay, case in data["cases"].items():
        stock, other = case["segments"][STOCK], case["segments"][data["policy"]]
        rates = [[training.round_rate(ranks) for ranks in segments] for segments in (stock, other)]
        samples = [[training.sample_rate(ranks) for ranks in segments]
                   for segments in (stock, other)]
        loss = at_equal_samples(data, case)
        rows.append({
            "delay": float(delay), "ideal": 1 + float(delay) / data["base_ms"],
            "core": case["core"], "rounds": common.paired_ratio(rates[1], rates[0]),
            "samples": common.paired_ratio(samples[1], samples[0]),
            "rates": [common.spread(each) for each in rates], "losses": loss,
            "total_loss": (loss[1] + data["floor"]) / (loss[0] + data["floor"]),
            "over": sum(rank["over"] for ranks in stock + other for rank in ranks)
            / sum(len(rank["times"]) for ranks in stock + other for rank in ranks)})
    return rows


def criteria(result):
    data = result["data"]
    found = []
    for row in summarise(data):
        where = (f"Hyperplane, np = {data['np']}, {data['base_ms']:g} ms and one rank "
                 f"{row['delay']:g} ms more: ")
        share = row["rounds"]["ratio"] / row["ideal"]
        found.append(common.Criterion(
            4, where + f"throughput, {data['policy']} / stock, as a part of the ideal",
            "at least 0.97", f"{share:.3g} ({common.show_ratio(row['rounds'])} of "
            f"{row['ideal']:.2f})", share >= 0.97,
            f"The core alone gives {row['core']['rounds']:.2f} for these delays; the rest is the "
            f"cost of rounds, and {row['over']:.0%} of steps took longer than what is emulated."))
        above = row["losses"][1] / row["losses"][0] if row["losses"][0] > 0 else float("inf")
        found.append(common.Criterion(
            4, where + f"validation loss above the noise floor at equal samples, {data['policy']} "
            "/ stock", "at most 1.05", f"{above:.3g} (with the floor {row['total_loss']:.4f})",
            above <= 1.05,
            "Gradients of late ranks are applied a round or more later, so that the same samples "
            "have moved the model less while the loss still falls."))
    return found


def tell(result):
    data = result["data"]
    rows = [[f"{row['delay']:g}", *(common.show_spread(rate) for rate in row["rates"]),
             common.show_ratio(row["rounds"]), f"{row['ideal']:.2f}",
             f"{row['core']['rounds']:.2f}", common.show_ratio(row["samples"]),
             f"{row['core']['samples']:.2f}",
             f"{row['losses'][0]:.2e}", f"{row['losses'][1]:.2e}"] for row in summarise(data)]
    return [f"{data['np']} ranks, base step {data['base_ms']:g} ms (emulated). Losses are above "
            "the noise floor, means over the last third of the samples that both trainings have "
            "had.", "",
            *common.markdown_table(
                ["delay [ms]", "stock [rounds/s]", f"{data['policy']} [rounds/s]", "ratio [95 %]",
                 "ideal", "core", "ratio of samples/s [95 %]", "core",
                 "loss, stock", f"loss, {data['policy']}"], rows)]


def draw(result):
    data = result["data"]
    rows = summarise(data)
    figure = common.new_figure(11, 3.8)
    axes = figure.subplots(1, 3)
    at = np.arange(len(rows))
    axes[0].bar(at - 0.2, [row["rounds"]["ratio"] for row in rows], 0.4, label="measured")
    axes[0].bar(at + 0.2, [row["ideal"] for row in rows], 0.4, label="ideal", color="lightgrey")
    axes[0].set_xticks(at, [f"{row['delay']:g}" for row in rows])
    axes[0].set(xlabel="delay [ms]", ylabel=f"throughput, {data['policy']} / stock")
    axes[0].legend(fontsize=8)
    for i, (delay, case) in enumerate(data["cases"].items()):
        for how, style in ((STOCK, "--"), (data["policy"], "-")):
            seconds, samples, losses = zip(*curves(case["segments"][how]))
            for axis, x in zip(axes[1:], (seconds, samples)):
                axis.plot(x, np.maximum(losses, 1e-9), style, color=f"C{i}",
                          label=f"{how}, {delay} ms", linewidth=1.2)
    for axis, label in zip(axes[1:], ("seconds", "samples")):
        axis.set(yscale="log", xlabel=label, ylabel="validation loss above the noise floor")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    figure.suptitle(f"Hyperplane regression, {data['np']} ranks, base {data['base_ms']:g} ms "
                    "(emulated)")
    return figure

