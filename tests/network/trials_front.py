"""nginx in front of the agent server."""

import signal
import time

from lab import AT_ONCE, FRONT
from suite import Broken, hold, trial, trials, until

WEB = f"http://{FRONT}"
TLS = "https://front.test"
SHORT = "say 4 every 0.4"
LONG = "say 2, wait 60, say 2"

# Names for the calls of the protocol.
CALLS = """
    map "$request_method $uri" $call {
        "~^POST /v1/sessions$" create; "~^POST .*/messages$" send; "~^GET .*/messages$" messages;
        "~^GET .*/events$" events; "~^GET /v1/sessions/[^/]+$" state; "~^POST .*/cancel$" cancel;
        "~^GET /v1/config$" config; "~^POST .*/decisions$" decisions; default other;
    }"""


class Breakable:
    """nginx that answers a call with an error page of its own while a file of that name is there."""

    def __init__(self, lab, answer, more=""):
        self.lab, self.folder = lab, lab.folder / "broken"
        self.folder.mkdir()
        lab.nginx(f"""{more} access_log {lab.folder}/access hits;
            default_type text/html;
            location / {{ if (-f {self.folder}/$call) {{ return {answer}; }} proxy_pass http://agent; }}""",
            CALLS + "log_format hits '$call $status';")
        self.status = answer.split()[0]

    def breaks(self, call):
        (self.folder / call).touch()

    def hit(self, call, times=1):
        def seen():
            return (self.lab.folder / "access").read_text().splitlines().count(f"{call} {self.status}") >= times

        until(seen, f"nginx answers {call} with {self.status}")

    def mends(self, call):
        (self.folder / call).unlink()


LOGIN = "200 '<html><body>Please log in.</body></html>'"


def page_at(answer, call):
    """nginx answers one call with its own page for about a second."""
    story = {"decisions": "say 1, ask, say 1", "config": "say 1, ask, say 1", "state": "say 2, wait 2.5, say 2",
             "cancel": LONG}.get(call, SHORT)

    def attempt(lab):
        lab.agent()
        # sortie asks for the state after a reconnect.
        front = Breakable(lab, answer, "proxy_read_timeout 1s;" if call == "state" else "")
        front.breaks(call)
        run = lab.sortie("run", story, server=WEB)
        if call == "cancel":
            run.said(2)
            run.signal()
        front.hit(call)
        time.sleep(1)
        front.mends(call)
        if call == "cancel":
            lab.failed(run, "interrupted", cancel_confirmed=True, prompts=1)
            lab.cancelled()
        else:
            lab.completed(run, story)
            hold(len(lab.calls("POST .*/decisions")) <= 1, "more than one decision")

    return attempt


def page_at_first(answer):
    """nginx answers the first call with its own page, so this is no agent server."""

    def attempt(lab):
        lab.agent()
        Breakable(lab, answer).breaks("create")
        run = lab.sortie("run", SHORT, server=WEB)
        lab.failed(run, "protocol", within=AT_ONCE, says="this is no agent server", prompts=0, retryable=False)

    return attempt


for status, answer in {"404": "404", "403": "403", "502": "502", "504": "504", "401": "401",
                       "302": "302 https://login.test/", "login": LOGIN}.items():
    for call in ("send", "events", "state", "config", "decisions", "cancel"):
        trials(f"nginx-{status}-{call}", page_at(answer, call))
    if status in ("502", "504"):
        trials(f"nginx-{status}-create", page_at(answer, "create"))
    elif status != "401":  # see nginx-header-missing-401
        trials(f"nginx-{status}-create", page_at_first(answer))


@trial()
def nginx_page_quoted_once(lab):
    """A message quotes only a few words of a page, and only the first message does."""
    lab.agent()
    front = Breakable(lab, "502 '<html><body><h1>The ministry of gateways regrets.</h1></body></html>'")
    front.breaks("events")
    run = lab.sortie("run", SHORT, server=WEB)
    front.hit("events", times=4)
    front.mends("events")
    lab.completed(run, SHORT)
    hold("<html" not in run.stderr, "stderr quotes HTML")
    hold(run.stderr.count("ministry") <= 1, "the page is quoted more than once")


@trial(seconds=12)
def nginx_404_cancel_for_good(lab):
    lab.agent()
    front = Breakable(lab, "404")
    front.breaks("cancel")
    run = lab.sortie("run", LONG, server=WEB)
    run.said(2)
    run.signal()
    lab.failed(run, "interrupted", cancel_confirmed=False, retryable=False, unsaid="has stopped", prompts=1)
    hold(len((lab.folder / "access").read_text().split("cancel 404")) > 2, "the cancel was tried once only")
    lab.going_on()


@trial(seconds=12)
def nginx_reloaded_to_404_for_good_deadline(lab):
    """The deadline passes while nginx answers every call with its own 404 page."""
    lab.agent()
    lab.nginx()
    run = lab.sortie("run", LONG, "--timeout", "5s", server=WEB)
    run.said(2)
    lab.nginx("location / { return 404; }")
    lab.failed(run, "timeout", cancel_confirmed=False, retryable=False, unsaid="has stopped", prompts=1)
    lab.going_on()


@trial(seconds=12)
def nginx_reloaded_to_404_for_good(lab):
    lab.agent()
    lab.nginx()
    run = lab.sortie("run", LONG, "--retry-timeout", "3s", server=WEB)
    run.said(2)
    lab.nginx("location / { return 404; }")
    lab.failed(run, "connection", "server", cancel_confirmed=False, retryable=False, unsaid="has stopped", prompts=1)
    lab.going_on()


@trial()
def nginx_reloaded_to_404_and_back(lab):
    lab.agent()
    lab.nginx()
    story = "say 12 every 0.5"
    run = lab.sortie("run", story, server=WEB)
    run.said(2)
    lab.nginx("location / { return 404; }")
    time.sleep(3)
    lab.nginx()
    lab.completed(run, story)


@trial()
def nginx_reloaded(lab):
    """nginx is reloaded three times in mid-run. The old worker cuts the stream after a second."""
    lab.agent()
    lab.nginx()
    story = "say 20 every 0.3"
    run = lab.sortie("run", story, server=WEB)
    for lines in (2, 7, 12):
        run.said(lines)
        lab.nginx()
    lab.completed(run, story)


@trial()
def nginx_restarted(lab):
    """nginx is killed in mid-run and is back after two seconds."""
    lab.agent()
    lab.nginx()
    story = "say 12 every 0.4"
    run = lab.sortie("run", story, server=WEB)
    run.said(2)
    lab.run("middle", "sh", "-c", f"kill -KILL $(cat {lab.folder}/nginx.pid) && pkill -KILL --ns $$ --nslist net nginx; true")
    lab.nginx_process = None
    time.sleep(2)
    lab.nginx()
    lab.completed(run, story)


@trial()
def nginx_504_prompt_taken(lab):
    """The server takes the prompt but answers late, so nginx answers 504. The same idempotency key finds the run."""
    lab.agent("--answer-after", "3")
    lab.nginx("proxy_read_timeout 1s;")
    story = "say 10 every 0.5"
    lab.completed(lab.sortie("run", story, server=WEB), story)


@trial()
def nginx_502_for_good(lab):
    """There is no agent server behind nginx."""
    lab.nginx()
    run = lab.sortie("run", SHORT, "--retry-timeout", "2s", server=WEB)
    lab.failed(run, "server", "connection", within=12, cancel_confirmed=None, retryable=True)


# Buffering, compression, time-outs.


@trial()
def nginx_unbuffered_gzip(lab):
    """The text arrives while the run goes on."""
    lab.agent()
    lab.nginx("gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;")
    story = "say 2, wait 4, say 2"
    run = lab.sortie("run", story, server=WEB)
    run.said(2)
    hold(time.monotonic() - run.began < 3.5, "the text was held back")
    lab.completed(run, story)


# nginx asks the server with HTTP/1.0 by default. It then passes the stream on only when a buffer is full.
BUFFERED = "proxy_buffering on; proxy_http_version 1.0;"


def held(story):
    """nginx holds back the stream and never passes on the run's last event."""

    def attempt(lab):
        lab.agent()
        lab.nginx(BUFFERED)
        run = lab.sortie("run", story, server=WEB)
        lab.failed(run, "lost", within=70, says="buffering", text=story, prompts=1, retryable=False, cancel_confirmed=None)
        hold(not lab.calls("POST .*/cancel"), "a run that had completed was cancelled")

    return attempt


trials("nginx-buffered-short", held("say 3 every 0.3"), seconds=28)
trials("nginx-buffered-long", held("say 200 every 0.01, wait 3, say 1"), seconds=48)


@trial(seconds=30)
def nginx_buffered_502_messages(lab):
    """sortie asks for the messages instead, and nginx answers 502 to that for a while."""
    lab.agent()
    front = Breakable(lab, "502", BUFFERED)
    front.breaks("messages")
    story = "say 3"
    run = lab.sortie("run", story, server=WEB)
    try:
        front.hit("messages")
    except Broken:
        pass  # The checks below tell more.
    else:
        time.sleep(1)
    front.mends("messages")
    lab.failed(run, "lost", within=70, says="buffering", text=story, prompts=1, retryable=False)


@trial(seconds=15)
def nginx_buffered_deadline(lab):
    """The deadline passes while nginx holds back the stream: sortie cancels the run."""
    lab.agent()
    lab.nginx(BUFFERED)
    run = lab.sortie("run", LONG, "--timeout", "6s", server=WEB)
    lab.failed(run, "timeout", within=20, cancel_confirmed=True, prompts=1)
    lab.cancelled()


@trial()
def nginx_buffered_chunks(lab):
    """With HTTP/1.1 towards the server, nginx passes on each chunk although it buffers."""
    lab.agent()
    lab.nginx("proxy_buffering on;")
    lab.completed(lab.sortie("run", SHORT, server=WEB), SHORT)


@trial(seconds=20)
def nginx_buffered_and_cut(lab):
    """nginx holds back the stream and discards it after three idle seconds."""
    lab.agent()
    lab.nginx(BUFFERED + "proxy_read_timeout 3s;")
    story = "say 3 every 0.3"
    run = lab.sortie("run", story, "--retry-timeout", "15s", server=WEB)
    record = lab.failed(run, "lost", "connection", within=60, prompts=1, retryable=False)
    if record["reason"] == "lost":
        lab.same_text(run, story)


@trial(seconds=10)
def nginx_read_timeout(lab):
    """nginx cuts a stream that is quiet for two seconds, again and again."""
    lab.agent()
    lab.nginx("proxy_read_timeout 2s;")
    story = "say 2, wait 3, say 2, turn, wait 3, say 2"
    lab.completed(lab.sortie("run", story, server=WEB), story)


@trial(seconds=10)
def nginx_close_delimited(lab):
    """The body has no length and no chunks, so a cut looks like the end."""
    lab.agent()
    lab.nginx("proxy_read_timeout 2s; chunked_transfer_encoding off;")
    story = "say 2, wait 3, say 2"
    lab.completed(lab.sortie("run", story, server=WEB), story)


@trial()
def nginx_no_keepalive(lab):
    lab.agent()
    lab.nginx("keepalive_timeout 0;")
    lab.completed(lab.sortie("run", SHORT, server=WEB), SHORT)


@trial()
def nginx_prefix(lab):
    lab.agent()
    lab.nginx("location /team/agent/ { proxy_pass http://agent/; }")
    lab.completed(lab.sortie("run", SHORT, server=f"{WEB}/team/agent"), SHORT)


@trial()
def nginx_prefix_forgotten(lab):
    lab.agent()
    lab.nginx("location /team/agent/ { proxy_pass http://agent/; }")
    lab.failed(lab.sortie("run", SHORT, server=WEB), "protocol", within=AT_ONCE, says="this is no agent server", prompts=0)


@trial()
def nginx_413(lab):
    lab.agent()
    lab.nginx("client_max_body_size 1k;")
    run = lab.sortie("run", SHORT, "--context", "notes=" + "x" * 5000, server=WEB)
    lab.failed(run, "server", within=AT_ONCE, prompts=0, retryable=False, says="413")


@trial()
def nginx_redirects_to_https(lab):
    lab.agent()
    lab.nginx("location / { return 301 https://$host$request_uri; }")
    lab.failed(lab.sortie("run", SHORT, server=WEB), "protocol", within=AT_ONCE, says="this is no agent server", prompts=0)


@trial()
def nginx_200_headers(lab):
    """The HTTP library refuses so many headers: sortie fails at once."""
    lab.agent()
    lab.nginx("".join(f"add_header X-{n} {n};" for n in range(200)))
    run = lab.sortie("run", SHORT, server=WEB)
    lab.failed(run, within=AT_ONCE, prompts=0, retryable=False, says="headers")


# Gateways that require more than the token.

GATE = """location / { if ($http_cf_access_client_secret != "s3cret-of-the-gateway") { return %s; } proxy_pass http://agent; }"""


@trial()
def nginx_header_file(lab):
    lab.agent()
    lab.nginx(GATE % 403)
    headers = lab.folder / "headers"
    headers.write_text("# of the gateway\n\nCF-Access-Client-Id: sortie\nCF-Access-Client-Secret: s3cret-of-the-gateway\n")
    headers.chmod(0o600)
    run = lab.sortie("run", SHORT, "-vv", "--header-file", headers, server=WEB)
    lab.completed(run, SHORT)
    hold("s3cret" not in run.stderr + run.result.read_text(), "the header is shown")
    second = lab.sortie("run", LONG, server=WEB, SORTIE_HEADER_FILE=str(headers))
    second.said(2)
    second.signal()
    lab.failed(second, "interrupted", cancel_confirmed=True)


def without_header(answer, reason):
    def attempt(lab):
        lab.agent()
        lab.nginx(GATE % answer)
        run = lab.sortie("run", SHORT, server=WEB)
        lab.failed(run, reason, within=AT_ONCE, says="--header-file", prompts=0, retryable=False)

    return attempt


trials("nginx-header-missing-302", without_header("302 https://login.test/", "protocol"))
trials("nginx-header-missing-403", without_header("403", "protocol"))
trials("nginx-header-missing-401", without_header("401", "auth"))


@trial()
def nginx_basic_auth(lab):
    """The 401 is nginx's, not the agent server's."""
    lab.agent()
    (lab.folder / "users").write_text("operator:$apr1$x$mM7q9ynNnVvYDXm8lFdNB0\n")
    lab.nginx(f"auth_basic gateway; auth_basic_user_file {lab.folder}/users;")
    run = lab.sortie("run", SHORT, server=WEB)
    lab.failed(run, "auth", within=AT_ONCE, says="--header-file", prompts=0, retryable=False)


# TLS.


def tls(lab, more="", certificate="front"):
    keys = lab.certificates
    lab.nginx(f"ssl_certificate {keys / certificate}.pem; ssl_certificate_key {keys / certificate}.key; {more}",
              listen="443 ssl http2")


def mutual(lab):
    lab.agent()
    tls(lab, f"ssl_client_certificate {lab.certificates / 'ca.pem'}; ssl_verify_client on;")


def pair(lab, name):
    return ["--cert", lab.certificates / f"{name}.pem", "--key", lab.certificates / f"{name}.key"]


@trial()
def nginx_tls(lab):
    lab.agent()
    tls(lab)
    lab.completed(lab.sortie("run", SHORT, server=TLS, SORTIE_CACERT=lab.certificates / "ca.pem"), SHORT)


@trial()
def nginx_mtls(lab):
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", *pair(lab, "client"), server=TLS)
    lab.completed(run, SHORT)


@trial()
def nginx_mtls_cancel(lab):
    """The cancel presents the certificate too."""
    mutual(lab)
    run = lab.sortie("run", LONG, "--cacert", lab.certificates / "ca.pem", *pair(lab, "client"), server=TLS)
    run.said(2)
    run.signal(signal.SIGINT)
    lab.failed(run, "interrupted", cancel_confirmed=True)
    lab.cancelled()


@trial()
def nginx_mtls_without(lab):
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", server=TLS)
    lab.failed(run, "protocol", within=AT_ONCE, says="certificate", prompts=0, retryable=False)


@trial()
def nginx_mtls_stranger(lab):
    """The client certificate is from an authority that nginx does not know."""
    mutual(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", *pair(lab, "stranger"), server=TLS)
    lab.failed(run, within=AT_ONCE, says="certificate", prompts=0, retryable=False)


@trial()
def nginx_other_name(lab):
    lab.agent()
    tls(lab, certificate="elsewhere")
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", server=TLS)
    lab.failed(run, within=AT_ONCE, says="elsewhere.test", prompts=0, retryable=False)


@trial()
def nginx_plain_self_signed(lab):
    """The server has a certificate from a plain `openssl req -x509`. The message says how to make one that works."""
    lab.agent()
    tls(lab, certificate="plain")
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "plain.pem", server=TLS)
    lab.failed(run, within=AT_ONCE, says="openssl", prompts=0, retryable=False)


@trial()
def nginx_unknown_authority(lab):
    lab.agent()
    tls(lab)
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "other-ca.pem", server=TLS)
    lab.failed(run, within=AT_ONCE, says="--cacert", prompts=0, retryable=False)


@trial()
def nginx_no_certificates_here(lab):
    """The machine lacks the package ca-certificates."""
    lab.agent()
    tls(lab)
    lab.without_certificates()
    lab.failed(lab.sortie("run", SHORT, server=TLS), within=AT_ONCE, says=["ca-certificates", "--cacert"], prompts=0)


@trial()
def nginx_https_asked_http_there(lab):
    lab.agent()
    lab.nginx(listen="443")
    run = lab.sortie("run", SHORT, "--cacert", lab.certificates / "ca.pem", server=TLS)
    lab.failed(run, within=AT_ONCE, says="http", prompts=0, retryable=False)


@trial()
def nginx_http_asked_https_there(lab):
    lab.agent()
    tls(lab)
    run = lab.sortie("run", SHORT, server="http://front.test:443")
    lab.failed(run, within=AT_ONCE, prompts=0, retryable=False)
    hold("https" in run.stderr.lower(), "stderr does not say https")


@trial()
def nginx_http2_only(lab):
    lab.agent()
    lab.nginx(listen="80 http2")
    lab.failed(lab.sortie("run", SHORT, server=WEB), within=AT_ONCE, says="HTTP/2", prompts=0, retryable=False)
