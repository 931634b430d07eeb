"""docs/troubleshooting.md has an entry for each message of ours, and for no other."""

import re

import pytest

import messages
from common import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()


def documented():
    return [line for block in re.findall(r"(?ms)^```text\n(.*?)^```", PAGE)
            for line in block.splitlines()]


def test_every_message_has_an_entry():
    known = set(documented())
    missing = {message: files for message, files in messages.messages().items()
               if message not in known}
    assert not missing, ("docs/troubleshooting.md: say what to do, with these lines in a ```text "
                         f"block: {missing}")


def test_every_entry_is_a_message():
    assert len(set(documented())) == len(documented()), "an entry is there twice"
    assert set(documented()) <= set(messages.messages()), (
        "docs/troubleshooting.md: no source has these any longer")


def test_each_entry_is_explained():
    for block, after in re.findall(r"(?ms)^```text\n(.*?)^```\n(.*?)(?=^```text|^## |\Z)", PAGE):
        assert after.strip(), f"nothing is said of:\n{block}"


@pytest.mark.parametrize("source, found", [
    ('raise ValueError(f"{name}={value!r} is wrong")', ["…=… is wrong"]),
    ('raise TypeError("it is " + kind + " of no use: "\n    "leave it")',
     ["it is … of no use: leave it"]),
    ('warnings.warn(f"{n} are dropped")', ["… are dropped"]),
    ('print(f"error: {e}", file=sys.stderr)', ["error: …"]),
    ('print("error")', []),
    ('raise ValueError(message)', []),
])
def test_messages_are_found_in_python(source, found):
    import ast

    assert [m for m in messages._of_python(ast.parse(source)) if m] == found


@pytest.mark.parametrize("source, found", [
    ('throw std::invalid_argument("K=" + Text(k) +\n  " must be 1");', "K=… must be 1"),
    ('LOG(WARNING) << "Rank " << rank << " is slow.";', "Rank … is slow."),
    ('LOG(ERROR, r) << "It ends; now";', "It ends; now"),
    ('Fail(Status::kInvalid, "group \'" + name + "\' is odd", done);', "group '…' is odd"),
    ('refusal.message = "no " + (a ? "b" : "c") + " here";', "no … here"),
    ('why = a ? "one rank" : "two ranks of " + b;', ["one rank", "two ranks of …"]),
    ('// throw std::runtime_error("not this");', []),
])
def test_messages_are_found_in_cpp(source, found):
    assert list(messages._of_cpp(source)) == ([found] if isinstance(found, str) else found)
