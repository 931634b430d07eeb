"""Horovod on communicators of mpi4py: all ranks, a part of them, and waits that Horovod cannot see.

    mpirun -np 4 python examples/mpi4py_init.py
    horovodrun -np 4 --mpi python examples/mpi4py_init.py --policy first:2

It fits a line, first on all ranks, then on the even and the odd ones, each with a Horovod of their
own; it needs 2 ranks or more. Nothing is emulated.
"""

import torch
from mpi4py import MPI  # begins MPI, so that it outlives hvd.shutdown()

import horovod_partial.torch as hvd

import common


def parse_args():
    parser = common.parser(__doc__.split("\n\n")[0], "results/mpi4py_init",
                           "history.json and history.png of the training on all ranks")
    parser.add_argument("--policy", default="majority", help=common.POLICIES)
    parser.add_argument("--rounds", type=common.positive, default=100, help="of each training")
    return parser.parse_args()


def fit_a_line(args, seed, history=None):
    """Of y = 3 x + 1, by the ranks that Horovod knows; returns the slope and the height."""
    model = torch.nn.Linear(1, 1)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1),
                                         model.named_parameters(), policy=args.policy)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    random = torch.Generator().manual_seed(seed)

    def at_flush(index):
        if history:
            history.add(index, slope=model.weight.item(), height=model.bias.item())

    for _ in hvd.rounds(optimizer, args.rounds, every=10, at_flush=at_flush):
        x = torch.randn(16, 1, generator=random)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), 3 * x + 1)
        loss.backward()
        optimizer.step()
    if history:
        history.finish([p.detach().numpy() for p in model.parameters()], optimizer.stats(),
                       hvd.allgather_object)
    return model.weight.item(), model.bias.item()


def main():
    args = parse_args()
    torch.set_num_threads(1)
    world = MPI.COMM_WORLD

    # All ranks. Horovod duplicates the communicator: messages of yours and of its do not mix.
    hvd.init(comm=world)
    fit_a_line(args, world.rank, common.History(args, hvd.rank(), hvd.size()))
    # While this rank waits in mpi4py, Horovod does not see that it does. `excused` says so: rounds
    # that others still need do not wait for it.
    with hvd.excused():
        world.barrier()
    hvd.shutdown()

    # Two halves, each with a Horovod of its own.
    half = world.Split(world.rank % 2, world.rank)
    hvd.init(comm=half)
    slope, height = fit_a_line(args, world.rank)
    hvd.shutdown()

    lines = world.gather((world.rank % 2, slope, height))
    if world.rank == 0:
        for name, number in (("even", 0), ("odd", 1)):
            mine = {line[1:] for line in lines if line[0] == number}
            print(f"{name} ranks: {len(mine)} different line(s): "
                  + ", ".join(f"y = {slope:.3f} x + {height:.3f}" for slope, height in mine))


if __name__ == "__main__":
    main()
