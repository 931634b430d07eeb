"""What docs/quickstart.md tells a newcomer to do, done: its script, its commands, its promises."""

import os
import re
import signal
import subprocess

import documents
from common import ROOT

PAGE = ROOT / "docs/quickstart.md"


def run(command, directory, timeout=150):
    """A command line as the page has it. Both streams together."""
    with subprocess.Popen(command, shell=True, cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, start_new_session=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"{command} hung:\n{output[-4000:]}") from None
    assert process.returncode == 0, f"{command}\n{output[-4000:]}"
    return output


def test_from_an_unmodified_script_to_the_advised_policy(tmp_path):
    script, = (code for _, _, code in documents.fences(PAGE) if code.startswith("# train.py"))
    assert "horovod_partial" not in script
    # Fewer steps will do.
    (tmp_path / "train.py").write_text(script.replace("range(100)", "range(40)"))
    record, report, relaunch = documents.commands(PAGE)

    said = run(record, tmp_path)
    assert re.search(r"\[rank 0\] horovod_partial: 'optimizer\.0' \(majority\): \d+ rounds, "
                     r"[\d.]+ of 4 ranks active on average\.", said), said
    assert (tmp_path / "timeline.json").stat().st_size > 1000

    said = run(report, tmp_path)
    assert "Slowest: rank 3" in said, said
    advised = re.search(r"Advice: (--partial \S+?)\. ", said)[1]
    page = (tmp_path / "partial-report/report.html").read_text()
    assert advised in page

    # On a busy machine it may differ from what the page shows.
    assert "--partial first:3" in relaunch
    policy = advised.split()[1]
    said = run(relaunch.replace("first:3", policy), tmp_path)
    assert re.search(rf"'optimizer\.0' \({policy}\): \d+ rounds", said), said
