"""The engines that all trials share, two SSH servers and Slurm with two nodes; and the agent server and tasks of a trial."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

from agent import TOKEN, text_of
from suite import Broken, command, hold, until

HERE = pathlib.Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes"
AGENT = HERE.parent / "network" / "agent.py"

SLURM = """
ClusterName=trial
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldPort=17817
SlurmdPidFile={folder}/d.%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
ReturnToService=2
KillWait=20
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17818 CPUs=8 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17819 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Engines:
    """The engines that all trials share."""

    def __init__(self, binary, scratch):
        self.folder = scratch
        self.processes = []
        self.ports = itertools.count(5001)
        tools = scratch / "bin"
        tools.mkdir()
        (tools / "sortie").symlink_to(binary)
        self.token = scratch / "token"
        self.token.write_text(TOKEN + "\n")
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}", "HOME": os.environ["HOME"], "LC_ALL": "C.UTF-8",
            "SORTIE_TOKEN_FILE": str(self.token), "SLURM_CONF": str(scratch / "slurm.conf"),
            "PARALLEL_SSH": f"ssh -F {scratch}/ssh_config", "PARALLEL_HOME": str(scratch / "parallel")}
        (scratch / "parallel").mkdir()
        self.ssh(tools)
        self.slurm()

    def start(self, *arguments, **options):
        process = subprocess.Popen(list(map(str, arguments)), env=self.environment, stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def ssh(self, tools):
        """Starts two SSH servers, the hosts `one` and `two`, with our own keys."""
        keys = self.folder / "keys"
        keys.mkdir(mode=0o700)
        pathlib.Path("/run/sshd").mkdir()
        for name in ("host", "user"):
            command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name)
        for port in (2201, 2202):
            config = self.folder / f"sshd-{port}.conf"
            config.write_text(f"ListenAddress 127.0.0.1:{port}\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/user.pub\n"
                              f"PidFile none\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nMaxStartups 100\n"
                              f"SetEnv PATH={tools}:/usr/bin:/bin\n")
            log = self.folder / f"sshd-{port}.log"
            self.start(shutil.which("sshd"), "-D", "-f", config, "-E", log)
            until(lambda: listens(port), f"sshd on {port}: {log}")
        (self.folder / "ssh_config").write_text(
            f"Host one\n Port 2201\nHost two\n Port 2202\nHost *\n HostName 127.0.0.1\n User root\n"
            f" IdentityFile {keys}/user\n BatchMode yes\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n"
            f" LogLevel ERROR\n")

    def slurm(self):
        # Slurm resolves no name unless an interface other than the loopback has an address.
        command("ip", "link", "add", "cluster", "type", "veth", "peer", "name", "nowhere")
        command("ip", "addr", "add", "10.0.0.1/24", "dev", "cluster")
        for device in ("nowhere", "cluster"):
            command("ip", "link", "set", device, "up")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        munge = self.folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        self.start("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "--foreground",
                   f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid",
                   f"--seed-file={munge}/seed", f"--log-file={munge}/log", **quiet)
        until(lambda: (munge / "socket").exists(), "munged listens")
        (self.folder / "slurm.conf").write_text(SLURM.format(folder=self.folder))
        for folder in ("state", "spool/n1", "spool/n2"):
            (self.folder / folder).mkdir(parents=True)
        self.start("slurmctld", "-D", **quiet)
        for node in ("n1", "n2"):
            self.start("slurmd", "-D", "-N", node, **quiet)

        def idle():
            nodes = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=self.environment, capture_output=True, text=True)
            return nodes.stdout.split() == ["idle", "2"]

        until(idle, f"two idle nodes: {self.folder}/slurmctld.log")

    def __call__(self, name):
        return Work(self, name)


class Work:
    """One trial: an agent server, tasks, and the recipe that runs them."""

    def __init__(self, engines, name):
        self.engines, self.port = engines, next(engines.ports)
        self.folder = engines.folder / name
        self.folder.mkdir()
        self.out = self.folder / "out"
        self.said, self.told = self.folder / "stdout", self.folder / "stderr"
        self.environment = {**engines.environment, "SORTIE_SERVER": f"http://127.0.0.1:{self.port}"}
        self.agent = engines.start(sys.executable, AGENT, "--port", self.port, "--log", self.folder / "agent.jsonl")
        self.process = None
        until(lambda: listens(self.port), "the agent server listens")

    def tasks(self, **stories):
        """Writes a file for each task. The text of a task tells the agent server what the run does."""
        folder = self.folder / "tasks"
        folder.mkdir()
        for name, story in stories.items():
            (folder / f"{name}.md").write_text(story)
        self.stories = stories
        return sorted(folder.iterdir())

    def recipe(self, name, *arguments, **environment):
        """Starts a recipe in a process group of its own, as a shell does."""
        self.process = subprocess.Popen(
            [RECIPES / name, *arguments], cwd=self.folder, env={**self.environment, **environment},
            stdin=subprocess.DEVNULL, stdout=self.said.open("wb"), stderr=self.told.open("wb"), start_new_session=True)

    def ends(self, code, within):
        """Waits until the recipe ends, and checks its exit code."""
        try:
            got = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise Broken(f"the recipe did not end within {within} s") from None
        hold(got == code, f"the recipe's exit code is {got} instead of {code}")

    def interrupt(self):
        """Sends what Ctrl-C sends."""
        os.killpg(self.process.pid, signal.SIGINT)

    def log(self):
        return [json.loads(row) for row in (self.folder / "agent.jsonl").read_text().splitlines()]

    def begun(self, count):
        until(lambda: sum("begin" in row for row in self.log()) == count, f"{count} runs on the server", 60)

    def ended(self):
        return [row["how"] for row in self.log() if "how" in row]

    def cancelled(self, count, seconds=30):
        """Waits until the server has cancelled this many runs, and no run ended in another way."""
        until(lambda: self.ended() == ["cancelled"] * count, f"{count} cancelled runs on the server", seconds)

    def record(self, name):
        path = self.out / f"{name}.json"
        hold(path.exists(), f"no record {path.name}")
        return json.loads(path.read_text())

    def one_folder(self, outcomes):
        """Checks that each task has its record, its exact answer, one run, and a line that says how it ended."""
        for name, outcome in outcomes.items():
            record = self.record(name)
            hold(record["outcome"] == outcome, f"{name} is {record['outcome']} instead of {outcome}")
            if outcome == "completed":
                hold((self.out / f"{name}.txt").read_text() == text_of(self.stories[name]), f"{name}: another text")
            lines = [line for line in self.said.read_text().splitlines() if f"{name}.json: {outcome}" in line]
            hold(len(lines) == 1, f"no line tells that {name} is {outcome}")
            if outcome == "paused":
                hold(record["resume_hint"] in lines[0], f"the line for {name} does not say how to go on")
        prompts = sorted(row["prompt"] for row in self.log() if "prompt" in row)
        hold(prompts == sorted(self.stories.values()), f"other prompts at the server: {prompts}")

    def goes_on(self, name):
        """Checks that the resume hint of a paused task works."""
        hint = subprocess.run(["sh", "-c", self.record(name)["resume_hint"]], env=self.environment, capture_output=True, text=True)
        hold(hint.returncode == 0, f"the hint exits {hint.returncode}: {hint.stderr}")

    def close(self):
        for process in (self.process, self.agent):
            if process and process.poll() is None:
                process.kill()
                process.wait()

    def report(self):
        lines = []
        files = [self.said, self.told, self.out / "joblog", *sorted(self.out.glob("*.err")), *sorted(self.out.glob("*.log")),
                 self.engines.folder / "jobs.txt"]
        for path in files:
            if path.exists():
                lines += [f"{path.name}:", *("  " + row for row in path.read_text(errors="replace").splitlines()[-12:])]
        for row in self.log()[-20:]:
            row.pop("headers", None)
            lines.append(json.dumps(row, ensure_ascii=False))
        return lines
