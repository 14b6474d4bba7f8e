"""Paths that lose packets, fall silent or forget connections."""

import signal
import time

from lab import AT_ONCE, SERVER
from suite import hold, trial, trials

DIRECT = f"http://{SERVER}:4096"
NAMED = "http://agent.test:4096"
LONG = "say 2, wait 60, say 2"
TRIVIAL = "say 3"


def hole(lab, seconds):
    """Drops all packets in both directions for some seconds, without any error."""
    lab.drop()
    time.sleep(seconds)
    lab.let_through()


# Black holes.


@trial(seconds=14)
def hole_5(lab):
    lab.agent()
    story = "say 30 every 0.3"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    hole(lab, 5)
    lab.completed(run, story, within=60)


@trial(seconds=15)
def hole_5_at_the_end(lab):
    """The run ends during the black hole."""
    lab.agent()
    story = "say 12 every 0.3"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    hole(lab, 5)
    lab.completed(run, story, within=60)


@trial(seconds=10)
def hole_5_at_the_start(lab):
    lab.agent()
    lab.drop()
    run = lab.sortie("run", TRIVIAL, server=DIRECT)
    time.sleep(5)
    lab.let_through()
    lab.completed(run, TRIVIAL)


@trial(seconds=15)
def hole_5_on_the_prompt(lab):
    """The server takes the prompt, and its answer is lost."""
    lab.agent("--answer-after", "1")
    story = "say 3, wait 8, say 3"
    run = lab.sortie("run", story, server=DIRECT)
    lab.taken()
    hole(lab, 5)
    lab.completed(run, story, within=60)


@trial(seconds=12)
def hole_at_the_cancel(lab):
    """sortie cannot send the cancel. It ends in time and does not claim that the run has stopped."""
    lab.agent()
    run = lab.sortie("run", LONG, server=DIRECT)
    run.said(2)
    lab.drop()
    run.signal(signal.SIGINT)
    lab.failed(run, "interrupted", within=20, cancel_confirmed=False, retryable=False, prompts=1, unsaid="has stopped")
    lab.going_on()


@trial(seconds=8)
def hole_at_the_cancel_second_signal(lab):
    """A second signal ends the wait for the cancel. stderr shows the command to cancel the run by hand."""
    lab.agent()
    run = lab.sortie("run", LONG, server=DIRECT)
    run.said(2)
    lab.drop()
    run.signal(signal.SIGINT)
    time.sleep(2.5)
    run.signal(signal.SIGINT)
    lab.failed(run, "interrupted", cancel_confirmed=False, retryable=False, prompts=1, says="sortie cancel")
    took = time.monotonic() - run.signalled
    hold(took < 1.5, f"it ended {took:.1f} s after the second signal")


@trial(seconds=10)
def hole_2_at_the_cancel(lab):
    """The path works again within the 5 s that a cancel has."""
    lab.agent()
    run = lab.sortie("run", LONG, server=DIRECT)
    run.said(2)
    lab.drop()
    run.signal()
    time.sleep(2)
    lab.let_through()
    lab.failed(run, "interrupted", within=20, cancel_confirmed=True, prompts=1)
    lab.cancelled()


@trial(seconds=90)
def hole_70(lab):
    """The black hole lasts about as long as --retry-timeout. sortie may give up without false claims, or complete."""
    lab.agent()
    story = "say 260 every 0.3"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    hole(lab, 70)
    run.end(within=130)
    if run.process.returncode == 0:
        lab.completed(run, story)
    else:
        lab.failed(run, "connection", cancel_confirmed=False, retryable=False, prompts=1, unsaid="has stopped")


@trial(seconds=45)
def hole_for_good(lab):
    lab.agent()
    run = lab.sortie("run", "say 400 every 0.3", "--retry-timeout", "20s", server=DIRECT)
    run.said(3)
    lab.drop()
    lab.failed(run, "connection", within=60, cancel_confirmed=False, retryable=False, prompts=1, unsaid="has stopped")
    # sortie checks a silent stream after 15 s, and the cancel has 5 s.
    hold(20 < run.seconds < 46, f"it took {run.seconds:.1f} s")
    lab.going_on()


@trial(seconds=100)
def hole_70_with_patience(lab):
    lab.agent()
    story = "say 40 every 0.3"
    run = lab.sortie("run", story, "--retry-timeout", "3m", server=DIRECT)
    run.said(3)
    hole(lab, 70)
    lab.completed(run, story, within=170)


@trial(seconds=95)
def hole_70_resumed_by_attach(lab):
    """sortie gives up; `attach` later finds the completed run."""
    lab.agent()
    story = "say 3, wait 20, say 3"
    run = lab.sortie("run", story, "--retry-timeout", "10s", server=DIRECT)
    run.said(3)
    lab.drop()
    session = lab.failed(run, "connection", within=90, cancel_confirmed=False, retryable=False)["session_id"]
    lab.let_through()
    lab.completed(lab.sortie("attach", session, server=DIRECT), story, within=60)


@trial(seconds=12)
def link_down_3(lab):
    """The interface goes down, so connects fail at once."""
    lab.agent()
    story = "say 20 every 0.4"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    lab.ip(lab.net("client"), "link set uplink down")
    time.sleep(3)
    lab.ip(lab.net("client"), "link set uplink up", "route replace default via 10.0.1.1")
    lab.completed(run, story, within=60)


@trial(seconds=12)
def server_refuses_3(lab):
    """The port is closed for three seconds."""
    lab.agent()
    story = "say 20 every 0.3"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    lab.rule("ip saddr 10.0.1.2 meta l4proto tcp reject with tcp reset")
    time.sleep(3)
    lab.let_through()
    lab.completed(run, story, within=60)


# Loss: nftables drops packets at random, since some kernels lack tc's netem.


@trial(seconds=30)
def loss_30(lab):
    lab.agent()
    lab.drop("numgen random mod 100 < 30")
    story = "say 30 every 0.1"
    lab.completed(lab.sortie("run", story, "--retry-timeout", "3m", server=DIRECT), story, within=150)


@trial(seconds=30)
def loss_30_trivial(lab):
    lab.agent()
    lab.drop("numgen random mod 100 < 30")
    lab.completed(lab.sortie("run", TRIVIAL, "--retry-timeout", "3m", server=DIRECT), TRIVIAL, within=150)


@trial(seconds=20)
def large_packets_lost(lab):
    """The path loses all large packets for six seconds: heads of answers pass, bodies do not."""
    lab.agent()
    lab.drop("ip length > 1000")
    story = "say 60, wait 1, say 2"
    run = lab.sortie("run", story, server=DIRECT)
    time.sleep(6)
    lab.let_through()
    lab.completed(run, story, within=90)


# Addresses.


def unreachable_six(lab, verdict):
    """The name has two addresses; IPv6 comes first."""
    lab.hosts("2001:db8:2::2 agent.test", f"{SERVER} agent.test")
    if verdict:
        lab.rule(f"ip6 daddr 2001:db8:2::2 {verdict}")


@trial()
def six_alive(lab):
    lab.agent()
    unreachable_six(lab, None)
    lab.completed(lab.sortie("run", TRIVIAL, server=NAMED), TRIVIAL, within=AT_ONCE)


def six_dead(verdict):
    def attempt(lab):
        lab.agent()
        unreachable_six(lab, verdict)
        run = lab.sortie("run", TRIVIAL, server=NAMED)
        lab.completed(run, TRIVIAL)
        hold(run.seconds < 2.5, f"it took {run.seconds:.1f} s, more than 2.5 s")

    return attempt


trials("six-dead", six_dead("drop"))
trials("six-refused", six_dead("meta l4proto tcp reject with tcp reset"))
trials("six-prohibited", six_dead("reject with icmpx admin-prohibited"))


@trial()
def four_dead(lab):
    """The name has two IPv4 addresses, and the first is dead."""
    lab.agent()
    lab.hosts("10.0.2.9 agent.test", f"{SERVER} agent.test")
    lab.drop("ip daddr 10.0.2.9")
    run = lab.sortie("run", TRIVIAL, server=NAMED)
    lab.completed(run, TRIVIAL)
    hold(run.seconds < 2.5, f"it took {run.seconds:.1f} s, more than 2.5 s")


@trial()
def six_dead_cancel(lab):
    """The cancel goes straight to the address that answered before."""
    lab.agent()
    unreachable_six(lab, "drop")
    run = lab.sortie("run", LONG, server=NAMED)
    run.said(2)
    run.signal()
    lab.failed(run, "interrupted", cancel_confirmed=True, prompts=1)
    took = time.monotonic() - run.signalled
    hold(took < 2.5, f"the cancel took {took:.1f} s")
    lab.cancelled()


@trial(seconds=10)
def six_dies(lab):
    """The address in use falls silent in mid-run. The other address still works."""
    lab.agent()
    unreachable_six(lab, None)
    story = "say 3, wait 4, say 3"
    run = lab.sortie("run", story, server=NAMED)
    run.said(3)
    lab.drop("ip6 daddr 2001:db8:2::2")
    lab.drop("ip6 saddr 2001:db8:2::2")
    lab.completed(run, story, within=90)


@trial(seconds=8)
def all_addresses_dead(lab):
    """--connect-timeout bounds a whole connect, however many addresses there are."""
    lab.hosts("2001:db8:2::7 agent.test", "2001:db8:2::8 agent.test", "10.0.2.7 agent.test", "10.0.2.8 agent.test")
    lab.drop("ip daddr 10.0.2.0/24")
    lab.drop("ip6 daddr 2001:db8:2::/64")
    run = lab.sortie("run", TRIVIAL, "--connect-timeout", "2s", "--retry-timeout", "0s", server=NAMED)
    lab.failed(run, "connection", within=30, cancel_confirmed=None, retryable=True)
    hold(run.seconds < 4.5, f"it took {run.seconds:.1f} s, more than 4.5 s")


# A NAT router that forgets connections, as routers at home and in clouds do.


def forgetful(lab):
    lab.run("middle", "nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
                            "add rule ip nat post oifname outer masquerade")
    lab.rule("ct state invalid drop")
    lab.rule("iifname outer drop", "input")
    # Without this, the router would accept packets from the middle of an unknown connection.
    lab.run("middle", "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")


@trial(seconds=25)
def nat_forgets_at_the_end(lab):
    """The rest of the stream never arrives on the old connection, and the run ends."""
    lab.agent()
    forgetful(lab)
    story = "say 3, wait 3, say 3"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    lab.run("middle", "conntrack", "-F")
    lab.completed(run, story, within=70)


@trial(seconds=65)
def nat_forgets(lab):
    """The run goes on after the router forgot the connection. sortie notices the missing keep-alives."""
    lab.agent()
    forgetful(lab)
    story = "say 3, wait 3, say 55 every 1"
    run = lab.sortie("run", story, server=DIRECT)
    run.said(3)
    lab.run("middle", "conntrack", "-F")
    lab.completed(run, story, within=100)


@trial(seconds=10)
def nat_forgets_before_the_cancel(lab):
    lab.agent()
    forgetful(lab)
    run = lab.sortie("run", LONG, server=DIRECT)
    run.said(2)
    lab.run("middle", "conntrack", "-F")
    run.signal()
    lab.failed(run, "interrupted", cancel_confirmed=True, prompts=1)
    lab.cancelled()
