"""Runs a suite in its own namespaces of processes, networks and mounts. When the suite ends, the kernel removes them."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

INSIDE = "SORTIE_SUITE_FOLDER"
NAME_SERVICES = "hosts: files dns\npasswd: files\ngroup: files\nshadow: files\n"


def install(packages):
    """Installs the Debian package of each missing program: {program: package}."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = sorted({package for program, package in packages.items() if not shutil.which(program, path=path)})
    if missing:
        # RUNLEVEL=1 keeps the packages from starting their services, except under systemd.
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}}
        subprocess.run(["apt-get", "update"], check=False, **quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *missing], check=True, **quiet)


def enter(packages):
    """Starts this program again inside new namespaces and exits with its code. Inside, returns a scratch folder."""
    # A shell starts what runs in the background with these ignored, and sortie would ignore them too.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if INSIDE in os.environ:
        scratch = pathlib.Path(os.environ.pop(INSIDE))
        furnish(scratch)
        return scratch
    if os.geteuid() != 0:
        sys.exit("run: namespaces need root")
    install(packages)
    scratch = tempfile.mkdtemp(prefix="sortie-")
    inside = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child",
         "--mount-proc", sys.executable, *sys.argv], env={**os.environ, INSIDE: scratch})
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: inside.kill())
    code = inside.wait()
    os.rmdir(scratch)
    sys.exit(code if code >= 0 else 1)


def furnish(scratch):
    """Mounts folders that only this suite sees. Whatever the suite writes to them is gone when it ends."""

    def mount(*arguments):
        subprocess.run(["mount", *map(str, arguments)], check=True)

    os.environ["PATH"] += ":/usr/sbin:/sbin"
    mount("-t", "tmpfs", "none", scratch)
    scratch.chmod(0o755)
    for folder in ("/etc", str(pathlib.Path.home())):
        layers = scratch / "layers" / folder.strip("/")
        for name in ("upper", "work"):
            (layers / name).mkdir(parents=True)
        mount("-t", "overlay", "none", "-o", f"lowerdir={folder},upperdir={layers}/upper,workdir={layers}/work", folder)
    for folder in ("/run", "/dev/shm"):
        mount("-t", "tmpfs", "none", folder)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # `ip netns exec` mounts files over these, so they must exist and must not be links.
    for name, text in {"hosts": f"127.0.0.1 localhost {os.uname().nodename}\n", "resolv.conf": "", "nsswitch.conf": NAME_SERVICES}.items():
        path = pathlib.Path("/etc") / name
        path.unlink(missing_ok=True)
        path.write_text(text)
