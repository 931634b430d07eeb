"""Unpatched: that "stock" in the other benchmarks is as fast as Horovod without our patches.

Stock is this build with everything of ours switched off (HOROVOD_EVENT_DRIVEN=0). Unpatched is the
pristine source of Horovod 0.28.1 with nothing but what makes it compile on this PyTorch (`make
unpatched` builds it). Both make the same allreduces, in turns. They are equal within noise when the
95 % confidence interval of the ratio holds 1, or the ratio is within `--tolerance` of it."""

import time

from benchmarks import common, jobs

TITLE = "Unpatched"


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
    for _ in range(3):
        world.hvd.allreduce(tensor, name=name)
    begin = time.perf_counter()
    for _ in range(count):
        world.hvd.allreduce(tensor, name=name)
    return (time.perf_counter() - begin) / count


def run(args):
    common.settle_defaults(args, np=([2, 4, 8], [2]), blocks=(11, 5))
    cases = {"4 kB": (4096, 40), f"{args.megabytes:g} MB": (int(args.megabytes * 2**20), 4)}
    samples = {}
    with common.progress(TITLE, len(args.np) * args.blocks * 2 * len(cases)) as advance:
        for size in args.np:
            with jobs.Jobs() as running:
                for kind in ("stock", "unpatched"):
                    running.start(kind, kind, size)
                for case, (nbytes, count) in cases.items():
                    found = samples.setdefault(case, {})[str(size)] = {"stock": [],
                                                                       "unpatched": []}
                    for i in range(args.blocks):
                        # Whoever comes second finds a warmer machine: they change places.
                        for kind in list(found)[::-1 if i % 2 else 1]:
                            seconds = running.call(kind, reduce, nbytes=nbytes, count=count)
                            found[kind].append(sum(seconds) / size)
                            advance(f"{kind}, {case}, {size} ranks")
    return {"samples": samples, "tolerance": args.tolerance}


def ratios(data):
    for case, sizes in data["samples"].items():
        for size, kinds in sizes.items():
            ratio = common.paired_ratio(kinds["stock"], kinds["unpatched"])
            equal = abs(ratio["ratio"] - 1) <= data["tolerance"] or (
                ratio["low"] is not None and ratio["low"] <= 1 <= ratio["high"])
            yield case, size, kinds, ratio, equal


def criteria(result):
    rows = list(ratios(result["data"]))
    unequal = [f"{case} on {size} ranks {common.show_ratio(ratio)}"
               for case, size, _, ratio, equal in rows if not equal]
    worst = max(rows, key=lambda row: abs(row[3]["ratio"] - 1))
    return [common.Criterion(
        0, "Stock / unpatched, time of an allreduce: the case that differs most",
        "equal within noise", f"{common.show_ratio(worst[3])} ({worst[0]}, np = {worst[1]})",
        not unequal, ("Not equal: " + "; ".join(unequal) + ". PyTorch's synchronize() sleeps in "
                      "this build and spins in the unpatched one." if unequal else ""))]


def tell(result):
    rows = [[f"{case}, {size} ranks", common.show_spread(common.spread(kinds["stock"]), 1000),
             common.show_spread(common.spread(kinds["unpatched"]), 1000),
             common.show_ratio(ratio), "yes" if equal else "**no**"]
            for case, size, kinds, ratio, equal in ratios(result["data"])]
    return common.markdown_table(["allreduce", "stock [ms]", "unpatched [ms]",
                                  "stock / unpatched [95 %]", "equal within noise"], rows)


def draw(result):
    rows = list(ratios(result["data"]))
    figure = common.new_figure(7, 3)
    axis = figure.subplots()
    for i, (case, size, _, ratio, _) in enumerate(rows):
        low, high = ratio["low"] or ratio["ratio"], ratio["high"] or ratio["ratio"]
        axis.errorbar(ratio["ratio"], i, xerr=[[ratio["ratio"] - low], [high - ratio["ratio"]]],
                      fmt="o", color="C0", capsize=3)
    axis.axvline(1, color="grey", linestyle=":")
    axis.set_yticks(range(len(rows)), [f"{case}, {size} ranks" for case, size, *_ in rows])
    axis.set(xlabel="time of an allreduce, stock / unpatched, with 95 % interval",
             title="Stock is as fast as Horovod without our patches")
    return figure
