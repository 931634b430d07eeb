"""How a rank of a job with partial groups ends, joins, and begins anew.

Fast ranks finish first. Horovod ends the job for all with the first rank that shuts down, so a
rank whose application ends in the normal way *drains* before: it takes part in rounds, excused,
until every rank has ended. Horovod's own modules call the functions here (``patches/partial``).

Normal ends are ``hvd.shutdown()``, the end of the script, and ``sys.exit(0)``. Not normal, so that
the others learn at once, are an uncaught exception, ``hvd.shutdown()`` while one is handled (in a
``finally``, say), and a non-zero ``sys.exit``, ``exit`` or ``quit``. Not seen, and so taken for
normal: ``raise SystemExit(1)``. ``os._exit`` and signals end the process without any of this.
"""

import _sitebuiltins
import concurrent.futures
import contextlib
import os
import sys

from horovod.common.exceptions import HorovodInternalError

from horovod_partial import _native, config

_partial_job = False
_failed = False
_exit_status = 0  # of a sys.exit that is a failure
_resetting = None  # or whether the elastic reset under way follows a failure
_join_services = {}  # by framework
_renewals = {}  # by HorovodBasics
_summaries = {}  # by HorovodBasics
_said_policy = False
_resting = []  # libraries that are excused between two calls of a worker


def mark_partial_job():
    """Called when a framework's module of ours is imported: from now on, this process drains."""
    global _partial_job
    if not _partial_job:
        _partial_job = True
        _watch_exits()


def add_join_service(framework, service):
    """Has ``service()`` called before this rank joins through a framework's ``hvd.join()``. It
    returns ``serve(joined)``, which handles the rank's partial groups until ``joined()`` says that
    all ranks have joined."""
    _join_services[framework] = service


def before_join(framework):
    """Called by ``hvd.join()`` before the request to join. Returns ``serve(joined)``, to be called
    afterwards."""
    service = _join_services.get(framework)
    return service() if service else lambda joined: None


def join_by_thread(framework, join):
    """``join()``, which blocks, while this thread handles the rank's partial groups. Returns what
    it returns."""
    if framework not in _join_services:
        return join()
    serve = before_join(framework)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        joined = pool.submit(join)
        serve(joined.done)
        return joined.result()


def add_renewal(basics, renew):
    """Has ``renew(reset)`` called when ``basics`` has shut Horovod down, which may be initialized
    again. It forgets what belonged to that life, and returns sentences on what is lost. ``reset``
    is None, or whether the elastic reset under way follows a failure, or else a change of hosts."""
    _renewals[basics] = renew


def add_summary(basics, summaries):
    """Has ``summaries()`` called when this rank's application has ended in the normal way. It
    returns sentences on what was trained, which are printed."""
    _summaries[basics] = summaries


def say_policy(basics, settings):
    """Called for each training group: where partial training was asked for by the launcher, rank 0
    says once that a training is partial, and how."""
    global _said_policy
    if _said_policy or not os.environ.get(config.POLICY) or basics.rank() != 0:
        return
    _said_policy = True
    resync = f", resync_every {settings.resync_every}" if settings.resync_every else ""
    _say(0, f"this job trains partially: policy {settings.policy}, staleness_bound "
            f"{settings.staleness_bound}, catch_up {settings.catch_up}{resync}, seed {settings.seed}")


@contextlib.contextmanager
def resetting(failure):
    """Around an elastic reset, which shuts Horovod down without an end of the application."""
    global _resetting
    _resetting = failure
    try:
        yield
    finally:
        _resetting = None


@contextlib.contextmanager
def call_of_a_worker():
    """Around a function that a launcher calls in a process that lives on, as Ray's executor does.

    Until the next call no round waits for this rank. When the function raises in a partial job,
    Horovod shuts down here, and with that on the ranks that train on.
    """
    while _resting:
        _resting.pop().leave_excused()
    try:
        yield
    except BaseException:
        if _is_partial():
            for basics in _initialized():
                basics.shutdown()
        raise
    for basics in _initialized():
        library = _native.Library(basics.MPI_LIB_CTYPES)
        library.enter_excused()
        _resting.append(library)


def _initialized():
    """The HorovodBasics that have a life, be it that this rank has no partial group yet."""
    modules = [sys.modules.get(f"horovod.{framework}.mpi_ops") for framework in ("torch", "tensorflow")]
    return [module._basics for module in modules if module and module._basics.is_initialized()]


def _is_partial():
    return _partial_job or bool(os.environ.get(config.POLICY))


def shut_down(basics, shut_down_horovod):
    """Called by ``hvd.shutdown()`` and at exit: drains where that is due, shuts Horovod down, and
    says what was in no round."""
    if not _is_partial() or not basics.is_initialized():
        shut_down_horovod()
        return
    reset = _resetting
    failed = reset is None and (_failed or _is_failure(sys.exc_info()[1]) or _uncaught())
    rank = basics.rank()
    library = _native.Library(basics.MPI_LIB_CTYPES)
    said = []
    if reset is None and not failed:
        if basics in _summaries and config.summary_wanted():
            # Another rank's failure may have ended Horovod.
            with contextlib.suppress(HorovodInternalError, ValueError):
                said = _summaries[basics]()
        library.drain()
    if failed and _exit_status:
        # Before the others hear of it: one of them may be gone first, and be the one that the
        # launcher names.
        _say(rank, f"exited with code {_exit_status}, which ends the job")
    shut_down_horovod()
    library.begin_anew()
    left = library.left()
    lost = _renewals[basics](reset) if basics in _renewals else []
    if left and not reset:
        lost.insert(0, f"what was submitted last to {', '.join(left)} was in no round (flush() "
                       "and hvd.rounds() carry it)")
    if not failed:
        for sentence in [*said, *lost]:
            _say(rank, sentence)


def _say(rank, sentence):
    print(f"[rank {rank}] horovod_partial: {sentence}", file=sys.stderr, flush=True)


def _is_failure(error):
    """Whether a shutdown during the handling of this exception is no normal end."""
    if isinstance(error, SystemExit):
        return error.code not in (None, 0, False)
    return error is not None


def _uncaught():
    """Whether the interpreter has come to an exception that nobody handled, which it notes before
    it calls sys.excepthook, whoever has replaced that. (A prompt, which goes on, notes it, too.)"""
    return getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1")


def _watch_exits():
    """atexit does not see how the interpreter ends, so the places that decide it are wrapped."""
    exit_before = sys.exit
    hook_before = sys.excepthook

    def note_exit(status):
        global _failed, _exit_status
        _failed = status not in (None, 0, False)
        if _failed:
            _exit_status = status if isinstance(status, int) else 1

    def exit_and_note(status=None):
        note_exit(status)
        exit_before(status)

    def note_exception(kind, value, traceback):
        global _failed
        _failed = True
        hook_before(kind, value, traceback)

    sys.exit = exit_and_note
    sys.excepthook = note_exception
    # Of exit and quit.
    call_before = _sitebuiltins.Quitter.__call__

    def call_and_note(self, code=None):
        note_exit(code)
        call_before(self, code)

    _sitebuiltins.Quitter.__call__ = call_and_note


if os.environ.get(config.POLICY):
    mark_partial_job()
