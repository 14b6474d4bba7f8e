"""slurm-array.sh: a Slurm array over two nodes."""

import re
import subprocess

from suite import hold, trial, until

LONG = "say 2, wait 300"
MIXED = {"disks": "say 3 every 0.2", "fails": "say 1, fail", "logs": "say 2", "asks": "say 1, ask, say 1", "more": "say 4"}


def array(work, tasks, **environment):
    work.recipe("slurm-array.sh", "out", *tasks, SBATCH_JOB_NAME=work.folder.name, **environment)


def accounting(work):
    """Returns Slurm's own accounting of this trial's tasks: [(state, exit code, signal, node)]."""
    rows = []
    path = work.engines.folder / "jobs.txt"
    for row in path.read_text().splitlines() if path.exists() else []:
        fields = dict(re.findall(r"(\w+)=(\S*)", row))
        if fields.get("Name") == work.folder.name:
            code, _, signal = fields["ExitCode"].partition(":")
            rows.append((int(fields["JobId"]), fields["JobState"], int(code), int(signal), fields["NodeList"]))
    return [row[1:] for row in sorted(rows)]


def accounted(work, count):
    return until(lambda: len(rows := accounting(work)) == count and rows, f"{count} tasks in Slurm's accounting")


def interrupted(work, names):
    """Checks that each record says interrupted and a confirmed cancel."""
    work.cancelled(len(names))
    for name in names:
        record = work.record(name)
        hold((record["reason"], record["cancel_confirmed"]) == ("interrupted", True),
             f"{name}: {record['reason']}, cancel_confirmed {record['cancel_confirmed']}")


@trial(seconds=20)
def slurm_exit_codes(work):
    """0, 1 and 10 arrive in the accounting; the records and answers are in one folder."""
    array(work, work.tasks(**MIXED))
    work.ends(1, within=90)
    rows = accounted(work, 5)
    ends = sorted((state, code, signal) for state, code, signal, _ in rows)
    hold(ends == [("COMPLETED", 0, 0)] * 3 + [("FAILED", 1, 0), ("FAILED", 10, 0)], f"the accounting says {rows}")
    work.one_folder({"disks": "completed", "fails": "failed", "logs": "completed", "asks": "paused", "more": "completed"})
    work.goes_on("asks")


@trial(seconds=20)
def slurm_paused(work):
    array(work, work.tasks(a="say 1", b="say 1, ask, say 1"))
    work.ends(10, within=90)
    work.one_folder({"a": "completed", "b": "paused"})


@trial(seconds=20)
def slurm_completed(work):
    array(work, work.tasks(a="say 1", b="say 2"))
    work.ends(0, within=90)
    work.one_folder({"a": "completed", "b": "completed"})


@trial(seconds=75)
def slurm_signal(work):
    """Slurm sends SIGUSR1 before the time limit, which is one minute at least. sortie cancels the run and exits 1."""
    array(work, work.tasks(a=LONG, b=LONG), SBATCH_TIMELIMIT="1", SBATCH_SIGNAL="B:USR1@50")
    work.begun(2)
    work.ends(1, within=150)
    interrupted(work, ["a", "b"])
    ends = [row[:3] for row in accounted(work, 2)]
    hold(ends == [("FAILED", 1, 0)] * 2, f"the accounting says {ends}")


@trial(seconds=120)
def slurm_time_limit(work):
    """Slurm sends only the SIGTERM of the time limit. (The SIGCONT before it has no effect.)"""
    array(work, work.tasks(a=LONG, b="say 1"), SBATCH_TIMELIMIT="1", SBATCH_SIGNAL="B:CONT@55")
    work.begun(2)
    until(lambda: sorted(work.ended()) == ["cancelled", "completed"], "one run is cancelled, one completed", 150)
    work.ends(1, within=60)
    record = work.record("a")
    hold((record["reason"], record["cancel_confirmed"]) == ("interrupted", True), f"the record says {record}")
    hold("SIGTERM" in record["error"], f"not SIGTERM: {record['error']}")
    states = sorted(row[0] for row in accounted(work, 2))
    hold(states == ["COMPLETED", "TIMEOUT"], f"the accounting says {states}")


@trial(seconds=30)
def slurm_scancel(work):
    array(work, work.tasks(a=LONG, b=LONG, c=LONG))
    work.begun(3)
    subprocess.run(["scancel", f"--name={work.folder.name}"], env=work.environment, check=True)
    work.ends(1, within=90)
    interrupted(work, ["a", "b", "c"])
