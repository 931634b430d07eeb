"""Skewed arrival: how long an allreduce takes a rank when rank i comes i x delay late.

This is the microbenchmark of the eager-SGD paper. Rank i sleeps i x delay and then calls the
allreduce; what is measured is the time from the call to its return, as the mean over ranks and
rounds. A synchronous allreduce makes every rank wait for the last one. Ranks begin each round at
times that were agreed before, on the clock that they share, so that nothing else holds them
together.

The ideal of a policy has no cost but that of waiting: a rank waits until the round may start, or
not at all if it comes later. For majority it is computed from the initiators that were drawn."""

import statistics
import time

import numpy as np

from benchmarks import common
from benchmarks.rank import sleep_until

TITLE = "Skewed arrival"
HOROVOD_GLOO, HOROVOD_MPI, MPI = "stock, Gloo", "stock, MPI", "MPI_Allreduce"
SIZES = [64, 4096, 256 * 1024, 4 * 2**20, 64 * 2**20]
MAIN_SIZE = 4096


def add_options(parser):
    parser.add_argument("--np", type=int, default=8, help="ranks (default 8)")
    parser.add_argument("--delay-ms", type=common.positive(float), default=50,
                        help="each rank comes so much later than the one before (default 50)")
    parser.add_argument("--rounds", type=common.positive(int), default=None,
                        help="of 4 kB, per way to reduce (default 100; short 15)")
    parser.add_argument("--rounds-other", type=common.positive(int), default=5,
                        help="of the other sizes (default 5)")
    parser.add_argument("--sizes", type=common.positive(int), nargs="+", default=None,
                        help=f"in bytes (default {' '.join(map(str, SIZES))}; short 4096 1048576)")
    parser.add_argument("--blocks", type=common.positive(int), default=5,
                        help="the ways alternate in so many blocks of rounds (default 5)")
    parser.add_argument("--policies", nargs="+", default=None,
                        help="default: solo majority first:<np/2> full")
    parser.add_argument("--no-mpi", action="store_true", help="Gloo alone")


# On each rank

def operation(world, name, how, nbytes, seed=0):
    """A function that reduces `nbytes` of float32 once, and returns the rounds it got (None where
    there are none)."""
    elements = max(nbytes // 4, 1)
    if world.comm is not None:
        send, receive = np.ones(elements, np.float32), np.empty(elements, np.float32)
        return lambda: world.comm.Allreduce(send, receive)
    import torch
    tensor = torch.ones(elements)
    hvd = world.hvd
    if how == "synchronous":
        return lambda: hvd.allreduce(tensor, name=name, op=hvd.Sum) is None
    return lambda: hvd.partial_allreduce([tensor], name, policy=how, op=hvd.Sum, seed=seed)


def prepare(world, name, how, nbytes, seed):
    """Reduces without skew, which registers a group, and returns the seconds that it takes."""
    reduce = world.state[name] = operation(world, name, how, nbytes, seed)
    reduce()
    begin = time.perf_counter()
    if world.partial and how != "synchronous":
        world.hvd.partial_flush(name)
        reduce()
        world.hvd.partial_flush(name)
    else:
        reduce()
    return time.perf_counter() - begin


def measure(world, name, rounds, delay, period, start):
    """Per round: seconds in the operation, seconds that it began late, and on rank 0 the round's
    index and active ranks."""
    reduce = world.state[name]
    record = []
    for i in range(rounds):
        at = start + i * period + world.rank * delay
        sleep_until(at)
        begin = time.monotonic()
        got = reduce()
        seconds = time.monotonic() - begin
        known = (got[-1].index, list(got[-1].active)) if isinstance(got, list) else None
        record.append((seconds, begin - at, known))
    return record


# The driver

def ideal_latency(last, size, delay):
    """The mean over ranks of the wait for rank `last`, in seconds: who comes later waits not."""
    return delay * last * (last + 1) / 2 / size


def initiators(seed, name, indexes, size):
    """The ranks that majority waits for in these rounds."""
    from horovod_partial import _core

    return [_core.draw_committee(seed, name, index, 1, size)[0] for index in indexes]


def run(args):
    from benchmarks.jobs import Jobs

    common.settle_defaults(args, rounds=(100, 15),
                           sizes=(SIZES, [MAIN_SIZE, 2**20]),
                           policies=(["solo", "majority", f"first:{max(args.np // 2, 1)}", "full"],
                                     ) * 2)
    ways = {policy: ("ours", policy) for policy in args.policies}
    ways[HOROVOD_GLOO] = ("stock", "synchronous")
    if not args.no_mpi:
        ways[HOROVOD_MPI] = ("stock mpi", "synchronous")
        ways[MPI] = ("mpi4py", "synchronous")
    delay = args.delay_ms / 1000
    blocks = {size: {way: [] for way in ways} for size in args.sizes}
    with Jobs() as jobs, common.progress(
            TITLE, len(args.sizes) * len(ways) * args.blocks) as advance:
        jobs.start("stock", "stock", args.np).start("ours", "ours", args.np)
        if not args.no_mpi:
            jobs.start("stock mpi", "stock", args.np, "mpi").start("mpi4py", "mpi4py", args.np,
                                                                   "mpi")
        for size in args.sizes:
            rounds = args.rounds if size == MAIN_SIZE else args.rounds_other
            rounds = max(rounds // args.blocks, 1)
            period = {}
            for way, (job, how) in ways.items():
                seconds = max(jobs.call(job, prepare, name=name_of(how, size), how=how,
                                        nbytes=size, seed=args.seed))
                period[way] = args.np * delay + 2 * seconds + 0.03
            for _ in range(args.blocks):
                for way, (job, how) in ways.items():
                    ranks = jobs.call(job, measure, name=name_of(how, size), rounds=rounds,
                                      delay=delay, period=period[way],
                                      start=time.monotonic() + 0.2)
                    blocks[size][way].append({
                        "latency": [[each[0] for each in rank] for rank in ranks],
                        "began_late": [[each[1] for each in rank] for rank in ranks],
                        "rounds": [each[2] for each in ranks[0]]})
                    advance(f"{way}, {size_name(size)}")
    return {"np": args.np, "delay": delay, "seed": args.seed,
            "blocks": {str(size): value for size, value in blocks.items()}}


def name_of(how, size):
    return f"skewed.{how}.{size}"


def size_name(nbytes):
    nbytes = int(nbytes)
    for unit, factor in (("MB", 2**20), ("kB", 2**10)):
        if nbytes >= factor:
            return f"{nbytes / factor:g} {unit}"
    return f"{nbytes} B"


def block_means(blocks):
    """The mean latency of each block, in seconds."""
    return [float(np.mean(block["latency"])) for block in blocks]


def summarise(data):
    """Rows by size and way: latency, ratio to stock over Gloo, ideal ratio, active ranks."""
    rows = []
    for size, ways in data["blocks"].items():
        stock = block_means(ways[HOROVOD_GLOO])
        for way, blocks in ways.items():
            means = block_means(blocks)
            known = [round_ for block in blocks for round_ in block["rounds"] if round_]
            row = {"size": int(size), "way": way, "latency": common.spread(means),
                   "ratio": common.paired_ratio(stock, means),
                   "active": statistics.fmean(len(active) for _, active in known)
                   if known else data["np"],
                   "rounds": sum(len(block["rounds"]) for block in blocks),
                   "began_late": float(np.percentile(
                       [late for block in blocks for rank in block["began_late"]
                        for late in rank], 95))}
            wait = ideal_latency(data["np"] - 1, data["np"], data["delay"])
            if way == "majority":
                first = initiators(data["seed"], name_of(way, size), [index for index, _ in known],
                                   data["np"])
                row["initiator_was_active"] = all(
                    rank in active for rank, (_, active) in zip(first, known))
                row["ideal_ratio"] = wait / statistics.fmean(
                    ideal_latency(rank, data["np"], data["delay"]) for rank in first)
            elif way.startswith("first:"):
                last = min(int(way.split(":")[1]), data["np"]) - 1
                row["ideal_ratio"] = (wait / ideal_latency(last, data["np"], data["delay"])
                                      if last else None)
            else:
                row["ideal_ratio"] = None if way == "solo" else 1.0
            total = [np.mean([np.mean(block["latency"]) for block in each])
                     for each in (ways[HOROVOD_GLOO], blocks)]
            row["ratio_of_means"] = float(total[0] / total[1])
            rows.append(row)
    return rows


def criteria(result):
    data = result["data"]
    rows = {row["way"]: row for row in summarise(data) if row["size"] == MAIN_SIZE}
    found = []
    text = f"Skewed arrival, np = {data['np']}, d = {1000 * data['delay']:.0f} ms, 4 kB: "
    few = lambda row: "" if row["rounds"] >= 100 else (  # noqa: E731
        f"Only {row['rounds']} rounds. ")
    if "solo" in rows:
        row = rows["solo"]
        found.append(common.Criterion(
            2, text + "mean latency of stock (Gloo) over solo's", "at least 50",
            common.show_ratio(row["ratio"]), row["ratio"]["ratio"] >= 50,
            few(row) + "What is left of solo's latency "
            f"({1000 * row['latency']['median']:.2g} ms) is the first rank's round, over all "
            "ranks, and Python's call."))
    if "majority" in rows:
        row = rows["majority"]
        share = row["ratio_of_means"] / row["ideal_ratio"]
        found.append(common.Criterion(
            2, text + "the same of majority, as a part of the ideal for the same draws",
            "at least 0.9", f"{share:.3g} ({row['ratio_of_means']:.3g} of "
            f"{row['ideal_ratio']:.3g})", share >= 0.9,
            few(row) + "The rest is the cost of a round and of late wake-ups."))
    return found


def tell(result):
    data = result["data"]
    rows = []
    for row in summarise(data):
        rows.append([size_name(row["size"]), f"`{row['way']}`" if "," not in row["way"]
                     and "_" not in row["way"] else row["way"],
                     common.show_spread(row["latency"], 1000), common.show_ratio(row["ratio"]),
                     "-" if row["ideal_ratio"] is None else f"{row['ideal_ratio']:.2f}",
                     f"{row['active']:.2f}", row["rounds"]])
    return [f"{data['np']} ranks, rank i comes i x {1000 * data['delay']:.0f} ms late. Latency is "
            "the mean over ranks and rounds of a block, and its median and quartiles over "
            "blocks. Ratios are stock Horovod over Gloo against the row.", "",
            *common.markdown_table(
                ["size", "way", "latency [ms]", "stock / this [95 %]", "ideal ratio",
                 "active ranks", "rounds"], rows)]


def draw(result):
    data = result["data"]
    rows = summarise(data)
    figure = common.new_figure(9, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for way in dict.fromkeys(row["way"] for row in rows):
        points = [row for row in rows if row["way"] == way]
        left.plot([row["size"] for row in points],
                  [1000 * row["latency"]["median"] for row in points], marker="o", markersize=4,
                  label=way)
    left.set(xscale="log", yscale="log", xlabel="bytes", ylabel="mean latency seen by a rank [ms]")
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    main = [row for row in rows if row["size"] == MAIN_SIZE] or rows
    right.barh([row["way"] for row in main], [row["active"] for row in main], color="C0")
    right.invert_yaxis()
    right.set(xlabel=f"mean active ranks of {data['np']}, {size_name(main[0]['size'])}")
    figure.suptitle(f"Skewed arrival: {data['np']} ranks, rank i comes "
                    f"i x {1000 * data['delay']:.0f} ms late")
    return figure
