"""Unpatched: Horovod without our patches, beside "stock" of the other benchmarks and policy full.

Stock is this build with everything of ours switched off (HOROVOD_EVENT_DRIVEN=0). Unpatched is the
pristine source of Horovod 0.28.1 with nothing but what makes it compile on this PyTorch (`make
unpatched` builds it). Both make the same allreduces, in turns, and policy full partial ones. Stock
and unpatched are equal within noise when the 95 % confidence interval of the ratio holds 1, or the
ratio is within `--tolerance` of it."""

import time

import numpy as np

from benchmarks import common, jobs

TITLE = "Unpatched"
KINDS = {"stock": "stock", "unpatched": "unpatched", "full": "ours"}  # way: kind of job


def add_options(parser):
    parser.add_argument("--np", type=int, nargs="+", default=None,
                        help="numbers of ranks (default 2 4 8; short 2)")
    parser.add_argument("--blocks", type=common.positive(int), default=None,
                        help="alternations (default 11; short 5)")
    parser.add_argument("--megabytes", type=common.positive(float), default=16,
                        help="of the large allreduce (default 16)")
    parser.add_argument("--tolerance", type=common.positive(float), default=0.05,
                        help="difference that is taken for noise (default 0.05)")


def available():
    return jobs.UNPATCHED.exists()


def reduce(world, nbytes, count):
    """Seconds per allreduce."""
    import torch

    tensor = torch.ones(nbytes // 4)
    name = f"unpatched.{nbytes}"

    def once():
        if world.partial:
            world.hvd.partial_allreduce([tensor], name, policy="full")
        else:
            world.hvd.allreduce(tensor, name=name)

    for _ in range(3):
        once()
    begin = time.perf_counter()
    for _ in range(count):
        once()
    return (time.perf_counter() - begin) / count


def run(args):
    common.settle_defaults(args, np=([2, 4, 8], [2]), blocks=(11, 5))
    cases = {"4 kB": (4096, 40), f"{args.megabytes:g} MB": (int(args.megabytes * 2**20), 4)}
    samples = {}
    with common.progress(TITLE, len(args.np) * args.blocks * len(KINDS) * len(cases)) as advance:
        for size in args.np:
            with jobs.Jobs() as running:
                for way, kind in KINDS.items():
                    running.start(way, kind, size)
                for case, (nbytes, count) in cases.items():
                    found = samples.setdefault(case, {})[str(size)] = {way: [] for way in KINDS}
                    for i in range(args.blocks):
                        # Whoever comes second finds a warmer machine: they change places.
                        for way in list(found)[::-1 if i % 2 else 1]:
                            seconds = running.call(way, reduce, nbytes=nbytes, count=count)
                            found[way].append(sum(seconds) / size)
                            advance(f"{way}, {case}, {size} ranks")
    return {"samples": samples, "tolerance": args.tolerance}


def ratios(data):
    for case, sizes in data["samples"].items():
        for size, ways in sizes.items():
            ratio = common.paired_ratio(ways["stock"], ways["unpatched"])
            equal = abs(ratio["ratio"] - 1) <= data["tolerance"] or (
                ratio["low"] is not None and ratio["low"] <= 1 <= ratio["high"])
            yield case, size, ways, ratio, equal, common.paired_ratio(ways["unpatched"],
                                                                      ways["full"])


def criteria(result):
    rows = list(ratios(result["data"]))
    unequal = [f"{case} on {size} ranks {common.show_ratio(ratio)}"
               for case, size, _, ratio, equal, _ in rows if not equal]
    worst = max(rows, key=lambda row: abs(np.log(row[3]["ratio"])))
    least = min(rows, key=lambda row: row[5]["ratio"])
    _, high = common.bounds(least[5])
    return [
        common.Criterion(
            0, "Stock / unpatched, time of an allreduce: the case that differs most",
            "equal within noise", f"{common.show_ratio(worst[3])} ({worst[0]}, np = {worst[1]})",
            not unequal,
            ("Not equal: " + "; ".join(unequal) + ". One thing of ours cannot be switched off: "
             "PyTorch's synchronize() sleeps in this build, and spins in the unpatched one, which "
             "takes cores from the background threads of other ranks, or keeps them awake. What "
             "policy full gains is measured against both." if unequal else "")),
        common.Criterion(
            3, "Unpatched / policy full, time of an allreduce: the case in which full gains least",
            "the interval reaches 1.0",
            f"{common.show_ratio(least[5])} ({least[0]}, np = {least[1]})", high >= 1.0)]


def tell(result):
    rows = [[f"{case}, {size} ranks",
             *(common.show_spread(common.spread(ways[way]), 1000) for way in KINDS),
             common.show_ratio(ratio), "yes" if equal else "**no**", common.show_ratio(gain)]
            for case, size, ways, ratio, equal, gain in ratios(result["data"])]
    return common.markdown_table(
        ["allreduce", "stock [ms]", "unpatched [ms]", "full [ms]", "stock / unpatched [95 %]",
         "equal within noise", "unpatched / full [95 %]"], rows)


def draw(result):
    rows = list(ratios(result["data"]))
    figure = common.new_figure(8, 3.6)
    axis = figure.subplots()
    for at, label, shift in ((3, "stock / unpatched", -0.12), (5, "unpatched / full", 0.12)):
        for i, row in enumerate(rows):
            ratio = row[at]
            low, high = common.bounds(ratio)
            axis.errorbar(ratio["ratio"], i + shift, fmt="o", capsize=3,
                          xerr=[[ratio["ratio"] - low], [high - ratio["ratio"]]],
                          color="C0" if at == 3 else "C1", label=None if i else label)
    axis.axvline(1, color="grey", linestyle=":")
    axis.set_xscale("log")
    axis.set_yticks(range(len(rows)), [f"{case}, {size} ranks" for case, size, *_ in rows])
    axis.set(xlabel="time of an allreduce, with 95 % interval",
             title="Horovod without our patches, beside stock and policy full")
    axis.legend(fontsize=8)
    return figure
