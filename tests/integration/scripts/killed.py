"""Three ranks, of which one kills itself (or fails, or exits) at a scripted place while the others
stand at scripted places.

    killed.py tensorflow|torch DIRECTORY VICTIM DEATH PLACE PLACE PLACE

The file DIRECTORY/go says that all survivors are in place (one for each rank; the victim's own is not
used), DIRECTORY/dead that the victim is gone. A survivor that gets its error says "noticed". When
DIRECTORY/noticed says that all have, it tries everything else as well; then rank 1 exits with an
error, 7, and the others as if nothing were.
"""

import os
import pathlib
import resource
import signal
import sys
import threading
import time

from horovod.common.exceptions import HorovodInternalError

from horovod_partial import _native, groups

framework, directory, victim, death, *places = sys.argv[1:]
directory, victim = pathlib.Path(directory), int(victim)

LARGE = 1 << 22  # elements: a round of them takes longer than noticing that a part has been sent


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def until(name):
    while not (directory / name).exists():
        time.sleep(0.001)


def sent():
    """The bytes that this process has written."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar"))


def most_resident():
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def die_once_more(measure):
    """When the measure has grown by what only something large can be."""
    start = measure()

    def watch():
        while measure() < start + LARGE:
            pass
        die()

    threading.Thread(target=watch).start()


elements = LARGE if "middle" in death else 4
settings = {"policy": "solo", "staleness_bound": 4}

if framework == "torch":
    import torch

    import horovod_partial.torch as hvd

    Gone = HorovodInternalError
    weight = torch.nn.Parameter(torch.zeros(elements))
    bias = torch.nn.Parameter(torch.zeros(4))

    def make():
        return hvd.DistributedOptimizer(
            torch.optim.SGD([weight, bias], lr=1.0, momentum=0.9), op=hvd.Sum,
            bucket_cap_mb=1e-6 if "buckets" in death else None, **settings)

    def backward():
        optimizer.zero_grad()
        loss = (weight * 2.0**hvd.rank()).sum()
        (loss + (bias * 2.0**hvd.rank()).sum()).backward()  # the bias comes first

    def step():
        backward()
        optimizer.step()

    def one():
        return torch.ones(4)
else:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

    import keras
    import tensorflow as tf

    import horovod_partial.tensorflow as hvd

    Gone = (HorovodInternalError, tf.errors.OpError)  # outside and inside of a graph
    weight, bias = (keras.Variable(tf.zeros(n)) for n in (elements, 4))

    def make():
        made = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0, momentum=0.9), op=hvd.Sum,
                                        **settings)
        made.build([weight, bias])
        return made

    @tf.function
    def step():
        code = tf.constant(2.0**hvd.rank())
        optimizer.apply([tf.fill(v.shape, code) for v in (weight, bias)], [weight, bias])

    def one():
        return tf.ones(4)


def polled():
    handle = hvd.allreduce_async(one(), name="polled")
    while not hvd.poll(handle):
        pass
    hvd.synchronize(handle)


def polled_round():
    handle = hvd.partial_allreduce_async([one()], "polled round", policy="full")
    while not hvd.poll(handle):
        pass
    hvd.synchronize(handle)


def steps():
    while True:
        step()


def flushes():
    while True:
        optimizer.flush()


def drifted_flush():
    optimizer.mark_drifted()
    flushes()


def excused():
    with hvd.excused():
        until("dead")
    step()


def computing():
    until("dead")
    step()


# Where survivors are. None of these ends by itself as long as the victim does not take part.
PLACES = {
    "step": steps,
    "round": lambda: hvd.partial_allreduce([one()], "round", policy="full"),
    "polled round": polled_round,
    "flush": flushes,
    "drifted flush": drifted_flush,
    "join": hvd.join,
    "synchronous": lambda: hvd.allreduce(one(), name="synchronous"),
    "polled": polled,
    "in a process set": lambda: hvd.allreduce(one(), name="in a set", process_set=two),
    "adding a process set": lambda: hvd.add_process_set([0, 2]),
    "removing a process set": lambda: hvd.remove_process_set(two),
    "excused": excused,
    "computing": computing,
    "draining": lambda: sys.exit(0),
}


def dies_in_wait():
    """From now on, waiting for an answer is death."""
    _native.Ticket.wait = die


def submitting():
    dies_in_wait()
    step()


def before_a_round():
    optimizer.register_before_round(die)
    step()


def raising_before_a_round():
    def fail(_):
        raise RuntimeError("a bug in a hook")

    optimizer.register_before_round(fail)
    step()


def in_the_middle_of_a_round():
    die_once_more(sent)
    step()
    threading.Event().wait()


def until_the_first_bucket_is_reduced():
    stats = optimizer.stats()
    # After rounds of the others alone, buckets wait for the last one.
    while stats["parts"] % 2 == 0 and stats["pending"] == 0:
        stats = optimizer.stats()


def between_two_buckets():
    def die_when_the_first_is_reduced(gradient):
        until_the_first_bucket_is_reduced()
        die()

    weight.register_hook(die_when_the_first_is_reduced)
    step()


def exiting_with_buckets_handed_in():
    backward()
    until_the_first_bucket_is_reduced()
    sys.exit(3)


def flushing():
    dies_in_wait()
    optimizer.flush()


def comparing():
    groups.TrainingGroup._compare = die
    optimizer.flush()


def before_a_transfer():
    groups.TrainingGroup._transfer = die
    optimizer.flush()


def in_the_middle_of_a_transfer():
    transfer = groups.TrainingGroup._transfer

    def transfer_and_die(self, root):
        die_once_more(sent if root == rank else most_resident)
        yield from transfer(self, root)
        threading.Event().wait()

    groups.TrainingGroup._transfer = transfer_and_die
    optimizer.flush()


def joining():
    _native.Library.wait_any = die
    hvd.join()


def in_excused():
    with hvd.excused():
        die()


def in_a_synchronous_operation():
    hvd.allreduce_async(one(), name="synchronous")
    die()


def registering():
    dies_in_wait()
    hvd.partial_allreduce([one()], "new")


def draining():
    _native.time = type("", (), {"sleep": die})
    sys.exit(0)


DEATHS = {
    "computing": die,
    "submitting": submitting,
    "before a round": before_a_round,
    "raising before a round": raising_before_a_round,
    "in the middle of a round": in_the_middle_of_a_round,
    "between two buckets": between_two_buckets,
    "exiting with buckets handed in": exiting_with_buckets_handed_in,
    "flushing": flushing,
    "comparing": comparing,
    "before a transfer": before_a_transfer,
    "in the middle of a transfer": in_the_middle_of_a_transfer,
    "joining": joining,
    "excused": in_excused,
    "in a synchronous operation": in_a_synchronous_operation,
    "registering": registering,
    "draining": draining,
}

os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
hvd.init()
rank = hvd.rank()
if any("process set" in place for place in places):
    two = hvd.add_process_set(sorted({victim, (victim + 1) % 3}))
optimizer = make()
optimizer.flush()
if framework == "tensorflow":
    step.get_concrete_function()  # tracing may take seconds
if rank == victim:
    until("go")
    DEATHS[death]()
    raise AssertionError(f"rank {rank} is still alive")
print(f"rank {rank} is in place", flush=True)
try:
    PLACES[places[rank]]()
    raise AssertionError(f"rank {rank}: no error in {places[rank]}")
except Gone as error:
    assert "Horovod" in type(error).__name__ + str(error), error
    print(f"rank {rank} noticed", flush=True)
until("noticed")  # by all: none may owe it to the end of another survivor
for place in ("step", "round", "flush", "join", "synchronous"):
    try:
        PLACES[place]()
        raise AssertionError(f"rank {rank}: no error in {place} after that")
    except Gone as error:
        assert "Horovod" in type(error).__name__ + str(error), error
sys.exit(7 if rank == 1 else 0)
