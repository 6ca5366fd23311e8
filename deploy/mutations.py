#!/usr/bin/env python3
"""Plants the bugs of simulation/mutations.toml, one after the other, and runs the test that must catch each.

    mutations.py [NAME...]     all, or those whose name contains one of the given

Works on a copy of the last commit in a temporary folder; compiled dependencies are shared through CARGO_TARGET_DIR.
Exits with 1 if a bug was not caught, or if the test fails without it.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test(folder, arguments):
    """Whether the test passes; a build that fails ends everything, as it says nothing about the test."""
    cargo = ["cargo", "test", "--release", "--workspace", "--locked", *arguments.split()]
    built = subprocess.run([*cargo, "--no-run"], cwd=folder, capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(built.stderr)
    return subprocess.run(cargo, cwd=folder, capture_output=True, text=True).returncode == 0


def main():
    mutations = tomllib.loads((ROOT / "simulation/mutations.toml").read_text())["mutation"]
    names = sys.argv[1:]
    chosen = [m for m in mutations if not names or any(name in m["name"] for name in names)]
    if not chosen:
        sys.exit(f"no mutation is named like that; there are: {', '.join(m['name'] for m in mutations)}")
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        for arguments in sorted({m["caught_by"] for m in chosen}):
            if not test(folder, arguments):
                sys.exit(f"cargo test {arguments} fails without any bug planted")
        for mutation in chosen:
            path = pathlib.Path(folder) / mutation["file"]
            sound = path.read_text()
            before, after = mutation["before"].strip("\n"), mutation["after"].strip("\n")
            if sound.count(before) != 1:
                sys.exit(f"{mutation['name']}: what it replaces is not once in {mutation['file']}")
            path.write_text(sound.replace(before, after))
            caught = not test(folder, mutation["caught_by"])
            path.write_text(sound)
            # Cargo goes by times of change; the next build must see this one.
            os.utime(path)
            print(f"{'caught' if caught else 'MISSED'}: {mutation['name']}", flush=True)
            if not caught:
                missed.append(mutation["name"])
    print(f"{len(chosen) - len(missed)} of {len(chosen)} bugs were caught")
    sys.exit(1 if missed else 0)


main()
