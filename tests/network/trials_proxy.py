"""squid between sortie and the agent server."""

import time

from lab import AT_ONCE, FRONT, SERVER
from suite import command, hold, trial, trials
from trials_front import LONG, SHORT

PROXY = f"http://{FRONT}:3128"
AGENT = "http://agent.test:4096"
TLS = "https://agent.test"
STORY = "say 2, wait 2, say 2"

AUTH = """
    auth_param basic program /usr/lib/squid/basic_ncsa_auth %s
    acl known proxy_auth REQUIRED
    http_access allow known
    http_access deny all"""


def tls(lab):
    """Starts the agent server behind TLS on port 443."""
    keys = lab.certificates
    lab.agent()
    (lab.folder / "tls.cfg").write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend tls
    bind :443 ssl crt {keys / 'front.both'}
    default_backend agents
backend agents
    server a 127.0.0.1:4096
""")
    lab.serve("server", 443, "haproxy", "-db", "-f", lab.folder / "tls.cfg")


def straight_is_barred(lab):
    """Makes the router drop direct packets to the server, so that only the proxy reaches it."""
    lab.drop("ip saddr 10.0.1.2 ip daddr 10.0.2.2")


def trusted(lab):
    return ["--cacert", lab.certificates / "ca.pem"]


def passwords(lab):
    users = lab.folder / "users"
    users.write_text("robot:" + command("openssl", "passwd", "-apr1", "p@ss"))
    return users


@trial(seconds=8)
def squid_plain(lab):
    """sortie sends plain http requests to the proxy. It opens no tunnel, which squid allows to port 443 only."""
    lab.agent()
    lab.squid()
    straight_is_barred(lab)
    lab.completed(lab.sortie("run", STORY, server=AGENT, http_proxy=PROXY), STORY)


@trial(seconds=8)
def squid_connect(lab):
    tls(lab)
    lab.squid()
    straight_is_barred(lab)
    lab.completed(lab.sortie("run", STORY, *trusted(lab), server=TLS, https_proxy=PROXY), STORY)


@trial(seconds=8)
def squid_connect_cancel(lab):
    """The cancel goes through the proxy too."""
    tls(lab)
    lab.squid()
    straight_is_barred(lab)
    run = lab.sortie("run", LONG, *trusted(lab), server=TLS, HTTPS_PROXY=PROXY)
    run.said(2)
    run.signal()
    lab.failed(run, "interrupted", cancel_confirmed=True, prompts=1)
    lab.cancelled()


@trial(seconds=8)
def squid_auth(lab):
    lab.squid(AUTH % passwords(lab))
    straight_is_barred(lab)
    tls(lab)
    proxy = f"http://robot:p%40ss@{FRONT}:3128"
    run = lab.sortie("run", SHORT, "-vv", *trusted(lab), server=TLS, https_proxy=proxy)
    lab.completed(run, SHORT)
    hold("p@ss" not in run.stderr and "p%40ss" not in run.stderr, "the proxy's password is shown")


@trial(seconds=8)
def squid_auth_plain(lab):
    lab.squid(AUTH % passwords(lab))
    straight_is_barred(lab)
    lab.agent()
    lab.completed(lab.sortie("run", SHORT, server=AGENT, http_proxy=f"http://robot:p%40ss@{FRONT}:3128"), SHORT)


def refused(lab, proxy, server, *flags):
    lab.squid(AUTH % passwords(lab))
    run = lab.sortie("run", SHORT, *flags, server=server, http_proxy=proxy, https_proxy=proxy)
    lab.failed(run, within=AT_ONCE, says="proxy", unsaid="p%40ss", retryable=False, prompts=0)
    hold("407" in run.stderr, "stderr does not say 407")


@trial(seconds=8)
def squid_auth_missing(lab):
    tls(lab)
    refused(lab, PROXY, TLS, *trusted(lab))


@trial(seconds=8)
def squid_auth_wrong(lab):
    tls(lab)
    refused(lab, f"http://robot:wrong@{FRONT}:3128", TLS, *trusted(lab))


@trial(seconds=8)
def squid_auth_missing_plain(lab):
    lab.agent()
    refused(lab, PROXY, AGENT)


@trial(seconds=8)
def squid_denies(lab):
    """squid's own 403."""
    lab.agent()
    lab.squid("http_access deny all")
    run = lab.sortie("run", SHORT, server=AGENT, http_proxy=PROXY)
    lab.failed(run, within=AT_ONCE, prompts=0, retryable=False)


@trial(seconds=12)
def squid_restarted(lab):
    """squid dies in mid-run, and is back after two seconds."""
    tls(lab)
    squid = lab.squid()
    story = "say 14 every 0.4"
    run = lab.sortie("run", story, *trusted(lab), server=TLS, https_proxy=PROXY)
    run.said(2)
    squid.kill()
    squid.wait()
    time.sleep(2)
    lab.squid()
    lab.completed(run, story)


@trial(seconds=10)
def squid_read_timeout(lab):
    """squid cuts a plain stream that is quiet for two seconds."""
    lab.agent()
    lab.squid("http_access allow all\n read_timeout 2 seconds")
    story = "say 2, wait 4, say 2"
    lab.completed(lab.sortie("run", story, server=AGENT, http_proxy=PROXY), story)


def no_proxy(value, server):
    def attempt(lab):
        lab.agent()
        # Nothing listens at the proxy's address.
        run = lab.sortie("run", SHORT, server=server, http_proxy="http://10.0.1.1:9", no_proxy=value)
        lab.completed(run, SHORT)

    return attempt


for kind, value, server in (
    ("network", "192.168.0.0/16, 10.0.0.0/8", f"http://{SERVER}:4096"),
    ("network-odd", "10.0.2.0/30", f"http://{SERVER}:4096"),
    ("address", SERVER, f"http://{SERVER}:4096"),
    ("domain", ".test", AGENT),
    ("network-v6", "2001:db8::/32", "http://[2001:db8:2::2]:4096"),
):
    trials(f"no-proxy-{kind}", no_proxy(value, server), seconds=3)


@trial(seconds=5)
def no_proxy_other_network(lab):
    """The address is not in the network of no_proxy, so sortie uses the proxy."""
    lab.agent()
    run = lab.sortie("run", SHORT, "--retry-timeout", "1s", server=f"http://{SERVER}:4096",
                     http_proxy=f"http://{FRONT}:9", no_proxy="10.0.3.0/24")
    lab.failed(run, "connection", prompts=0)
