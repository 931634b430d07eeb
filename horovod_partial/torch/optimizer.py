"""``DistributedOptimizer`` with partial rounds, for PyTorch."""

import collections
import itertools
import warnings
import weakref
from contextlib import contextmanager

import torch
from torch.utils.hooks import RemovableHandle

from horovod.torch.compression import Compression
from horovod.torch.mpi_ops import Average, global_process_set, rank, size

from horovod_partial import _native, config, lifecycle
from horovod_partial._native import Ask
from horovod_partial.torch import replica
from horovod_partial.torch.ops import (
    addresses, check_op, dtype_code, library, names, on_host, read_stats)

_STATE = "horovod_partial"
_numbers = itertools.count()
_live = weakref.WeakSet()
_arrays_in_use = {}  # by ticket number


class _Owner:
    def __str__(self):
        return "another optimizer"


class _Contribution:
    """The gradients of a step, in the form in which they are reduced."""

    def __init__(self, arrays, contexts):
        self.arrays = arrays  # contiguous, in host memory
        self.contexts = contexts  # of the compression


class _PartialOptimizer:
    """What :func:`DistributedOptimizer` adds to the class of the optimizer that it wraps.

    It decides nothing: rounds, lateness and heals come from the core with each answer. ``step()``
    submits this rank's gradients and applies the rounds that come back.
    """

    # The scaler is to unscale and to skip; a fused optimizer would do it behind our back.
    _step_supports_amp_scaling = False

    def _set_up(self, named_parameters, compression, backward_passes_per_step, op,
                gradient_predivide_factor, sparse_as_dense, process_set, settings, name):
        self._parameter_names = {p: n for n, p in named_parameters}
        self._compression = compression
        self.backward_passes_per_step = backward_passes_per_step
        self.op = op
        self.gradient_predivide_factor = gradient_predivide_factor
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set
        self._settings = settings
        self._group_name = name
        self._trained = [p for group in self.param_groups for p in group["params"]
                         if p.requires_grad]
        if not self._trained:
            raise ValueError("optimizer has no parameter that requires a gradient")
        self._sparse = set()  # parameters whose gradients come sparse
        # The group's definition (for a number of ranks) and its tensors, from the first
        # contribution on.
        self._spec = None
        self._tensors = None
        self._round = 0
        self._before_round = collections.OrderedDict()
        self._under_way = None  # a submission without an answer yet, and its contribution
        self._synchronized = None  # the answer that synchronize() left for step()
        self._should_synchronize = True
        self._drifted = False  # to be said with the next request
        self._restored = None  # a checkpoint's send buffer and pending rounds
        self._backward_passes = dict.fromkeys(self._trained, 0)
        if process_set.included():
            names.claim(name, _Owner())
            weakref.finalize(self, _retire, name, process_set.process_set_id).atexit = False
            _live.add(self)
            if size() > 1:
                for p in self._trained:
                    p.register_post_accumulate_grad_hook(_counting_hook(weakref.ref(self)))

    # ------------------------------------------------------------------ the user's surface

    @property
    def round(self):
        """The number of rounds that this rank has applied, flushes included."""
        return self._round

    def set_round(self, number):
        """Takes over the round number of another rank's replica."""
        self._round = number

    def step(self, closure=None):
        """Submits this rank's gradients and applies the rounds that come back: the one that it
        takes part in or, when it is late, those that it has missed.

        Args:
            closure: evaluated once, before; its gradients are what is submitted.

        Returns:
            What the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.process_set.included():
            self.step_alone()
        elif self._should_synchronize:
            if self._synchronized is not None:
                warnings.warn("optimizer.step() called without optimizer.skip_synchronize() "
                              "context after optimizer.synchronize(). The gradients are reduced "
                              "once more. Consider optimizer.register_before_round().")
                self._finish(self._synchronized)
            self._catch_up_first()
            self._submit()
            self._take_rounds()
        else:
            if self._synchronized is not None:
                self._run_before_round(self._round - 1)
            self.step_alone()
            self._finish(self._synchronized)
        return loss

    # The wrapped optimizer's step() runs torch's step hooks, once per applied round.
    step.hooked = True

    def step_alone(self):
        """A step of the wrapped optimizer, without any communication."""
        self._backward_passes = dict.fromkeys(self._trained, 0)
        super().step()

    def synchronize(self):
        """Submits this rank's gradients and leaves the result in ``p.grad``, for a
        ``step()`` inside ``skip_synchronize()``. When several rounds come back, it is their sum,
        and this rank has drifted; :meth:`register_before_round` avoids that."""
        if not self.process_set.included():
            return
        if self._synchronized is not None:
            self._finish(self._synchronized)
        self._catch_up_first()
        self._submit()
        answer, contribution = self._await_submission()
        total = None
        for raw in answer.rounds:
            self._round += raw.count
            results = self._read(raw, contribution)
            total = results if total is None else [a.add_(b) for a, b in zip(total, results)]
        self._close_submission()
        self._drifted = self._drifted or len(answer.rounds) > 1
        self._set_gradients(total)
        self._synchronized = answer

    @contextmanager
    def skip_synchronize(self):
        """``step()`` in this context applies what ``synchronize()`` left in ``p.grad``."""
        self._should_synchronize = False
        try:
            yield
        finally:
            self._should_synchronize = True

    def register_before_round(self, fn):
        """Has ``fn(round_index)`` called before each applied round, with that round's averaged
        gradients in ``p.grad``: the place to clip them, or to set a learning rate that follows
        rounds, so that replicas stay identical.

        Returns:
            A handle with a ``remove()`` method.
        """
        handle = RemovableHandle(self._before_round)
        self._before_round[handle.id] = fn
        return handle

    def flush(self):
        """Carries all send buffers and applies the rounds that come back, until this rank has
        applied every round. Every rank of the process set calls it (joined and ended ones count
        as having done so). Afterwards replicas are bit-identical on all ranks that called it:
        those that had drifted are healed. The moment to validate and to save a checkpoint."""
        if not self.process_set.included():
            return
        if self._synchronized is not None:
            self._finish(self._synchronized)
        self._catch_up_first()
        while True:
            ticket = self._ask(Ask.FLUSH)
            answer = ticket.answer()
            self._apply_flushed(answer)
            ticket.close()
            if not answer.again:
                break
        if answer.heal:
            self._compare()

    def stats(self):
        """What happened so far, on this rank: see :func:`hvd.partial_stats`, plus ``round``."""
        return {"round": self._round, **read_stats(self._group_name, self.process_set)}

    def set_backward_passes_per_step(self, passes):
        self.backward_passes_per_step = passes
        self._backward_passes = dict.fromkeys(self._trained, 0)

    def add_param_group(self, param_group):
        raise NotImplementedError(
            "a partial group keeps its tensors: add parameter groups before "
            "hvd.DistributedOptimizer wraps the optimizer")

    # --------------------------------------------------------------------- checkpoints

    def state_dict(self):
        """The wrapped optimizer's state, and under ``'horovod_partial'`` the round and, unless
        just flushed, what this rank's send buffer and pending rounds hold: for this rank only."""
        state = super().state_dict()
        extra = {"round": self._round}
        saved = (library.save(self.process_set.process_set_id, self._group_name)
                 if self.process_set.included() else None)
        if saved is not None and (saved.send_buffer or saved.pending or saved.drifted):
            extra.update(
                rank=rank(), size=size(), drifted=saved.drifted or self._drifted,
                send_buffer=_to_tensor(saved.send_buffer),
                pending=[(count, empty, _to_tensor(result))
                         for _, count, empty, result in saved.pending])
        elif self._restored is not None:
            extra.update(self._restored, round=self._round)
        state[_STATE] = extra
        return state

    def load_state_dict(self, state_dict):
        """Loads what ``state_dict()`` of this or of a plain optimizer gave. A send buffer and
        pending rounds are loaded on the rank that saved them, in a job of the same size; elsewhere
        they are dropped, with a warning."""
        state_dict = dict(state_dict)
        extra = state_dict.pop(_STATE, None) or {}
        super().load_state_dict(state_dict)
        self._synchronized = None
        self._should_synchronize = True
        self._backward_passes = dict.fromkeys(self._trained, 0)
        self._round = extra.get("round", 0)
        self._restored = None
        if "rank" not in extra:
            return
        if (extra["rank"], extra["size"]) != (rank(), size()):
            warnings.warn(
                f"the send buffer and {len(extra['pending'])} pending rounds of a checkpoint are "
                f"dropped: rank {extra['rank']} of {extra['size']} saved them, this is rank "
                f"{rank()} of {size()}. Flush before saving a checkpoint.")
            return
        self._drifted = extra["drifted"]
        self._restored = extra

    def _catch_up_first(self):
        """Before a request: what an interrupted step or a checkpoint has left."""
        if self._under_way is not None:
            with self._gradients_kept():
                self._take_rounds()
        self._apply_restored()

    def _submit(self):
        contribution = self._contribution()
        self._backward_passes = dict.fromkeys(self._trained, 0)
        ticket = self._ask(Ask.SUBMIT, contribution)
        # The background thread reads the arrays until the answer, whatever happens here.
        _arrays_in_use[ticket.number] = contribution.arrays
        self._under_way = (ticket, contribution)

    def _await_submission(self):
        """The answer to the submission under way, and its contribution; over if refused."""
        ticket, contribution = self._under_way
        try:
            return ticket.answer(), contribution
        except Exception:
            self._close_submission()
            raise

    def _take_rounds(self):
        """Waits for the submission under way, and applies the rounds that come back."""
        answer, contribution = self._await_submission()
        for raw in answer.rounds:
            self._apply(raw.count, raw.empty, self._read(raw, contribution))
        self._close_submission()
        self._finish(answer)

    def _close_submission(self):
        ticket, _ = self._under_way
        self._under_way = None
        ticket.close()
        _arrays_in_use.pop(ticket.number, None)

    def _apply_restored(self):
        """Applies a checkpoint's pending rounds; its send buffer goes with the next request."""
        if self._restored is None or not self._restored["pending"]:
            return
        pending = self._restored["pending"]
        self._restored = {**self._restored, "pending": []}
        contribution = self._contribution(zeros=True)
        with self._gradients_kept():
            for count, empty, saved in pending:
                arrays = _unpack(saved, contribution.arrays)
                self._apply(count, empty, self._decompressed(arrays, contribution))

    # ------------------------------------------------------------------------ the workings

    def _contribution(self, zeros=False):
        arrays, contexts = [], []
        for p in self._trained:
            gradient = p.grad
            if gradient is None or zeros:
                # As in Horovod: another rank may have computed it.
                gradient = torch.zeros_like(p)
            elif gradient.is_sparse:
                if not self.sparse_as_dense:
                    raise NotImplementedError(
                        f"the gradient of {self._parameter_names.get(p)!r} is sparse: pass "
                        "sparse_as_dense=True to hvd.DistributedOptimizer")
                self._sparse.add(p)
                gradient = gradient.to_dense()
            compressed, context = self._compression.compress(gradient)
            arrays.append(on_host(compressed))
            contexts.append(context)
        self._check_form(arrays)
        return _Contribution(arrays, contexts)

    def _check_form(self, arrays):
        for p, array, spec in zip(self._trained, arrays, self._tensors or ()):
            if (array.dtype, tuple(array.shape)) != (spec.dtype, spec.shape):
                raise ValueError(
                    f"the gradient of {self._parameter_names[p]!r} is {tuple(array.shape)} of "
                    f"{array.dtype}, but was {spec.shape} of {spec.dtype} in the first step: a "
                    "partial group keeps its shapes and dtypes")

    def _definition(self, contribution=None):
        ranks = self.process_set.size()
        if self._spec is None or self._spec[0] != ranks:
            contribution = contribution or self._contribution(zeros=True)
            self._tensors = [
                _native.TensorSpec(self._parameter_names[p], array.dtype, tuple(array.shape))
                for p, array in zip(self._trained, contribution.arrays)]
            tensors = [
                spec._replace(dtype=dtype_code(f"parameter {spec.name!r}", spec.dtype))
                for spec in self._tensors]
            average = self.op == Average
            factor = self.gradient_predivide_factor if average else 1.0
            self._spec = (ranks, library.define(
                self._group_name, tensors, self._settings.limited_to(ranks), average,
                prescale=1.0 / factor, postscale=factor, heals=True))
        return self._spec[1]

    def _ask(self, what, contribution=None, digest=None, payload=None):
        if what in (Ask.SUBMIT, Ask.FLUSH) and self._restored is not None:
            payload = bytes(self._restored["send_buffer"].numpy()) or None
            self._restored = None
        drifted, self._drifted = self._drifted, False
        return library.ask(
            what, self.process_set.process_set_id, self._group_name,
            self._definition(contribution), addresses(contribution.arrays) if contribution else (),
            drifted, digest, payload)

    def _read(self, raw, contribution):
        arrays = [torch.empty_like(array) for array in contribution.arrays]
        raw.copy(addresses(arrays))
        return self._decompressed(arrays, contribution)

    def _decompressed(self, arrays, contribution):
        return [self._compression.decompress(array.to(p.device), context)
                for array, context, p in zip(arrays, contribution.contexts, self._trained)]

    def _set_gradients(self, results):
        for p, result in zip(self._trained, results):
            p.grad = result.to_sparse() if p in self._sparse else result

    def _run_before_round(self, index):
        for fn in list(self._before_round.values()):
            fn(index)

    def _apply(self, count, empty, results):
        self._round += count
        if empty:
            return
        self._set_gradients(results)
        self._run_before_round(self._round - 1)
        self.step_alone()

    def _apply_flushed(self, answer):
        if not answer.rounds:
            return
        contribution = self._contribution(zeros=True)
        with self._gradients_kept():
            for raw in answer.rounds:
                self._apply(raw.count, raw.empty, self._read(raw, contribution))

    @contextmanager
    def _gradients_kept(self):
        """Rounds applied outside of ``step()`` leave the user's gradients as they are."""
        kept = [p.grad for p in self._trained]
        yield
        for p, gradient in zip(self._trained, kept):
            p.grad = gradient

    def _finish(self, answer):
        """What is left of a step once its rounds have been applied."""
        self._synchronized = None
        if answer is not None and answer.heal:
            self._transfer(answer.root)

    def _compare(self):
        ticket = self._ask(Ask.SYNC, digest=replica.digest(self))
        answer = ticket.answer()
        ticket.close()
        if answer.differed:
            warnings.warn(
                f"parameters or optimizer state of {self._group_name!r} differ between ranks "
                "although no rank has drifted. Does a learning rate follow local steps? Let it "
                "follow rounds, with optimizer.register_before_round(). The replicas are healed "
                f"from rank {answer.root}.")
        if answer.heal:
            self._transfer(answer.root)

    def _transfer(self, root):
        mine = self.process_set.rank() == root
        ticket = self._ask(Ask.OFFER if mine else Ask.RECEIVE,
                           payload=replica.dump(self) if mine else None)
        ticket.answer()
        if not mine:
            replica.load(self, ticket.replica())
        ticket.close()

    def _listen(self):
        return self._ask(Ask.LISTEN)

    def _serve(self, ticket):
        """Does what an answered LISTEN asks for."""
        answer = ticket.answer()
        self._apply_flushed(answer)
        ticket.close()
        if not answer.again and answer.heal:
            self._compare()


def _retire(name, process_set_id):
    """The optimizer is gone; so is its group once that is so on every rank."""
    names.release(name)
    try:
        library.ask(Ask.RETIRE, process_set_id, name, 0).close()
    except Exception:
        pass  # Horovod is gone, too


def _counting_hook(weak):
    def hook(p):
        optimizer = weak()
        if optimizer is None:
            return
        optimizer._backward_passes[p] += 1
        if optimizer._backward_passes[p] > optimizer.backward_passes_per_step:
            raise AssertionError(
                "Gradients were computed more than backward_passes_per_step times before call "
                "to step(). Increase backward_passes_per_step to accumulate gradients locally.")

    return hook


def _to_tensor(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(
        0, dtype=torch.uint8)


def _unpack(saved, arrays):
    """The arrays of a saved result: one flat buffer per dtype, in order of first appearance, with
    bfloat16 as float32 (``Layout`` in ``csrc/core/buffer.h``)."""
    starts = {}
    total = 0
    for dtype in dict.fromkeys(array.dtype for array in arrays):
        starts[dtype] = total
        width = 4 if dtype == torch.bfloat16 else dtype.itemsize
        total += width * sum(a.numel() for a in arrays if a.dtype == dtype)
    results = []
    for array in arrays:
        stored = torch.float32 if array.dtype == torch.bfloat16 else array.dtype
        start = starts[array.dtype]
        end = start + array.numel() * stored.itemsize
        starts[array.dtype] = end
        # A slice need not be aligned.
        values = saved[start:end].clone().view(stored)
        results.append(values.to(array.dtype).reshape(array.shape))
    return results


def _join_service():
    served = [optimizer for optimizer in _live
              if optimizer.process_set.process_set_id == global_process_set.process_set_id]
    tickets = {optimizer: optimizer._listen() for optimizer in served}

    def serve(joined):
        while tickets:
            over = joined()  # before the tickets: what comes with the last round comes first
            answered = [optimizer for optimizer, ticket in tickets.items() if ticket.poll()]
            for optimizer in answered:
                optimizer._serve(tickets[optimizer])
                tickets[optimizer] = optimizer._listen()
            if over and not answered:
                break
            if not answered:
                library.wait_any(list(tickets.values()), 0.005)
        for optimizer, ticket in tickets.items():
            over = optimizer._ask(Ask.UNLISTEN)
            over.answer()
            over.close()
            optimizer._serve(ticket)

    return serve


lifecycle.add_join_service(_join_service)


def _checked_names(optimizer, named_parameters):
    """Horovod's checks of named_parameters; returns a list of (name, parameter)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if named_parameters is None:
        return [(f"allreduce.noname.{i}.{j}", p)
                for i, group in enumerate(optimizer.param_groups)
                for j, p in enumerate(group["params"])]
    named_parameters = list(named_parameters)
    if any(not isinstance(entry, tuple) for entry in named_parameters):
        raise ValueError("named_parameters should be a sequence of tuples (name, parameter), "
                         "usually produced by model.named_parameters().")
    counts = collections.Counter(name for name, _ in named_parameters)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError("Parameter names in named_parameters must be unique. Found duplicates: "
                         + ", ".join(twice))
    unnamed = {id(p) for p in parameters} - {id(p) for _, p in named_parameters}
    if unnamed:
        raise ValueError("named_parameters was specified, but one or more model parameters were "
                         "not named. Python object ids: " + ", ".join(map(str, unnamed)))
    return named_parameters


def _check_groups(groups):
    if groups is None:
        return
    if not (isinstance(groups, list) or (isinstance(groups, int) and groups >= 0)):
        raise ValueError(f"groups={groups!r} should be a non-negative integer or a list of list "
                         "of torch.Tensor.")
    if isinstance(groups, list):
        grouped = [p for group in groups for p in group]
        if any(not isinstance(p, torch.Tensor) for p in grouped):
            raise ValueError("groups must consist of torch.Tensor.")
        if len({id(p) for p in grouped}) < len(grouped):
            raise ValueError("A parameter can only appear once in groups.")


def DistributedOptimizer(optimizer, named_parameters=None, compression=Compression.none,
                         backward_passes_per_step=1, op=Average, gradient_predivide_factor=1.0,
                         num_groups=0, groups=None, sparse_as_dense=False,
                         process_set=global_process_set, policy=None, staleness_bound=None,
                         catch_up=None, resync_every=None, seed=None, name=None):
    """Wraps a ``torch.optim.Optimizer`` so that its steps are partial rounds: a drop-in for
    ``horovod.torch.DistributedOptimizer``. Every rank of the process set constructs it alike.

    ``step()`` submits this rank's gradients as one group. When the policy lets a round start, all
    ranks' send buffers are averaged, those of slow ranks included, and ``step()`` applies the
    result. A rank that comes late finds the rounds that it has missed and applies them at once;
    its gradients travel with the next round. No gradient is lost, and with
    ``catch_up='replay'`` replicas are bit-identical at equal round numbers.

    Args:
        optimizer: any ``torch.optim`` optimizer but LBFGS.
        named_parameters: names for the parameters, as ``model.named_parameters()`` gives them.
        compression: ``hvd.Compression.none`` or ``.fp16``.
        backward_passes_per_step: backward passes whose gradients are accumulated for one step.
        op: ``hvd.Average`` or ``hvd.Sum``.
        gradient_predivide_factor: splits the averaging before and after the sum, as in Horovod.
        num_groups, groups: accepted as in Horovod; a partial group is always reduced as one.
        sparse_as_dense: reduce sparse gradients as dense ones, and make them sparse again.
        process_set: the process set that trains. Other ranks step alone.
        policy: when a round may start: ``'solo'``, ``'majority'``, ``'quorum:K'``, ``'first:K'``,
            ``'full'``, or ``hvd.Solo()`` to ``hvd.Full()``.
        staleness_bound: rounds that a rank may be behind before it is waited for, at least 1.
            Results take up to this bound plus two times the parameters' memory on ranks that
            fall behind.
        catch_up: what a late rank does: ``'replay'``: one update per missed round, ``'sum'``: one
            with their sum, ``'latest'``: one with the newest, as eager-SGD does.
        resync_every: rounds after which replicas heal from one of them; None for never.
        seed: of the draw of initiators and committees.
        name: the group's name, by default ``optimizer.<n>`` in order of construction.

    ``None`` means the environment variable (``HOROVOD_PARTIAL_POLICY`` and so on), else
    ``'majority'``, 8, ``'replay'``, never, 0. Tensors on a GPU go through host memory.

    Returns:
        An instance of the wrapped optimizer's class, with ``flush()``, ``round``, ``stats()``,
        ``register_before_round(fn)``, and Horovod's ``synchronize()`` and
        ``skip_synchronize()``. It takes over the optimizer's parameter groups and state.

    Raises:
        ValueError: a wrong argument, or a name in use. Settings, shapes or dtypes that differ
            between ranks: on every rank, by the first ``step()`` or ``flush()``.
        NotImplementedError: ``op=hvd.Adasum``, LBFGS; in ``step()``, sparse gradients without
            ``sparse_as_dense``.

    Source: Li et al., "Taming Unbalanced Training Workloads in Deep Learning with Partial
    Collective Operations", PPoPP 2020, sections 4 and 5.
    """
    check_op(op)
    if isinstance(optimizer, _PartialOptimizer):
        raise ValueError("optimizer is a hvd.DistributedOptimizer already")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NotImplementedError("LBFGS evaluates its closure several times per step, which "
                                  "partial rounds cannot follow: use another optimizer")
    if gradient_predivide_factor != 1.0 and op != Average:
        raise ValueError("gradient_predivide_factor not supported with op != Average")
    if gradient_predivide_factor <= 0:
        raise ValueError(f"gradient_predivide_factor={gradient_predivide_factor!r} must be > 0")
    if num_groups != 0:
        warnings.warn("Parameter `num_groups` has been replaced by `groups` and will be removed "
                      "in v0.23.0.", DeprecationWarning)
        groups = num_groups if groups is None else groups
    _check_groups(groups)
    if backward_passes_per_step <= 0:
        raise ValueError(f"backward_passes_per_step={backward_passes_per_step!r} must be > 0")
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"name={name!r} must be a string that is not empty")
    settings = config.resolve(policy, staleness_bound, catch_up, resync_every, seed)
    named_parameters = _checked_names(optimizer, named_parameters)
    group_name = name if name is not None else f"optimizer.{next(_numbers)}"

    inner = optimizer.__class__
    cls = type(inner.__name__, (_PartialOptimizer, inner), {"__module__": inner.__module__})
    partial = cls.__new__(cls)
    partial.__dict__.update(optimizer.__dict__)
    # A learning-rate scheduler leaves a counting step() of the wrapped optimizer there.
    partial.__dict__.pop("step", None)
    partial.__dict__.pop("_step_supports_amp_scaling", None)
    partial._set_up(named_parameters, compression, backward_passes_per_step, op,
                    gradient_predivide_factor, sparse_as_dense, process_set, settings,
                    group_name)
    return partial


def rounds(opt, n, every=None):
    """Counts a training's length in rounds: yields the current round number, once per local step,
    until at least ``n`` rounds, the same number on every rank. Every rank iterates.

    .. code-block:: python

        for step in hvd.rounds(opt, 10_000, every=500):
            if step_is_first_after_a_flush: validate()
            opt.zero_grad()
            loss(...).backward()
            opt.step()

    It begins and ends with a flush, and flushes about every ``every`` rounds in between; only
    after a flush, when all ranks stand at the same round, is it decided whether that was the end.
    Ranks reach a given round at different local steps, so collective operations belong outside of
    the loop, or at its flushes.

    Args:
        opt: a partial ``hvd.DistributedOptimizer``, of which ``opt.round`` is counted.
        n: rounds, counted from the optimizer's first; training carries on from a checkpoint.
        every: rounds between two flushes; None: only at the beginning and at the end.

    Raises:
        ValueError: ``opt`` is no partial optimizer, or ``n`` or ``every`` no number of rounds.
    """
    if not isinstance(opt, _PartialOptimizer):
        raise ValueError(f"opt={opt!r} is not a partial hvd.DistributedOptimizer")
    n = config.whole_number("n", n, 0)
    every = None if every is None else config.whole_number("every", every, 1)
    if not opt.process_set.included():
        raise ValueError("opt: this rank is not in the optimizer's process set, and has no rounds")

    def count():
        opt.flush()
        while opt.round < n:
            target = n if every is None else min(n, (opt.round // every + 1) * every)
            while opt.round < target:
                yield opt.round
            opt.flush()

    return count()
