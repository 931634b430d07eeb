"""Hyperplane regression, once per policy, on ranks of which one at random is late in every step: the
first experiment of the paper on eager-SGD.

    horovodrun -np 4 python examples/pytorch_hyperplane.py
    horovodrun -np 4 python examples/pytorch_hyperplane.py --imbalance persistent --policies full first:3

The model, a single linear layer, learns the coefficients of a hyperplane from points on it, with
noise in their heights. Points are drawn, alike on every run of a seed. The compute time is EMULATED:
each step sleeps for the base time, and on one rank, drawn anew in every step, for the delay.
"""

import numpy as np
import torch

import horovod_partial.torch as hvd

import common

NOISE = 0.1  # standard deviation, where heights have 1; its square is the lowest loss there is


def points(number, coefficients, random):
    """x float32 (number, dimensions), y float32 (number, 1)."""
    x = random.standard_normal((number, len(coefficients)), np.float32)
    y = x @ coefficients + NOISE * random.standard_normal(number, np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)[:, None]


def draw(args, seed, rank, ranks):
    """This rank's share of the points to train with, and the points to test with."""
    random = np.random.default_rng(seed)
    coefficients = random.standard_normal(args.dimensions, np.float32)
    coefficients /= np.linalg.norm(coefficients)
    test = points(args.points // 8, coefficients, random)
    train = points(args.points // ranks, coefficients, np.random.default_rng([seed, rank]))
    return train, test


def train(training):
    args = training.args
    (x, y), (test_x, test_y) = draw(args, training.seed, training.rank, training.ranks)
    torch.manual_seed(training.seed)
    model = torch.nn.Linear(args.dimensions, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum)
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), **training.partial)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def before_round(index):
        # The schedule follows rounds, so that replicas stay identical.
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(index)

    optimizer.register_before_round(before_round)

    def loss():
        with torch.no_grad():
            return torch.nn.functional.mse_loss(model(test_x), test_y).item()

    compute = training.emulated_compute()
    random = torch.Generator().manual_seed(1000 * training.seed + training.rank)
    hvd.allreduce(torch.zeros(1), name="start")
    training.start()
    for _ in hvd.rounds(optimizer, args.rounds):
        chosen = torch.randint(len(x), (args.batch_size,), generator=random)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[chosen]), y[chosen]).backward()
        compute.step()
        optimizer.step()
        training.after_step(optimizer.round, loss)
    return training.result(loss, [p.detach().numpy() for p in model.parameters()],
                           optimizer.stats(), hvd.allgather_object)


def main():
    comparison = common.Comparison(
        "Hyperplane regression", __doc__.split("\n\n")[0], "results/pytorch_hyperplane",
        common.Metric("loss", 0.05), imbalance="random", batch_size=128, samples="points",
        learning_rate=0.02, momentum=0)
    add = comparison.parser.add_argument
    add("--dimensions", type=common.positive, default=1024, help="of the hyperplane; 8192 in the paper")
    add("--points", type=common.positive, default=8192,
        help="to train with, of all ranks; an eighth of it more to test with; 32768 in the paper")
    args = comparison.parse_args()
    hvd.init()
    torch.set_num_threads(1)
    if args.points < max(8, hvd.size()):
        comparison.parser.error(f"--points {args.points} leaves a rank or the test without any")
    comparison.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
