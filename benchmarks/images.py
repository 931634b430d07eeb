"""ResNet-20 on images with severe skew: accuracy over time per policy.

This is the eager-SGD paper's CIFAR-10 case. ResNet-20 really trains on every rank; a step then
sleeps up to base time and a skew: in step s, rank i takes ((i + s) mod ranks + 1) / ranks of `skew`
longer (EMULATED), so that all ranks are uneven in every step and none is slow for good.

As in `sequences`, each policy has half as many rounds again as stock.

Images are CIFAR-10 from --cifar10, the folder `cifar-10-batches-py` of its Python version, where
that is given; else scikit-learn's 8 x 8 digits, enlarged to 32 x 32. The figure's title says
which."""

import pickle
from pathlib import Path

import numpy as np

from benchmarks import common, sequences, training

TITLE = "ResNet-20 on images"
STOCK = training.STOCK
TESTS = 256  # images of the test set


def add_options(parser):
    parser.add_argument("--np", type=int, default=4, help="ranks (default 4)")
    parser.add_argument("--policies", nargs="+", default=None,
                        help="beside stock (default solo majority first:3; short: majority)")
    parser.add_argument("--seeds", type=common.positive(int), default=None,
                        help="trainings of each (default 2; short 1)")
    parser.add_argument("--rounds", type=common.positive(int), default=None,
                        help="of stock's training (default 80; short 20)")
    parser.add_argument("--base-ms", type=common.positive(float), default=200,
                        help="emulated time of a step (default 200)")
    parser.add_argument("--skew-ms", type=common.positive(float), default=400,
                        help="what the slowest rank of a step takes longer (default 400)")
    parser.add_argument("--batch", type=common.positive(int), default=8,
                        help="images per rank and step (default 8)")
    parser.add_argument("--cifar10", type=Path, default=None, help="folder with CIFAR-10")


def cifar10(folder):
    """(images, labels) to train and to test with: float32 (n, 3, 32, 32) in 0..1 and int64."""
    def read(name):
        with open(Path(folder) / name, "rb") as file:
            batch = pickle.load(file, encoding="bytes")
        return (batch[b"data"].reshape(-1, 3, 32, 32).astype(np.float32) / 255,
                np.array(batch[b"labels"], np.int64))

    parts = [read(f"data_batch_{i}") for i in range(1, 6)]
    return (tuple(np.concatenate(each) for each in zip(*parts)), read("test_batch"))


def digits():
    """The same of scikit-learn's digits, enlarged."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    x = x.expand(-1, 3, -1, -1).numpy()
    x, test_x, y, test_y = train_test_split(x, y.astype(np.int64), test_size=0.25, random_state=0,
                                            stratify=y)
    return (x, y), (test_x, test_y)


def resnet20(classes=10):
    """He et al., 2015, section 4.2: 3 x 3 blocks of 16, 32 and 64 channels, shortcuts without
    parameters."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
                nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
                nn.BatchNorm2d(outputs))
            self.stride, self.more = stride, outputs - inputs

        def forward(self, x):
            past = x[:, :, ::self.stride, ::self.stride]
            past = nn.functional.pad(past, (0, 0, 0, 0, 0, self.more))
            return torch.relu(self.body(x) + past)

    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs in (16, 32, 64):
        for block in range(3):
            layers.append(Block(inputs, outputs, 2 if block == 0 and outputs > 16 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class Task:
    """See training.py."""

    def __init__(self, rank, size, seed, batch, rounds, base, skew, folder):
        import torch

        self.torch, self.batch, self.rounds = torch, batch, rounds
        self.base, self.skew, self.rank, self.size, self.steps = base, skew, rank, size, 0
        (x, y), (test_x, test_y) = digits() if folder is None else cifar10(folder)
        # Copies: views would keep all images.
        self.x = torch.from_numpy(x[rank::size].copy())
        self.y = torch.from_numpy(y[rank::size].copy())
        chosen = np.random.default_rng(0).permutation(len(test_y))[:TESTS]
        self.test = torch.from_numpy(test_x[chosen]), torch.from_numpy(test_y[chosen])
        self.random = np.random.default_rng([seed, rank])
        torch.manual_seed(seed)
        self.model = resnet20()

    def optimizer(self, parameters, rate):
        return self.torch.optim.SGD(parameters, lr=rate, momentum=0.9)

    def rate(self, round_index):
        return 0.05 * (1 - 0.9 * min(round_index / self.rounds, 1))

    def loss(self):
        chosen = self.torch.from_numpy(self.random.choice(len(self.y), self.batch, replace=False))
        return self.torch.nn.functional.cross_entropy(self.model(self.x[chosen]), self.y[chosen])

    def seconds(self):
        share = ((self.rank + self.steps) % self.size + 1) / self.size
        self.steps += 1
        return self.base + share * self.skew

    def score(self, model):
        x, y = self.test
        model.eval()
        with self.torch.no_grad():
            right = (model(x).argmax(1) == y).float().mean().item()
        model.train()
        return right


def run(args):
    from benchmarks.jobs import Jobs

    common.settle_defaults(args, seeds=(2, 1), rounds=(80, 20),
                           policies=(["solo", "majority", "first:3"], ["majority"]))
    ways = [STOCK, *args.policies]
    options = {"batch": args.batch, "rounds": args.rounds, "base": args.base_ms / 1000,
               "skew": args.skew_ms / 1000,
               "folder": str(args.cifar10) if args.cifar10 else None}
    runs = {how: [] for how in ways}
    with Jobs() as jobs, common.progress(TITLE, args.seeds * len(ways)) as advance:
        jobs.start("stock", "stock", args.np).start("ours", "ours", args.np)
        for seed in range(args.seed, args.seed + args.seeds):
            for how in ways:
                ranks = training.train(jobs, "stock" if how == STOCK else "ours", __name__, how,
                                       seed, options, args.rounds, max(args.rounds // 20, 1))
                runs[how].append(training.compact(ranks))
                advance(f"{how}, seed {seed}")
    name = "scikit-learn's digits, enlarged" if args.cifar10 is None else "CIFAR-10"
    return {"np": args.np, "base_ms": args.base_ms, "skew_ms": args.skew_ms, "images": name,
            "cases": {name: runs}, "tests": {name: TESTS}}


def criteria(result):
    return []


def tell(result):
    data = result["data"]
    rows = [[row["way"], common.show_spread(row["whole"]),
             "-" if row["seconds"] is None else common.show_spread(row["seconds"]),
             common.show_ratio(row["ratio"]),
             f"{row['final']['median']:.1%}", f"{row['active']:.2f}", f"{row['staleness']:.2f}",
             f"{row['over']:.0%}"] for row in sequences.summarise(data)]
    return [f"{data['np']} ranks on {data['images']}; base {data['base_ms']:g} ms and a skew of up "
            f"to {data['skew_ms']:g} ms, different in every step (emulated). The target is what "
            f"stock ends with, per seed, less the standard error of an accuracy on the {TESTS} "
            "images of the test set that are scored; in the ratio, a seed that does not reach it counts "
            "as infinitely slow.", "",
            *common.markdown_table(
                ["way", "all rounds [s]", "time to target [s]", "this / stock [95 %]",
                 "final accuracy", "active ranks", "staleness [rounds]",
                 "steps longer than emulated"], rows)]


def draw(result):
    data = result["data"]
    return sequences.draw_curves(data["cases"], f"ResNet-20 on {data['images']}: {data['np']} "
                                 f"ranks, skew up to {data['skew_ms']:g} ms (emulated)")
