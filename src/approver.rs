//! `--approve-with`: a policy as a program, in the product's own language of exit codes. It fails closed: whatever is
//! not a clear yes or no is a pause.

use crate::agent::events::ToolCall;
use crate::console::Console;
use crate::outcome::{Exit, Failure};
use crate::run::policy::Verdict;
use crate::watchdog::Watch;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The time it has for one call.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// As many pieces of its stdout, of 4 KiB at the most, are taken as a reason.
const MAX_PIECES: usize = 16;
/// After it has exited, the wait for what it said: a child of its own may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What it gets on stdin.
#[derive(Debug, Serialize)]
pub struct Question<'a> {
    pub session_id: &'a str,
    pub run_id: &'a str,
    pub tool_call: &'a ToolCall,
}

/// Asks the program about one call.
///
/// # Errors
/// Only the watch's cause; the program is ended then. Whatever goes wrong with the program is a pause.
pub fn ask(
    command: &str,
    question: &Question<'_>,
    patience: Duration,
    watch: &Watch,
    console: &Console,
) -> Result<Verdict, Failure> {
    let call = &question.tool_call.id;
    let pause = |why: &str| {
        console.error(&format!("--approve-with: the program {why} for the call {call}: it pauses"));
        Ok(Verdict::Pause)
    };
    let spawned = Command::new("/bin/sh")
        .args(["-c", command])
        .env_remove("SORTIE_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Its own process group, so that it can be ended with its children.
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return pause(&format!("cannot be started ({error})")),
    };
    if let Some(stdin) = child.stdin.take() {
        let (session_id, run_id) = (question.session_id.to_owned(), question.run_id.to_owned());
        let tool_call = question.tool_call.clone();
        // It need not read it. In pieces: it may be large.
        thread::spawn(move || {
            let question = Question { session_id: &session_id, run_id: &run_id, tool_call: &tool_call };
            let mut stdin = BufWriter::new(stdin);
            serde_json::to_writer(&mut stdin, &question).map_err(io::Error::from).and_then(|()| stdin.flush())
        });
    }
    let (sender, said) = mpsc::sync_channel(MAX_PIECES);
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // To its end, though nobody listens any more: a closed pipe would kill the program.
            while let Ok(length @ 1..) = stdout.read(&mut piece) {
                let _ = sender.try_send(piece[..length].to_vec());
            }
        });
    }
    let status = match wait(&mut child, patience, watch) {
        Ok(Some(status)) => status,
        Ok(None) => return pause(&format!("was not done within {} s", patience.as_secs())),
        Err(cause) => return Err(cause),
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    if code == Some(Exit::Completed.code()) {
        Ok(Verdict::Accept)
    } else if code == Some(Exit::Failed.code()) {
        let mut reason = Vec::new();
        let until = Instant::now() + LAST_WORDS;
        while let Ok(piece) = said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            reason.extend(piece);
        }
        let reason = String::from_utf8_lossy(&reason).trim().to_owned();
        Ok(Verdict::Reject(Some(reason).filter(|reason| !reason.is_empty())))
    } else if code == Some(Exit::Paused.code()) {
        Ok(Verdict::Pause)
    } else {
        pause(&format!("ended with {status}, which is no verdict"))
    }
}

/// Waits for the program's end; `None` when its time was up. It is ended with its children then, and at a cause.
fn wait(child: &mut Child, patience: Duration, watch: &Watch) -> Result<Option<ExitStatus>, Failure> {
    let began = Instant::now();
    let mut nap = Duration::from_millis(1);
    loop {
        // An error here means that there is no such child any more; its time will be up.
        if let Ok(Some(status)) = child.try_wait() {
            return Ok(Some(status));
        }
        let slept = watch.sleep(nap);
        if slept.is_err() || began.elapsed() >= patience {
            end(child);
            return slept.map(|()| None);
        }
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::Arguments;

    #[test]
    fn a_program_that_takes_its_time_is_ended_with_its_children_and_pauses() {
        let tool_call = &ToolCall { id: "a".into(), name: "p__a".into(), arguments: Arguments::default() };
        let question = Question { session_id: "s", run_id: "r", tool_call };
        let watch = Watch::without_signals().unwrap();
        // The children would hold the pipe open for a day.
        let command = "sleep 86400 & sleep 86400; exit 0";
        let began = Instant::now();
        let patience = Duration::from_millis(100);
        let verdict = ask(command, &question, patience, &watch, &Console::new(Some(watch.clone())));
        assert_eq!(verdict, Ok(Verdict::Pause));
        assert!(began.elapsed() >= patience);
    }
}
