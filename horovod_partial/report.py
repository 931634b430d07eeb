"""Shows who is slow, and which policy to launch with:

    HOROVOD_TIMELINE=timeline.json horovodrun --partial majority -np 4 python train.py
    python -m horovod_partial.report timeline.json

makes partial-report/report.html, one file without anything from elsewhere, and its figures as PNG.
Also takes files of statistics, which need no timeline; at the end of a script, on all ranks:

    stats = hvd.allgather_object(optimizer.stats())
    if hvd.rank() == 0:
        json.dump(stats, open("stats.json", "w"))

or one file per rank, json.dump(optimizer.stats(), ...), all of which are given. A report of
statistics has no picture of each round. What it says of other policies is replayed from the
recorded steps by the code that decides rounds in a training: see "How this was made" in the report.
"""

import argparse
import base64
import html
import io
import re
import statistics
import sys
from pathlib import Path

from horovod_partial import advice, config, records

_COLUMNS = 800  # of a heat map: more rounds than these share columns
_STATES = {"active": "#2b8cbe", "stale": "#fdae61", "null": "#d73027", "flush": "#f0f0f0"}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
       color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
tr.best { background: #e6f4ea; font-weight: 600; }
img { max-width: 100%; }
code { background: #f4f4f4; padding: .1em .3em; }
.advice { border-left: 5px solid #34a853; padding: .5em 1em; background: #f6fbf7; }
.note { color: #7a4b00; }
"""

_METHOD = """
<h2>How this was made</h2>
<p>A <b>step</b> is the time from the moment when a rank gets a round to its next submission: its
computing, and its updates. A rank that was active in a round was seen to be ready. A late
submission is not seen by itself: it lies between the round that it missed and the one that carries
it, and late ones in a row are taken to be evenly spaced within these limits. Their mean is exact,
their spread is not. Steps that follow a flush are left out: people validate there.</p>
<p><b>Other policies</b> are replayed: each rank goes through its recorded steps in the recorded
order, from the start again when it needs more, while the functions that decide rounds in a training
decide them against a virtual clock. A round takes as long as the recorded ones did, in the median.
Not modelled: the negotiation, and the updates that a late rank makes for each round it has
missed.</p>
<p>The <b>score</b> is gradients submitted per second / (1 + {cost:g} × mean staleness), where
staleness is the number of rounds that a submission finds pending. {cost:g} says how much one round
of staleness costs in gradient efficiency; <code>--staleness-cost</code> sets another. Of policies
within {tolerance:.0%} of the highest score, the one that waits for the most ranks is advised.
<code>solo</code> is <code>first:1</code>, <code>full</code> is <code>first:{{P}}</code>. The score
does not know your model: try the advised policy, and look at accuracy over time.</p>
""".replace("{{P}}", "P")


def main(arguments=None):
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m horovod_partial.report", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE",
                        help="a timeline (HOROVOD_TIMELINE), also one that is cut short, or JSON "
                             "of optimizer.stats() or hvd.partial_stats()")
    parser.add_argument("-o", "--output", type=Path, default=Path("partial-report"), metavar="DIR",
                        help="where report.html and the figures go (default: partial-report)")
    parser.add_argument("--staleness-cost", type=_cost, default=advice.STALENESS_COST,
                        metavar="COST", help="how much one round of mean staleness costs in "
                        "gradient efficiency (default: %(default)s)")
    parser.add_argument("--staleness-bound", type=_bound, default=8, metavar="ROUNDS",
                        help="the bound that policies are replayed with (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("error: the figures need matplotlib: pip install matplotlib", file=sys.stderr)
        return 1
    try:
        found = records.read(args.files)
        args.output.mkdir(parents=True, exist_ok=True)
        page = write(found, args.output, args.staleness_cost, args.staleness_bound)
    except (records.RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {page}")
    return 0


def _cost(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0")
    return value


def _bound(text):
    try:
        return config.whole_number("staleness_bound", config.number_or_text(text), 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def write(found, directory, staleness_cost=advice.STALENESS_COST, staleness_bound=8):
    """Writes report.html and its figures, and prints a few lines for each group.

    Args:
        found: Records, of ``records.read``.
        directory: a Path that exists.

    Returns:
        The path of the page.
    """
    sections = []
    for number, record in enumerate(found):
        advised = None
        if all(record.steps):
            advised = advice.advise(
                record.steps, round_seconds=record.round_seconds, staleness_cost=staleness_cost,
                staleness_bound=staleness_bound)
        name = re.sub(r"[^\w.-]+", "-", record.name)
        figures = {}
        for kind, make in (("participation", _participation), ("arrivals", _arrivals),
                           ("policies", _policies)):
            figure = make(record, advised)
            if figure is not None:
                figures[kind] = _save(figure, directory / f"{number}-{name}-{kind}.png")
        sections.append(_section(record, advised, figures))
        print(_in_short(record, advised))
    page = directory / "report.html"
    page.write_text(_page(sections, staleness_cost))
    return page


# --------------------------------------------------------------------------------------- words

def _in_short(record, advised):
    slowest = _ranking(record)[0]
    text = f"{record.name}: {_summary(record)}."
    if record.steps[slowest]:
        text += (f" Slowest: rank {slowest}, {statistics.median(record.steps[slowest]):.3g} s a "
                 "step.")
    return text if advised is None else (
        f"{text} Advice: {_flag(advised)}. {advised.reason}{_auto(advised)}")


def _flag(advised):
    return f"--partial {advised.best.policy}"


def _auto(advised):
    """What is said of policy auto."""
    if advised.auto is None:
        return ""
    worth = advised.auto.score / advised.best.score
    return (f" --partial auto, which finds its K by itself, is predicted to be worth {worth:.2f} "
            f"times {advised.best.policy}, and follows when the ranks' speeds change.")


def _summary(record):
    words = [f"{record.size} ranks"]
    if record.policy:
        words.append(f"policy {record.policy}")
    flushes = sum(r.flush for r in record.rounds)
    rounds = len(record.rounds) - flushes or sum(record.contributions[0].values())
    words.append(f"{rounds} rounds" + (f" and {flushes} flushes" if flushes else ""))
    if record.rounds_per_second:
        words.append(f"{record.rounds_per_second:.3g} rounds/s")
    words.append(f"{record.mean_active:.2f} ranks active on average")
    if record.staleness:
        words.append(f"mean staleness {record.mean_staleness:.2f}")
    return ", ".join(words)


def _ranking(record):
    """Ranks, the slowest first; by what they contributed where their steps are not known."""
    return sorted(range(record.size), key=lambda rank: (
        -statistics.median(record.steps[rank]) if record.steps[rank] else 0.0,
        record.contributions[rank]["fresh"]))


# ---------------------------------------------------------------------------------------- page

def _page(sections, staleness_cost):
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Partial rounds</title><style>{_STYLE}</style></head>\n<body>"
        "<h1>Partial rounds: who is slow, and what to do</h1>\n" + "\n".join(sections) +
        _METHOD.format(cost=staleness_cost, tolerance=advice.TOLERANCE) + "</body></html>\n")


def _section(record, advised, figures):
    parts = [f"<h2>{html.escape(record.name)}</h2>",
             f"<p>{html.escape(_summary(record))}. From {html.escape(record.source)}.</p>"]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in record.notes]
    if advised is not None:
        gain = advised.best.score / advised.full.score
        launch = ("Launch with <code>horovodrun " + _flag(advised) + "</code>" + (
            f", predicted to be worth {gain:.2f} times <code>full</code>, synchronous training"
            if advised.best is not advised.full else ""))
        parts.append(f'<p class="advice"><b>{launch}.</b> {html.escape(advised.reason)}'
                     f"{html.escape(_auto(advised))}</p>")
    else:
        unknown = [str(rank) for rank, steps in enumerate(record.steps) if not steps]
        parts.append('<p class="note">No advice: there is no complete step of rank '
                     f"{', '.join(unknown)} in the record, so other policies cannot be "
                     "replayed.</p>")
    parts += ["<h3>Ranks, the slowest first</h3>", _ranks_table(record)]
    for kind, title in (("participation", "Who took part, and who waited how long"),
                        ("arrivals", "When ranks arrive")):
        if kind in figures:
            parts += [f"<h3>{title}</h3>", _image(figures[kind], title)]
    if record.estimated:
        parts.append(f"<p>{record.estimated} of {sum(map(len, record.steps))} steps end in a late "
                     "submission, whose time is an estimate.</p>")
    if advised is not None:
        title = "What each policy would have cost on the same steps"
        parts += [f"<h3>{title}</h3>", _image(figures["policies"], title),
                  _policies_table(record, advised)]
    return "\n".join(parts)


def _image(png, title):
    return (f'<img alt="{html.escape(title)}" src="data:image/png;base64,'
            f'{base64.b64encode(png).decode()}">')


def _table(head, rows):
    """``rows`` of (class, cells)."""
    lines = ["<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for kind, cells in rows:
        lines.append(f'<tr class="{kind}">' + "".join(
            f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _ranks_table(record):
    rows = []
    for rank in _ranking(record):
        steps = sorted(record.steps[rank])
        middle = (f"{statistics.median(steps):.3g} s", f"{steps[int(0.9 * (len(steps) - 1))]:.3g} s"
                  ) if steps else ("?", "?")
        contributed = record.contributions[rank]
        total = max(sum(contributed.values()), 1)
        row = [f"rank {rank}", *middle,
               *(f"{contributed[how] / total:.0%}" for how in ("fresh", "stale", "null")),
               f"{record.waits[rank]:.2f} s"]
        if record.rounds:
            row.append(sum(rank in r.waited_for for r in record.rounds))
        rows.append(("", row))
    head = ["", "median step", "90 % are below", "active", "stale", "null", "waited in total"]
    return _table(head + (["last waited for, rounds"] if record.rounds else []), rows)


def _policies_table(record, advised):
    rows = [("best" if p is advised.best else "",
             [p.policy, f"{p.rounds_per_second:.3g}", f"{p.submissions_per_second:.3g}",
              f"{p.mean_active:.2f}", f"{p.mean_staleness:.2f}", f"{p.waiting:.0%}",
              f"{p.score:.3g}", f"{p.score / advised.full.score:.2f}x"])
            for p in [*advised.predictions, *([advised.auto] if advised.auto else [])]]
    if record.rounds_per_second and record.staleness:
        rows.append(("", ["as recorded", f"{record.rounds_per_second:.3g}", "",
                          f"{record.mean_active:.2f}", f"{record.mean_staleness:.2f}", "", "", ""]))
    return _table(["policy", "rounds/s", "gradients/s", "mean active", "mean staleness", "waiting",
                   "score", "against full"], rows)


# ------------------------------------------------------------------------------------- figures

def _figure(**options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _participation(record, advised):
    return _heat_map(record) if record.rounds else _contributions(record)


def _columns(record):
    """The rounds of each column of the heat map."""
    width = -(-len(record.rounds) // _COLUMNS)
    return [record.rounds[at:at + width] for at in range(0, len(record.rounds), width)]


def _state(column, rank):
    """The number of what a rank mostly was in these rounds."""
    states = [next((i for i, how in enumerate(("active", "stale", "null"))
                    if rank in getattr(r, how)), 3) for r in column]
    return statistics.mode(states)


def _heat_map(record):
    import matplotlib
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    columns = _columns(record)
    first, last = record.rounds[0].index, record.rounds[-1].index
    extent = (first - 0.5, last + 0.5, record.size - 0.5, -0.5)
    states = np.array([[_state(column, rank) for column in columns]
                       for rank in range(record.size)])
    waits = np.full(states.shape, np.nan)
    for i, column in enumerate(columns):
        for rank in range(record.size):
            waited = [r.start - r.ready[rank] for r in column if rank in r.ready]
            if waited:
                waits[rank, i] = statistics.fmean(waited)

    figure = _figure(figsize=(11, 2.4 + min(0.5 * record.size, 8)))
    above, below = figure.subplots(2, 1, sharex=True)
    above.imshow(states, cmap=ListedColormap(list(_STATES.values())), vmin=-0.5, vmax=3.5,
                 extent=extent, aspect="auto", interpolation="nearest")
    above.legend(handles=[Patch(facecolor=colour, edgecolor="grey", label=state)
                          for state, colour in _STATES.items()],
                 ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    above.set_title("contributed", loc="left")
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="white")
    image = below.imshow(waits, cmap=colours, extent=extent, aspect="auto", vmin=0,
                         interpolation="nearest")
    # Of both, so that a round is at the same place in both.
    figure.colorbar(image, ax=(above, below), label="waited [s]", pad=0.01)
    below.set_title("waited for the round to start (white: did not wait)", loc="left")
    below.set_xlabel("round")
    _whole_ticks(below.xaxis)
    for axes in (above, below):
        axes.set_ylabel("rank")
        _whole_ticks(axes.yaxis)
    return figure


def _whole_ticks(axis):
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _contributions(record):
    figure = _figure(figsize=(11, 1.5 + min(0.3 * record.size, 8)))
    axes = figure.subplots()
    left = [0] * record.size
    for how, state in (("fresh", "active"), ("stale", "stale"), ("null", "null")):
        counts = [c[how] for c in record.contributions]
        axes.barh(range(record.size), counts, left=left, color=_STATES[state], label=state)
        left = [a + b for a, b in zip(left, counts)]
    axes.set(xlabel="rounds", ylabel="rank")
    axes.invert_yaxis()
    _whole_ticks(axes.yaxis)
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _arrivals(record, advised):
    if not any(record.steps):
        return None
    ranks = [rank for rank in range(record.size) if record.steps[rank]]
    figure = _figure(figsize=(11, 1.5 + min(0.35 * record.size, 8)))
    axes = figure.subplots()
    axes.boxplot([record.steps[rank] for rank in ranks], positions=ranks, orientation="horizontal",
                 widths=0.6, flierprops={"marker": ".", "markersize": 3},
                 medianprops={"color": "#d73027"}, manage_ticks=False)
    axes.set(xlabel="seconds from getting a round to the next submission", ylabel="rank",
             ylim=(record.size - 0.5, -0.5))
    axes.set_xlim(left=0)
    _whole_ticks(axes.yaxis)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _policies(record, advised):
    if advised is None:
        return None
    predictions = advised.predictions
    figure = _figure(figsize=(11, 1.2 + 0.3 * len(predictions)))
    rate, stale = figure.subplots(1, 2, sharey=True)
    places = range(len(predictions))
    colours = ["#34a853" if p is advised.best else "#9ecae1" for p in predictions]
    rate.barh(places, [p.score for p in predictions], color=colours)
    rate.set(xlabel="score: gradients/s, less what staleness costs", yticks=places,
             yticklabels=[p.policy for p in predictions])
    stale.barh(places, [p.mean_staleness for p in predictions], color=colours)
    stale.set_xlabel("mean staleness [rounds]")
    rate.invert_yaxis()
    return figure


if __name__ == "__main__":
    sys.exit(main())
