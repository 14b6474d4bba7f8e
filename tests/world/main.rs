//! What a script, a supervisor, a container and a full disk do to a process, through the binary: signals at every moment
//! of a run, the programs that send them, and the places where sortie may be started. However it ends, there is one
//! closing line and one record, and the run is cancelled. A binary of its own: it takes minutes, and many of its tests
//! need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, unused_imports, reason = "the other suites use the rest")]
#[path = "../support/mod.rs"]
mod support;

mod places;
mod senders;
mod signals;

use crate::support::PATIENCE;
use crate::support::process::{Output, result_file};
use rustix::process::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// As many trials run at the same time.
const AT_ONCE: usize = 4;

/// Tries each of them, a few at the same time.
fn each<T: Send>(trials: impl IntoIterator<Item = T>, attempt: impl Fn(T) + Sync) {
    let waiting: Mutex<Vec<T>> = Mutex::new(trials.into_iter().collect());
    let next = || waiting.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(trial) = next() {
                    attempt(trial);
                }
            });
        }
    });
}

/// Asserts that stderr has one closing line, and hands it out.
#[track_caller]
fn closing_line(stderr: &str) -> &str {
    let closes = |line: &&str| ["failed", "completed", "paused"].iter().any(|word| line[8..].starts_with(word));
    let ours = stderr.lines().filter(|line| line.starts_with("sortie: "));
    let closing: Vec<_> = ours.filter(closes).collect();
    assert_eq!(closing.len(), 1, "one closing line in:\n{stderr}");
    closing[0]
}

/// Asserts one closing line and one record, on stdout and in the result file, and hands out the record.
#[track_caller]
fn ended_well(output: &Output, code: i32) -> Value {
    assert_eq!(output.code, code, "{output:#?}");
    closing_line(&output.stderr);
    assert_eq!(output.stdout.matches(r#""type":"result""#).count(), 1, "{output:#?}");
    let record = output.record();
    assert_eq!(result_file(&output.home().join("result.json"), code), record);
    record
}

/// Waits for a file with something in it.
#[track_caller]
fn wait_for_file(path: &Path) {
    let began = Instant::now();
    while !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        assert!(began.elapsed() < PATIENCE, "no {}", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a program is installed.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).exists())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The processes that this one has started, and those that they have started, and so on.
fn descendants(pid: Pid) -> Vec<Pid> {
    let told = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero())).unwrap_or_default();
    let children: Vec<_> = told.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    let grandchildren: Vec<_> = children.iter().flat_map(|child| descendants(*child)).collect();
    children.into_iter().chain(grandchildren).collect()
}
