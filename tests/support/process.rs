//! The real binary, in a clean environment, and never for longer than [`PATIENCE`].

use super::PATIENCE;
use super::watched::Watched;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The keys of the result record: all of them, always.
pub const RECORD_KEYS: [&str; 29] = [
    "type",
    "outcome",
    "exit_code",
    "reason",
    "retryable",
    "error",
    "session_id",
    "run_id",
    "agent_message",
    "text",
    "turns",
    "stop_reason",
    "finish_reason",
    "usage",
    "tool_calls",
    "decisions",
    "background_tasks",
    "timed_out",
    "paused",
    "pause_reason",
    "resume_hint",
    "cancel_confirmed",
    "last_event_id",
    "started_at",
    "duration_ms",
    "server",
    "server_version",
    "sortie_version",
    "rehearsal",
];

enum Input {
    Nothing,
    /// Open and silent, as under many job runners.
    Silent,
    Bytes(Vec<u8>),
}

enum Sink {
    Read,
    /// Nobody reads it until [`Running::read_stdout`].
    Unread,
    /// The reader is gone.
    Broken,
    File(File),
}

/// A command line, ready to run.
pub struct Sortie {
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    input: Input,
    sink: Sink,
    home: TempDir,
}

impl Sortie {
    /// `sortie` with these arguments, an environment of PATH and HOME alone, and nothing on stdin.
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let environment = [
            ("PATH".to_owned(), std::env::var_os("PATH").unwrap_or_default()),
            ("HOME".to_owned(), home.path().as_os_str().to_owned()),
        ];
        Self {
            wrapper: Vec::new(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: environment.into(),
            input: Input::Nothing,
            sink: Sink::Read,
            home,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(OsString::from));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Runs it from a shell, in the place of `"$@"`.
    pub fn in_shell(mut self, script: &str) -> Self {
        self.wrapper = ["sh", "-c", script, "sh"].map(OsString::from).into();
        self
    }

    /// Leaves stdin open and silent.
    pub fn with_silent_stdin(mut self) -> Self {
        self.input = Input::Silent;
        self
    }

    pub fn with_stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Nobody reads stdout until [`Running::read_stdout`].
    pub fn with_unread_stdout(mut self) -> Self {
        self.sink = Sink::Unread;
        self
    }

    /// The reader of stdout is gone before the first byte.
    pub fn with_broken_stdout(mut self) -> Self {
        self.sink = Sink::Broken;
        self
    }

    pub fn with_stdout_to(mut self, file: File) -> Self {
        self.sink = Sink::File(file);
        self
    }

    /// A file in the working directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).expect("write a file");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }

    /// A path in the working directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        // Whoever runs the tests in the background may ignore SIGINT, which would go over to sortie.
        let mut words: Vec<OsString> = ["/usr/bin/env", "--default-signal=HUP,INT,TERM"].map(Into::into).into();
        words.extend(self.wrapper);
        words.push(std::env::var_os("SORTIE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_sortie").into()));
        words.extend(self.arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.environment).current_dir(self.home.path());
        command.stdin(if matches!(self.input, Input::Nothing) { Stdio::null() } else { Stdio::piped() });
        let mut read = false;
        command.stderr(Stdio::piped()).stdout(match self.sink {
            Sink::File(ref file) => Stdio::from(file.try_clone().expect("a file")),
            _ => Stdio::piped(),
        });
        let started = Instant::now();
        let mut child = command.spawn().expect("start sortie");
        let pid = Pid::from_child(&child);
        let stderr = collect(child.stderr.take().expect("a pipe"));
        let stdin = child.stdin.take();
        let pipe = child.stdout.take();
        let (unread, stdout) = match self.sink {
            Sink::Read => {
                read = true;
                (None, collect(pipe.expect("a pipe")))
            }
            Sink::Unread => (pipe, Captured::nothing()),
            Sink::Broken | Sink::File(_) => (None, Captured::nothing()),
        };
        let silent = match (stdin, self.input) {
            (Some(mut stdin), Input::Bytes(bytes)) => {
                // One that ends without reading is no error here: the test looks at how it ended.
                thread::spawn(move || stdin.write_all(&bytes));
                None
            }
            (stdin, _) => stdin,
        };
        let (ended, status) = channel();
        thread::spawn(move || ended.send(child.wait().expect("its status")));
        Running {
            pid,
            status,
            exited: None,
            stdout,
            stderr,
            read,
            unread,
            _silent: silent,
            home: Arc::new(self.home),
            started,
        }
    }
}

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    complete: bool,
}

impl Captured {
    fn nothing() -> Arc<Watched<Self>> {
        Arc::new(Watched::new(Self { bytes: Vec::new(), complete: true }))
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Watched<Captured>> {
    let captured = Arc::new(Watched::new(Captured::default()));
    thread::spawn({
        let captured = Arc::clone(&captured);
        move || {
            let mut window = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut window) {
                captured.change(|captured| captured.bytes.extend_from_slice(&window[..read]));
            }
            captured.change(|captured| captured.complete = true);
        }
    });
    captured
}

/// A process on its way. Dropped before its end, it is killed.
pub struct Running {
    pid: Pid,
    status: Receiver<ExitStatus>,
    /// How it has ended.
    exited: Option<ExitStatus>,
    stdout: Arc<Watched<Captured>>,
    stderr: Arc<Watched<Captured>>,
    read: bool,
    unread: Option<ChildStdout>,
    _silent: Option<ChildStdin>,
    home: Arc<TempDir>,
    started: Instant,
}

impl Running {
    /// How many descriptors and how many threads it has.
    #[cfg(target_os = "linux")]
    pub fn descriptors_and_threads(&self) -> (usize, usize) {
        let count = |what: &str| {
            let path = format!("/proc/{}/{what}", self.pid.as_raw_nonzero());
            std::fs::read_dir(path).expect("a running process").count()
        };
        (count("fd"), count("task"))
    }

    /// Where HOME and the working directory are.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The process that was started: sortie itself, or the program that runs it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("send a signal");
    }

    /// Sends a signal to the process group that the process leads.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid, signal).expect("send a signal to the group");
    }

    /// Sends a signal after a pause, for tests of how far apart two signals are. sortie may have ended by then.
    pub fn signal_after(&self, pause: Duration, signal: Signal) {
        thread::sleep(pause);
        self.interrupt(signal);
    }

    /// Sends a signal, unless it has ended meanwhile.
    pub fn interrupt(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Waits until stdout holds this.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) {
        self.wait_for(&self.stdout, "stdout", text);
    }

    /// Waits until stderr holds this.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        self.wait_for(&self.stderr, "stderr", text);
    }

    #[track_caller]
    fn wait_for(&self, pipe: &Watched<Captured>, name: &str, text: &str) {
        let found = pipe.wait(PATIENCE, |captured| {
            let found = captured.bytes.windows(text.len()).any(|window| window == text.as_bytes());
            if found { Some(true) } else { captured.complete.then_some(false) }
        });
        assert_eq!(found, Some(true), "{text:?} on {name}\n{}", self.so_far());
    }

    /// What it has written up to now.
    pub fn so_far(&self) -> String {
        let text =
            |pipe: &Watched<Captured>| pipe.look(|captured| String::from_utf8_lossy(&captured.bytes).into_owned());
        format!("--- stdout\n{}\n--- stderr\n{}\n---", text(&self.stdout), text(&self.stderr))
    }

    /// Closes our end of stdout.
    pub fn break_stdout(&mut self) {
        assert!(self.unread.take().is_some(), "stdout is read by the harness");
    }

    /// Our end of stdout, which nobody reads, for a reader of the test's own.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.unread.take().expect("an unread stdout")
    }

    /// Reads what nobody has read so far, and what follows.
    pub fn read_stdout(&mut self) {
        self.stdout = collect(self.unread.take().expect("an unread stdout"));
        self.read = true;
    }

    pub fn has_ended(&mut self) -> bool {
        self.exited = self.exited.or_else(|| self.status.try_recv().ok());
        self.exited.is_some()
    }

    /// Asserts that it has not ended yet.
    #[track_caller]
    pub fn is_going_on(&mut self) {
        assert!(!self.has_ended(), "sortie has ended\n{}", self.so_far());
    }

    /// Waits for its end, by an exit code.
    #[track_caller]
    pub fn wait(self) -> Output {
        self.wait_at_most(PATIENCE)
    }

    /// Waits for its end, where the product's own times are longer than [`PATIENCE`].
    #[track_caller]
    pub fn wait_at_most(self, patience: Duration) -> Output {
        let output = self.wait_for_any_end(patience);
        assert!(output.code >= 0, "ended by a signal: {output:#?}");
        output
    }

    /// Waits for its end. A program that runs sortie may end by a signal: its code is -1 then.
    #[track_caller]
    pub fn wait_for_any_end(mut self, patience: Duration) -> Output {
        let ended = self.exited.map_or_else(|| self.status.recv_timeout(patience), Ok);
        let status = match ended {
            Ok(status) => status,
            Err(RecvTimeoutError::Timeout) => panic!("sortie did not end in {patience:?}\n{}", self.so_far()),
            Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for sortie"),
        };
        self.exited = Some(status);
        let elapsed = self.started.elapsed();
        // A process that it left behind may hold the pipes open: what it wrote itself is in them by now.
        let text = |pipe: &Watched<Captured>| {
            pipe.wait(Duration::from_secs(5), |captured| captured.complete.then_some(()));
            pipe.change(|captured| std::mem::take(&mut captured.bytes))
        };
        let stderr = String::from_utf8(text(&self.stderr)).expect("UTF-8 on stderr");
        let stdout = String::from_utf8(text(&self.stdout)).expect("UTF-8 on stdout");
        let code = status.code().unwrap_or(-1);
        Output { code, stdout, stderr, elapsed, home: Arc::clone(&self.home) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.status.recv_timeout(PATIENCE);
        }
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    home: Arc<TempDir>,
}

impl Output {
    /// Where HOME and the working directory were; they stay as long as this does.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "the exit code of {self:#?}");
        self
    }

    /// Asserts all of stdout.
    #[track_caller]
    pub fn stdout(self, stdout: &str) -> Self {
        assert_eq!(self.stdout, stdout, "stdout of {self:#?}");
        self
    }

    #[track_caller]
    pub fn stderr_has(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} on stderr of {self:#?}");
        self
    }

    #[track_caller]
    pub fn stderr_lacks(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "no {text:?} on stderr of {self:#?}");
        self
    }

    /// Asserts that it was over soon enough.
    #[track_caller]
    pub fn within(self, bound: Duration) -> Self {
        assert!(self.elapsed < bound, "within {bound:?}: {self:#?}");
        self
    }

    /// The result record, the last line of stdout, which must agree with itself and with the exit code.
    #[track_caller]
    pub fn record(&self) -> Value {
        let line = self.stdout.strip_suffix('\n').unwrap_or_default();
        let line = line.rsplit('\n').next().unwrap_or_default();
        let record =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no record on stdout: {error}\n{self:#?}"));
        check_record(&record, self.code);
        record
    }

    /// Asserts exit code 1 and this reason, and hands out the record.
    #[track_caller]
    pub fn fails(self, reason: &str) -> Value {
        let output = self.code(1);
        let record = output.record();
        assert_eq!(record["reason"], reason, "the reason in {record:#}\n{}", output.stderr);
        record
    }
}

/// Reads a result file.
#[track_caller]
pub fn result_file(path: &Path, code: i32) -> Value {
    let content = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let record = serde_json::from_str(&content).unwrap_or_else(|error| panic!("{error}: {content}"));
    check_record(&record, code);
    record
}

/// What holds for every record.
#[track_caller]
fn check_record(record: &Value, code: i32) {
    let mut keys: Vec<&str> = record.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = RECORD_KEYS;
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected, "the keys of {record:#}");
    assert_eq!(record["type"], "result", "{record:#}");
    assert_eq!(record["exit_code"], code, "{record:#}");
    let outcome = match code {
        0 => "completed",
        10 => "paused",
        _ => "failed",
    };
    assert_eq!(record["outcome"], outcome, "{record:#}");
    assert_eq!(record["reason"].is_null(), code == 0, "{record:#}");
    assert_eq!(record["error"].is_string(), code == 1, "{record:#}");
    assert_eq!(record["paused"], code == 10, "{record:#}");
    // It is also given by a failure that leaves calls waiting.
    assert!(record["pause_reason"].is_object() || code != 10, "{record:#}");
    assert!(record["pause_reason"].is_null() || code != 0, "{record:#}");
    let timed_out = ["timeout", "idle_timeout"].iter().any(|reason| record["reason"] == *reason);
    assert_eq!(record["timed_out"], timed_out, "{record:#}");
    for counter in ["proposed", "accepted", "rejected", "failed"] {
        assert!(record["tool_calls"][counter].is_u64(), "{counter} in {record:#}");
    }
    if !record["usage"].is_null() {
        for counter in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert!(record["usage"][counter].is_u64(), "{counter} in {record:#}");
        }
    }
    assert!(record["retryable"].is_boolean() && record["duration_ms"].is_u64(), "{record:#}");
    assert!(record["decisions"].is_array() && record["background_tasks"].is_array(), "{record:#}");
    assert!(record["rehearsal"].is_boolean() && record["sortie_version"].is_string(), "{record:#}");
    let completed = record["stop_reason"] == "completed";
    assert!(record["retryable"] == false || code == 1 && !completed, "{record:#}");
}
