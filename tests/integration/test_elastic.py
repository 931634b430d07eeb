"""Elastic jobs: hosts that come, and hosts that are lost. Three names for this machine are three
hosts: one that fails is excluded whole."""

import re

import pytest

from common import ROOT

HOSTS = ["127.0.0.1", "127.0.1", "127.1"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def discovery(tmp_path):
    """A discovery script, and the file of hosts that it prints."""
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{name}:1\n" for name in HOSTS[:2]))
    script = tmp_path / "discover"
    script.write_text(f"#!/bin/sh\ncat {hosts}\n")
    script.chmod(0o755)
    return script, hosts


# Lost is the rank that states are synchronized from, or the one that came last.
@pytest.mark.parametrize("framework, victim", [("torch", 0), ("keras", 2)])
def test_training_goes_on_with_more_and_with_less_ranks(launch, discovery, framework, victim):
    script, hosts = discovery
    result = launch(2, [str(ROOT / "tests/integration/scripts/elastic.py"), framework, str(hosts),
                        HOSTS[2], str(victim)],
                    options=["--min-np", "2", "--max-np", "3", "--host-discovery-script",
                             str(script), "--network-interface", "lo"])
    assert result.returncode == 0, result.output
    lives = re.findall(r"rank (\d) of (\d) begins: (\d+) submissions, weight -?([\d.]+)",
                       result.output)
    sizes = [int(size) for _, size, _, _ in lives]
    assert sorted(sizes) == [2, 2, 2, 2, 3, 3, 3], result.output
    # What was committed, no more and no less, and alike on all ranks.
    assert all(float(weight) == int(submissions) for _, _, submissions, weight in lives), lives
    ends = re.findall(r"rank (\d) of 2 ends: (\d+) submissions, weight -([\d.]+), (\d+) in this",
                      result.output)
    committed = int(lives[-1][2])
    assert sorted(ends) == [(str(rank), str(committed + 40), f"{committed + 40}.0", "20")
                            for rank in range(2)], result.output
    lost = re.findall(r"\[rank (\d)\] horovod_partial: after a failure, 'optimizer.0' goes back to "
                      r"the last commit: what ranks have submitted since is lost, that is (\d+) "
                      "submissions of this rank and all of the ranks that are gone", result.output)
    assert len(lost) == 2 and all(0 < int(submissions) <= 10 for _, submissions in lost), lost
    # A failure has it said, a host that comes does not.
    begun = re.findall(r"\[rank (\d)\] horovod_partial: after a failure, 'plain' begins anew: what was "
                       "in no round is lost, that is at most the last 2 submissions of each rank",
                       result.output)
    assert sorted(begun) == sorted(rank for rank, _ in lost), result.output
