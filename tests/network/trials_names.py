"""Name servers that are slow, dead or broken."""

import time

from lab import SERVER
from suite import hold, trial

NAMED = "http://agent.test:4096"
LONG = "say 2, wait 60, say 2"
SHORT = "say 4 every 0.4"


@trial(seconds=12)
def names_slow(lab):
    """Each look-up takes three seconds."""
    lab.agent()
    lab.names("--slow", "3")
    lab.completed(lab.sortie("run", SHORT, server=NAMED), SHORT)


@trial(seconds=15)
def names_slow_deadline(lab):
    """The cancel after the deadline needs no look-up."""
    lab.agent()
    lab.names("--slow", "3")
    run = lab.sortie("run", LONG, "--timeout", "12s", server=NAMED)
    run.said(2)
    lab.failed(run, "timeout", cancel_confirmed=True, prompts=1)
    lab.cancelled()


@trial(seconds=8)
def names_slow_interrupted(lab):
    """A signal arrives during the first look-up, before anything was sent."""
    lab.agent()
    lab.names("--slow", "8")
    run = lab.sortie("run", SHORT, server=NAMED)
    run.told("creating a session")
    time.sleep(1)
    run.signal()
    lab.failed(run, "interrupted", within=6, prompts=0, cancel_confirmed=None)
    took = time.monotonic() - run.signalled
    hold(took < 2.5, f"it ended {took:.1f} s after the signal")


@trial(seconds=15)
def names_first_dead(lab):
    """The first of two name servers never answers."""
    lab.agent()
    lab.names()
    lab.resolver("nameserver 10.0.2.9", f"nameserver {SERVER}", "options timeout:2")
    lab.drop("ip daddr 10.0.2.9")
    lab.completed(lab.sortie("run", SHORT, server=NAMED), SHORT)


@trial(seconds=12)
def names_dead(lab):
    """No name server answers."""
    lab.agent()
    lab.hosts()
    lab.resolver("nameserver 10.0.2.9")
    lab.drop("ip daddr 10.0.2.9")
    run = lab.sortie("run", SHORT, "--connect-timeout", "3s", "--retry-timeout", "5s", server=NAMED)
    lab.failed(run, "connection", within=14, prompts=0, says="agent.test", retryable=True, cancel_confirmed=None)


@trial(seconds=20)
def names_die(lab):
    """The name server dies in mid-run and the stream is cut. sortie reconnects to the address that it knows."""
    lab.agent()
    mute = lab.folder / "mute"
    lab.names("--mute-while", mute)
    story = "say 14 every 0.5"
    run = lab.sortie("run", story, server=NAMED)
    run.said(2)
    mute.touch()
    lab.rule("ip saddr 10.0.1.2 meta l4proto tcp reject with tcp reset")
    time.sleep(1)
    lab.let_through()
    lab.completed(run, story, within=45)


@trial(seconds=10)
def names_die_before_the_cancel(lab):
    lab.agent()
    mute = lab.folder / "mute"
    lab.names("--mute-while", mute)
    run = lab.sortie("run", LONG, server=NAMED)
    run.said(2)
    mute.touch()
    run.signal()
    lab.failed(run, "interrupted", cancel_confirmed=True, prompts=1)
    lab.cancelled()


@trial(seconds=10)
def names_dead_at_first(lab):
    """The name server comes up four seconds after sortie."""
    lab.agent()
    mute = lab.folder / "mute"
    mute.touch()
    lab.names("--mute-while", mute)
    lab.resolver(f"nameserver {SERVER}", "options timeout:1")
    run = lab.sortie("run", SHORT, server=NAMED)
    time.sleep(4)
    mute.unlink()
    lab.completed(run, SHORT, within=45)


@trial(seconds=10)
def names_servfail_at_first(lab):
    lab.agent()
    lab.names("--servfail", "6")
    lab.completed(lab.sortie("run", SHORT, server=NAMED), SHORT, within=45)


@trial()
def names_unknown(lab):
    """The name does not exist. sortie retries, since the name may exist soon."""
    lab.agent()
    lab.names("--nxdomain")
    run = lab.sortie("run", SHORT, "--retry-timeout", "2s", server=NAMED)
    lab.failed(run, "connection", within=10, says="agent.test", prompts=0)
