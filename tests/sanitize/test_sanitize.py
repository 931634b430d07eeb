"""Horovod's common library, our core, our glue and Gloo without any framework (harness.cc), as
4 processes under ThreadSanitizer, and under AddressSanitizer with LeakSanitizer and
UndefinedBehaviorSanitizer. `make sanitize` runs more steps (HOROVOD_PARTIAL_SANITIZE_STEPS)."""

import functools
import os
import re
import shutil
import subprocess
import sys

import pytest

from common import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import host  # noqa: E402

SOURCE = ROOT / "tests/sanitize"
STEPS = int(os.environ.get("HOROVOD_PARTIAL_SANITIZE_STEPS", 5))
SANITIZERS = ["thread", "address"]
REPORT = re.compile(r"WARNING: ThreadSanitizer|ERROR: (Address|Leak)Sanitizer|runtime error: "
                    r"|Sanitizer:DEADLYSIGNAL|Sanitizer CHECK failed")
pytestmark = pytest.mark.timeout(900 + 10 * STEPS)


def options():
    """What the sanitizers are told. The suppressions say what they hide, and why."""
    return {
        "TSAN_OPTIONS": f"suppressions={SOURCE}/thread.supp:second_deadlock_stack=1:history_size=4",
        # Damage on the wire must not make a rank allocate much.
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:"
                        "check_initialization_order=1:strict_init_order=1:"
                        "max_allocation_size_mb=512",
        "LSAN_OPTIONS": f"suppressions={SOURCE}/leak.supp",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


@functools.cache
def harness(sanitizer):
    """The command that runs the harness; built where needed."""
    tree = host.prepare(ROOT / "build")
    build = ROOT / f"build/sanitize-{sanitizer}"
    build.mkdir(exist_ok=True)
    # gloo asks for a CMake that CMake 4 does not imitate without a word.
    for command in (["cmake", "-GNinja", "-DCMAKE_POLICY_VERSION_MINIMUM=3.5",
                     f"-DSANITIZER={sanitizer}", f"-DHOST={tree}", str(SOURCE)],
                    ["cmake", "--build", "."]):
        made = subprocess.run(command, cwd=build, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        assert made.returncode == 0, made.stdout[-6000:]
    # With much randomization of addresses, ThreadSanitizer does not find room for its shadow.
    fixed = ["setarch", "-R"]
    if not shutil.which("setarch") or subprocess.run([*fixed, "true"]).returncode != 0:
        fixed = []
    return [*fixed, str(build / "harness")]


def spawn(program, command, env):
    return subprocess.Popen([*program, *command], env=env, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def run_alone(sanitizer, *args):
    return subprocess.run([*harness(sanitizer), *args], env={**os.environ, **options()},
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(params=SANITIZERS)
def job(request, start):
    """Starts 4 ranks of the harness."""
    def begin(*args, **env):
        program = harness(request.param)
        return start(4, *args, spawn=functools.partial(spawn, program), env={
            **options(), "HOROVOD_DYNAMIC_PROCESS_SETS": "1",
            "HOROVOD_GLOO_TIMEOUT_SECONDS": "120", **env})

    return begin


def check(job, statuses):
    """The ranks end with these statuses, without a report, with the cycles they asked for."""
    found = [job.end(rank, 600 + 10 * STEPS) for rank in range(4)]
    output = "".join(job.output)
    report = REPORT.search(output)
    assert not report, output[max(report.start() - 200, 0):report.start() + 12000]
    assert found == statuses, output[-6000:]
    assert "Cycles follow the clock" not in output


def test_everything_that_a_job_does(job, tmp_path):
    check(job("all", STEPS, tmp_path / "timeline"), [0] * 4)


@pytest.mark.parametrize("victim, event_driven", [(2, 0), (0, 1)])
def test_a_rank_that_is_killed(job, victim, event_driven):
    ranks = job("fault", "killed", HOROVOD_EVENT_DRIVEN=str(event_driven))
    ranks.wait_for(*[f"rank {rank} did step 20" for rank in range(4)])
    ranks.ranks[victim].kill()
    check(ranks, [-9 if rank == victim else 0 for rank in range(4)])


@pytest.mark.parametrize("event_driven", [0, 1])
@pytest.mark.parametrize("how, status", [("exit", 3), ("shutdown", 0)])
def test_a_rank_that_leaves_in_the_middle(job, how, status, event_driven):
    check(job("fault", how, HOROVOD_EVENT_DRIVEN=str(event_driven)), [0, 0, 0, status])


def test_damage_on_the_wire():
    """Lengths, counts, policies and bits that no rank would send: an error, nothing worse."""
    done = run_alone("address", "wire", "0", str(40 * STEPS))
    assert not REPORT.search(done.stdout) and done.returncode == 0, done.stdout[-12000:]


@pytest.mark.parametrize("sanitizer, what", [("thread", "race"), ("address", "overflow"),
                                             ("address", "leak"), ("address", "shift")])
def test_a_fault_is_reported(sanitizer, what):
    done = run_alone(sanitizer, "broken", what)
    assert REPORT.search(done.stdout) and done.returncode != 0, done.stdout
