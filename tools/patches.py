"""Work on the patches over Horovod's pristine source.

    python tools/patches.py tree DIR      a git repository in DIR, one commit per patch
    python tools/patches.py refresh DIR   write patches/ anew from the commits of DIR
    python tools/patches.py check         the series applies, has headers and no orphans

To change a patch: `tree`, edit in DIR, `git commit --fixup=COMMIT` and
`git rebase --autosquash`, `refresh`, `check`. A commit's subject is the patch's path without
`.patch`; the rest of its message is the patch's DEP-3 header.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import host

FIELDS = ("Description", "Author", "Forwarded", "Last-Update")
END = "---\n"


def git(tree, *args):
    return subprocess.run(["git", "-C", str(tree), *args], check=True, stdout=subprocess.PIPE,
                          text=True).stdout


def split(text):
    """The header and the diff of a patch's text."""
    header, _, diff = text.partition(END)
    return header, diff


def make_tree(directory):
    directory = Path(directory)
    if directory.exists():
        raise host.HostError(f"{directory} exists: choose another folder or remove it.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    host.unpack(host.archive(host.ROOT / "build"), directory)
    git(directory, "init", "--quiet", "--initial-branch=main")
    commit(directory, "pristine")
    for name in host.series():
        host.apply(name, directory)
        header, _ = split((host.PATCHES / name).read_text())
        commit(directory, name.removesuffix(".patch") + "\n\n" + header)


def commit(directory, message):
    git(directory, "add", "--all", "--force", ".")
    git(directory, "-c", "user.name=patches", "-c", "user.email=patches@localhost", "commit",
        "--quiet", "--cleanup=verbatim", "--message", message)


def refresh(directory):
    commits = git(directory, "log", "--reverse", "--format=%H").split()[1:]
    names = []
    for commit_id in commits:
        message = git(directory, "log", "-1", "--format=%B", commit_id)
        subject, _, header = message.partition("\n\n")
        diff = git(directory, "diff", "--no-color", "--no-renames", "--no-ext-diff",
                   f"{commit_id}^", commit_id)
        diff = re.sub(r"^(diff --git|index) .*\n", "", diff, flags=re.MULTILINE)
        name = subject.strip() + ".patch"
        target = host.PATCHES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(header.strip() + "\n" + END + diff)
        names.append(name)
    comments = [line for line in (host.PATCHES / "series").read_text().splitlines()
                if line.startswith("#")]
    (host.PATCHES / "series").write_text("\n".join(comments + names) + "\n")


def problems():
    """What is wrong with patches/, a sentence each."""
    found = []
    listed = host.series()
    present = sorted(str(path.relative_to(host.PATCHES))
                     for path in host.PATCHES.rglob("*.patch"))
    found += [f"patches/{name} is not in patches/series." for name in present
              if name not in listed]
    found += [f"{name} is in patches/series, but there is no such file." for name in listed
              if name not in present]
    found += [f"{name} is in patches/series twice." for name in set(listed)
              if listed.count(name) > 1]
    for name in [name for name in listed if name in present]:
        header, diff = split((host.PATCHES / name).read_text())
        found += [f"patches/{name} has no {field} in its header (DEP-3)." for field in FIELDS
                  if not re.search(rf"^{field}: \S", header, re.MULTILINE)]
        if not re.search(r"^@@ ", diff, re.MULTILINE):
            found.append(f"patches/{name} changes nothing.")
    if not found:
        with tempfile.TemporaryDirectory() as scratch:
            tree = Path(scratch) / "host"
            try:
                host.unpack(host.archive(host.ROOT / "build"), tree)
                for name in listed:
                    host.apply(name, tree)
            except host.HostError as error:
                found.append(str(error))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tree", "refresh", "check"])
    parser.add_argument("directory", nargs="?", help="of `tree` and `refresh`")
    args = parser.parse_args()
    if args.command != "check" and not args.directory:
        parser.error(f"{args.command} needs a directory")
    try:
        if args.command == "tree":
            make_tree(args.directory)
        elif args.command == "refresh":
            refresh(args.directory)
        else:
            found = problems()
            print("\n".join(found) or f"{len(host.series())} patches apply to the pristine "
                                      f"Horovod {host.VERSION}.")
            return 1 if found else 0
    except host.HostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
