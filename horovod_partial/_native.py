"""The functions of ``csrc/glue/c_api.cc``, which are in each of Horovod's native libraries."""

import ctypes
import enum
import time
from typing import NamedTuple

from horovod.common.exceptions import HorovodInternalError


class Ask(enum.IntEnum):
    """What can be asked of a group: ``Request::Type`` in ``csrc/core/group.h``."""

    SUBMIT = 0
    FLUSH = 1
    LISTEN = 2
    SYNC = 3
    OFFER = 4
    RECEIVE = 5
    RETIRE = 6
    UNLISTEN = 7


class DType(enum.IntEnum):
    """``DType`` in ``csrc/core/spec.h``."""

    FLOAT16 = 0
    BFLOAT16 = 1
    FLOAT32 = 2
    FLOAT64 = 3


def dtype_code(what, dtype, name):
    """The DType of a framework's dtype of this name; ValueError that begins with ``what``."""
    if name.upper() not in DType.__members__:
        raise ValueError(f"{what} is of {dtype}: partial collectives take float16, bfloat16, "
                         "float32 and float64")
    return DType[name.upper()]


class Healing(enum.IntEnum):
    """``Healing`` in ``csrc/core/spec.h``."""

    NEVER = 0
    AT_FLUSHES = 1
    IN_ROUNDS = 2


class TensorSpec(NamedTuple):
    name: str
    dtype: DType
    shape: tuple


class RawRound(NamedTuple):
    """A round in an answer. ``copy(pointers)`` writes its tensors to that memory."""

    index: int
    count: int
    flush: bool
    empty: bool
    active: tuple
    copy: object


class Answer(NamedTuple):
    rounds: list
    again: bool
    heal: bool
    root: int
    differed: bool


class Change(NamedTuple):
    """Of the K of policy auto. ``round``: the first with the new one."""

    round: int
    before: int
    k: int
    why: str


class SavedGroup(NamedTuple):
    drifted: bool
    send_buffer: bytes  # empty: it holds nothing
    pending: list  # of (index, count, empty, bytes), oldest first


class _AnswerStruct(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("rounds", ctypes.c_int32),
                ("again", ctypes.c_int32), ("heal", ctypes.c_int32),
                ("root", ctypes.c_int32), ("differed", ctypes.c_int32),
                ("message_length", ctypes.c_int64), ("replica_length", ctypes.c_int64)]


class _RoundStruct(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int64), ("count", ctypes.c_int64),
                ("flush", ctypes.c_int32), ("empty", ctypes.c_int32), ("active", ctypes.c_int32)]


_OK, _INVALID, _DUPLICATE, _ABORTED = range(4)
_SAVE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int,
                         ctypes.POINTER(ctypes.c_char), ctypes.c_int64)
_TENSOR = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_int,
                           ctypes.POINTER(ctypes.c_int64))
_CHANGE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int, ctypes.c_int, ctypes.c_char_p)


def _pointers(addresses):
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)


class Library:
    """One of Horovod's native libraries, loaded with ctypes. Calls release the GIL.

    A wrong argument raises ``ValueError``; a Horovod that is not initialized, or has shut down,
    ``HorovodInternalError``.
    """

    def __init__(self, cdll):
        self._lib = cdll
        i64 = ctypes.c_int64
        for name in ("define", "ask", "poll", "wait", "wait_any", "answer", "answer_message",
                     "answer_replica", "round", "round_copy", "stats", "save",
                     "tensors", "changes"):
            self._function(name).restype = i64
        self._function("last_error").restype = ctypes.c_char_p
        self._function("wait").argtypes = [ctypes.c_uint64, ctypes.c_double]
        self.stat_names = self._read_stat_names()

    def _function(self, name):
        return getattr(self._lib, "horovod_partial_" + name)

    def _call(self, name, *args):
        result = self._function(name)(*args)
        if result < 0:
            message = self._function("last_error")().decode()
            raise ValueError(message) if result == -1 else HorovodInternalError(message)
        return result

    def _read_stat_names(self):
        names = (ctypes.c_char_p * 64)()
        count = self._function("stat_names")(names, 64)
        return [name.decode() for name in names[:count]]

    def define(self, name, tensors, settings, average, prescale=1.0, postscale=1.0,
               healing=Healing.NEVER, parts=()):
        """Keeps what this rank would announce of a group; returns the number to ``ask`` with.
        ``parts`` has how many tensors each part of a submission has; empty: it comes whole."""
        count = len(tensors)
        dims = [dim for tensor in tensors for dim in tensor.shape]
        return self._call(
            "define", name.encode(), count,
            (ctypes.c_char_p * count)(*[tensor.name.encode() for tensor in tensors]),
            (ctypes.c_int * count)(*[tensor.dtype for tensor in tensors]),
            (ctypes.c_int * count)(*[len(tensor.shape) for tensor in tensors]),
            (ctypes.c_int64 * max(len(dims), 1))(*dims),
            int(average), ctypes.c_double(prescale), ctypes.c_double(postscale),
            str(settings.policy).encode(), ctypes.c_uint64(settings.seed),
            ctypes.c_int64(settings.staleness_bound), settings.catch_up.encode(),
            ctypes.c_int64(settings.resync_every), int(healing), len(parts),
            (ctypes.c_int * max(len(parts), 1))(*parts))

    def undefine(self, spec):
        self._function("undefine")(ctypes.c_int64(spec))

    def ask(self, what, process_set_id, group, spec, addresses=(), drifted=False, digest=None,
            payload=None, first=0):
        """Hands a request to the background thread; returns its Ticket, or None for parts of a
        submission that are not its last.

        Args:
            what: an Ask.
            group: the group's name.
            spec: of ``define``; 0 for a flush of a group of which only the name is known.
            addresses: of the tensors' memory (SUBMIT), which stays as it is until the answer.
            drifted: the application's replica has gone its own way.
            digest: 16 bytes (SYNC).
            payload: bytes: the replica (OFFER), a checkpoint's send buffer (SUBMIT, FLUSH).
            first: the number of tensors that the submission's parts before these had; all of
                them stay as they are until its answer.
        """
        words = None
        if digest is not None:
            words = (ctypes.c_uint64 * 2).from_buffer_copy(digest)
        number = self._call(
            "ask", process_set_id, group.encode(), ctypes.c_int64(spec), int(what), first,
            len(addresses), _pointers(addresses), int(drifted), words, payload,
            ctypes.c_int64(len(payload) if payload is not None else 0))
        return Ticket(self, number) if number else None

    def wait_any(self, tickets, seconds):
        numbers = (ctypes.c_uint64 * len(tickets))(*[ticket.number for ticket in tickets])
        self._call("wait_any", numbers, len(tickets), ctypes.c_double(seconds))

    def stats(self, process_set_id, group):
        """A dict of the group's numbers on this rank, or None when there is no such group."""
        values = (ctypes.c_double * len(self.stat_names))()
        if not self._call("stats", process_set_id, group.encode(), values):
            return None
        return dict(zip(self.stat_names, values))

    def changes(self, process_set_id, group):
        """The Changes of K under policy auto, oldest first."""
        changes = []

        @_CHANGE
        def add(number, before, k, why):
            changes.append(Change(number, before, k, why.decode()))

        self._call("changes", process_set_id, group.encode(), add)
        return changes

    def tensors(self, process_set_id, group):
        """The TensorSpecs of a group that the ranks have registered, or None."""
        specs = []

        @_TENSOR
        def add(name, dtype, dims, shape):
            specs.append(TensorSpec(name.decode(), DType(dtype), tuple(shape[:dims])))

        return specs if self._call("tensors", process_set_id, group.encode(), add) else None

    def left(self):
        """The names of groups whose send buffer held something when Horovod shut down."""
        buffer = ctypes.create_string_buffer(1 << 16)
        self._function("left")(buffer, ctypes.c_int64(len(buffer)))
        return buffer.value.decode().split("\n")[:-1]

    def save(self, process_set_id, group):
        """What a checkpoint needs of a group, or None when there is no such group."""
        send_buffer = b""
        pending = []

        @_SAVE
        def keep(kind, index, count, empty, data, length):
            nonlocal send_buffer
            if kind == 0:
                send_buffer = ctypes.string_at(data, length)
            else:
                pending.append((index, count, bool(empty), ctypes.string_at(data, length)))

        drifted = ctypes.c_int32(0)
        if not self._call("save", process_set_id, group.encode(), ctypes.byref(drifted), keep):
            return None
        return SavedGroup(bool(drifted.value), send_buffer, pending)

    def pretend_step(self, seconds):
        """For tests: has policy auto take each further step to have lasted so long, until told
        otherwise; 0: as measured."""
        self._function("pretend_step")(ctypes.c_double(seconds))

    def enter_excused(self):
        self._function("excused")(1)

    def leave_excused(self):
        self._function("excused")(0)

    def drain(self):
        """Ends this rank: blocks until every rank has ended, or Horovod has shut down."""
        self._function("end")(1)
        while not self._function("drained")():
            time.sleep(0.005)

    def begin_anew(self):
        """After a shutdown: this rank has not ended, should Horovod be initialized again."""
        self._function("end")(0)


class Ticket:
    """A request until its answer has been read. Also a handle for ``poll`` and ``synchronize``."""

    def __init__(self, library, number):
        self._library = library
        self.number = number

    def poll(self):
        """Whether the answer is there. Until then, a rank that polled counts as waiting."""
        return bool(self._library._call("poll", ctypes.c_uint64(self.number)))

    def wait(self):
        """Blocks until the answer is there."""
        # In slices, so that Python can handle signals in between.
        while not self._library._call("wait", self.number, 1.0):
            pass

    def answer(self):
        """Waits, and returns the Answer. Read its rounds before ``close``.

        Raises:
            ValueError: the request was refused: ranks disagree, or the name is taken.
            HorovodInternalError: Horovod has shut down.
        """
        self.wait()
        number = ctypes.c_uint64(self.number)
        raw = _AnswerStruct()
        self._library._call("answer", number, ctypes.byref(raw))
        if raw.status != _OK:
            buffer = ctypes.create_string_buffer(max(raw.message_length, 1))
            self._library._call("answer_message", number, buffer)
            message = buffer.raw[:raw.message_length].decode()
            self.close()
            raise HorovodInternalError(message) if raw.status == _ABORTED else ValueError(message)
        return Answer([self._round(i) for i in range(raw.rounds)], bool(raw.again),
                      bool(raw.heal), raw.root, bool(raw.differed))

    def _round(self, i):
        number = ctypes.c_uint64(self.number)
        raw = _RoundStruct()
        self._library._call("round", number, i, ctypes.byref(raw))
        ranks = (ctypes.c_int * max(raw.active, 1))()
        nothing = ctypes.POINTER(ctypes.c_void_p)()
        self._library._call("round_copy", number, i, ranks, 0, nothing)

        def copy(addresses):
            self._library._call("round_copy", number, i, ranks, len(addresses),
                                _pointers(addresses))

        return RawRound(raw.index, raw.count, bool(raw.flush), bool(raw.empty),
                        tuple(ranks[:raw.active]), copy)

    def replica(self):
        """The bytes that a transfer brought; after ``answer``."""
        number = ctypes.c_uint64(self.number)
        raw = _AnswerStruct()
        self._library._call("answer", number, ctypes.byref(raw))
        buffer = ctypes.create_string_buffer(max(raw.replica_length, 1))
        self._library._call("answer_replica", number, buffer)
        return buffer.raw[:raw.replica_length]

    def close(self):
        self._library._function("close")(ctypes.c_uint64(self.number))
