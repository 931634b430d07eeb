"""The arguments of ``horovodrun`` for partial training; called by patches/partial/launcher.patch."""

import argparse

from horovod_partial import config, policy

# Key in the configuration file's section "partial", argument, environment variable, what it is.
_ARGUMENTS = (
    ("policy", "partial", config.POLICY, "POLICY",
     "Train partially: when a round may start, see above. An unmodified script that calls Horovod's "
     "DistributedOptimizer then trains partially, too."),
    ("staleness_bound", "partial_staleness_bound", config.STALENESS_BOUND, "ROUNDS",
     "A rank that has not taken this many rounds is waited for. (default: 8)"),
    ("catch_up", "partial_catch_up", config.CATCH_UP, "HOW",
     "What a late rank does with the rounds it missed: 'replay' applies each, 'sum' their sum, "
     "'latest' the newest. (default: replay)"),
    ("resync_every", "partial_resync_every", config.RESYNC_EVERY, "ROUNDS",
     "Copy parameters and optimizer state from one rank to all each time this many rounds have "
     "passed. (default: never)"),
    ("seed", "partial_seed", config.SEED, "SEED",
     "Seed of the draw of initiators and committees. (default: 0)"),
    ("staleness_cost", "partial_staleness_cost", config.STALENESS_COST, "COST",
     "Of policy auto: how much one round of mean staleness costs in gradient efficiency. Lower, and "
     "ranks wait less; higher, and gradients are fresher. (default: 0.7)"),
    ("summary", "partial_summary", config.SUMMARY, "0|1",
     "Whether rank 0 says at the end how the rounds of a training went. (default: 1)"),
)


def add_arguments(parser, action):
    """Adds ``--partial`` and what goes with it. ``action`` makes options that win over the
    configuration file, as Horovod's own do."""
    # Keeps the lines of the group's description.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("partial collectives arguments", policy.table())
    for key, name, _, metavar, text in _ARGUMENTS:
        group.add_argument("--" + name.replace("_", "-"), action=action, help=text,
                           type=_checked(key)).metavar = metavar


def set_args_from_config(args, section, override_args):
    """Takes what the configuration file's section ``partial`` says (a dict or None) unless the
    command line said it.

    Raises:
        ValueError: the section is none, or names an unknown key, or a value and what is allowed.
    """
    known = {key: name for key, name, _, _, _ in _ARGUMENTS}
    if section is not None and not isinstance(section, dict):
        raise ValueError(f"partial: {section!r} in the configuration file must be a section: below "
                         "'partial:', a line such as 'policy: majority' for each setting")
    for key, value in (section or {}).items():
        if key not in known:
            raise ValueError(f"partial: {key!r} in the configuration file is not known: use "
                             + ", ".join(known))
        if known[key] not in override_args:
            config.resolve(**{key: value})
            setattr(args, known[key], value)


def set_env(env, args):
    """Hands the arguments to the ranks.

    Raises:
        ValueError: names the variable that has a wrong value, before a process starts.
    """
    for _, name, variable, _, _ in _ARGUMENTS:
        value = getattr(args, name, None)
        if value is not None:
            env[variable] = str(value)
    config.resolve(environment=env)


def _checked(key):
    def check(text):
        try:
            convert = (config.decimal_or_text if key == "staleness_cost"
                       else config.number_or_text)
            value = convert(text)
            config.resolve(**{key: value})
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return check
