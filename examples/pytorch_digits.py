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


def set_learning_rate(optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def train(training):
    args = training.args
    train_x, train_y, test_x, test_y = map(torch.tensor, digits.load_data())
    torch.manual_seed(training.seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum)
    partial = training.partial if PARTIAL else {}
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), **partial)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    if PARTIAL:
        # The schedule follows rounds, so that replicas stay identical.
        optimizer.register_before_round(
            lambda index: set_learning_rate(optimizer, training.learning_rate(index)))

    def accuracy():
        with torch.no_grad():
            return (model(test_x).argmax(1) == test_y).float().mean().item()

    compute = training.emulated_compute()
    batches = digits.batches(train_x, train_y, args.batch_size, training.seed, hvd.rank())
    hvd.allreduce(torch.zeros(1), name="start")
    training.start()
    for round_index in hvd.rounds(optimizer, args.rounds) if PARTIAL else range(args.rounds):
        x, y = next(batches)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        compute.step()
        if not PARTIAL:
            set_learning_rate(optimizer, training.learning_rate(round_index))
        optimizer.step()
        training.after_step(round_index + 1, accuracy)
    return training.result(accuracy, [p.detach().numpy() for p in model.parameters()],
                           optimizer.stats() if PARTIAL else {}, hvd.allgather_object)


def main():
    comparison = digits.comparison(__doc__.split("\n\n")[0], "results/pytorch_digits")
    args = comparison.parse_args()
    hvd.init()
    torch.set_num_threads(1)
    if not PARTIAL:
        args.policies = ["full"]
    comparison.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
