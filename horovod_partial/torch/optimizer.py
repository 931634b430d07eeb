"""``DistributedOptimizer`` with partial rounds, for PyTorch."""

import collections
import os
import threading
import warnings
import weakref
from contextlib import contextmanager

import torch

from horovod.common.exceptions import HorovodInternalError
from horovod.torch.compression import Compression
from horovod.torch.mpi_ops import Average, global_process_set, is_initialized, rank, size

from horovod_partial import _native, config
from horovod_partial.groups import PartialOptimizer, TrainingGroup
from horovod_partial.torch import replica
from horovod_partial.torch.ops import addresses, dtype_code, on_host, partial_groups

_STATE = "horovod_partial"


class _Contribution:
    """The gradients of a step, in the form in which they are reduced."""

    def __init__(self, arrays, contexts, gradients):
        self.arrays = arrays  # contiguous, in host memory
        self.contexts = contexts  # of the compression
        # What they were made from (None: no gradient), each with its version: both change when
        # the gradient is written to.
        self.gradients = gradients

    def extend(self, other):
        self.arrays += other.arrays
        self.contexts += other.contexts
        self.gradients += other.gradients


class _PartialOptimizer(PartialOptimizer):
    """What :func:`DistributedOptimizer` adds to the class of the optimizer that it wraps.

    ``step()`` submits this rank's gradients and applies the rounds that come back. The rest is
    its TrainingGroup's.
    """

    # A GradScaler is to call step() after an overflow, too: the other ranks may wait for this one.
    _step_supports_amp_scaling = True

    def _set_up(self, named_parameters, compression, backward_passes_per_step, op,
                gradient_predivide_factor, sparse_as_dense, process_set, settings, name,
                bucket_cap_mb):
        self._parameter_names = {p: n for n, p in named_parameters}
        self._compression = compression
        self.backward_passes_per_step = backward_passes_per_step
        self.op = op
        self.gradient_predivide_factor = gradient_predivide_factor
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set
        self._trained = [p for group in self.param_groups for p in group["params"]
                         if p.requires_grad]
        if not self._trained:
            raise ValueError("optimizer has no parameter that requires a gradient")
        self._parts = ()  # parameters in each bucket, in the order of self._trained
        if bucket_cap_mb is not None:
            # Backward comes to the last layers first.
            self._trained.reverse()
            self._parts = _parts_of(self._trained, bucket_cap_mb * 2**20)
        self._part_of = {}
        for part, count in enumerate(self._parts):
            self._part_of.update(dict.fromkeys(
                self._trained[len(self._part_of):len(self._part_of) + count], part))
        self._handed_in = _Contribution([], [], [])  # by the hooks, in this step
        self._hooks_lock = threading.Lock()  # backward has a thread per device
        self._sparse = set()  # parameters whose gradients come sparse
        self._tensors = None  # the form of the gradients, from the first ones on
        self._synchronized = None  # the answer that synchronize() left for step()
        self._should_synchronize = True
        self._restored_pending = []  # rounds of a checkpoint
        self._reset_passes()
        self._partial = TrainingGroup(partial_groups, self, name, process_set, settings, op,
                                      gradient_predivide_factor, parts=self._parts)
        partial_groups.serve_in_join(self._partial)
        # Elastic jobs grow.
        if process_set.included() and (size() > 1 or os.environ.get("HOROVOD_ELASTIC") == "1"):
            for p in self._trained:
                p.register_post_accumulate_grad_hook(_counting_hook(weakref.ref(self)))

    # ------------------------------------------------------------------ the user's surface

    def step(self, closure=None):
        """Submits this rank's gradients and applies the rounds that come back: the one that it
        takes part in or, when it is late, those that it has missed. In ``GradScaler.step(optimizer)``
        gradients are unscaled before; those that overflow count as zeros.

        Args:
            closure: evaluated once, before; its gradients are what is submitted.

        Returns:
            What the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        overflows = self._unscale()
        if not self.process_set.included():
            if not overflows:
                self.step_alone()
        elif self._should_synchronize:
            if self._synchronized is not None:
                warnings.warn("optimizer.step() called without optimizer.skip_synchronize() "
                              "context after optimizer.synchronize(). The gradients are reduced "
                              "once more. Consider optimizer.register_before_round().")
                self._finish(self._synchronized)
            self._catch_up_first()
            self._submit(zeros=overflows)
            self._take_rounds()
        else:
            if not overflows:
                if self._synchronized is not None:
                    self._partial.run_before_round()
                self.step_alone()
            self._finish(self._synchronized)
        return loss

    # The wrapped optimizer's step() runs torch's step hooks, once per applied round.
    step.hooked = True

    def step_alone(self):
        """A step of the wrapped optimizer, without any communication."""
        self._reset_passes()
        super().step()

    def zero_grad(self, set_to_none=True):
        if self._partial.handed_in:
            raise AssertionError(
                "optimizer.zero_grad() was called when backward had handed in gradients of this "
                "step (bucket_cap_mb), which cannot be taken back: call optimizer.step() first. "
                "Where a backward pass is not for this optimizer, or may fail and be repeated, "
                "leave bucket_cap_mb out.")
        self._reset_passes()
        super().zero_grad(set_to_none)

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
        answer = self._partial.answer()
        contribution = self._partial.under_way
        total = None
        for raw in self._partial.each_once(answer):
            results = self._read(raw, contribution)
            total = results if total is None else [a.add_(b) for a, b in zip(total, results)]
        self._partial.finish()
        self._partial.drifted |= len(answer.rounds) > 1
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
        self._partial.flush()

    def set_round(self, number):
        super().set_round(number)
        if self._restored_pending:
            # Applied here alone, they would part this replica from the others.
            warnings.warn(f"{len(self._restored_pending)} pending rounds of a checkpoint are dropped, "
                          "because replicas were broadcast. Flush before saving a checkpoint.")
            self._restored_pending = []

    def set_backward_passes_per_step(self, passes):
        self.backward_passes_per_step = passes
        self._reset_passes()

    def add_param_group(self, param_group):
        raise NotImplementedError(
            "a partial group keeps its tensors: add parameter groups before "
            "hvd.DistributedOptimizer wraps the optimizer")

    # --------------------------------------------------------------------- checkpoints

    def state_dict(self):
        """The wrapped optimizer's state, and under ``'horovod_partial'`` the round and, unless
        just flushed, what this rank's send buffer and pending rounds hold: for this rank only."""
        state = super().state_dict()
        extra = {"round": self.round}
        partial = self._partial
        saved = partial.save()
        if saved is None and is_initialized() and (partial.restored or self._restored_pending):
            saved = _native.SavedGroup(False, partial.restored or b"", [])
        if saved is not None:
            extra.update(
                rank=rank(), size=size(), drifted=saved.drifted or partial.drifted,
                send_buffer=_to_tensor(saved.send_buffer),
                pending=self._restored_pending + [
                    (count, empty, _to_tensor(result))
                    for _, count, empty, result in saved.pending])
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
        self._reset_passes()
        self._restored_pending = []
        self.set_round(extra.get("round", 0))
        self._partial.restored = None
        if "rank" not in extra:
            return
        if (extra["rank"], extra["size"]) != (rank(), size()):
            warnings.warn(
                f"the send buffer and {len(extra['pending'])} pending rounds of a checkpoint are "
                f"dropped: rank {extra['rank']} of {extra['size']} saved them, this is rank "
                f"{rank()} of {size()}. Flush before saving a checkpoint.")
            return
        self._partial.drifted = extra["drifted"]
        self._partial.restored = bytes(extra["send_buffer"].numpy())
        self._restored_pending = extra["pending"]

    def _catch_up_first(self):
        """Before a request: what an interrupted step or a checkpoint has left."""
        if self._partial.under_way is not None:
            with self._gradients_kept():
                self._take_rounds()
        self._apply_restored()

    def _unscale(self):
        """What a GradScaler leaves to this step(): divides the gradients by its scale. Returns whether
        they overflow."""
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found is None:
            return False
        if self._parts:
            del self.grad_scale, self.found_inf  # which the scaler does not come to
            raise NotImplementedError("a GradScaler's gradients change after backward, which hands "
                                      "them in as they are (bucket_cap_mb): leave bucket_cap_mb out")
        # A fused optimizer would take them, too, in each round that is applied.
        self.grad_scale = self.found_inf = None
        if self._synchronized is not None:
            if not self._partial.drifted:
                warnings.warn("optimizer.synchronize() has reduced the gradients before the GradScaler "
                              "unscaled them, by a scale of this rank's own: replicas drift apart until "
                              "the next flush. Leave optimizer.synchronize() and skip_synchronize() "
                              "out, and clip in optimizer.register_before_round().")
            self._partial.drifted = True
        overflows = bool(found)
        if scale is not None and not overflows:
            inverse = scale.double().reciprocal().float()
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.mul_(inverse.to(p.grad.device))
        return overflows

    def _submit(self, zeros=False):
        first = self._partial.handed_in
        contribution = self._handed_in if first else _Contribution([], [], [])
        self._check_unchanged(contribution)
        rest = self._contribution(first, zeros=zeros)
        contribution.extend(rest)
        self._handed_in = _Contribution([], [], [])
        self._reset_passes()
        self._partial.submit(addresses(rest.arrays), contribution)

    def _reset_passes(self):
        self._backward_passes = dict.fromkeys(self._trained, 0)
        self._awaited = list(self._parts)  # gradients that each bucket waits for

    # ------------------------------------------------------------------- during backward

    def _count_pass(self, p):
        self._backward_passes[p] += 1
        if self._backward_passes[p] > self.backward_passes_per_step:
            raise AssertionError(
                "Gradients were computed more than backward_passes_per_step times before call "
                "to step(). Increase backward_passes_per_step to accumulate gradients locally.")
        if self._parts and self._backward_passes[p] == self.backward_passes_per_step:
            with self._hooks_lock:
                self._awaited[self._part_of[p]] -= 1
                self._hand_in()

    def _hand_in(self):
        """Submits the buckets that have their gradients, in order; the last one is step()'s. After
        an interrupted step, or with a checkpoint's send buffer, all of them are; and once Horovod
        is down, so that step() fails, not backward in the middle."""
        partial = self._partial
        if (partial.under_way is not None or partial.restored is not None or self._restored_pending
                or self._synchronized is not None or not self._should_synchronize):
            return
        first = partial.handed_in
        if first == 0:
            self._handed_in = _Contribution([], [], [])
        while first < len(self._trained):
            part = self._part_of[self._trained[first]]
            if part == len(self._parts) - 1 or self._awaited[part] > 0:
                return
            contribution = self._contribution(first, first + self._parts[part])
            try:
                partial.hand_in(addresses(contribution.arrays), contribution)
            except HorovodInternalError:
                return
            self._handed_in.extend(contribution)
            first = partial.handed_in

    def _check_unchanged(self, contribution):
        for p, (gradient, version) in zip(self._trained, contribution.gradients):
            if p.grad is not gradient or (gradient is not None and gradient._version != version):
                raise NotImplementedError(
                    f"the gradient of {self._parameter_names.get(p)!r} was changed after backward "
                    "had handed it in (bucket_cap_mb): clip or set gradients in "
                    "optimizer.register_before_round(); with a GradScaler, leave bucket_cap_mb "
                    "out")

    def _take_rounds(self):
        """Waits for the submission under way, and applies the rounds that come back."""
        answer = self._partial.answer()
        contribution = self._partial.under_way
        for raw in self._partial.each_once(answer):
            if not raw.empty:
                self._apply(self._read(raw, contribution))
        self._partial.finish()
        self._finish(answer)

    def _apply_restored(self):
        """Applies a checkpoint's pending rounds; its send buffer goes with the next request."""
        pending, self._restored_pending = self._restored_pending, []
        if not pending:
            return
        contribution = self._contribution(zeros=True)
        with self._gradients_kept():
            for count, empty, saved in pending:
                self._partial.advance(count)
                if not empty:
                    arrays = _unpack(saved, contribution.arrays)
                    self._apply(self._decompressed(arrays, contribution))

    # ------------------------------------------------------------------------ the workings

    def _contribution(self, first=0, end=None, zeros=False):
        """Of the parameters from ``first`` up to ``end``."""
        arrays, contexts, gradients = [], [], []
        for p in self._trained[first:end]:
            gradient = p.grad
            gradients.append((gradient, None if gradient is None else gradient._version))
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
        self._check_form(arrays, first)
        return _Contribution(arrays, contexts, gradients)

    def _check_form(self, arrays, first):
        if self._tensors is None and len(arrays) == len(self._trained):
            self._tensors = [
                _native.TensorSpec(self._parameter_names[p], array.dtype, tuple(array.shape))
                for p, array in zip(self._trained, arrays)]
        elif self._tensors is None:
            self._contribution(zeros=True)
        for array, spec in zip(arrays, self._tensors[first:]):
            if (array.dtype, tuple(array.shape)) != (spec.dtype, spec.shape):
                raise ValueError(
                    f"the gradient of {spec.name!r} is {tuple(array.shape)} of "
                    f"{array.dtype}, but was {spec.shape} of {spec.dtype} in the first step: a "
                    "partial group keeps its shapes and dtypes")

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

    def _apply(self, results):
        self._set_gradients(results)
        self._partial.run_before_round()
        self.step_alone()

    @contextmanager
    def _gradients_kept(self):
        """Rounds applied outside of ``step()`` leave the user's gradients as they are."""
        kept = [p.grad for p in self._trained]
        try:
            yield
        finally:
            for p, gradient in zip(self._trained, kept):
                p.grad = gradient

    def _finish(self, answer):
        """What is left of a step once its rounds have been applied."""
        self._synchronized = None
        if answer is not None and answer.heal:
            self._partial.transfer(answer.root)

    # ------------------------------------------------------- the replica of its TrainingGroup

    def group_specs(self):
        if self._tensors is None:
            self._contribution(zeros=True)
        return [spec._replace(dtype=dtype_code(f"parameter {spec.name!r}", spec.dtype))
                for spec in self._tensors]

    def apply_round(self, raw):
        contribution = self._contribution(zeros=True)
        with self._gradients_kept():
            self._apply(self._read(raw, contribution))

    def digest(self):
        return replica.digest(self)

    def dump(self):
        return replica.dump(self)

    def load(self, data):
        replica.load(self, data)


def _counting_hook(weak):
    def hook(p):
        optimizer = weak()
        if optimizer is not None:
            optimizer._count_pass(p)

    return hook


def _parts_of(parameters, cap):
    """How many consecutive parameters go into each bucket of at most ``cap`` bytes, or of one
    parameter; empty when one bucket has them all."""
    parts, total = [], 0
    for p in parameters:
        size = p.numel() * p.element_size()
        if not parts or total + size > cap:
            parts.append(0)
            total = 0
        parts[-1] += 1
        total += size
    return tuple(parts) if len(parts) > 1 else ()


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
                         catch_up=None, resync_every=None, seed=None, name=None,
                         bucket_cap_mb=None):
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
            ``'full'``, ``'auto'``, or an object such as ``hvd.First(3)``.
        staleness_bound: rounds that a rank may be behind before it is waited for, at least 1.
            Results take up to this bound plus two times the parameters' memory on ranks that
            fall behind.
        catch_up: what a late rank does: ``'replay'``: one update per missed round, ``'sum'``: one
            with their sum, ``'latest'``: one with the newest, as eager-SGD does.
        resync_every: rounds after which replicas heal from one of them; None for never.
        seed: of the draw of initiators and committees.
        name: the group's name, by default ``optimizer.<n>`` in order of construction.
        bucket_cap_mb: MiB of gradients per bucket; None: one bucket, submitted by ``step()``. With
            several, rounds overlap with the backward pass: see below.

    With ``bucket_cap_mb``, backward hands in each bucket, from the last layers to the first, as
    soon as its gradients are there, and a round is reduced bucket by bucket. It begins when the
    policy is satisfied by ranks that have their *first* bucket; who is active is settled then for
    the whole round, which is applied as a whole. This pays where reducing takes about as long as
    backward, with large models or slow networks; 25, as in DistributedDataParallel, is a good
    start. It costs where computing times vary: a fast rank may wait for the later buckets of a
    rank that is active, and a rank whose first bucket comes a little later is passive although it
    may have ended its backward pass first. One more buffer of the gradients' size is needed.
    Gradients must not change between backward and ``step()``: clip in
    ``register_before_round()``; a ``GradScaler`` is not supported, nor ``zero_grad()`` before
    ``step()``. A parameter without a gradient holds back its bucket and the following ones until
    ``step()``. A rank that waits for others in the middle of backward (a synchronized batch norm,
    say) cuts its submission short, unless the policy is full: the other ranks do not wait for its
    later buckets, which travel with the next round. If backward raises an exception, what it
    handed in counts, and is not to be repeated. TensorFlow has nothing of the kind.

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
    partial_groups.check_scaling(op, gradient_predivide_factor)
    if isinstance(optimizer, _PartialOptimizer):
        raise ValueError("optimizer is a hvd.DistributedOptimizer already")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NotImplementedError("LBFGS evaluates its closure several times per step, which "
                                  "partial rounds cannot follow: use another optimizer")
    if num_groups != 0:
        warnings.warn("Parameter `num_groups` has been replaced by `groups` and will be removed "
                      "in v0.23.0.", DeprecationWarning)
        groups = num_groups if groups is None else groups
    _check_groups(groups)
    if backward_passes_per_step <= 0:
        raise ValueError(f"backward_passes_per_step={backward_passes_per_step!r} must be > 0")
    if bucket_cap_mb is not None and not bucket_cap_mb > 0:
        raise ValueError(f"bucket_cap_mb={bucket_cap_mb!r} must be > 0, or None for one bucket")
    settings = config.resolve(policy, staleness_bound, catch_up, resync_every, seed)
    named_parameters = _checked_names(optimizer, named_parameters)

    inner = optimizer.__class__
    cls = type(inner.__name__, (_PartialOptimizer, inner), {"__module__": inner.__module__})
    partial = cls.__new__(cls)
    partial.__dict__.update(optimizer.__dict__)
    # A learning-rate scheduler leaves a counting step() of the wrapped optimizer there.
    partial.__dict__.pop("step", None)
    partial.__dict__.pop("_step_supports_amp_scaling", None)
    partial._set_up(named_parameters, compression, backward_passes_per_step, op,
                    gradient_predivide_factor, sparse_as_dense, process_set, settings,
                    name, bucket_cap_mb)
    return partial
