//! `--approve-with`: asks a program about a tool call. Its exit code is the verdict: 0 accept, 1 reject, 10 pause.
//! Every other end of the program is a pause.

use crate::agent::events::ToolCall;
use crate::console::Console;
use crate::outcome::Failure;
use crate::run::policy::Verdict;
use crate::watchdog::{Watch, poll_for};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The time that the program has for one call.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The most of the program's stdout that becomes the reason, in bytes. The rest is read and dropped.
const MAX_REASON: usize = 64 * 1024;
/// How long to wait for the end of stdout after the program has exited: a child of the program may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// How long to wait for the end of a program that was killed.
const DYING: Duration = Duration::from_secs(1);
/// The longest time between two looks whether the program has exited.
const LOOK: Duration = Duration::from_millis(20);

/// What the program gets on stdin, as JSON.
#[derive(Debug, Serialize)]
pub struct Question<'a> {
    pub session_id: Uuid,
    pub run_id: &'a str,
    pub tool_call: &'a ToolCall,
}

/// Asks the program about one call.
///
/// # Errors
/// The deadline or signal of the watch, which also ends the program.
pub fn ask(
    command: &str,
    question: &Question<'_>,
    patience: Duration,
    watch: &Watch,
    console: &Console,
) -> Result<Verdict, Failure> {
    let call = &question.tool_call.id;
    let pause = |why: &str| {
        console.error(&format!("--approve-with: the program {why}; call {call} stays pending"));
        Ok(Verdict::Pause)
    };
    let question = match serde_json::to_vec(question) {
        Ok(question) => question,
        Err(error) => return pause(&format!("cannot be asked ({error})")),
    };
    let (mut child, mut talk) = match start(command, question) {
        Ok(started) => started,
        Err(error) => return pause(&format!("cannot be started ({error})")),
    };
    let Some(status) = wait(&mut child, &mut talk, patience, watch)? else {
        return pause(&format!("was not done within {} s", patience.as_secs()));
    };
    match status.code() {
        Some(0) => Ok(Verdict::Accept),
        Some(1) => {
            talk.hear_out();
            let reason = String::from_utf8_lossy(&talk.said).trim().to_owned();
            if reason.is_empty() {
                return Ok(Verdict::Reject(None));
            }
            console.progress(&format!("--approve-with: the program rejects call {call}: {reason}"));
            Ok(Verdict::Reject(Some(reason)))
        }
        Some(10) => Ok(Verdict::Pause),
        _ => pause(&format!("ended with {status}, which is no verdict")),
    }
}

/// The program's stdin and stdout. They are non-blocking on our side, so that no thread is needed.
struct Talk {
    question: Vec<u8>,
    /// The number of bytes of the question that are written.
    asked: usize,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    said: Vec<u8>,
}

fn start(command: &str, question: Vec<u8>) -> io::Result<(Child, Talk)> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env_remove("SORTIE_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // With a process group of its own, the program can be killed together with its children.
        .process_group(0)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    // The program's ends of the pipes stay blocking.
    for pipe in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        if let Err(error) = rustix::io::ioctl_fionbio(pipe, true) {
            end(&mut child);
            return Err(error.into());
        }
    }
    Ok((child, Talk { question, asked: 0, stdin, stdout, said: Vec::new() }))
}

impl Talk {
    /// Waits at most `limit` until the program reads or writes, or the deadline or a signal comes. Then writes and
    /// reads.
    fn wait(&mut self, watch: Option<&Watch>, limit: Duration) {
        let mut ready = Vec::with_capacity(3);
        ready.extend(self.stdin.as_ref().map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
        ready.extend(self.stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
        ready.extend(watch.map(Watch::poll_fd));
        poll_for(&mut ready, Some(limit));
        drop(ready);
        self.ask_on();
        self.hear();
    }

    /// Writes as much of the question as the pipe takes. The program may exit without reading all of it.
    fn ask_on(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        while self.asked < self.question.len() {
            match stdin.write(&self.question[self.asked..]) {
                Ok(length) => self.asked += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.stdin = None;
    }

    /// Reads a piece of stdout. Output over the limit is read too: a full pipe would block the program, and a closed
    /// pipe would kill it.
    fn hear(&mut self) {
        let Some(stdout) = &mut self.stdout else { return };
        let mut piece = [0; 4096];
        match stdout.read(&mut piece) {
            Ok(0) => self.stdout = None,
            Ok(length) => {
                let room = MAX_REASON.saturating_sub(self.said.len());
                self.said.extend_from_slice(&piece[..length.min(room)]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.stdout = None,
        }
    }

    /// Reads the rest of stdout after the program has exited.
    fn hear_out(&mut self) {
        let began = Instant::now();
        self.stdin = None;
        while self.stdout.is_some() && self.said.len() < MAX_REASON && began.elapsed() < LAST_WORDS {
            self.wait(None, LAST_WORDS.saturating_sub(began.elapsed()));
        }
    }
}

/// Waits for the program's exit. After `patience`, or a deadline or signal, kills the program with its children; `None`
/// means that `patience` is over.
fn wait(
    child: &mut Child,
    talk: &mut Talk,
    patience: Duration,
    watch: &Watch,
) -> Result<Option<ExitStatus>, Failure> {
    let began = Instant::now();
    let mut look = Duration::from_millis(1);
    loop {
        // An error means that the child is gone. Then `patience` ends the wait.
        if let Ok(Some(status)) = child.try_wait() {
            return Ok(Some(status));
        }
        let cause = watch.check();
        if cause.is_err() || began.elapsed() >= patience {
            end(child);
            return cause.map(|()| None);
        }
        talk.wait(Some(watch), look);
        look = (look * 2).min(LOOK);
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    // The system may be unable to kill the program now, for example because of a dead network mount.
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && began.elapsed() < DYING {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::Arguments;

    #[test]
    fn a_slow_program_is_killed_with_its_children_and_the_call_pauses() {
        let tool_call = &ToolCall { id: "a".into(), name: "p__a".into(), arguments: Arguments::default() };
        let question = Question { session_id: Uuid::nil(), run_id: "r", tool_call };
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
