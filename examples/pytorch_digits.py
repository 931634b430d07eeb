"""Trains a small network on scikit-learn's images of digits, once per policy, on ranks of uneven
speed, and shows what partial rounds gain.

    horovodrun -np 4 python examples/pytorch_digits.py
    horovodrun -np 4 python examples/pytorch_digits.py --imbalance random --policies full first:2

The images are real. The compute time is EMULATED: each step sleeps in place of a GPU's work, for
the base time and what the pattern of imbalance adds. It also runs with one process, and with stock
Horovod: change the import below to `import horovod.torch as hvd`.
"""

import torch

import horovod_partial.torch as hvd

import digits

PARTIAL = hasattr(hvd, "rounds")


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def replicas_identical(model):
    """Whether all ranks have the same parameters, bit for bit."""
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).view(torch.uint8)
    root = hvd.broadcast(mine, 0, name="replica")
    return hvd.allreduce(torch.tensor([float(torch.equal(mine, root))]), name="same").item() == 1


def set_learning_rate(optimizer, args, round_index):
    for group in optimizer.param_groups:
        group["lr"] = digits.learning_rate(args, round_index)


def train(args, policy, seed, data):
    train_x, train_y, test_x, test_y = map(torch.tensor, data)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum)
    partial = digits.partial_settings(args, policy, seed) if PARTIAL else {}
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), **partial)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    if PARTIAL:
        # The schedule follows rounds, so that replicas stay identical.
        optimizer.register_before_round(lambda index: set_learning_rate(optimizer, args, index))

    compute = digits.EmulatedCompute(args, seed, hvd.rank(), hvd.size())
    share = digits.batches(train_x, train_y, args.batch_size, seed, hvd.rank(), hvd.size())
    hvd.allreduce(torch.zeros(1), name="start")
    curve = digits.Curve(args, policy, seed, hvd.rank())
    steps = 0
    for round_index in hvd.rounds(optimizer, args.rounds) if PARTIAL else range(args.rounds):
        x, y = next(share)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        compute.step()
        if not PARTIAL:
            set_learning_rate(optimizer, args, round_index)
        optimizer.step()
        steps += 1
        curve.add(round_index + 1, lambda: accuracy(model, test_x, test_y))
    seconds = curve.seconds()

    stats = optimizer.stats() if PARTIAL else {}
    total = hvd.allreduce(torch.tensor([float(steps)]), op=hvd.Sum, name="steps").item()
    staleness = hvd.allreduce(torch.tensor([stats.get("mean_staleness", 0.0)]), name="stale").item()
    largest = hvd.allreduce(torch.tensor([stats.get("max_staleness", 0)]), op=hvd.Max,
                            name="stalest").item()
    return digits.result(args, policy, seed, hvd.size(), curve, seconds,
                         accuracy(model, test_x, test_y), total * args.batch_size, stats,
                         staleness, largest, replicas_identical(model))


def main():
    args = digits.parse_args(__doc__.split("\n\n")[0], "results/pytorch_digits")
    hvd.init()
    torch.set_num_threads(1)
    if not PARTIAL:
        args.policies = ["full"]
    digits.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
