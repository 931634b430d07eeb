"""Scale: rounds per second and the traffic of negotiation for up to 4,096 ranks, by simulation.

NOT measured on a cluster. The core that real ranks run decides rounds against a virtual clock
(`_core.replay`), with a cost model of the network:

- an exchange of all ranks goes up a tree and down again (8 children per rank, as in
  csrc/glue/control_plane.cc), after a wake-up that goes the same way. A hop costs the latency; each
  message costs its receiver and its sender handling time; bytes cost bandwidth;
- a round is a ring allreduce, 2 (P - 1) hops, as in Gloo.

Handling time comes from benchmark `control` on this machine (the growth of an empty round's latency
with the messages that its cores have to handle); latency and bandwidth of three networks from
published measurements. Ranks' steps take a base time and an imbalance. Negotiation is counted per
rank and round, as the mean over ranks, and for the busiest rank."""

import json

import numpy as np

from benchmarks import common

TITLE = "Scale"
FAN_OUT = 8  # kFanOut of control_plane.cc
HEADER = 16  # bytes of a message before its words: ControlPlane::Frame
CACHE_WORDS = 17  # of Horovod's own in an exchange: status bits and a cache of 1,024 responses

NETWORKS = {
    "10 GbE, TCP": {
        "latency": 20e-6, "bandwidth": 4e9 / 8,
        "source": "J. Hurwitz and W. Feng, \"Initial End-to-End Performance Evaluation of "
                  "10-Gigabit Ethernet\", Hot Interconnects 11, 2003: \"over 4-Gb/s throughput and "
                  "20-us end-to-end latency between applications\" "
                  "(http://www.hoti.org/archive/Hoti11_program/abstracts/24.html)"},
    "Cray Gemini": {
        "latency": 1.4e-6, "bandwidth": 6e9,
        "source": "EuroBen, \"The Cray XE6\": latency \"from 0.7--1.4 us\", \"in practice "
                  "bandwidths of over 6 GB/s per direction were measured\" "
                  "(https://www.euroben.nl/reports/web10/xe6.php)"},
    "EC2, one zone": {
        "latency": 130e-6, "bandwidth": 5e9 / 8,
        "source": "O. Solomianik, \"Network Latency Inside And Across Amazon EC2 Availability "
                  "Zones\", 2009: average round trips of 0.259 to 0.410 ms inside a zone, halved "
                  "here (https://orensol.com/2009/05/24/network-latency-inside-and-across-amazon-"
                  "ec2-availability-zones/); AWS News Blog, \"ENA Express\": a flow's maximum is "
                  "5 Gbit/s without it"},
}
IMBALANCES = {
    "none": "every step takes the base time",
    "random": "in each step one rank in eight takes as long again",
    "skew": "rank i takes i / (P - 1) of the base time longer",
    "heavy": "a heavy tail: Pareto with exponent 1.5, mean a quarter of the base time, cut at 8",
}


def add_options(parser):
    parser.add_argument("--np", type=common.positive(int), nargs="+", default=None,
                        help="numbers of ranks (default 8 64 512 4096; short 8 512)")
    parser.add_argument("--policies", nargs="+", default=None,
                        help="default: solo majority first:<half> first:<3/4> full")
    parser.add_argument("--rounds", type=common.positive(int), default=None,
                        help="that are simulated (default 200; short 60)")
    parser.add_argument("--base-ms", type=common.positive(float), default=200,
                        help="a step's base time (default 200)")
    parser.add_argument("--megabytes", type=common.positive(float), default=102,
                        help="of gradients, ResNet-50's by default (102)")


# The cost model

def depth(size):
    """Hops from the last rank to the root of the tree."""
    hops, rank = 0, size - 1
    while rank > 0:
        rank, hops = (rank - 1) // FAN_OUT, hops + 1
    return hops


def children(size):
    """The number of children of the busiest rank."""
    return min(FAN_OUT, size - 1)


def words_of(size, groups=1):
    from horovod_partial import _core

    return CACHE_WORDS + -(-_core.exchange_bits(size, groups) // 64)


def short_messages(together):
    """Headers that go over an edge of the tree before an exchange: a wake-up; or, where all ranks
    are needed, that they come along, and that all have come."""
    return 2 if together else 1


def negotiation(size, together):
    """Messages and bytes of one exchange, with what precedes it: (mean of the ranks, busiest rank)
    of each, sent and received. `together`: see short_messages."""
    short = short_messages(together)
    bytes_of_edge = short * HEADER + 2 * (HEADER + 8 * words_of(size))  # one up, one down
    edges = size - 1  # counted at both ends
    busiest = children(size) + (size > FAN_OUT + 1)
    return {"messages": ((short + 2) * 2 * edges / size, (short + 2) * busiest),
            "bytes": (2 * edges * bytes_of_edge / size, busiest * bytes_of_edge)}


def exchange_seconds(size, network, handling):
    """Up, down, and the wake-up before: who wakes the others may be a leaf."""
    message = HEADER + 8 * words_of(size)
    hop = network["latency"] + handling + children(size) * handling
    wake = 2 * depth(size) * hop
    return wake + 2 * depth(size) * (hop + children(size) * message / network["bandwidth"])


def ring_seconds(size, nbytes, network, handling):
    """A ring allreduce."""
    if size == 1:
        return 0.0
    hops = 2 * (size - 1)
    return hops * (network["latency"] + handling + nbytes / size / network["bandwidth"])


def fit_handling(samples, cores):
    """Seconds of a core per message end, and the constant, that fit benchmark control's empty
    rounds over Gloo best: latency = constant + handling x message ends / cores."""
    sizes = [size for size in samples if samples[size].get("gloo", {}).get("ours", {})
             .get("empty round")]
    if len(sizes) < 2:
        raise ValueError("the fit needs empty rounds of two numbers of ranks at least")
    per_edge = 2 * (short_messages(together=True) + 2)  # a flush needs all ranks
    ends = [per_edge * (int(size) - 1) / min(cores, int(size)) for size in sizes]
    seconds = [common.spread(samples[size]["gloo"]["ours"]["empty round"])["median"]
               for size in sizes]
    slope, constant = np.polyfit(ends, seconds, 1)
    return {"handling": float(max(slope, 1e-7)), "constant": float(constant),
            "measured": dict(zip(sizes, seconds)),
            "fitted": {size: float(constant + slope * end) for size, end in zip(sizes, ends)}}


def steps_of(imbalance, size, base, seed, count=100):
    random = np.random.default_rng([seed, size])
    steps = np.full((size, count), base)
    if imbalance == "random":
        steps += base * (random.random((size, count)) < 1 / 8)
    elif imbalance == "skew":
        steps += base * (np.arange(size) / max(size - 1, 1))[:, None]
    elif imbalance == "heavy":
        steps += np.minimum(base / 8 * random.pareto(1.5, (size, count)), 8 * base)
    # Nobody is ever exactly even: a permille.
    return (steps * (1 + 0.001 * random.standard_normal((size, count)))).tolist()


def run(args):
    from horovod_partial import _core

    common.settle_defaults(args, np=([8, 64, 512, 4096], [8, 512]), rounds=(200, 60))
    path = args.output / "control.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing: the cost model is fitted to it. Run `python -m "
                         f"benchmarks control --output {args.output}` first.")
    control = json.loads(path.read_text())
    fit = fit_handling(control["data"]["samples"], control["machine"]["cores"])
    rows = []
    with common.progress(TITLE, len(args.np) * len(NETWORKS) * len(IMBALANCES)) as advance:
        for size in args.np:
            policies = args.policies or ["solo", "majority", f"first:{max(size // 2, 1)}",
                                         f"first:{max(3 * size // 4, 1)}", "full"]
            for imbalance in IMBALANCES:
                steps = steps_of(imbalance, size, args.base_ms / 1000, args.seed)
                for name, network in NETWORKS.items():
                    exchange = exchange_seconds(size, network, fit["handling"])
                    ring = ring_seconds(size, args.megabytes * 1e6, network, fit["handling"])
                    for policy in policies:
                        replay = _core.replay(
                            steps, policy, rounds=args.rounds, round_seconds=ring,
                            exchange_seconds=exchange, seed=args.seed)
                        each = replay.exchanges / replay.rounds
                        traffic = negotiation(size, together=policy == "full")
                        rows.append({
                            "np": size, "network": name, "imbalance": imbalance,
                            "policy": policy, "exchange": exchange, "ring": ring,
                            "rounds_per_second": replay.rounds_per_second,
                            "submissions_per_second": replay.submissions_per_second,
                            "active": replay.mean_active, "staleness": replay.mean_staleness,
                            "exchanges": each,
                            "messages": [each * n for n in traffic["messages"]],
                            "bytes": [each * n for n in traffic["bytes"]]})
                    advance(f"{size} ranks, {imbalance}, {name}")
    return {"rows": rows, "fit": fit, "base_ms": args.base_ms, "megabytes": args.megabytes,
            "networks": NETWORKS, "control": {key: control[key] for key in ("machine", "short")}}


def criteria(result):
    return []


def general(policy, size):
    """A policy's name that is the same for all numbers of ranks."""
    if not policy.startswith("first:"):
        return policy
    return f"first:{int(policy.split(':')[1]) / size:.0%}"


def tell(result):
    data = result["data"]
    fit = data["fit"]
    lines = [f"Steps of {data['base_ms']:g} ms, {data['megabytes']:g} MB of gradients. Imbalances: "
             + "; ".join(f"*{name}*, {text}" for name, text in IMBALANCES.items()) + ".", "",
             f"Fitted handling time: {1e6 * fit['handling']:.0f} us of a core per message at each "
             "end, wake-up of the process included. Empty rounds, measured and fitted: "
             + "; ".join(f"{size} ranks {1000 * fit['measured'][size]:.2g} and "
                         f"{1000 * fit['fitted'][size]:.2g} ms" for size in fit["measured"])
             + ".", "", "Networks:", ""]
    lines += [f"- {name}: {1e6 * net['latency']:g} us one way, {net['bandwidth'] / 1e9:.3g} GB/s. "
              f"{net['source']}." for name, net in data["networks"].items()]
    first = next(iter(data["networks"]))
    lines += ["", f"On {first} (all networks are in the figure and the JSON):", ""]
    rows = [[f"{row['imbalance']}: `{general(row['policy'], row['np'])}`", f"{row['np']:,}",
             f"{row['rounds_per_second']:.3g}", f"{row['submissions_per_second'] / row['np']:.3g}",
             f"{row['active'] / row['np']:.0%}", f"{row['staleness']:.2f}",
             f"{row['exchanges']:.1f}", "{:.0f} / {:.0f}".format(*row["messages"]),
             "{:.1f} / {:.1f}".format(*(value / 1000 for value in row["bytes"]))]
            for row in data["rows"] if row["network"] == first]
    return lines + common.markdown_table(
        ["imbalance: policy", "ranks", "rounds/s", "steps/s of a rank", "active", "staleness",
         "exchanges per round", "messages per round, mean / busiest rank",
         "kB per round, mean / busiest rank"], rows)


def draw(result):
    data = result["data"]
    names = list(data["networks"])
    figure = common.new_figure(11, 2.7 * len(names))
    grid = figure.subplots(len(names), len(IMBALANCES), sharex=True, squeeze=False)
    for row, network in zip(grid, names):
        for axis, imbalance in zip(row, IMBALANCES):
            found = [each for each in data["rows"]
                     if each["network"] == network and each["imbalance"] == imbalance]
            for name in dict.fromkeys(general(each["policy"], each["np"]) for each in found):
                points = [(each["np"], each["rounds_per_second"]) for each in found
                          if general(each["policy"], each["np"]) == name]
                axis.plot(*zip(*points), marker="o", markersize=3, label=name, linewidth=1.2)
            sizes = sorted({each["np"] for each in found})
            axis.set(xscale="log", ylim=(0, None))
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            if network == names[0]:
                axis.set_title(imbalance, fontsize=10)
            if network == names[-1]:
                axis.set_xlabel("ranks")
        row[0].set_ylabel(f"{network}\nrounds/s", fontsize=9)
    grid[0][0].legend(fontsize=7)
    figure.suptitle("Simulated rounds per second (no cluster: the real core, a cost model)")
    return figure
