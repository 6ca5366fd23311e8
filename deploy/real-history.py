#!/usr/bin/env python3
"""Makes a bare git repository of real histories, to test with: `make real-history`, or

    real-history.py FOLDER     a folder that does not exist yet; needs git, and Debian's apt-get and dpkg-deb

Debian's package of go-git's fixtures carries whole repositories, as packs in base64. Five are taken: Spinnaker's, rumprun-xen's,
go-git's, desk's and storable's. None alone has 1,000 commits, so they are joined as repositories are that become one: a merge
for each, which puts the other's files into a folder; all other commits are as their authors made them, ids and all. The branch
`main` has it all; there is one for each history, too.
"""

import base64
import gzip
import os
import pathlib
import re
import subprocess
import sys
import tempfile

PACKAGE = "golang-github-go-git-go-git-fixtures-dev"
# The checksums of the packs, by which the package names them; every tip that a pack holds is joined.
HISTORIES = {
    "spinnaker": "f2e0a8889a746f7600e07d2246a2e29a72f696be",
    "rumprun-xen": "7861f2632868833a35fe5e4ab94f99638ec5129b",
    "go-git": "3559b3b47e695b33b0913237a4df3357e739831c",
    "desk": "4ec6344877f494690fc800aceaf2ca0e86786acb",
    "storable": "0d3d824fb5c930e7e7e1f0f399f2976847d31fd3",
}
# Authors and times of the merges are always the same, and so are their ids.
JOINER = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
          (("NAME", "Joiner"), ("EMAIL", "joiner@example.org"), ("DATE", "1500000000 +0000"))}


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, **options)
    if done.returncode != 0:
        sys.exit(f"real-history.py: '{' '.join(map(str, command[:4]))} ...' has failed, see above")
    return done.stdout


def packs(folder):
    """The bytes of the packs, by checksum."""
    run("apt-get", "--quiet=2", "--option=APT::Sandbox::User=root", "download", PACKAGE, cwd=folder)
    run("dpkg-deb", "--extract", next(folder.glob("*.deb")), folder)
    (source,) = folder.rglob("go-git-fixtures/data.go")
    files = re.finditer(r'"/data/pack-([0-9a-f]{40})\.pack": \{.*?compressed:\s*`\s(.*?)`', source.read_text(), re.S)
    return {checksum: gzip.decompress(base64.b64decode(text)) for checksum, text in (file.groups() for file in files)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = pathlib.Path(sys.argv[1])
    if target.exists():
        sys.exit(f"real-history.py: {target} is there already: delete it first, or give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        scratch = pathlib.Path(scratch)
        made = scratch / "made"

        def git(*arguments, **options):
            return run("git", "-C", made, *arguments, env={**os.environ, **JOINER}, **options)

        run("git", "init", "--quiet", "--bare", "--initial-branch=main", made)
        found, head, seen = packs(scratch), None, set()
        for name, checksum in HISTORIES.items():
            if checksum not in found:
                sys.exit(f"real-history.py: the package no longer has the history of {name}")
            git("index-pack", "--stdin", input=found[checksum])
            objects = git("cat-file", "--batch-check", "--batch-all-objects").decode().splitlines()
            commits = {line.split()[0] for line in objects if line.split()[1] == "commit"} - seen
            seen |= commits
            lines = git("rev-list", "--no-walk=unsorted", "--parents", "--stdin", input="\n".join(commits).encode())
            parents = {parent for line in lines.decode().splitlines() for parent in line.split()[1:]}
            # The longest line first: its files are those of the history, the others' are kept as they were never merged.
            tips = sorted(commits - parents, key=lambda tip: (-int(git("rev-list", "--count", tip)), tip))
            files = git("rev-parse", f"{tips[0]}^{{tree}}").decode().strip()
            trees, heads = (git("ls-tree", head), [head]) if head else (b"", [])
            tree = git("mktree", input=trees + f"040000 tree {files}\t{name}\n".encode()).decode().strip()
            merged = [argument for parent in [*heads, *tips] for argument in ("-p", parent)]
            head = git("commit-tree", tree, *merged, "-m", f"Join {name}").decode().strip()
            seen.add(head)
            git("update-ref", f"refs/heads/{name}", tips[0])
        git("update-ref", "refs/heads/main", head)
        git("fsck", "--no-dangling", "--connectivity-only")
        made.rename(target)
        count = run("git", "-C", target, "rev-list", "--count", "main").decode().strip()
        print(f"made {target}: {count} commits")


if __name__ == "__main__":
    main()
