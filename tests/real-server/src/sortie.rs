//! The built `sortie`, run in a clean environment, never for longer than [`PATIENCE`](crate::PATIENCE).

use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use crate::{PATIENCE, eventually};

/// A command line, ready to run.
pub struct Sortie {
    command: Command,
}

impl Sortie {
    /// `sortie` with these arguments and an empty environment but for PATH.
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        // Whoever runs the tests in the background may ignore SIGINT, which would go over to sortie.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,TERM").arg(binary());
        command.args(arguments).env_clear().stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Self { command }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Unsets an environment variable.
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Adds arguments.
    pub fn and<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Gives it a stdin that stays open and says nothing.
    pub fn with_silent_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// Runs it to its end, with this on stdin.
    pub fn run_with_stdin(mut self, input: &str) -> Finished {
        self.command.stdin(Stdio::piped());
        let mut running = self.spawn();
        let mut stdin = running.child.stdin.take().expect("a pipe");
        // One that ends without reading is no error here: the test looks at how it ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        running.wait()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("start sortie");
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        Running { child, stdout, stderr }
    }
}

/// A process on its way. Dropped before its end, it is killed.
pub struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    /// Sends a signal by name: `INT`, `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("run kill").success(), "kill -s {name}");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within [`PATIENCE`], or a signal ended it: it promises an exit code.
    pub fn wait(mut self) -> Finished {
        // `Child::wait` would close a stdin that is meant to stay open.
        let status = eventually("sortie to end", || self.child.try_wait().expect("its status"));
        // A process that it started and left behind could hold the pipes open.
        let stdout = self.stdout.recv_timeout(PATIENCE).expect("its stdout");
        let stderr = self.stderr.recv_timeout(PATIENCE).expect("its stderr");
        Finished {
            code: status.code().unwrap_or_else(|| panic!("ended by a signal ({status})\n{stderr}")),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Finished {
    /// Asserts the exit code, and shows everything when it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n{self:#?}");
        self
    }

    /// Asserts exit code 0 and exactly this on stdout.
    #[track_caller]
    pub fn says(self, stdout: &str) -> Self {
        let this = self.exits(0);
        assert_eq!(this.stdout, stdout, "stdout\n{this:#?}");
        this
    }

    /// The result record: the last line of stdout.
    #[track_caller]
    pub fn record(&self) -> Value {
        let last = self.stdout.lines().next_back().unwrap_or_default();
        let record = serde_json::from_str(last);
        record.unwrap_or_else(|error| panic!("no record on stdout: {error}\n{self:#?}"))
    }

    /// Asserts exit code 1 and this reason in the record, and hands the record out.
    #[track_caller]
    pub fn fails(self, reason: &str) -> Value {
        let this = self.exits(1);
        let record = this.record();
        assert_eq!(record["reason"], reason, "reason\n{this:#?}");
        record
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (whole, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read a pipe");
        whole.send(String::from_utf8(bytes).expect("UTF-8"))
    });
    receiver
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SORTIE_BIN") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    ["release", "debug"]
        .map(|profile| target.join(profile).join("sortie"))
        .into_iter()
        .find(|path| path.exists())
        .expect("build sortie first (cargo build --release), or name the binary in SORTIE_BIN")
}
