"""Runs trials in parallel and reports the failures."""

import argparse
import concurrent.futures
import fnmatch
import os
import shutil
import subprocess
import sys
import time
import traceback

import isolation

TRIALS = {}

# The limit for anything that should take a moment, in seconds. It allows for a busy machine.
PATIENCE = 30


def trials(name, function, seconds=5):
    """Registers a trial. `seconds` is roughly its run time; the longest trials start first."""
    TRIALS[name] = (function, seconds)


def trial(seconds=5):
    """Registers a function as a trial. The trial has the function's name, with - for _."""

    def register(function):
        trials(function.__name__.replace("_", "-"), function, seconds)
        return function

    return register


class Broken(Exception):
    """A check that failed."""


def hold(fact, what):
    if not fact:
        raise Broken(what)


def until(fact, what, seconds=PATIENCE):
    """Waits until `fact()` is true and returns its value."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        hold(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return found


def command(*arguments, **options):
    done = subprocess.run(arguments, capture_output=True, text=True, **options)
    hold(done.returncode == 0, f"{' '.join(map(str, arguments))}: {done.stderr or done.stdout}")
    return done.stdout


def attempt(name, make):
    """Runs one trial. Returns the lines that describe its failure, if any, and its run time in seconds."""
    began = time.monotonic()
    wrong, world = [], None
    try:
        world = make(name)
        TRIALS[name][0](world)
    except Broken as broken:
        wrong = [str(broken)]
    except Exception:
        wrong = traceback.format_exc().splitlines()
    if world:
        wrong += world.report() if wrong else []
        world.close()
    return wrong, time.monotonic() - began


def chosen(patterns):
    """Returns the names of the matching trials, longest first."""
    for pattern in patterns:
        if not fnmatch.filter(TRIALS, pattern):
            sys.exit(f"run: there is no trial {pattern}")
    names = [name for name in TRIALS if any(fnmatch.fnmatch(name, pattern) for pattern in patterns or ["*"])]
    return sorted(names, key=lambda name: -TRIALS[name][1])


def main(about, packages, prepare):
    """Runs the trials that the command line selects. `prepare(binary, scratch)` returns a function that makes a trial's
    world from its name."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-l", "--list", action="store_true", help="list the trials")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell each trial's time")
    parser.add_argument("-j", "--jobs", type=int, default=10, help="how many run side by side (default: 10)")
    parser.add_argument("sortie", nargs="?", default=os.environ.get("SORTIE_BIN", "sortie"), help="default: SORTIE_BIN")
    parser.add_argument("trial", nargs="*", help="a name, or a pattern such as 'nginx-*'")
    options = parser.parse_args()
    names = chosen(options.trial)
    if options.list:
        print("\n".join(sorted(names)))
        return
    binary = shutil.which(options.sortie) or sys.exit(f"run: there is no program {options.sortie}")
    make = prepare(os.path.realpath(binary), isolation.enter(packages))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        started = {pool.submit(attempt, name, make): name for name in names}
        for done in concurrent.futures.as_completed(started):
            wrong, seconds = done.result()
            failed += bool(wrong)
            if wrong or options.verbose:
                print(f"{'FAILED' if wrong else 'ok    '} {started[done]} ({seconds:.1f} s)", flush=True)
            for row in wrong:
                print(f"        {row}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
