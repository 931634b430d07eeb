"""`communicators.py MODULE`, on 3 ranks of mpirun: Horovod on communicators of mpi4py, on lists of ranks,
and with process sets of both. In each, every rank submits 10 * 2**(its rank in the world) gradients of
1, so that the weights tell who trained together."""

import importlib
import sys

from mpi4py import MPI
from trainer import Trainer

module = sys.argv[1]
hvd = importlib.import_module(module)
world = MPI.COMM_WORLD
assert world.size == 3
# {0, 1} and {2}; the first has its ranks in reverse order.
half = world.Split(world.rank // 2, -world.rank)
partners = [0, 1] if world.rank < 2 else [2]


def train(members, **settings):
    """Of these ranks of the world, and nobody else."""
    trainer = Trainer(module, **{"policy": "majority", **settings})
    for _ in range(10 * 2**world.rank):
        trainer.step()
    trainer.optimizer.flush()
    assert -trainer.weight() == sum(10 * 2**rank for rank in members), (members, trainer.weight())
    return trainer


def world_as_a_whole():
    hvd.init(comm=world)
    assert (hvd.rank(), hvd.size()) == (world.rank, 3)
    trainer = train([0, 1, 2], policy="quorum:2")
    if world.rank == 0:
        trainer.step()  # needs another rank, and all wait for this one where Horovod cannot see it
    with hvd.excused():
        world.barrier()
    trainer.optimizer.flush()
    assert -trainer.weight() == 71, trainer.weight()


def halves():
    hvd.init(comm=half)
    assert (hvd.rank(), hvd.size()) == (half.rank, half.size)
    train(partners)
    gathered = hvd.allgather_object(world.rank)
    assert gathered == partners[::-1], gathered


def ranks_as_a_list():
    hvd.init(comm=partners)
    assert (hvd.rank(), hvd.size()) == (partners.index(world.rank), len(partners))
    train(partners)


def process_sets_by_communicator():
    mine = hvd.ProcessSet(half)
    hvd.init(comm=world, process_sets=[mine])
    assert hvd.size() == 3 and mine.ranks == partners, mine
    train(partners, process_set=mine)
    train([0, 1, 2])


def process_sets_by_ranks():
    sets = [hvd.ProcessSet([0, 1]), hvd.ProcessSet([2])]
    hvd.init(process_sets=sets)
    mine, = (candidate for candidate in sets if candidate.included())
    assert hvd.size() == 3 and mine.ranks == partners
    train(partners, process_set=mine)
    train([0, 1, 2])


for form in (world_as_a_whole, halves, ranks_as_a_list, process_sets_by_communicator,
             process_sets_by_ranks):
    form()
    hvd.shutdown()
    world.barrier()
print(f"rank {world.rank} was well on {MPI.get_vendor()}", flush=True)
