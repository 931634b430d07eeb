"""The pictures of the pages, as SVG.

    python docs/_ext/pictures.py DIR      draws them there
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# As in the report: what a rank contributes.
ACTIVE, STALE, NULL = "#2b8cbe", "#fdae61", "#d73027"
COMPUTE, WAIT, ROUND, INK = "#c9d8e3", "#f4f4f4", "#e8f3e8", "#222222"
_STYLE = {"svg.hashsalt": "horovod-partial", "font.size": 10, "font.family": "sans-serif",
          "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}


def _axes(width, height, ranks, end):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlim(0, end)
    axes.set_ylim(ranks - 0.45, -0.8)
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _bar(axes, rank, start, end, colour, text="", height=0.5, edge="none", **style):
    axes.barh(rank, end - start, height, left=start, color=colour, edgecolor=edge, linewidth=1,
              **style)
    if text:
        axes.text((start + end) / 2, rank, text, ha="center", va="center", fontsize=9)


def _round(axes, start, end, ranks, title):
    axes.axvspan(start, end, 0.01, 0.93, color=ROUND, zorder=0)
    axes.text((start + end) / 2, -0.6, title, ha="center", va="center", weight="bold")


def _part(axes, rank, at, colour, text):
    """What a rank contributes to a round that takes place at `at`."""
    dark = colour != STALE
    axes.text(at, rank, text, ha="center", va="center", fontsize=9, zorder=4,
              color="white" if dark else INK, weight="bold",
              bbox={"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"})


def one_round():
    """A round with two active ranks, a stale and a null one."""
    figure, axes = _axes(9, 3.9, 4, 12.4)
    for start, title in ((3.6, "round 6"), (8.6, "round 7")):
        _round(axes, start, start + 1.3, 4, title)
    # Ranks 0 and 1 keep pace.
    for rank, steps in ((0, ((0, 3.0), (4.9, 8.6))), (1, ((0, 3.6), (4.9, 8.1)))):
        for start, end in steps:
            _bar(axes, rank, start, end, COMPUTE, "computes")
        _bar(axes, rank, steps[0][1], 3.6, WAIT, edge="#bbbbbb")
        _bar(axes, rank, steps[1][1], 8.6, WAIT, edge="#bbbbbb")
        _bar(axes, rank, 9.9, 12.4, COMPUTE, "computes")
    axes.text(3.3, 0.36, "waits", ha="center", va="center", fontsize=8)
    # Rank 2 was late for round 5: what it submitted then is in its send buffer.
    _bar(axes, 2, 0, 1.1, COMPUTE)
    axes.annotate("submits late:\nkept in its send buffer", (1.1, 2.25), (1.2, 2.62), fontsize=8,
                  va="center", arrowprops={"arrowstyle": "-", "color": INK})
    _bar(axes, 2, 1.1, 7.2, COMPUTE, "")
    axes.text(2.2, 2, "computes on", ha="center", va="center", fontsize=9)
    _bar(axes, 2, 7.2, 12.4, COMPUTE, "")
    axes.annotate("late again: takes round 6 and applies it", (7.2, 2.25), (5.1, 2.62), fontsize=8,
                  va="center", arrowprops={"arrowstyle": "-", "color": INK})
    # Rank 3 takes long for one step.
    _bar(axes, 3, 0, 10.6, COMPUTE, "")
    axes.text(1.6, 3, "computes, one long step", ha="center", va="center", fontsize=9)
    _bar(axes, 3, 10.6, 12.4, COMPUTE, "")
    for rank, at in ((2, 1.1), (2, 7.2), (3, 10.6)):
        axes.plot([at, at], [rank - 0.25, rank + 0.25], color=INK, linewidth=1)
    axes.text(10.6, 3.4, "late: applies rounds 6 and 7", va="center", ha="center", fontsize=8)
    for at, parts in ((4.25, ((ACTIVE, "active"), (ACTIVE, "active"), (STALE, "stale"),
                              (NULL, "null"))),
                      (9.25, ((ACTIVE, "active"), (ACTIVE, "active"), (STALE, "stale"),
                              (NULL, "null")))):
        for rank, (colour, text) in enumerate(parts):
            _part(axes, rank, at, colour, text)
    return figure


ARRIVALS = (1.0, 1.7, 2.5, 6.0)  # of the ranks in `policies`
DRAWN = 2  # the initiator of majority there


def policies():
    """When one and the same round starts under each policy."""
    rows = [("solo", 0, ""), ("first:2", 1, ""), ("majority", DRAWN, f": rank {DRAWN} was drawn"),
            ("first:3", 2, ""), ("full", 3, ""), ("auto", 2, ": its K is 3 at present")]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 7)
    axes.set_ylim(len(rows) - 0.4, -0.9)
    for rank, at in enumerate(ARRIVALS):
        axes.axvline(at, 0.0, 0.86, color="#999999", linewidth=1, linestyle=":")
        axes.text(at, -0.6, f"rank {rank}\nready", ha="center", va="center", fontsize=8)
    for row, (policy, last, why) in enumerate(rows):
        start = ARRIVALS[last]
        active = sum(at <= start for at in ARRIVALS)
        axes.barh(row, start, 0.5, color=WAIT, edgecolor="#bbbbbb")
        axes.barh(row, 0.18, 0.5, left=start, color=ACTIVE)
        axes.text(start + 0.28, row, f"starts with {active} of 4 active{why}", va="center", fontsize=9,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_yticks(range(len(rows)), [policy for policy, _, _ in rows], family="monospace")
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.text(7, len(rows) - 0.5, "time →", ha="right", va="center", fontsize=9)
    return figure


def _box(axes, x, y, text, colour, width=1.25, light=True, height=0.62):
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height,
                                  boxstyle="round,pad=0.03,rounding_size=0.08", facecolor=colour,
                                  edgecolor="none"))
    axes.text(x, y, text, ha="center", va="center", fontsize=9,
              color="white" if light else INK)


def _arrow(axes, start, end, **style):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK,
                                   linewidth=1, shrinkA=1, shrinkB=1, **style))


def _canvas(width, height, across, down):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    axes.set_axis_off()
    return figure, axes


def catch_up():
    """What a rank that has missed three rounds does with them."""
    figure, axes = _canvas(9, 3.2, 11.2, 4)
    axes.text(2.3, 0.35, "pending rounds", ha="center", weight="bold")
    axes.text(7.6, 0.35, "updates of its optimizer", ha="center", weight="bold")
    rows = (("replay", ("4", "5", "6"), "bit-identical replicas"),
            ("sum", ("4 + 5 + 6",), "close, not identical"),
            ("latest", ("6",), "apart, as in eager-SGD"))
    for row, (name, updates, replicas) in enumerate(rows):
        y = 1.1 + row
        for at, number in enumerate(("4", "5", "6")):
            _box(axes, 0.9 + 1.3 * at, y, f"round {number}", "#8fb7d0", 1.1, light=False)
        axes.text(4.62, y - 0.13, name, ha="center", va="bottom", family="monospace", fontsize=10)
        _arrow(axes, (4.15, y), (5.15, y))
        for at, update in enumerate(updates):
            width = 1.9 if "+" in update else 0.85
            _box(axes, 5.7 + width / 2 - 0.43 + 1.05 * at, y, update, ACTIVE, width)
        axes.text(8.8, y, replicas, va="center", fontsize=9)
    return figure


def layers():
    """Who decides, who carries, who asks."""
    figure, axes = _canvas(9, 3.7, 11, 5.1)
    for y, name, text, colour, light in (
            (0.6, "your script", "optimizer.step(), flush(), partial_allreduce()", "#e3e3e3", False),
            (1.7, "torch/ and tensorflow/", "tensors, updates, replicas: decide nothing",
             "#8fb7d0", False),
            (2.8, "csrc/glue", "requests in, answers out, through Horovod's cycle", "#8fb7d0",
             False),
            (3.9, "csrc/core", "the protocol: pure functions, every decision", ACTIVE, True)):
        _box(axes, 3.9, y, "", colour, 7.2, height=0.8)
        colour = "white" if light else INK
        axes.text(0.55, y, name, va="center", weight="bold", fontsize=10, color=colour)
        axes.text(7.25, y, text, va="center", ha="right", fontsize=9, color=colour)
    for y in (1.0, 2.1, 3.2):
        _arrow(axes, (3.7, y), (3.7, y + 0.3))
        _arrow(axes, (4.1, y + 0.3), (4.1, y))
    _box(axes, 9.6, 2.25, "Horovod 0.28.1\nbackground thread,\nGloo, MPI, NCCL", "#e3e3e3", 2.3,
         light=False, height=2.0)
    axes.text(8.05, 2.55, "patches:\nthin hooks", ha="center", va="top", fontsize=8)
    _arrow(axes, (7.55, 2.45), (8.4, 2.45))
    _box(axes, 9.6, 3.9, "csrc/sim: thousands of\nschedules, no network", "#e3e3e3", 2.3,
         light=False, height=0.8)
    _arrow(axes, (8.4, 3.9), (7.55, 3.9))
    return figure


PICTURES = {"round": one_round, "policies": policies, "catch-up": catch_up, "layers": layers}


def draw(directory):
    """Writes the pictures to `directory`, each only where it has changed."""
    directory.mkdir(exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        for name, picture in PICTURES.items():
            new = directory / f"{name}.new"
            picture().savefig(new, format="svg", metadata={"Date": None})
            path = directory / f"{name}.svg"
            if path.exists() and path.read_bytes() == new.read_bytes():
                new.unlink()
            else:
                new.replace(path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
