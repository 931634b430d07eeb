"""What the modules for PyTorch and for TensorFlow share: names in use, requests to the background
thread, and what becomes of their answers. No framework's tensors here, and no decisions: rounds,
lateness and heals come from the core."""

import collections
import contextlib
import gc
import hashlib
import itertools
import os
import struct
import threading
import warnings
import weakref
from typing import NamedTuple

from horovod.common.exceptions import HorovodInternalError
from horovod.common.process_sets import ProcessSet

from horovod_partial import _native, config, lifecycle
from horovod_partial._native import Ask, Healing
from horovod_partial.participation import Journal, summary

_PLAIN = "partial_allreduce"
# What the background thread may still read, by ticket, whatever becomes of the application.
_in_use = {}
_SEAL = struct.Struct("<Q16s")  # before a replica on its way: its bytes, and their digest


class Round(NamedTuple):
    """One round of a group, or several in one.

    Attributes:
        index: the number of the (newest) round.
        tensors: the reduced tensors, in the order, shapes and dtypes given; the caller's own.
        active: the ranks (of the job, not of the process set) that were active in that round,
            ascending; empty for a flush.
        count: how many rounds it stands for: more than 1 after merging, and under
            ``catch_up='sum'`` and ``'latest'``.
    """

    index: int
    tensors: list
    active: tuple
    count: int


class Names:
    """The names of groups in use in this process, each with who uses it."""

    def __init__(self):
        # A garbage collection inside it may release the name of another optimizer.
        self._lock = threading.RLock()
        self._users = {}

    def claim(self, name, user):
        """Takes a name for ``user``; ValueError when somebody else has it."""
        self._require(name, user, lambda: self._users.setdefault(name, user))

    def check(self, name, user):
        """ValueError when somebody else than ``user`` has the name."""
        self._require(name, user, lambda: self._users.get(name, user))

    def _require(self, name, user, look_up):
        with self._lock:
            owner = look_up()
        if owner != user:
            # An optimizer that nobody has any longer may not have been collected yet.
            gc.collect()
            with self._lock:
                owner = look_up()
        if owner != user:
            raise ValueError(f"name={name!r} is in use by {owner}: choose another name")

    def known(self, name):
        return name in self._users

    def release(self, name):
        with self._lock:
            self._users.pop(name, None)

    def release_all(self, user):
        with self._lock:
            for name in [name for name, owner in self._users.items() if owner == user]:
                del self._users[name]


def check_process_set(process_set):
    if not isinstance(process_set, ProcessSet):
        raise ValueError(f"process_set={process_set!r} is not a hvd.ProcessSet")


def number_of(process_set):
    """The number of a process set; ValueError when it has none."""
    check_process_set(process_set)
    number = process_set.process_set_id
    if number is None:
        raise ValueError(f"process_set={process_set} has not been added, or has been removed")
    return number


def ranks_of(process_set, members):
    """The ranks, in the job, of these members of a process set."""
    return tuple(process_set.ranks[member] for member in members)


def check_name(name):
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r} must be a string that is not empty")


class Groups:
    """The partial groups of one framework in this process.

    Args:
        framework: its name, as its patched ``hvd.join()`` gives it to ``lifecycle``.
        basics: Horovod's ``HorovodBasics`` of that framework.
    """

    def __init__(self, framework, basics):
        self.library = _native.Library(basics.MPI_LIB_CTYPES)
        self.names = Names()
        self.basics = basics
        self._numbers = itertools.count()
        # (process set, name) -> (what it was defined from, the definition's number)
        self._definitions = {}
        self._submitted = collections.Counter()  # since the last flush, by name
        self._served = weakref.WeakSet()  # TrainingGroups
        self.training = weakref.WeakSet()
        self._gone = collections.deque(maxlen=3)  # statistics of training groups that have ended
        lifecycle.add_join_service(framework, self._join_service)
        lifecycle.add_renewal(basics, self._renew)
        lifecycle.add_summary(basics, self._summaries)

    def check_op(self, op):
        """ValueError or NotImplementedError unless ``op`` is Average or Sum."""
        if op == self.basics.Adasum:
            raise NotImplementedError("op=Adasum has no partial form: use hvd.Average or hvd.Sum")
        if op not in (self.basics.Average, self.basics.Sum):
            raise ValueError(f"op={op!r} is not supported: use hvd.Average or hvd.Sum")

    def check_scaling(self, op, gradient_predivide_factor):
        """``check_op``, and ValueError unless the factor fits the op."""
        self.check_op(op)
        if gradient_predivide_factor != 1.0 and op != self.basics.Average:
            raise ValueError("gradient_predivide_factor not supported with op != Average")
        if gradient_predivide_factor <= 0:
            raise ValueError(f"gradient_predivide_factor={gradient_predivide_factor!r} must be "
                             "> 0")

    def name_for_optimizer(self, name):
        if name is None:
            return f"optimizer.{next(self._numbers)}"
        check_name(name)
        return name

    # ------------------------------------------------------------------ partial_allreduce

    def define(self, name, specs, settings, op, process_set):
        """The definition of a group of ``partial_allreduce``: a number for ``Library.ask``."""
        key = number_of(process_set), name
        if not process_set.included():
            raise ValueError(f"process_set={process_set}: this rank is not in it")
        self.names.check(name, _PLAIN)
        wanted = (specs, settings, op, process_set.size())
        known = self._definitions.get(key)
        if known is None or known[0] != wanted:
            number = self.library.define(name, specs, settings.limited_to(process_set.size()),
                                         op == self.basics.Average)
            # Not before: a definition that cannot be takes no name.
            self.names.claim(name, _PLAIN)
            if known is not None:
                self.library.undefine(known[1])
            self._definitions[key] = known = (wanted, number)
        return known[1]

    def submit(self, name, definition, process_set, addresses):
        """Submits to a group of ``partial_allreduce``; returns the Ticket."""
        ticket = self.library.ask(Ask.SUBMIT, number_of(process_set), name, definition, addresses)
        self._submitted[name] += 1
        return ticket

    def answer(self, ticket, name, process_set):
        """The Answer to a request. When it was refused and there is no group of this name (any
        longer), the name is free again."""
        try:
            return ticket.answer()
        except ValueError:
            with contextlib.suppress(HorovodInternalError, ValueError):
                self._forget_unless_there(name, number_of(process_set))
            raise

    def _forget_unless_there(self, name, set_id):
        if self.library.stats(set_id, name) is not None:
            return
        known = self._definitions.pop((set_id, name), None)
        if known is None:
            return
        self.library.undefine(known[1])
        if all(name != other for _, other in self._definitions):
            self._submitted.pop(name, None)
            self.names.release(name)

    def flush(self, name, process_set, read):
        """Flushes a group of ``partial_allreduce``; returns what ``read(raw, specs)`` makes of
        each round. ``specs`` are those of the group's tensors."""
        check_name(name)
        set_id = number_of(process_set)
        # Not claimed before a rank has turned out to know it.
        self.names.check(name, _PLAIN)
        known = self._definitions.get((set_id, name))
        rounds = []
        while True:
            ticket = self.library.ask(Ask.FLUSH, set_id, name, known[1] if known else 0)
            answer = self.answer(ticket, name, process_set)
            self.names.claim(name, _PLAIN)
            specs = self.library.tensors(set_id, name)
            rounds += [read(raw, specs) for raw in answer.rounds]
            ticket.close()
            if not answer.again:
                self._submitted.pop(name, None)
                return rounds

    # ------------------------------------------------------------------------ for all groups

    def stats(self, name, process_set, journal=None):
        """What is behind ``hvd.partial_stats``; zeros before the group's first round."""
        set_id = number_of(process_set)
        member = process_set.included()
        raw = self.library.stats(set_id, name) if member else None
        changes = self.library.changes(set_id, name) if raw is not None else []
        if raw is None:
            raw = dict.fromkeys(self.library.stat_names, 0.0)
        wait_seconds = raw.pop("wait_seconds")
        active_sum = raw.pop("active_sum")
        staleness_sum = raw.pop("staleness_sum")
        staleness_count = raw.pop("staleness_count")
        stats = {key: int(value) for key, value in raw.items()}
        counted = stats["rounds"] - stats["flushes"]
        stats["holds"] = bool(stats["holds"])
        stats["k"] = stats["k"] or None
        stats["k_changes"] = [change._asdict() for change in changes]
        stats["submissions"] = int(staleness_count)
        stats["mean_active"] = active_sum / counted if counted else 0.0
        stats["mean_staleness"] = staleness_sum / staleness_count if staleness_count else 0.0
        stats["wait_seconds"] = wait_seconds
        stats.update(name=name, rank=process_set.rank() if member else None,
                     size=len(process_set.ranks))
        return {**stats, **journal.stats()} if journal else stats

    def partial_stats(self, name, process_set):
        """What happened in a group so far, as this rank saw it. No other rank is asked.

        JSON of it, of each rank or in a list of all ranks', is what ``python -m
        horovod_partial.report`` reads:

        .. code-block:: python

            stats = hvd.allgather_object(hvd.partial_stats(name))
            if hvd.rank() == 0:
                json.dump(stats, open("stats.json", "w"))

        Returns:
            A dict: ``name``, ``rank`` and ``size`` (in the process set); ``rounds`` (executed,
            flushes included), ``flushes``; ``fresh``, ``stale`` and ``null`` (this rank's
            contributions), ``submissions``, ``late`` (those that found pending
            rounds), ``merged`` (rounds merged beyond the staleness bound), ``heals``, ``pending``,
            ``mean_active`` (ranks per round, flushes not counted), ``mean_staleness`` and
            ``max_staleness`` (pending rounds that submissions found), ``holds`` (whether the send
            buffer holds something), ``parts`` (reduced, one after the other: as many as rounds,
            unless rounds overlap with backward), ``cut_short`` (submissions that missed the end of
            a round that they were in, because this rank waited for others before the last part)
            and ``wait_seconds`` (blocked on submissions, in total).

            Of policy ``auto``, ``k``: the ranks that have to be ready now, at present (else None),
            and ``k_changes``: a list of dicts, oldest first: ``round`` (the first with the new
            number), ``before``, ``k`` and ``why``. The same on all ranks.

            Of an optimizer's group also ``round`` (rounds applied), ``policy``,
            ``staleness_histogram`` (a list: how many submissions found 0, 1, 2... 99, and 100 or
            more pending rounds, as far as there were any) and ``step_seconds`` (the newest 1,000
            steps, oldest first: seconds from getting a round to the next submission; the first
            step after a flush does not count).

        Raises:
            ValueError: there is no group of this name.
        """
        if (self.library.stats(number_of(process_set), name) is None
                and not self.names.known(name)):
            raise ValueError(f"name={name!r}: there is no such group")
        for group in self.training:
            if (group.name, group.process_set) == (name, process_set):
                return group.stats()
        return self.stats(name, process_set)

    @contextlib.contextmanager
    def excused(self):
        """Put this around waits for other ranks that Horovod cannot see, such as an mpi4py
        barrier, a ``torch.distributed`` collective or a file lock: meanwhile no round waits for
        this rank. (Before ``hvd.init()``, none does anyway.)"""
        self.library.enter_excused()
        try:
            yield
        finally:
            self.library.leave_excused()

    def serve_in_join(self, group):
        """From now on, ``hvd.join()`` applies a TrainingGroup's rounds while other ranks go on."""
        if group.process_set.included():
            self._served.add(group)

    def _join_service(self):
        leaves = False
        # Side by side: in two process sets, ranks may come to two heals in opposite order.
        services = {group: service for group in list(self._served)
                    if group.process_set.process_set_id is not None
                    and (service := group.service(lambda: leaves))}
        tickets = {group: next(service) for group, service in services.items()}

        def serve(joined):
            nonlocal leaves
            while tickets:
                over = joined()  # before the tickets: what comes with the last round comes first
                answered = [group for group, ticket in tickets.items() if ticket.poll()]
                for group in answered:
                    tickets[group] = next(services[group], None)
                    if tickets[group] is None:
                        del tickets[group]
                if over and not answered and not leaves:
                    leaves = True
                    for group in services:
                        group.unlisten()
                elif not answered:
                    self.library.wait_any(list(tickets.values()), 0.005)

        return serve

    # --------------------------------------------------------------------------- the end

    def keep_stats(self, name, process_set, journal):
        """For the summary: of a training group that ends now."""
        self._gone.append(self.stats(name, process_set, journal))

    def _summaries(self):
        """See ``lifecycle.add_summary``. Rank 0 speaks for all, but only a rank itself knows what it
        has merged."""
        present = [group.stats() for group in self.training
                   if group.process_set.process_set_id is not None]
        trained = [stats for stats in [*self._gone, *present]
                   if stats["submissions"] and stats["size"] > 1
                   and (self.basics.rank() == 0 or stats["merged"])]
        return [summary(stats) for stats in sorted(trained, key=lambda stats: stats["name"])]

    # -------------------------------------------------------------------------- a new life

    def _renew(self, reset):
        """See ``lifecycle.add_renewal``."""
        self._gone.clear()
        self.names.release_all(_PLAIN)
        for _, definition in self._definitions.values():
            self.library.undefine(definition)
        self._definitions = {}
        submitted, self._submitted = self._submitted, collections.Counter()
        lost = [group.renew(reset) for group in sorted(self.training, key=lambda g: g.name)]
        if reset:
            lost += [f"after a failure, {name!r} begins anew: what was in no round is lost, that is "
                     "at most the last 2 submissions of each rank" for name in sorted(submitted)]
        return [sentence for sentence in lost if sentence]


class Handle:
    """Of a registered function: ``remove()`` takes it away again."""

    def __init__(self, functions, function):
        self._functions = functions
        self._key = object()
        functions[self._key] = function

    def remove(self):
        self._functions.pop(self._key, None)


class _Owner:
    def __str__(self):
        return "another optimizer"


class TrainingGroup:
    """The group of one model's gradients, whose results are its updates.

    The replica, an object of the framework's module, has

    ``group_specs()``
        the TensorSpecs of the gradients, in the form in which they are reduced.
    ``apply_round(raw)``
        applies a RawRound that is not empty, outside of a step (in a flush or a join).
    ``digest()``
        16 bytes that differ when parameters, optimizer state or ``round`` differ in a bit.
    ``dump()``, ``load(data)``
        parameters, optimizer state and ``round`` as bytes, and their taking over. ``data`` is a
        memoryview of what ``dump()`` gave on another rank: damage has been noticed before.

    The group lives as long as the replica, and ends on all ranks when it is gone on all.

    Attributes:
        round: the number of rounds that this rank has applied, flushes included.
        drifted: to be said with the next request: the replica has gone its own way.
        restored: bytes of a checkpoint's send buffer, which go with the next request.
    """

    def __init__(self, groups, replica, name, process_set, settings, op, predivide=1.0,
                 healing=Healing.IN_ROUNDS, parts=()):
        check_process_set(process_set)
        included = process_set.included()  # an error before hvd.init()
        # Drawn by who has made no mistake: numbers are to be the same on all ranks.
        name = groups.name_for_optimizer(name)
        if included:
            groups.names.claim(name, _Owner())
        self._groups = groups
        self._library = groups.library
        self._replica = weakref.ref(replica)
        self.name = name
        self.process_set = process_set
        self.settings = settings
        self._average = op == groups.basics.Average
        self._predivide = predivide if self._average else 1.0
        self._healing = healing
        self._parts = parts  # tensors in each part of a submission; empty: it comes whole
        self._definition = []  # a number of ranks, the definition's number
        self._before_round = {}
        self._journal = Journal(settings.policy)
        self._member = None  # this rank in the process set
        self._expiring = []  # handles that the next flush removes
        self._under_way = None  # a submission without an answer that was read to the end
        self._answer = None  # its answer
        self._taken = 0  # rounds of it that were applied, or begun
        self._applying = False
        self._handed_in = []  # what is kept of the parts of the next submission
        self._first = 0  # their tensors
        self._submitted = 0  # since the last flush
        self.round = 0
        self.drifted = False
        self.restored = None
        if included:
            lifecycle.say_policy(groups.basics, settings)
            groups.training.add(self)
            weakref.finalize(replica, _retire, groups, name, process_set, self._journal,
                             self._definition, os.getpid()).atexit = False

    def stats(self):
        return {"round": self.round,
                **self._groups.stats(self.name, self.process_set, self._journal)}

    def save(self):
        """What a checkpoint needs: a SavedGroup, or None when there is nothing, or nothing left
        because Horovod is down."""
        if not self._groups.basics.is_initialized() or not self.process_set.included():
            return None
        try:
            saved = self._library.save(self.process_set.process_set_id, self.name)
        except HorovodInternalError as error:
            warnings.warn(f"what {self.name!r} has not reduced yet is not in the checkpoint: {error}")
            return None
        if saved is None or not (saved.send_buffer or saved.pending or saved.drifted):
            return None
        return saved

    # ---------------------------------------------------------------------- rounds of a step

    @property
    def under_way(self):
        """What ``submit`` was told to keep, if a submission has not been finished."""
        return self._under_way and self._under_way[1]

    @property
    def handed_in(self):
        """How many tensors of the next submission the background thread has already."""
        return self._first

    def hand_in(self, addresses, keep):
        """Submits the next of the replica's ``parts``, but for the last one. The memory, which
        ``keep`` holds, stays as it is until the answer to ``submit``, which is to follow."""
        self._ask(Ask.SUBMIT, addresses, first=self._first)
        self._handed_in.append(keep)
        _in_use[id(self._handed_in)] = self._handed_in
        self._first += len(addresses)

    def submit(self, addresses, keep):
        """Hands in gradients, or what is left of them: the ``addresses`` of memory that ``keep``
        holds."""
        try:
            ticket = self._ask(Ask.SUBMIT, addresses, first=self._first)
        except HorovodInternalError:
            self._forget_parts()  # Horovod is down: nobody reads them any more
            raise
        self._journal.submitted()
        self._forget_parts()
        if self._member is None:
            self._member = self.process_set.rank()
        self._submitted += 1
        _in_use[ticket.number] = keep
        self._under_way = (ticket, keep)

    def answer(self):
        """Blocks until the submission has its Answer, whose rounds are to be read before
        ``finish()``; a refused submission is over."""
        if self._answer is None:
            ticket, _ = self._under_way
            try:
                answer = ticket.answer()
            except Exception:
                self.finish()
                raise
            self._journal.answered(self._member, answer.rounds)
            self._answer = answer
        return self._answer

    def each_once(self, answer):
        """Yields the submission's rounds, to be applied. One that was interrupted is not repeated:
        its update may be half done, and the replica has drifted."""
        self.drifted |= self._applying
        for raw in answer.rounds[self._taken:]:
            self._taken += 1
            self._applying = True
            self.advance(raw.count)
            yield raw
            self._applying = False

    def _forget_parts(self):
        _in_use.pop(id(self._handed_in), None)
        self._handed_in = []
        self._first = 0

    def finish(self):
        ticket, _ = self._under_way
        self._under_way = self._answer = None
        self._taken = 0
        self._applying = False
        ticket.close()
        _in_use.pop(ticket.number, None)

    def advance(self, count):
        """Counts rounds that the replica applies now."""
        self.round += count

    def register_before_round(self, function):
        if not callable(function):
            raise ValueError(f"fn={function!r} is not a function of the round's number")
        return Handle(self._before_round, function)

    def expire(self, handle):
        """Removes a function after the next flush: until then other ranks may be behind."""
        self._expiring.append(handle)

    def run_before_round(self):
        """With the gradients of the round that ``advance`` counted last in place."""
        for function in list(self._before_round.values()):
            function(self.round - 1)

    # ------------------------------------------------------------------------ flush and heal

    def flush(self):
        """Applies rounds until this rank has applied every round; heals where that is due. An
        exception of the replica (of a ``before_round`` function, say) is raised at the end: the
        other ranks wait for this one until then."""
        failure = None
        while True:
            ticket = self._ask(Ask.FLUSH)
            answer = ticket.answer()
            try:
                self._apply(answer)
            except Exception as error:
                failure = failure or error
            ticket.close()
            if not answer.again:
                break
        if answer.heal:
            _wait_through(self._compare())
        self._submitted = 0
        self._journal.interrupted()
        while self._expiring:
            self._expiring.pop().remove()
        if failure is not None:
            raise failure

    def _apply(self, answer):
        applied = 0
        try:
            for raw in answer.rounds:
                applied += 1
                self.advance(raw.count)
                if not raw.empty:
                    self._replica().apply_round(raw)
        except BaseException:
            for raw in answer.rounds[applied:]:
                self.advance(raw.count)
            self.drifted = True
            raise

    def _compare(self):
        """Yields each Ticket that it waits for, as do the two below."""
        ticket = self._ask(Ask.SYNC, digest=self._replica().digest())
        yield ticket
        answer = ticket.answer()
        ticket.close()
        if answer.differed:
            warnings.warn(
                f"parameters or optimizer state of {self.name!r} differ between ranks although no "
                "rank has drifted. Does a learning rate follow local steps? Let it follow rounds, "
                "with optimizer.register_before_round(). The replicas are healed from rank "
                f"{self.process_set.ranks[answer.root]}.")
        if answer.heal:
            yield from self._transfer(answer.root)

    def transfer(self, root):
        """Takes the replica of rank ``root`` of the process set. All ranks are here."""
        _wait_through(self._transfer(root))

    def _transfer(self, root):
        mine = self.process_set.rank() == root
        ticket = self._ask(Ask.OFFER if mine else Ask.RECEIVE,
                           payload=sealed(self._replica().dump()) if mine else None)
        yield ticket
        ticket.answer()
        received = None if mine else ticket.replica()
        ticket.close()
        if received:  # not when the root has left the heal, which is due as before then
            self.take_over(received, root)

    def take_over(self, received, root):
        """Takes over a ``sealed`` replica that rank ``root`` of the process set has sent.

        Raises:
            HorovodInternalError: it is damaged. This replica stays as it is.
        """
        try:
            data = _opened(received)
            if data is None:
                raise HorovodInternalError(
                    f"the replica of {self.name!r} from rank {self.process_set.ranks[root]} has "
                    "come damaged")
            self._replica().load(data)
        except BaseException:
            self.drifted = True  # for the other ranks, this one is healed
            raise

    # ---------------------------------------------------------------------------------- join

    def service(self, leaves):
        """In join(): applies rounds and takes part in flushes until ``leaves()``, which
        ``unlisten()`` is to follow. Yields each Ticket that it waits for. None when the replica is
        gone; otherwise it does not go meanwhile, and the group with it."""
        replica = self._replica()
        return None if replica is None else self._serve(leaves, replica)

    def _serve(self, leaves, replica):
        while not leaves():
            ticket = self._ask(Ask.LISTEN)
            yield ticket
            answer = ticket.answer()
            self._apply(answer)
            ticket.close()
            if not answer.again and answer.heal:
                yield from self._compare()
        del replica  # held until here

    def unlisten(self):
        ticket = self._ask(Ask.UNLISTEN)
        ticket.answer()
        ticket.close()

    # ---------------------------------------------------------------------------- a new life

    def renew(self, reset):
        """What ``lifecycle.add_renewal`` says, for this group: a sentence or None."""
        if self._under_way is not None:
            self.finish()
        self._forget_parts()
        self._journal.begin_anew()
        self._member = None
        submitted, self._submitted = self._submitted, 0
        if reset is None:
            # Rounds that this rank had pending are gone, so replicas may differ.
            self.drifted = self.round > 0
            return None
        # The elastic state is the same on all ranks now, or will be.
        self.drifted = False
        self.restored = None
        if reset and submitted:
            return (f"after a failure, {self.name!r} goes back to the last commit: what ranks have "
                    f"submitted since is lost, that is {submitted} submissions of this rank and all "
                    "of the ranks that are gone")
        return None

    # ------------------------------------------------------------------------------- requests

    def _ask(self, what, addresses=(), digest=None, payload=None, first=0):
        set_id = number_of(self.process_set)
        restores = what in (Ask.SUBMIT, Ask.FLUSH) and self.restored is not None
        if restores:
            payload = self.restored or None
        ticket = self._library.ask(what, set_id, self.name, self._defined(), addresses,
                                   self.drifted, digest, payload, first)
        # Said now; not when it could not be asked, because Horovod is down.
        self.drifted = False
        if restores:
            self.restored = None
        return ticket

    def _defined(self):
        ranks = self.process_set.size()
        if self._definition[:1] != [ranks]:
            number = self._library.define(
                self.name, self._replica().group_specs(), self.settings.limited_to(ranks),
                self._average, prescale=1.0 / self._predivide, postscale=self._predivide,
                healing=self._healing, parts=self._parts)
            if self._definition:
                self._library.undefine(self._definition[1])
            self._definition[:] = ranks, number
        return self._definition[1]


def sealed(replica):
    """A replica's bytes as they go over the wire: damage must neither be decoded nor be trained
    with."""
    return b"".join((_SEAL.pack(len(replica), _digest(replica)), replica))


def _opened(received):
    """The bytes that were ``sealed``, without a copy; None when they are not the same any more."""
    data = memoryview(received)[_SEAL.size:]
    if len(received) < _SEAL.size or _SEAL.unpack_from(received) != (len(data), _digest(data)):
        return None
    return data


def _digest(data):
    return hashlib.blake2b(data, digest_size=16).digest()


def _wait_through(tickets):
    for ticket in tickets:
        ticket.wait()


def _retire(groups, name, process_set, journal, definition, process):
    """The replica is gone; so is its group once that is so on every rank."""
    if os.getpid() != process:
        return  # a fork has a copy of the locks, which nobody there would release
    with contextlib.suppress(Exception):  # Horovod is gone, too
        groups.keep_stats(name, process_set, journal)
    with contextlib.suppress(Exception):
        groups.library.ask(Ask.RETIRE, process_set.process_set_id, name, 0).close()
    if definition:
        groups.library.undefine(definition[1])
    # Last, or another optimizer of this name might submit into the group that ends.
    groups.names.release(name)


class PartialOptimizer:
    """What every partial optimizer offers, whatever the framework. ``_partial`` is its
    TrainingGroup."""

    @property
    def round(self):
        """The number of rounds that this rank has applied, flushes included."""
        return self._partial.round

    def set_round(self, number):
        """Takes over the round number of another rank's replica."""
        self._partial.round = number

    def mark_drifted(self):
        """Says that this rank's replica may differ from the others': the next flush heals it."""
        self._partial.drifted = True

    def stats(self):
        """What happened so far, on this rank: see :func:`hvd.partial_stats`."""
        return self._partial.stats()

    def register_before_round(self, fn):
        """Has ``fn(round_index)`` called before each applied round: the place to set a learning
        rate that follows rounds, so that replicas stay identical. (In PyTorch, that round's
        averaged gradients are in ``p.grad`` then: clip them there. Keras clips each round by
        itself, by ``clipnorm`` and its like.)

        Returns:
            A handle with a ``remove()`` method.
        """
        return self._partial.register_before_round(fn)

    def expire(self, handle):
        """Removes what ``register_before_round`` registered, after the next flush."""
        self._partial.expire(handle)


def rounds(opt, n, every=None, at_flush=None):
    """Counts a training's length in rounds: yields the current round number, once per local step,
    until at least ``n`` rounds, the same number on every rank. Every rank iterates.

    .. code-block:: python

        for step in hvd.rounds(opt, 10_000, every=500, at_flush=validate_and_save):
            ...  # a training step with opt

    It begins and ends with a flush, and flushes about every ``every`` rounds in between; only
    after a flush, when all ranks are at the same round, is it decided whether that was the end.
    Ranks reach a given round at different local steps, so collective operations belong into
    ``at_flush`` or outside of the loop.

    Args:
        opt: a partial ``hvd.DistributedOptimizer``, of which ``opt.round`` is counted. One of
            Keras's has to be built: ``opt.build(model.trainable_variables)``.
        n: rounds, counted from the optimizer's first; training carries on from a checkpoint.
        every: rounds between two flushes; None: only at the beginning and at the end.
        at_flush: ``at_flush(round)`` is called after each flush but the first, on every rank, where
            all replicas are identical: to evaluate, to save on rank 0.

    Raises:
        ValueError: ``opt`` is no partial optimizer, ``n`` or ``every`` no number of rounds, or
            ``at_flush`` no function.
    """
    if not isinstance(opt, PartialOptimizer):
        raise ValueError(f"opt={opt!r} is not a partial hvd.DistributedOptimizer")
    if not opt.process_set.included():
        raise ValueError("opt: this rank is not in the optimizer's process set, and has no rounds")
    counter = RoundCounter(opt, n, every, at_flush)

    def count():
        counter.begin()
        while not counter.over:
            yield opt.round
            counter.after_step()

    return count()


class RoundCounter:
    """When a training that is counted in rounds flushes, and when it ends. That is decided after
    flushes only, where the round is the same on all ranks.

    Attributes:
        over: all ranks are at the same round, which is the last.
    """

    def __init__(self, opt, n, every, at_flush=None):
        if at_flush is not None and not callable(at_flush):
            raise ValueError(f"at_flush={at_flush!r} must be a function of the round")
        self._opt = opt
        self._n = config.whole_number("n", n, 0)
        self._every = None if every is None else config.whole_number("every", every, 1)
        self._at_flush = at_flush
        self._target = 0
        self.over = False

    def begin(self):
        self._flush()

    def after_step(self):
        """After each local step."""
        if self._opt.round >= self._target:
            self._flush()
            if self._at_flush is not None:
                self._at_flush(self._opt.round)

    def _flush(self):
        self._opt.flush()
        reached = self._opt.round
        self.over = reached >= self._n
        self._target = (self._n if self._every is None
                        else min(self._n, (reached // self._every + 1) * self._every))
