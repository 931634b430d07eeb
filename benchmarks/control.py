"""Control plane: what an agreement of all ranks costs, and what ranks cost that have nothing to do.

Three things, for 2, 4 and 8 ranks, over Gloo and MPI, stock beside ours (and beside Horovod without
our patches, where `make unpatched` has built it):

- the latency of an empty round (a flush to which nobody contributes), and of an allreduce of 4
  bytes, all ranks at once;
- CPU time per second of a rank that is idle;
- CPU time per second of a rank that waits in an allreduce for a rank that comes late.

Stock is this build with HOROVOD_EVENT_DRIVEN=0. PyTorch's synchronize() sleeps there, too, which
Horovod's own does not: the unpatched build shows what that costs."""

import time

from benchmarks import common

TITLE = "Control plane"
MEASURED = ["allreduce", "empty round", "idle", "waiting", "waiting, partial"]


def add_options(parser):
    parser.add_argument("--np", type=int, nargs="+", default=None,
                        help="numbers of ranks (default 2 4 8; short 2 8)")
    parser.add_argument("--blocks", type=common.positive(int), default=5,
                        help="alternations of all kinds (default 5)")
    parser.add_argument("--operations", type=common.positive(int), default=None,
                        help="per block (default 40; short 10)")
    parser.add_argument("--seconds", type=common.positive(float), default=None,
                        help="that CPU time is counted over, per block (default 0.8; short 0.3)")
    parser.add_argument("--no-mpi", action="store_true", help="Gloo alone")


# On each rank

GROUP = "control"


def warm_up(world):
    import torch

    world.state["tensor"] = torch.ones(1)
    allreduce(world, 3)
    if world.partial:
        world.hvd.partial_allreduce([torch.ones(1)], GROUP, policy="full")
        world.hvd.partial_flush(GROUP)


def allreduce(world, count):
    """Seconds per allreduce of 4 bytes."""
    hvd, tensor = world.hvd, world.state["tensor"]
    hvd.allreduce(tensor, name="control.allreduce")  # together, and awake
    begin = time.perf_counter()
    for _ in range(count):
        hvd.allreduce(tensor, name="control.allreduce")
    return (time.perf_counter() - begin) / count


def empty_round(world, count):
    """Seconds per flush to which nobody contributes."""
    world.hvd.partial_flush(GROUP)
    begin = time.perf_counter()
    for _ in range(count):
        world.hvd.partial_flush(GROUP)
    return (time.perf_counter() - begin) / count


def idle(world, seconds):
    """CPU seconds of this process per second in which its application sleeps."""
    world.hvd.allreduce(world.state["tensor"], name="control.allreduce")
    begin, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - begin)


def waiting(world, seconds, partial):
    """The same of a rank that waits for the last one, which sleeps first (None on that one)."""
    hvd, tensor = world.hvd, world.state["tensor"]
    hvd.allreduce(tensor, name="control.allreduce")
    if world.rank == world.size - 1:
        time.sleep(seconds)
    begin, cpu = time.perf_counter(), time.process_time()
    if partial:
        hvd.partial_allreduce([tensor], GROUP, policy="full")
    else:
        hvd.allreduce(tensor, name="control.allreduce")
    if world.rank == world.size - 1:
        return None
    return (time.process_time() - cpu) / (time.perf_counter() - begin)


# The driver

def run(args):
    from benchmarks.jobs import UNPATCHED, Jobs

    common.settle_defaults(args, np=([2, 4, 8], [2, 8]), operations=(40, 10),
                           seconds=(0.8, 0.3))
    kinds = ["stock", "ours"]
    if UNPATCHED.exists() and not args.short:
        kinds.append("unpatched")
    backends = ["gloo"] if args.no_mpi else ["gloo", "mpi"]
    samples = {}
    with common.progress(TITLE, len(args.np) * len(backends) * len(kinds) * args.blocks) as advance:
        for size in args.np:
            for backend in backends:
                with Jobs() as jobs:
                    for kind in kinds:
                        jobs.start(kind, kind, size, backend)
                        jobs.call(kind, warm_up)
                    for _ in range(args.blocks):
                        for kind in kinds:
                            found = samples.setdefault(str(size), {}).setdefault(
                                backend, {}).setdefault(kind, {})
                            for what, value in block(jobs, kind, args):
                                found.setdefault(what, []).append(value)
                            advance(f"{kind}, {size} ranks, {backend}")
    return {"samples": samples}


def block(jobs, kind, args):
    """What is measured, and its mean over ranks."""
    def mean(function, **arguments):
        values = [value for value in jobs.call(kind, function, **arguments) if value is not None]
        return sum(values) / len(values)

    yield "allreduce", mean(allreduce, count=args.operations)
    if kind == "ours":
        yield "empty round", mean(empty_round, count=args.operations)
    yield "idle", mean(idle, seconds=args.seconds)
    yield "waiting", mean(waiting, seconds=args.seconds, partial=False)
    if kind == "ours":
        yield "waiting, partial", mean(waiting, seconds=args.seconds, partial=True)


def criteria(result):
    sizes = result["data"]["samples"]
    size = max(sizes, key=int)
    if "gloo" not in sizes[size]:
        return []
    kinds = sizes[size]["gloo"]
    stock, ours = kinds["stock"], kinds["ours"]
    where = f", np = {size}, Gloo"
    busy = ("The machine was busy with other things. " if common.was_busy(result) else "")
    found = []
    for name, ours_name in (("idle", "idle"), ("waiting", "waiting")):
        ratio = common.paired_ratio([max(x, 1e-6) for x in ours[ours_name]], stock[name])
        found.append(common.Criterion(
            1, f"CPU of {'an idle' if name == 'idle' else 'a waiting'} rank, ours / stock{where}",
            "at most 0.1", common.show_ratio(ratio), ratio["ratio"] <= 0.1, busy))
    ratio = common.paired_ratio(ours["empty round"], stock["allreduce"])
    found.append(common.Criterion(
        1, f"Latency of an empty round / stock's small allreduce{where}", "at most 0.2",
        common.show_ratio(ratio), ratio["ratio"] <= 0.2, busy))
    return found


def tell(result):
    rows = []
    for size, backends in result["data"]["samples"].items():
        for backend, kinds in backends.items():
            for kind, found in kinds.items():
                cells = [common.show_spread(common.spread(found[what]), 1000)
                         if what in found else "-" for what in MEASURED[:2]]
                cells += [common.show_spread(common.spread(found[what]), 100)
                          if what in found else "-" for what in MEASURED[2:]]
                rows.append([f"{kind}, {'Gloo' if backend == 'gloo' else 'MPI'}", size, *cells])
    return ["Medians and quartiles over blocks of the mean over ranks. CPU is in percent of a "
            "core, per rank; all ranks share the machine's cores, so that 8 ranks that all poll "
            "cannot use more than these.", "",
            *common.markdown_table(["kind", "ranks", "allreduce of 4 B [ms]", "empty round [ms]",
                                    "CPU idle [%]", "CPU waiting [%]",
                                    "CPU waiting in a partial round [%]"], rows)]


def draw(result):
    sizes = result["data"]["samples"]
    figure = common.new_figure(9, 4)
    axes = figure.subplots(1, 3)
    panels = [("allreduce", 1000, "allreduce of 4 B\n(dotted: empty round) [ms]"),
              ("idle", 100, "CPU of an idle rank [%]"),
              ("waiting", 100, "CPU of a waiting rank [%]")]
    series = {(kind, backend) for backends in sizes.values() for backend, kinds in
              backends.items() for kind in kinds}
    for axis, (what, scale, label) in zip(axes, panels):
        for i, (kind, backend) in enumerate(sorted(series)):
            for name, style in ((what, "-"),) + (
                    (("empty round", ":"),) if what == "allreduce" and kind == "ours" else ()):
                points = [(int(size), scale * common.spread(backends[backend][kind][name])["median"])
                          for size, backends in sizes.items() if backend in backends]
                axis.plot(*zip(*points), style, marker="o", markersize=4, color=f"C{i}",
                          label=f"{kind}, {backend}" if style == "-" else None)
        axis.set(xscale="log", yscale="log", xlabel="ranks", ylabel=label)
        axis.set_xticks([int(size) for size in sizes], list(sizes))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"Control plane on {result['machine']['cores']} cores")
    return figure
