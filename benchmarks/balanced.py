"""Balanced: what a step costs when no rank is late.

Two cases: the gradients of ResNet-50 (161 tensors, 25.6 million float32 values, 102 MB) in
DistributedOptimizer, from backward() to the end of step(), also in buckets of 25 MB that overlap
with backward; and one tensor of 4 kB, reduced by allreduce or partial_allreduce. Every rank begins
at the same time and computes next to nothing, so that what is measured is communication."""

import math
import time

from benchmarks import common

TITLE = "Balanced"
STOCK = "stock"
SYNCHRONOUS = "ours, synchronous"
IN_BUCKETS = ", in buckets"  # of DistributedOptimizer(bucket_cap_mb=25)


def add_options(parser):
    parser.add_argument("--np", type=int, nargs="+", default=None,
                        help="numbers of ranks (default 2 4 8; short 2 4 8, gradients 2 4)")
    parser.add_argument("--policies", nargs="+", default=["full", "majority"])
    parser.add_argument("--blocks", type=common.positive(int), default=None,
                        help="alternations of all ways (default 9; short 5)")
    parser.add_argument("--steps", type=common.positive(int), default=None,
                        help="with the gradients, per block (default 4; short 1)")
    parser.add_argument("--operations", type=common.positive(int), default=None,
                        help="with the small tensor, per block (default 50; short 10)")
    parser.add_argument("--scale", type=common.positive(float), default=1.0,
                        help="widths of ResNet-50, for a try (default 1)")


def resnet50_shapes(scale=1.0):
    """The shapes of ResNet-50's parameters, in order (He et al., 2015, table 1; 1,000 classes)."""
    def width(channels):
        return max(int(channels * scale), 1)

    def convolution(inputs, outputs, kernel):
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]  # and its batch norm

    shapes = convolution(3, width(64), 7)
    inputs = width(64)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outputs = width(64 * 2**stage), width(256 * 2**stage)
        for block in range(blocks):
            shapes += convolution(inputs, inner, 1) + convolution(inner, inner, 3)
            shapes += convolution(inner, outputs, 1)
            if block == 0:
                shapes += convolution(inputs, outputs, 1)
            inputs = outputs
    return shapes + [(1000, inputs), (1000,)]


# On each rank

def build(world, way, scale):
    """A distributed optimizer over parameters of these shapes."""
    import torch

    hvd = world.hvd
    if way == SYNCHRONOUS:
        import horovod.torch as hvd
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in resnet50_shapes(scale)]
    named = [(f"{way}.{i}", parameter) for i, parameter in enumerate(parameters)]
    more = {}
    if way not in (STOCK, SYNCHRONOUS):
        # The bound keeps memory low: nobody is to fall behind here.
        more = {"policy": way.removesuffix(IN_BUCKETS), "staleness_bound": 2}
        if way.endswith(IN_BUCKETS):
            more["bucket_cap_mb"] = 25
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(parameters, lr=1e-3), named, **more)
    world.state[way] = parameters, optimizer
    steps(world, way, 2)


def steps(world, way, count):
    """Seconds per step."""
    parameters, optimizer = world.state[way]
    if hasattr(optimizer, "flush"):
        optimizer.flush()
    together(world)
    begin = time.perf_counter()
    for _ in range(count):
        optimizer.zero_grad()
        sum(parameter.sum() for parameter in parameters).backward()
        optimizer.step()
    return (time.perf_counter() - begin) / count


def small(world, way, count):
    """Seconds per reduction of 4 kB."""
    import torch

    hvd = world.hvd
    tensor = torch.ones(1024)
    if way in (STOCK, SYNCHRONOUS):
        def reduce():
            hvd.allreduce(tensor, name="balanced.small")
    else:
        def reduce():
            hvd.partial_allreduce([tensor], f"balanced.small.{way}", policy=way)
    reduce()
    together(world)
    begin = time.perf_counter()
    for _ in range(count):
        reduce()
    seconds = (time.perf_counter() - begin) / count
    if way not in (STOCK, SYNCHRONOUS):
        hvd.partial_flush(f"balanced.small.{way}")
    return seconds


def together(world):
    import torch

    world.hvd.allreduce(torch.zeros(1), name="balanced.together")


def drop(world):
    """Gives the memory back."""
    world.state.clear()


# The driver

def run(args):
    from benchmarks.jobs import Jobs

    common.settle_defaults(args, np=([2, 4, 8], [2, 4, 8]), blocks=(9, 5), steps=(4, 1),
                           operations=(50, 10))
    small_ways = {STOCK: "stock", SYNCHRONOUS: "ours",
                  **{policy: "ours" for policy in args.policies}}
    ways_of = {"small": small_ways,
               "gradients": {**small_ways, args.policies[0] + IN_BUCKETS: "ours"}}
    samples = {"gradients": {}, "small": {}}
    shown = [size for size in args.np if not args.short or size <= 4]
    total = args.blocks * (len(args.np) * len(small_ways)
                           + len(shown) * len(ways_of["gradients"]))
    with common.progress(TITLE, total) as advance:
        for size in args.np:
            with Jobs() as jobs:
                jobs.start("stock", "stock", size).start("ours", "ours", size)
                for case in ("small", "gradients"):
                    if case == "gradients" and size not in shown:
                        continue
                    ways = ways_of[case]
                    found = samples[case][str(size)] = {way: [] for way in ways}
                    if case == "gradients":
                        for way, job in ways.items():
                            jobs.call(job, build, way=way, scale=args.scale)
                    for _ in range(args.blocks):
                        for way, job in ways.items():
                            if case == "gradients":
                                seconds = jobs.call(job, steps, way=way, count=args.steps)
                            else:
                                seconds = jobs.call(job, small, way=way, count=args.operations)
                            found[way].append(sum(seconds) / size)
                            advance(f"{way}, {case}, {size} ranks")
    shapes = resnet50_shapes(args.scale)
    return {"samples": samples, "tensors": len(shapes),
            "parameters": sum(math.prod(shape) for shape in shapes)}


def criteria(result):
    samples = result["data"]["samples"]
    busy = ("The machine was busy with other things. " if common.was_busy(result) else "")
    found = []
    for size in ("2", "4"):
        ways = samples["gradients"].get(size)
        if not ways or "full" not in ways:
            continue
        ratio = common.paired_ratio(ways[STOCK], ways["full"])
        _, high = common.bounds(ratio)
        found.append(common.Criterion(
            3, f"Balanced, ResNet-50's gradients, np = {size}: stock / policy full",
            "the interval reaches 1.0", common.show_ratio(ratio), high >= 1.0,
            busy + "A copy into the send buffer and one out of it stand against stock's fusion "
            "buffer; stock reduces during the backward pass, which is next to nothing here, as "
            "policy full does in buckets alone."))
    ways = samples["small"].get("8")
    if ways and "full" in ways:
        ratio = common.paired_ratio(ways[STOCK], ways["full"])
        found.append(common.Criterion(
            3, "Balanced, one tensor of 4 kB, np = 8: stock / policy full", "at least 3",
            common.show_ratio(ratio), ratio["ratio"] >= 3, busy))
    return found


def tell(result):
    data = result["data"]
    rows = []
    for case, title in (("gradients", "gradients"), ("small", "4 kB")):
        for size, ways in data["samples"][case].items():
            for way, seconds in ways.items():
                rows.append([f"{title}: {way}", size,
                             common.show_spread(common.spread(seconds), 1000),
                             common.show_ratio(common.paired_ratio(ways[STOCK], seconds))])
    return [f"Gradients: {data['tensors']} tensors, {data['parameters'] / 1e6:.1f} million values, "
            "in DistributedOptimizer. \"Ours, synchronous\" is Horovod's own operation with cycles "
            "by events.", "",
            *common.markdown_table(["case", "ranks", "time per step [ms]", "stock / this [95 %]"],
                                   rows)]


def draw(result):
    data = result["data"]
    figure = common.new_figure(9, 4)
    axes = figure.subplots(1, 2)
    for axis, (case, label) in zip(axes, (("gradients", "gradients of ResNet-50"),
                                          ("small", "one tensor of 4 kB"))):
        sizes = data["samples"][case]
        ways = list(next(iter(sizes.values()))) if sizes else []
        for i, way in enumerate(ways):
            values = [common.spread(sizes[size][way]) for size in sizes]
            at = [j + (i - len(ways) / 2 + 0.5) * 0.8 / len(ways) for j in range(len(sizes))]
            axis.bar(at, [1000 * v["median"] for v in values], 0.8 / len(ways), label=way,
                     yerr=[[1000 * (v["median"] - v["low"]) for v in values],
                           [1000 * (v["high"] - v["median"]) for v in values]], capsize=2)
        axis.set_xticks(range(len(sizes)), list(sizes))
        axis.set(xlabel="ranks", ylabel="time per step [ms]", title=label)
        if ways:
            axis.set_yscale("log")
            axis.legend(fontsize=8)
        axis.grid(alpha=0.3, axis="y")
    figure.suptitle("Balanced ranks: the cost of a step")
    return figure
