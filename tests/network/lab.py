"""The world of a network trial: three network namespaces, the servers in them, and the checks.

    client  10.0.1.2, 2001:db8:1::2 --- middle  10.0.1.1 | 10.0.2.1 --- server  10.0.2.2, 2001:db8:2::2

sortie runs in `client`, the agent server in `server`. `middle` is the router between them and the
place for front ends, balancers and proxies. Each trial has its own namespaces, so trials share no ports.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

from agent import TOKEN, text_of
from suite import PATIENCE, Broken, command, hold, until

HERE = pathlib.Path(__file__).parent
FRONT, SERVER = "10.0.1.1", "10.0.2.2"
HOSTS = f"127.0.0.1 localhost\n{FRONT} front.test\n{SERVER} agent.test\n"

# The limit for "at once", in seconds. It allows for a busy machine.
AT_ONCE = 6


class Sortie:
    """A running sortie process."""

    def __init__(self, lab, number, arguments, environment):
        self.out, self.err, self.result = (lab.folder / f"{number}.{kind}" for kind in ("out", "err", "json"))
        self.began = time.monotonic()
        self.process = lab.start(
            "client", lab.sortie_binary, *arguments, "--result-file", self.result,
            stdin=subprocess.DEVNULL, stdout=self.out.open("wb"), stderr=self.err.open("wb"), env=environment)
        self.seconds = None

    def said(self, lines):
        """Waits until sortie has printed this many lines of the answer."""
        until(lambda: self.out.read_bytes().count(b"\n") >= lines or self.process.poll() is not None,
              f"{lines} lines on stdout", 60)
        hold(self.process.poll() is None, f"it ended before it had printed {lines} lines")

    def told(self, words):
        """Waits until these words are on stderr."""
        until(lambda: words in self.stderr, f"on stderr: {words}", 60)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.signalled = time.monotonic()

    def end(self, within=PATIENCE):
        """Waits until sortie exits; more than `within` seconds after the start is a failure."""
        try:
            self.process.wait(max(0.0, self.began + within - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Broken(f"it did not end within {within} s") from None
        self.seconds = time.monotonic() - self.began
        return self

    @property
    def stderr(self):
        return self.err.read_text(errors="replace")

    @property
    def record(self):
        hold(self.result.exists(), "there is no record")
        return json.loads(self.result.read_text())


class Lab:
    """The namespaces, processes and checks of one trial."""

    made = itertools.count(1)

    def __init__(self, name, binary, scratch, certificates):
        self.prefix = f"t{next(Lab.made)}"
        self.name, self.sortie_binary, self.certificates = name, binary, certificates
        self.folder = scratch / name
        self.folder.mkdir()
        self.processes, self.runs, self.logs = [], [], []
        self.nginx_process = None
        self.build()

    # The network.

    def net(self, place):
        return f"{self.prefix}-{place}"

    def build(self):
        client, middle, server = map(self.net, ("client", "middle", "server"))
        for space in (client, middle, server):
            etc = pathlib.Path("/etc/netns") / space
            etc.mkdir(parents=True)
            (etc / "hosts").write_text(HOSTS)
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        self.ip("", f"netns add {client}", f"netns add {middle}", f"netns add {server}",
                f"link add inner netns {middle} type veth peer name uplink netns {client}",
                f"link add outer netns {middle} type veth peer name uplink netns {server}")
        self.ip(client, *self.link("uplink", "10.0.1.2/24", "2001:db8:1::2/64", "10.0.1.1", "2001:db8:1::1"))
        self.ip(server, *self.link("uplink", "10.0.2.2/24", "2001:db8:2::2/64", "10.0.2.1", "2001:db8:2::1"))
        self.ip(middle, *self.link("inner", "10.0.1.1/24", "2001:db8:1::1/64"),
                *self.link("outer", "10.0.2.1/24", "2001:db8:2::1/64"))
        self.run("middle", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    @staticmethod
    def link(device, four, six, gateway4=None, gateway6=None):
        lines = ["link set lo up", f"link set {device} up", f"addr add {four} dev {device}",
                 f"addr add {six} dev {device} nodad"]
        if gateway4:
            lines += [f"route add default via {gateway4}", f"route add default via {gateway6}"]
        return lines

    @staticmethod
    def ip(space, *lines):
        command("ip", *(["-n", space] if space else []), "-batch", "-", input="\n".join(lines))

    def run(self, place, *arguments):
        return command("ip", "netns", "exec", self.net(place), *arguments)

    def rule(self, rule, hook="forward", place="middle"):
        """Adds a rule to the packet filter."""
        command("ip", "netns", "exec", self.net(place), "nft", "-f", "-", input=f"""
            add table inet trial
            add chain inet trial {hook} {{ type filter hook {hook} priority 0; }}
            add rule inet trial {hook} {rule}
            """)

    def drop(self, what=""):
        """Makes the router drop all packets silently, or only those that match."""
        for hook in ("forward", "input"):
            self.rule(f"{what} drop", hook)

    def let_through(self):
        self.run("middle", "nft", "delete", "table", "inet", "trial")

    def hosts(self, *lines, place="client"):
        (pathlib.Path("/etc/netns") / self.net(place) / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")

    def without_certificates(self):
        """Hides the system's CA certificates from the client."""
        (pathlib.Path("/etc/netns") / self.net("client") / "ssl").mkdir()

    # Processes.

    def start(self, place, *arguments, **options):
        """Starts a program in a namespace. The trial's end kills it."""
        process = subprocess.Popen(["ip", "netns", "exec", self.net(place), *map(str, arguments)], **options)
        self.processes.append(process)
        return process

    def serve(self, place, port, *arguments, protocol="tcp"):
        """Starts a server, and waits until it listens."""
        log = self.folder / f"{pathlib.Path(str(arguments[0])).name}-{len(self.logs)}.log"
        self.logs.append(log)
        with log.open("wb") as out:
            process = self.start(place, *arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.listening(process, port, protocol)
        return process

    @staticmethod
    def listening(process, port, protocol="tcp"):
        def seen():
            hold(process.poll() is None, f"{process.args[4:]} ended, {process.returncode}")
            state = {"tcp": "0A", "udp": "07"}[protocol]
            for table in (protocol, protocol + "6"):
                try:
                    rows = pathlib.Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]
                except OSError:  # The process has just ended.
                    return False
                for row in rows:
                    fields = row.split()
                    if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == state:
                        return True
            return False

        until(seen, f"{process.args[4:]} listens on {port}")

    def agent(self, *options, port=4096, name="agent"):
        """Starts an agent server."""
        log = self.folder / f"{name}.jsonl"
        return self.serve("server", port, sys.executable, HERE / "agent.py", "--port", port, "--log", log, *options)

    def nginx(self, server="", http="", listen="80"):
        """Writes nginx's configuration, then starts or reloads nginx. `server` goes into the server block."""
        proxied = """location / { proxy_pass http://agent; }""" if "location" not in server else ""
        (self.folder / "nginx.conf").write_text(f"""
            user root; worker_processes 1; daemon off; pid {self.folder}/nginx.pid; error_log stderr;
            worker_shutdown_timeout 1s;
            events {{ worker_connections 256; }}
            http {{
                access_log off; default_type text/plain; client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/proxy; fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u;
                scgi_temp_path {self.folder}/s; proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_buffering off;
                upstream agent {{ server {SERVER}:4096; keepalive 8; }}
                {http}
                server {{ listen {listen}; listen [::]:{listen}; {server} {proxied} }}
            }}""")
        if self.nginx_process:
            self.nginx_process.send_signal(signal.SIGHUP)
            return
        self.nginx_process = self.serve("middle", int(listen.split()[0]), "nginx", "-p", self.folder, "-c",
                                        self.folder / "nginx.conf", "-e", "stderr")

    def haproxy(self, text, port=80):
        (self.folder / "haproxy.cfg").write_text(f"""
global
    stats socket {self.folder}/haproxy.sock mode 600 level admin expose-fd listeners
    hard-stop-after 1s
    log stderr format raw local0 warning
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
{text}
""")
        return self.serve("middle", port, "haproxy", "-db", "-f", self.folder / "haproxy.cfg")

    def haproxy_says(self, order):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.folder / "haproxy.sock"))
            admin.sendall(order.encode() + b"\n")
            return admin.recv(65536).decode()

    def squid(self, rules="http_access allow all", port=3128):
        own = self.folder / "squid"
        own.mkdir(exist_ok=True)
        shutil.chown(own, "proxy")  # squid refuses to run as root.
        (self.folder / "squid.conf").write_text(f"""
            http_port {port}
            acl SSL_ports port 443
            http_access deny CONNECT !SSL_ports
            {rules}
            cache deny all
            access_log none
            cache_log {own}/squid.log
            pid_filename {own}/squid.pid
            coredump_dir {own}
            shutdown_lifetime 0 seconds
            pinger_enable off
            hosts_file /etc/hosts
            visible_hostname front.test
            """)
        self.logs.append(own / "squid.log")
        return self.serve("middle", port, "squid", "-N", "-n", self.prefix, "-f", self.folder / "squid.conf")

    def names(self, *options, address=None):
        """Starts a name server in `server` and makes the client use it."""
        self.hosts()
        self.resolver(f"nameserver {address or SERVER}")
        return self.serve("server", 53, sys.executable, HERE / "names.py", *options, protocol="udp")

    def resolver(self, *lines):
        (pathlib.Path("/etc/netns") / self.net("client") / "resolv.conf").write_text("\n".join(lines) + "\n")

    # sortie.

    def sortie(self, *arguments, server=f"http://{SERVER}:4096", token=TOKEN, **environment):
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "SORTIE_SERVER": server,
                     "SORTIE_TOKEN": token, "SORTIE_ALLOW_HTTP": "true", **environment}
        run = Sortie(self, len(self.runs), arguments, variables)
        self.runs.append(run)
        return run

    def log(self, name="agent"):
        path = self.folder / f"{name}.jsonl"
        return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []

    def prompts(self, name="agent"):
        return [row["prompt"] for row in self.log(name) if "prompt" in row]

    def calls(self, pattern, name="agent"):
        return [row for row in self.log(name) if re.fullmatch(pattern, row.get("call", ""))]

    def taken(self):
        """Waits until the server has taken the prompt."""
        until(self.prompts, "the server takes the prompt")

    # The checks.

    def completed(self, run, prompt, within=PATIENCE):
        """Checks that the run completed: exit code 0, its exact text, one prompt at the server."""
        run.end(within)
        hold(run.process.returncode == 0, f"exit code {run.process.returncode} instead of 0")
        self.same_text(run, prompt)
        self.one_prompt(prompt)
        record = run.record
        hold(record["outcome"] == "completed" and record["exit_code"] == 0, "the record does not say completed")
        return record

    def failed(self, run, *reasons, within=PATIENCE, says=(), unsaid=(), text=None, prompts=None, **fields):
        """Checks that the run failed: exit code 1, one of these reasons, these words on stderr, these fields in the record."""
        run.end(within)
        hold(run.process.returncode == 1, f"exit code {run.process.returncode} instead of 1")
        record = run.record
        hold(record["exit_code"] == 1, "another exit code in the record")
        hold(not reasons or record["reason"] in reasons, f"reason {record['reason']} instead of {' or '.join(reasons)}")
        for name, value in fields.items():
            hold(record[name] == value, f"{name} is {record[name]} instead of {value}")
        for words in [says] if isinstance(says, str) else says:
            hold(words in run.stderr, f"stderr does not say: {words}")
        for words in [unsaid] if isinstance(unsaid, str) else unsaid:
            hold(words not in run.stderr, f"stderr says: {words}")
        if text is not None:
            self.same_text(run, text)
        if prompts is not None:
            hold(len(self.prompts()) == prompts, f"{len(self.prompts())} prompts at the server instead of {prompts}")
        return record

    @staticmethod
    def same_text(run, prompt):
        got, told = run.out.read_text(), text_of(prompt)
        hold(got == told, f"another text on stdout: {len(got)} characters instead of {len(told)}")

    def one_prompt(self, prompt, name="agent"):
        hold(self.prompts(name) == [prompt], f"not one prompt at the server: {self.prompts(name)}")

    def cancelled(self):
        """Checks that the server has cancelled the run."""
        until(lambda: any(row.get("how") == "cancelled" for row in self.log()), "the server cancels the run", 5)

    def going_on(self):
        """Checks that no run has ended on the server."""
        hold(not any("how" in row for row in self.log()), "the run ended on the server")

    # The end.

    def close(self):
        for place in ("client", "middle", "server"):
            found = subprocess.run(["ip", "netns", "pids", self.net(place)], capture_output=True, text=True)
            for process in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.wait()
        for place in ("client", "middle", "server"):
            subprocess.run(["ip", "netns", "del", self.net(place)], capture_output=True)

    def report(self):
        """Returns the lines that help to find out why the trial failed."""
        lines = []
        for number, run in enumerate(self.runs):
            took = f"{run.seconds:.1f} s" if run.seconds else "not over"
            lines += [f"sortie {number}: exit code {run.process.poll()}, {took}", *run.stderr.splitlines()[-25:]]
            if run.result.exists():
                record = {key: value for key, value in run.record.items() if key not in ("text", "agent_message")}
                lines.append(json.dumps(record, ensure_ascii=False))
        for path in sorted(self.folder.glob("*.jsonl")):
            rows = [json.loads(row) for row in path.read_text().splitlines()]
            lines.append(f"{path.stem}:")
            for row in rows[-20:]:
                row.pop("headers", None)
                lines.append("  " + json.dumps(row, ensure_ascii=False))
        for log in self.logs:
            if log.exists() and (tail := log.read_text(errors="replace").splitlines()[-6:]):
                lines += [f"{log.name}:", *("  " + row[:300] for row in tail)]
        return lines


# Certificates, made once for all trials.


class Certificates:
    """Certificates from our own authority, made with openssl."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.authority("ca")
        self.authority("other-ca")
        self.leaf("front", "ca", "DNS:front.test,DNS:agent.test,IP:10.0.1.1", "serverAuth")
        self.leaf("elsewhere", "ca", "DNS:elsewhere.test", "serverAuth")
        self.leaf("client", "ca", "DNS:client.test", "clientAuth")
        self.leaf("stranger", "other-ca", "DNS:stranger.test", "clientAuth")
        # A plain `openssl req -x509` makes an authority's certificate, which cannot serve as the server's own.
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "plain.key", "-out", "plain.pem",
                     "-days", "2", "-subj", "/CN=front.test", "-addext", "subjectAltName=DNS:front.test")
        for name in ("front", "elsewhere", "plain"):
            (folder / f"{name}.both").write_text((folder / f"{name}.pem").read_text() + (folder / f"{name}.key").read_text())

    def openssl(self, *arguments):
        command("openssl", *arguments, cwd=self.folder)

    def authority(self, name):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                     f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")

    def leaf(self, name, issuer, names, usage):
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
                     "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key",
                     "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")

    def __truediv__(self, name):
        return str(self.folder / name)
