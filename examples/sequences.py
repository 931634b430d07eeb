"""Real series of unequal length: spoken vowels and appliance recordings. No framework.

They come in the wheel of sktime, of which only the data files are read:

==================  ====================  ===============================  ========  =======
name                series (train, test)  what one is                      channels  classes
==================  ====================  ===============================  ========  =======
``JapaneseVowels``  640 (270, 370)        a vowel: 7 to 29 steps           12        9
``PLAID``           1,074 (537, 537)      an appliance's current: 100 to   1         11
                                          1,344 steps
==================  ====================  ===============================  ========  =======

Sources, as their files say: M. Kudo, J. Toyama and M. Shimbo, "Multidimensional Curve
Classification Using Passing-Through Regions" (1999); J. Gao et al., "PLAID: a public dataset of
high-resolution electrical appliance measurements for load identification research" (2014).
"""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np

NAMES = ("JapaneseVowels", "PLAID")

# Values much smaller are kept, much larger ones become their logarithm: currents reach from
# microamperes to hundreds of amperes.
KNEE = {"PLAID": 0.01}


@dataclasses.dataclass(frozen=True)
class Series:
    """Labelled series. ``x[i]`` is float32 of shape (steps of it, channels); ``y`` is int64, one
    class for each, counted from 0."""

    x: list
    y: np.ndarray

    def __len__(self):
        return len(self.x)

    @property
    def lengths(self):
        """int64: the number of steps of each."""
        return np.array([len(series) for series in self.x])


@dataclasses.dataclass(frozen=True)
class Dataset:
    name: str
    channels: int
    classes: int
    train: Series
    test: Series


def folder():
    """Where sktime's data files are. sktime itself is not imported."""
    spec = importlib.util.find_spec("sktime")
    if spec is None:
        raise ModuleNotFoundError(
            "the series come with sktime, which is not installed: pip install -r "
            "requirements/examples.txt")
    return Path(spec.submodule_search_locations[0]) / "datasets/data"


def load(name, standardise=True):
    """The ``Dataset`` of this name (see ``NAMES``).

    Args:
        standardise: whether each channel gets mean 0 and variance 1 over the training series;
            PLAID's currents by their logarithm, so to speak.

    Raises:
        ValueError: an unknown name. ModuleNotFoundError: sktime is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} is not one of {', '.join(NAMES)}")
    parts = [read(folder() / name / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    classes = {label: i for i, label in enumerate(sorted({y for _, y in sum(parts, [])}, key=int))}
    train, test = (Series([x for x, _ in part], np.array([classes[y] for _, y in part]))
                   for part in parts)
    if standardise:
        if name in KNEE:
            train, test = (Series([np.arcsinh(x / np.float32(KNEE[name])) for x in part.x], part.y)
                           for part in (train, test))
        steps = np.concatenate(train.x)
        mean, deviation = steps.mean(axis=0), steps.std(axis=0)
        train, test = (Series([(x - mean) / deviation for x in part.x], part.y)
                       for part in (train, test))
    return Dataset(name, train.x[0].shape[1], len(classes), train, test)


def read(path):
    """The series of a file in the format ``.ts``, as a list of (values, label). Values are float32
    of shape (steps, channels). A line is ``channel:channel:...:label`` with comma-separated values;
    lines that begin with # or @ say what the file holds."""
    series = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line[0] in "#@":
                continue
            *channels, label = line.split(":")
            try:
                values = np.array([channel.split(",") for channel in channels], np.float32).T
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if values.ndim != 2:
                raise ValueError(f"{path}:{number}: there is no series")
            series.append((values, label))
    return series


def framed(data, frame):
    """The ``Dataset`` with each ``frame`` steps in one, of as many times the channels; what is left
    at a series' end is filled up with zeros."""
    def joined(x):
        steps = -(-len(x) // frame)
        filled = np.zeros((steps * frame, data.channels), np.float32)
        filled[:len(x)] = x
        return filled.reshape(steps, frame * data.channels)

    train, test = (Series([joined(x) for x in part.x], part.y) for part in (data.train, data.test))
    return dataclasses.replace(data, channels=frame * data.channels, train=train, test=test)


def padded(series, chosen):
    """A batch of the series with these indices: ``x`` float32 (batch, longest, channels) with zeros
    after a series' end, ``lengths`` int64 (batch), ``y`` int64 (batch)."""
    lengths = np.array([len(series.x[i]) for i in chosen])
    x = np.zeros((len(chosen), lengths.max(), series.x[0].shape[1]), np.float32)
    for row, i in zip(x, chosen):
        row[:len(series.x[i])] = series.x[i]
    return x, lengths, series.y[np.asarray(chosen)]


def batches(series, batch_size, seed=0, rank=0, ranks=1, bucketed=True):
    """This rank's endless share of the series as ``padded`` batches, shuffled anew in every epoch.

    Args:
        series: ``Series`` of at least ``batch_size`` for each rank.
        seed, rank, ranks: ranks have disjoint shares, and an order of their own.
        bucketed: whether series of similar length come together, as is usual: it wastes no time on
            padding, but makes batches, and thus ranks, uneven. Else batches are random.
    """
    mine = np.arange(rank, len(series), ranks)
    if len(mine) < batch_size:
        raise ValueError(f"batch_size={batch_size} is more than the {len(mine)} series of a rank")
    random = np.random.default_rng([seed, rank])
    lengths = series.lengths
    while True:
        order = random.permutation(mine)
        order = order[:len(order) // batch_size * batch_size]
        if bucketed:
            order = order[np.argsort(lengths[order], kind="stable")]
        for chosen in random.permutation(order.reshape(-1, batch_size)):
            yield padded(series, chosen)
