"""haproxy in front of one agent server or two."""

import time

from lab import AT_ONCE, SERVER
from suite import hold, trial, until
from trials_front import LONG, SHORT, TLS, WEB, pair

ONE = f"""
frontend web
    bind :80
    default_backend agents
backend agents
    server a {SERVER}:4096
"""

# Two agent servers behind one address. Server b does not know the sessions of server a.
TWO = f"""
frontend web
    bind :80
    default_backend agents
backend agents
    balance roundrobin
    server a {SERVER}:4096
    server b {SERVER}:4097
"""


def replicas(lab):
    lab.agent()
    lab.agent(port=4097, name="replica")


@trial(seconds=10)
def haproxy_timeouts(lab):
    """haproxy cuts a stream that is quiet for two seconds."""
    lab.agent()
    lab.haproxy("timeout client 2s\n timeout server 2s\n" + ONE)
    story = "say 2, wait 3, say 2, turn, wait 3, say 2"
    lab.completed(lab.sortie("run", story, server=WEB), story)


@trial()
def haproxy_504_prompt_taken(lab):
    """The server takes the prompt, and answers after haproxy's time-out."""
    lab.agent("--answer-after", "3")
    lab.haproxy("timeout server 1s\n" + ONE)
    story = "say 10 every 0.5"
    lab.completed(lab.sortie("run", story, server=WEB), story)


@trial()
def haproxy_reloaded(lab):
    """A new haproxy takes over the port, twice. The old one cuts its streams after a second."""
    lab.agent()
    old = lab.haproxy(ONE)
    story = "say 16 every 0.3"
    run = lab.sortie("run", story, server=WEB)
    for lines in (2, 8):
        run.said(lines)
        new = lab.start("middle", "haproxy", "-db", "-f", lab.folder / "haproxy.cfg", "-x", lab.folder / "haproxy.sock",
                        "-sf", old.pid)
        until(lambda: old.poll() is not None, "the old haproxy ends")
        old = new
    lab.completed(run, story)


@trial()
def haproxy_503(lab):
    """haproxy takes the server out in mid-run, cuts its streams and answers 503 for three seconds."""
    lab.agent()
    lab.haproxy(ONE)
    story = "say 12 every 0.4"
    run = lab.sortie("run", story, server=WEB)
    run.said(2)
    lab.haproxy_says("disable server agents/a")
    lab.haproxy_says("shutdown sessions server agents/a")
    time.sleep(3)
    lab.haproxy_says("enable server agents/a")
    lab.completed(run, story)


@trial(seconds=12)
def haproxy_503_for_good(lab):
    lab.agent()
    lab.haproxy(ONE)
    run = lab.sortie("run", LONG, "--retry-timeout", "3s", server=WEB)
    run.said(2)
    lab.haproxy_says("disable server agents/a")
    lab.haproxy_says("shutdown sessions server agents/a")
    lab.failed(run, "connection", "server", cancel_confirmed=False, retryable=False, prompts=1, unsaid="has stopped")
    lab.going_on()


@trial(seconds=12)
def haproxy_replicas_after_the_prompt(lab):
    """All calls after the prompt reach a replica that knows nothing of the session."""
    replicas(lab)
    lab.haproxy(f"""
frontend web
    bind :80
    use_backend first if METH_POST !{{ path_end /cancel }} !{{ path_end /decisions }}
    default_backend second
backend first
    server a {SERVER}:4096
backend second
    server b {SERVER}:4097
""")
    run = lab.sortie("run", "say 40 every 0.5", server=WEB)
    another_server(lab, run, within=60)


def another_server(lab, run, within=30):
    lab.failed(run, "lost", within=within, says="another server behind the same address?", unsaid="has stopped",
               cancel_confirmed=False, retryable=False, prompts=1)
    hold(not lab.prompts("replica"), "a second prompt at the replica")
    lab.going_on()


@trial(seconds=15)
def haproxy_replica_switched(lab):
    """In mid-run, haproxy changes to the replica."""
    replicas(lab)
    lab.haproxy(TWO)
    lab.haproxy_says("disable server agents/b")
    run = lab.sortie("run", "say 60 every 0.5", server=WEB)
    run.said(2)
    lab.haproxy_says("enable server agents/b")
    lab.haproxy_says("disable server agents/a")
    lab.haproxy_says("shutdown sessions server agents/a")
    another_server(lab, run)


@trial()
def haproxy_replica_switched_and_back(lab):
    """The replica answers for two seconds only."""
    replicas(lab)
    lab.haproxy(TWO)
    lab.haproxy_says("disable server agents/b")
    story = "say 14 every 0.4"
    run = lab.sortie("run", story, server=WEB)
    run.said(2)
    lab.haproxy_says("enable server agents/b")
    lab.haproxy_says("disable server agents/a")
    lab.haproxy_says("shutdown sessions server agents/a")
    time.sleep(2)
    lab.haproxy_says("enable server agents/a")
    lab.haproxy_says("disable server agents/b")
    lab.haproxy_says("shutdown sessions server agents/b")
    lab.completed(run, story)


@trial(seconds=12)
def haproxy_replica_cancel(lab):
    """The deadline comes while the replica answers."""
    replicas(lab)
    lab.haproxy(TWO)
    lab.haproxy_says("disable server agents/b")
    run = lab.sortie("run", LONG, "--timeout", "4s", server=WEB)
    run.said(2)
    lab.haproxy_says("enable server agents/b")
    lab.haproxy_says("disable server agents/a")
    lab.failed(run, "timeout", cancel_confirmed=False, retryable=False, prompts=1, unsaid="has stopped")
    lab.going_on()


@trial(seconds=25)
def haproxy_round_robin(lab):
    """Requests alternate between the servers. The run may fail, but there is no second prompt and no false success."""
    replicas(lab)
    lab.haproxy(TWO)
    run = lab.sortie("run", "say 4 every 0.2", server=WEB).end(60)
    prompts = lab.prompts() + lab.prompts("replica")
    hold(len(prompts) <= 1, f"{len(prompts)} prompts")
    if run.process.returncode == 0:
        lab.same_text(run, "say 4 every 0.2")
    else:
        lab.failed(run, retryable=False)


@trial()
def haproxy_sticky_cookie(lab):
    """A cookie from the header file keeps the run at one of the two servers."""
    replicas(lab)
    lab.haproxy(TWO.replace("balance roundrobin", "balance roundrobin\n    cookie SRV indirect nocache insert")
                .replace(":4096", ":4096 cookie a").replace(":4097", ":4097 cookie b"))
    headers = lab.folder / "headers"
    headers.write_text("Cookie: SRV=a\n")
    headers.chmod(0o600)
    lab.completed(lab.sortie("run", SHORT, "--header-file", headers, server=WEB), SHORT)
    hold(not lab.calls(".*", "replica"), "a call reached the replica")


def mutual(lab):
    keys = lab.certificates
    lab.agent()
    lab.haproxy(ONE.replace("bind :80", f"bind :443 ssl crt {keys / 'front.both'} ca-file {keys / 'ca.pem'} verify required"),
                port=443)


@trial()
def haproxy_mtls(lab):
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", *pair(lab, "client"), server=TLS)
    lab.completed(run, SHORT)


@trial()
def haproxy_mtls_without(lab):
    """haproxy ends the handshake with an alert; the line names the flags."""
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", server=TLS)
    lab.failed(run, within=AT_ONCE, says=["--cert", "--key"], prompts=0, retryable=False)


@trial()
def haproxy_mtls_stranger(lab):
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", *pair(lab, "stranger"), server=TLS)
    lab.failed(run, within=AT_ONCE, says="--cert", prompts=0, retryable=False)


@trial()
def haproxy_tls_cut(lab):
    """haproxy cuts a TLS stream in mid-run without a close_notify."""
    keys = lab.certificates
    lab.agent()
    lab.haproxy("timeout server 2s\n" + ONE.replace("bind :80", f"bind :443 ssl crt {keys / 'front.both'}"), port=443)
    story = "say 2, wait 3, say 2"
    lab.completed(lab.sortie("run", story, "--cacert", keys / "ca.pem", server=TLS), story)
