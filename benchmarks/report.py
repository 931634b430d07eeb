"""The report of the benchmarks, and docs/benchmarks.md, from the JSON results alone."""

import importlib
import json
import shutil
from pathlib import Path

from benchmarks import common

AUTO = "auto_simulation"  # its folder beside the results


def module_of(name):
    return importlib.import_module(f"benchmarks.{name}")


def draw(module, result, path):
    common.save_figure(module.draw(result), path)


def order(results):
    from benchmarks.__main__ import NAMES

    return [name for name in NAMES if name in results]


def criteria(results):
    """All that is wanted, in the order of its numbers."""
    found = [each for name in order(results) for each in module_of(name).criteria(results[name])]
    return sorted(found, key=lambda each: each.number)


def verdicts(results):
    """Lines: a table of what is wanted, and why something is missed."""
    found = criteria(results)
    lines = common.markdown_table(
        ["what", "wanted", "measured", "verdict"],
        [[each.text, each.wanted, each.measured, each.verdict] for each in found])
    missed = [each for each in found if not each.met]
    if missed:
        lines += ["", "Where it falls short:", ""]
        lines += [f"- {each.text}: {each.measured} where {each.wanted} is wanted. "
                  f"{each.why or 'No reason is known.'}".strip() for each in missed]
    missing = [name for name in importlib.import_module("benchmarks.__main__").NAMES
               if name not in results]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return lines


def section(module, result, image=None):
    """Lines: one benchmark."""
    paragraph = module.__doc__.split("\n\n")
    lines = [f"## {module.TITLE}", "", paragraph[0].split(": ", 1)[-1].replace("\n", " ")]
    lines[-1] = lines[-1][0].upper() + lines[-1][1:]
    if image:
        lines += ["", f"![{module.TITLE}]({image})"]
    lines += ["", *module.tell(result), ""]
    facts = result["machine"]
    lines.append(f"Measured {facts['date']} in {result['seconds']:.0f} s"
                 f"{' (short form)' if result['short'] else ''}; {facts['busy_at_start']:.0%} of the "
                 "machine's time was others' when it began (load average "
                 f"{facts['load_at_start']}). `python -m benchmarks {result['benchmark']} "
                 "--help` says more.")
    return lines


def body(results, image):
    """Lines: all. `image(name)` is where a benchmark's figure is."""
    facts = next(iter(results.values()))["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [f"Machine: {facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB, Linux "
             f"{facts['kernel']}; {versions}. All ranks share these cores.", "",
             "**Stock** is synchronous Horovod of this build with everything of ours switched off "
             "(`HOROVOD_EVENT_DRIVEN=0`). "
             + ("The section \"Unpatched\" compares it with Horovod without our patches. "
                if "unpatched" in results else "") +
             "Jobs that are compared take turns in one run. Where compute "
             "time is emulated, ranks sleep in place of it. Values are medians, with quartiles "
             "in round brackets; ratios are medians of pairs, with a 95 % bootstrap confidence "
             "interval in square ones."]
    busy = [name for name in order(results) if common.was_busy(results[name])]
    if busy:
        lines += ["", f"**The machine was busy when these began: {', '.join(busy)}.** Their "
                  "timings are disturbed."]
    short = [name for name in order(results) if results[name]["short"]]
    if short:
        lines += ["", f"Short form, a look and no evidence: {', '.join(short)}."]
    lines += ["", "## What is wanted, and what was measured", "", *verdicts(results)]
    for name in order(results):
        lines += ["", *section(module_of(name), results[name], image(name))]
    return lines


def auto_section(folder, image):
    """Lines: what benchmarks/auto_simulation.py has found, where it has been run."""
    path = folder / AUTO / "results.json"
    if not path.exists():
        return []
    summary = json.loads(path.read_text())["summary"]
    rows = [[f"{pattern}: `{row['policy']}`", f"{row['seconds']:.2f}",
             f"{row['against_best']:.2f}", f"{row['mean_active']:.2f}",
             f"{row['mean_staleness']:.2f}"] for pattern, found in summary.items() for row in found]
    return ["", "## Policy auto", "",
            "Time to 95 % accuracy of policy `auto` and of every fixed K, by a simulation with "
            "real learning and emulated durations of steps (`benchmarks/auto_simulation.py`).", "",
            f"![Policy auto]({image})", "",
            *common.markdown_table(["pattern: policy", "seconds to 95 %", "against the best fixed "
                                    "K", "active ranks", "staleness [rounds]"], rows)]


def write(folder):
    """Writes report.md beside the results; returns its path."""
    folder = Path(folder)
    results = known(folder)
    path = folder / "report.md"
    path.write_text("\n".join(["# Benchmarks", "",
                               *body(results, lambda name: f"{name}.png"),
                               *auto_section(folder, f"{AUTO}/auto.png")]) + "\n")
    return path


def write_docs(folder, docs):
    """Writes docs/benchmarks.md and docs/images/benchmark-<name>.png; returns the page's path."""
    results = known(folder)
    folder, docs = Path(folder), Path(docs)
    for name in order(results):
        draw(module_of(name), results[name], docs / f"images/benchmark-{name}.png")
    auto = auto_section(folder, "images/benchmark-auto.png")
    if auto:
        shutil.copyfile(folder / AUTO / "auto.png", docs / "images/benchmark-auto.png")
    path = docs / "benchmarks.md"
    path.write_text("\n".join([
        "# Benchmarks", "",
        "Made by `make bench-docs` from the results of `make bench` (short) or `make bench-full`; "
        "do not edit.", "",
        *body(results, lambda name: f"images/benchmark-{name}.png"), *auto]) + "\n")
    return path


def known(folder):
    results = common.load(folder)
    results = {name: results[name] for name in order(results)}
    if not results:
        raise SystemExit(f"{folder} has no results: `python -m benchmarks all` makes them")
    return results
