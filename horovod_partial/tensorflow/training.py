"""A TrainingGroup in TensorFlow: its rounds as operations, its replica as variables."""

import hashlib
import weakref

import numpy as np
import tensorflow as tf

from horovod.tensorflow.util import tf_variable

from horovod_partial import keras3
from horovod_partial._native import Healing
from horovod_partial.groups import TrainingGroup
from horovod_partial.tensorflow import host
from horovod_partial.tensorflow.ops import partial_groups


class Training:
    """One model's gradients and how they are communicated.

    Args:
        name: the group's.
        healing: when the replicas are healed.
        compression, sparse_as_dense, op, predivide, process_set, settings: as given by the user.
    """

    def __init__(self, name, healing, compression, sparse_as_dense, op, predivide, process_set,
                 settings):
        self._variables = []  # weak: gradients keep no model alive
        self._state = list
        self._update = None
        self._session = None
        self._fed = None  # placeholders of gradients, and the operation that applies them
        self._compression = compression
        self._sparse_as_dense = sparse_as_dense
        self._sums = healing == Healing.AT_FLUSHES
        self._answer = None  # of the submission under way
        self._rounds = []  # of it: (rounds that it counts for, RawRound)
        self._left = 0  # rounds of it that do not count as applied yet
        self._values = None  # of the replica, while a graph heals
        self.group = TrainingGroup(partial_groups, self, name, process_set, settings, op,
                                   predivide, healing)

    def build(self, variables):
        """Names the variables whose gradients are the group's tensors, in this order."""
        self._variables = [weakref.ref(tf_variable(v)) for v in variables]
        with tf.init_scope():
            compressed, self._contexts = zip(*[
                self._compression.compress(tf.zeros([], v.dtype)) for v in self.variables])
        self._dtypes = [c.dtype for c in compressed]

    @property
    def variables(self):
        return [variable() for variable in self._variables]

    def set_model(self, update, state, session=None):
        """Says what a flush updates.

        Args:
            update: ``update(gradients)`` makes one update, or an operation that does.
            state: a function that gives the other variables of the replica, an optimizer's.
            session: where the variables live, of a graph of TensorFlow 1.
        """
        self._update, self._state, self._session = update, state, session

    def prepare_session(self, update):
        """Adds what a flush runs to the graph of TensorFlow 1, which may be final later on."""
        if self._fed is None:
            fed = [tf.compat.v1.placeholder(dtype, v.shape)
                   for dtype, v in zip(self._dtypes, self.variables)]
            self._fed = fed, update(self._decompressed(fed))

    # ------------------------------------------------- operations, eager or part of a graph

    def submit(self, gradients):
        """Submits gradients, ``None`` for zeros, and waits for rounds: int32, how many there are
        to ``fetch()``, each once and in order."""
        host.refuse_xla()
        contributed = []
        for gradient, variable in zip(gradients, self.variables):
            # Another rank may have computed it.
            gradient = (tf.zeros(variable.shape, variable.dtype) if gradient is None else
                        keras3.dense(gradient, variable, self._sparse_as_dense))
            compressed, _ = self._compression.compress(tf.cast(gradient, variable.dtype))
            contributed.append(compressed)
        count, = host.call(self._submit, contributed, [tf.int32], [[]])
        return count

    def fetch(self, index):
        """The reduced gradients of a round, which counts as applied from now on."""
        reduced = host.call(self._fetch, [index], self._dtypes, [v.shape for v in self.variables])
        return self._decompressed(reduced)

    def finish(self):
        """After the last ``fetch()``: whether all ranks heal now, and from which."""
        return host.call(self._finish, [], [tf.bool, tf.int32], [[], []])

    def heal(self, root):
        """All ranks take over the replica of ``root``."""
        replica = self._replica_variables()
        values = host.call(self._heal, [root, *[v.read_value() for v in replica]],
                           [v.dtype for v in replica], [v.shape for v in replica])
        for variable, value in zip(replica, values):
            variable.assign(value)

    def _decompressed(self, reduced):
        return [self._compression.decompress(value, context)
                for value, context in zip(reduced, self._contexts)]

    # -------------------------------------------------------------- what they do on the host

    def _submit(self, *gradients):
        self.give_up()
        gradients = host.arrays(gradients)
        self.group.submit(host.addresses(gradients), gradients)
        self._take_answer()
        self.group.drifted |= self._sums and len(self._rounds) > 1
        return [np.int32(len(self._rounds))]

    def _take_answer(self):
        self._answer = self.group.answer()
        counts = 0
        self._rounds = []
        for raw in self._answer.rounds:
            counts += raw.count
            if not raw.empty:
                self._rounds.append((counts, raw))
                counts = 0
        self._left = sum(raw.count for raw in self._answer.rounds)

    def give_up(self):
        """What an interrupted step has left counts as applied, which it may not have been."""
        if self.group.under_way is None:
            return
        if self._answer is None:
            self._take_answer()
        self._finish()
        self.group.drifted = True

    def _fetch(self, index):
        counts, raw = self._rounds[index]
        self._advance(counts)
        results = self._read(raw)
        self.group.run_before_round()
        return results

    def _finish(self):
        answer = self._answer
        self._answer, self._rounds = None, []
        self._advance(self._left)
        self.group.finish()
        return [np.bool_(answer.heal), np.int32(answer.root)]

    def _advance(self, count):
        self.group.advance(count)
        self._left -= count

    def _heal(self, root, *values):
        self._values = values
        try:
            self.group.transfer(int(root))
            return self._values
        finally:
            self._values = None

    def _read(self, raw):
        return host.read(raw, self._dtypes, [v.shape for v in self.variables])

    # ------------------------------------------------------- the replica of its TrainingGroup

    def _replica_variables(self):
        return self.variables + self._state()

    def _replica_values(self):
        replica = self._replica_variables()
        if self._session is not None:
            return self._session.run(replica)
        return [variable.numpy() for variable in replica]

    def group_specs(self):
        if not self.variables:
            raise ValueError("the optimizer does not know its variables yet: call "
                             "optimizer.build(model.trainable_variables) first")
        # By number: two runs of a program may give layers other names.
        return [host.spec(str(i), dtype, v.shape, f"variable {v.name!r}")
                for i, (v, dtype) in enumerate(zip(self.variables, self._dtypes))]

    def apply_round(self, raw):
        reduced = self._read(raw)
        self.group.run_before_round()
        if self._session is None:
            self._update(self._decompressed([tf.convert_to_tensor(value) for value in reduced]))
        else:
            fed, operation = self._fed
            self._session.run(operation, dict(zip(fed, reduced)))

    def digest(self):
        fingerprint = hashlib.blake2b(str(self.group.round).encode(), digest_size=16)
        for value in self._replica_values():
            fingerprint.update(value.tobytes())
        return fingerprint.digest()

    def dump(self):
        values = self._replica_values() if self._values is None else self._values
        return np.int64(self.group.round).tobytes() + b"".join(v.tobytes() for v in values)

    def load(self, data):
        self.group.round = int(np.frombuffer(data, np.int64, 1)[0])
        replica = self._replica_variables()
        values = []
        start = 8
        for variable in replica:
            dtype = np.dtype(variable.dtype.as_numpy_dtype)
            count = int(np.prod(variable.shape))
            values.append(np.frombuffer(data, dtype, count, start).reshape(variable.shape))
            start += count * dtype.itemsize
        if self._values is not None:
            self._values = values
            return
        for variable, value in zip(replica, values):
            if self._session is None:
                variable.assign(value)
            else:
                variable.load(value, self._session)
