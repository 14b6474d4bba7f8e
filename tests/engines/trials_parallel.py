"""parallel-ssh.sh: GNU parallel with --sshlogin over two SSH servers."""

import csv

from suite import hold, trial, until

LONG = "say 2, wait 300"
MIXED = {"disks": "say 3 every 0.2", "fails": "say 1, fail", "logs": "say 2", "asks": "say 1, ask, say 1", "more": "say 4"}


def joblog(work):
    """Returns GNU parallel's own accounting: {task: (host, exit code, signal)}."""
    path = work.out / "joblog"
    rows = list(csv.DictReader(path.open(), delimiter="\t")) if path.exists() else []
    return {row["Command"].split(".md")[0].split()[-1]: (row["Host"], int(row["Exitval"]), int(row["Signal"])) for row in rows}


@trial(seconds=15)
def parallel_exit_codes(work):
    """0, 1 and 10 arrive in the joblog, from both machines; the records and answers come home."""
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(**MIXED))
    work.ends(1, within=60)
    log = joblog(work)
    codes = {name: code for name, (_, code, _) in log.items()}
    hold(codes == {"disks": 0, "fails": 1, "logs": 0, "asks": 10, "more": 0}, f"the joblog says {codes}")
    hold({host.split("@")[-1] for host, _, _ in log.values()} == {"one", "two"}, f"one machine did it all: {log}")
    work.one_folder({"disks": "completed", "fails": "failed", "logs": "completed", "asks": "paused", "more": "completed"})
    work.goes_on("asks")


@trial(seconds=10)
def parallel_paused(work):
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(a="say 1", b="say 1, ask, say 1"))
    work.ends(10, within=60)
    work.one_folder({"a": "completed", "b": "paused"})


@trial(seconds=10)
def parallel_completed(work):
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(a="say 1", b="say 2", c="say 3"))
    work.ends(0, within=60)
    work.one_folder({"a": "completed", "b": "completed", "c": "completed"})


@trial(seconds=35)
def parallel_time_limit(work):
    """GNU parallel's own time limit ends a task, and sortie cancels the run."""
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(a=LONG, b="say 1"), PARALLEL="--timeout 25")
    work.begun(2)
    work.ends(1, within=90)
    until(lambda: sorted(work.ended()) == ["cancelled", "completed"], "one run is cancelled, one completed")
    hold(joblog(work)["a"][1:] != (0, 0), "the joblog takes it for a success")


@trial(seconds=15)
def parallel_interrupted(work):
    """After Ctrl-C, all runs are cancelled on the server."""
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(a=LONG, b=LONG, c=LONG))
    work.begun(3)
    work.interrupt()
    work.cancelled(3)


@trial(seconds=15)
def parallel_own_time_limit(work):
    """sortie's own limit: the record says so."""
    work.recipe("parallel-ssh.sh", "out", "one,two", *work.tasks(a=LONG), TIMEOUT="3s")
    work.ends(1, within=60)
    work.cancelled(1)
    record = work.record("a")
    hold(record["reason"] == "timeout" and record["cancel_confirmed"] is True, f"the record says {record}")
    hold(joblog(work)["a"][1] == 1, "another exit code in the joblog")
