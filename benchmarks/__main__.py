"""Benchmarks of partial collectives, beside stock Horovod in the same run.

    python -m benchmarks all              everything: about an hour on 2 quiet cores
    python -m benchmarks all --short      a look: about 12 minutes
    python -m benchmarks control --help   one of them, and what it measures
    python -m benchmarks report           the report again, from the JSON results
    python -m benchmarks docs             docs/benchmarks.md and its figures from them

Each writes <output>/<name>.json, with the raw samples and facts about the machine, and
<output>/<name>.png. The report says for each thing that is wanted what was measured. Close
whatever else runs on the machine: the report says how busy it was."""

import argparse
import importlib
import os
import signal
import subprocess
import sys

from benchmarks import ROOT, common, report

NAMES = ["control", "skewed", "balanced", "hyperplane", "sequences", "images", "scale",
         "unpatched"]


def first_line(module):
    return module.__doc__.split("\n")[0]


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, description):
        sub = commands.add_parser(name, help=text, description=description,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(module=None)
        return sub

    every = command("all", "all of them, and the report", "All benchmarks, and the report.")
    common.add_common_options(every)
    every.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME",
                       help="some of: " + ", ".join(NAMES))
    for name in NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        sub = command(name, first_line(module), module.__doc__)
        common.add_common_options(sub)
        module.add_options(sub)
        sub.set_defaults(module=module)
    for name, text in (("report", "report.md from the JSON results"),
                       ("docs", "docs/benchmarks.md and its figures from the JSON results")):
        sub = command(name, text, text.capitalize() + ".")
        sub.add_argument("--output", type=common.Path, default=common.OUTPUT,
                         help="folder with the JSON results")
        if name == "docs":
            sub.add_argument("--docs", type=common.Path, default=common.Path("docs"),
                             help="folder to write benchmarks.md and images/ into")
    return parser.parse_args(arguments), parser


def run(module, args):
    """Runs one benchmark; its result is in the JSON file."""
    from benchmarks.jobs import JobError

    facts = common.machine()
    watch = common.Stopwatch()
    name = module.__name__.split(".")[-1]
    try:
        data = module.run(args)
    except JobError as error:
        sys.exit(f"{name}: {error}")
    result = common.save(name, args, facts, watch.seconds(), data)
    report.draw(module, result, args.output / f"{name}.png")
    return result


def run_auto_simulation(args):
    """Policy auto against every fixed K, by a simulation that has a command of its own."""
    script = ROOT / "benchmarks/auto_simulation.py"
    if script.exists():
        few = ["--seeds", "1", "--patterns", "random"] if args.short else []
        # Its status says whether auto is as good as wanted; the report says that, too.
        subprocess.run([sys.executable, str(script), *few, "--output",
                        str(args.output / report.AUTO)])


def main(arguments=None):
    args, parser = parse(arguments)
    if args.command == "docs":
        print(f"written: {report.write_docs(args.output, args.docs)}")
        return
    if args.command == "all":
        for name in args.only or NAMES:
            module = importlib.import_module(f"benchmarks.{name}")
            if name == "unpatched" and not module.available():
                print("unpatched: left out, `make unpatched` builds what it compares with",
                      flush=True)
                continue
            own, _ = parse([name, "--output", str(args.output), "--seed", str(args.seed),
                            *(["--short"] if args.short else [])])
            run(module, own)
        if not args.only:
            run_auto_simulation(args)
    elif args.command != "report":
        result = run(args.module, args)
        print("\n".join(report.section(args.module, result)))
    print(f"written: {report.write(args.output)}")


if __name__ == "__main__":
    # Ended from outside, too, it ends its jobs, whose ranks may be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    main()
