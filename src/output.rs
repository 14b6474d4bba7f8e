//! What is said: the agent's answer on stdout in one of four formats, progress on stderr, and at the end one line for
//! people and one record for machines.

use crate::agent::events::{Envelope, Event, ToolCall};
use crate::agent::sse::Frame;
use crate::agent::tools::bare_name;
use crate::cli::Format;
use crate::console::{Console, acts, visible_lines, visible_start};
use crate::descriptor::Pipe;
use crate::outcome::{End, Exit, Failure, Reason, Report, Waiting};
use crate::recording::Recording;
use crate::result_file::ResultFile;
use crate::run::transcript::{Healed, Keep};
use crate::watchdog::Watch;
use serde::Serialize;
use serde::de::IgnoredAny;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Written out when so much has come together; a read from the server is written out in any case.
const ENOUGH: usize = 64 * 1024;
/// As much of the last text as the status line tells, in bytes.
const LAST_WORDS: usize = 60;
/// As much of a call's arguments as is shown on stderr, in characters.
const MAX_ARGUMENTS: usize = 200;

/// stdout in its format, and the result file.
pub struct Output {
    format: Format,
    stdout: Option<Pipe>,
    buffer: Vec<u8>,
    /// The last character was no newline.
    mid_line: bool,
    /// A turn has begun since.
    turn_begun: bool,
    result_file: Option<ResultFile>,
    recording: Option<Recording>,
    console: Console,
    watch: Watch,
    /// Only where a person watches.
    status: Option<Status>,
}

/// What the status line tells.
struct Status {
    began: Instant,
    turn: u64,
    tool: String,
    words: String,
}

impl Output {
    /// An output that has said nothing.
    pub fn new(format: Format, watch: Watch, console: Console) -> Self {
        let stdout = Some(Pipe::new(io::stdout(), Some(watch.clone())));
        let status = || Status { began: Instant::now(), turn: 0, tool: String::new(), words: String::new() };
        Self {
            format,
            stdout,
            buffer: Vec::new(),
            mid_line: false,
            turn_begun: false,
            result_file: None,
            recording: None,
            status: console.is_live().then(status),
            console,
            watch,
        }
    }

    /// Names the file that the record goes to as well.
    ///
    /// # Errors
    /// When it could not be written there.
    pub fn set_result_file(&mut self, path: &Path) -> anyhow::Result<()> {
        self.result_file = Some(ResultFile::prepare(path, self.watch.clone())?);
        Ok(())
    }

    /// Names the file that the events are recorded in. It is readable by its owner alone.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn set_recording(&mut self, path: &Path) -> anyhow::Result<()> {
        self.recording = Some(Recording::prepare(path, &self.watch)?);
        Ok(())
    }

    /// How much of the text must be kept for the end.
    pub fn keep(&self) -> Keep {
        match self.format {
            Format::Json | Format::StreamJson => Keep::Everything,
            _ if self.result_file.is_some() => Keep::Everything,
            Format::Final => Keep::LastTurn,
            Format::Text => Keep::Nothing,
        }
    }

    /// An event of the run, and the text of it that may go out.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written.
    pub fn event(
        &mut self,
        id: Option<u64>,
        frame: &Frame<'_>,
        envelope: &Envelope<'_>,
        text: &str,
    ) -> Result<(), Failure> {
        let event = &envelope.event;
        if self.is_terminal() {
            // What people read in one place must come in order.
            self.flush()?;
        }
        self.progress(event);
        if let Some(status) = &mut self.status {
            status.note(event);
        }
        if let Some(recording) = &mut self.recording {
            recording.write(frame)?;
        }
        if matches!(event, Event::TurnStarted(_)) {
            self.turn_begun = true;
        }
        match self.format {
            Format::Text => self.write_text(text),
            Format::StreamJson if envelope.is_json || is_json(frame.data) => self.event_line(id, frame),
            _ => Ok(()),
        }
    }

    fn event_line(&mut self, id: Option<u64>, frame: &Frame<'_>) -> Result<(), Failure> {
        self.write_event(id, frame).map_err(|error| unwritten(&error))?;
        self.end_line()
    }

    /// Writes the data as it is: it is known to be JSON.
    fn write_event(&mut self, id: Option<u64>, frame: &Frame<'_>) -> io::Result<()> {
        let mut json = Json(self);
        json.write_all(br#"{"type":"event","id":"#)?;
        serde_json::to_writer(&mut json, &id)?;
        json.write_all(br#","event":"#)?;
        serde_json::to_writer(&mut json, frame.event)?;
        json.write_all(br#","data":"#)?;
        // A line break in JSON is always between two tokens, where a space means the same.
        for (nth, line) in frame.data.trim_ascii().split('\n').enumerate() {
            json.write_all(if nth > 0 { b" " } else { b"" })?;
            json.write_all(line.as_bytes())?;
        }
        json.write_all(b"}")
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(Json(self), value).map_err(|error| unwritten(&error.into()))?;
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        self.buffer.push(b'\n');
        if self.buffer.len() < ENOUGH { Ok(()) } else { self.flush() }
    }

    /// A line of JSON on stdout, at once.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(value)?;
        self.flush()
    }

    fn is_terminal(&self) -> bool {
        self.stdout.as_ref().is_some_and(Pipe::is_terminal)
    }

    /// Whether a newline is owed; on a terminal a line on stderr may have paid it.
    fn is_mid_line(&self) -> bool {
        self.mid_line && (!self.is_terminal() || !self.buffer.is_empty() || self.console.is_mid_line())
    }

    /// Text of the agent, as it comes: only one format shows it.
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.format == Format::Text { self.write_text(text) } else { Ok(()) }
    }

    fn write_text(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.turn_begun) && self.is_mid_line() {
            self.buffer.push(b'\n');
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest, ENOUGH));
            if self.is_terminal() {
                self.buffer.extend_from_slice(visible_lines(piece).as_bytes());
            } else {
                self.buffer.extend_from_slice(piece.as_bytes());
            }
            self.mid_line = !piece.ends_with('\n');
            if self.buffer.len() >= ENOUGH {
                self.flush()?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Shows text that was held back while events were missing.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written.
    pub fn healed(&mut self, healed: Healed) -> Result<(), Failure> {
        if healed.continues {
            self.turn_begun = false;
        }
        for text in healed.pieces {
            self.text(&text)?;
            self.turn_begun = true;
        }
        self.flush()
    }

    /// A line of ours on stdout: a session's id, the calls that wait.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written.
    pub fn answer(&mut self, line: &str) -> Result<(), Failure> {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.flush()
    }

    /// A line of ours on stdout that must arrive: here a closed pipe is a failure, too.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written.
    pub fn deliver(&mut self, line: &str) -> Result<(), Failure> {
        self.answer(line)?;
        if self.stdout.is_some() { Ok(()) } else { Err(unwritten(&io::ErrorKind::BrokenPipe.into())) }
    }

    /// Renews the status line, if there is one, and if the cursor does not stand behind text of the agent.
    pub fn renew_status(&self) {
        if let Some(status) = self.status.as_ref().filter(|_| !(self.is_terminal() && self.is_mid_line())) {
            self.console.status(&status.line());
        }
    }

    /// Writes out what has come together. A closed pipe is no failure: the run is followed on, in silence.
    ///
    /// # Errors
    /// `Output` when stdout cannot be written for another reason.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.drain().map_err(|error| unwritten(&error))
    }

    fn drain(&mut self) -> io::Result<()> {
        let written = match &mut self.stdout {
            Some(stdout) if !self.buffer.is_empty() => {
                if stdout.is_terminal() {
                    self.console.clear_status();
                }
                stdout.write_all(&self.buffer)
            }
            _ => Ok(()),
        };
        if self.is_terminal() && !self.buffer.is_empty() {
            self.console.set_mid_line(self.mid_line);
        }
        self.buffer.clear();
        written.or_else(|error| {
            self.stdout = None;
            if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
        })
    }

    /// Writes the end: the rest of stdout, the result file, the closing line. Returns the exit code, which is 1 where any
    /// of these could not be written.
    pub fn finish(&mut self, mut report: Report) -> Exit {
        let written = self.finish_text(&report);
        fail_with(&mut report, written);
        let recorded = self.finish_recording();
        fail_with(&mut report, recorded);
        let kept = self.write_result_file(&report);
        fail_with(&mut report, kept);
        if matches!(self.format, Format::Json | Format::StreamJson)
            && let Err(failure) = self.line(&report.record()).and_then(|()| self.flush())
        {
            report.fail(failure);
            let kept = self.write_result_file(&report);
            fail_with(&mut report, kept);
        }
        self.close(&report);
        report.end.exit()
    }

    fn finish_text(&mut self, report: &Report) -> Result<(), Failure> {
        if self.format == Format::Final
            && let Some(text) = &report.run.agent_message
        {
            self.write_text(text)?;
        }
        if self.is_mid_line() {
            self.buffer.push(b'\n');
            self.mid_line = false;
        }
        self.flush()
    }

    fn finish_recording(&mut self) -> Result<(), Failure> {
        self.recording.take().map_or(Ok(()), Recording::finish)
    }

    fn write_result_file(&self, report: &Report) -> Result<(), Failure> {
        let Some(file) = &self.result_file else { return Ok(()) };
        file.write(&report.record()).map_err(|error| Failure::new(Reason::Output, format!("{error:#}")))
    }

    /// What a person must know beside how it ended.
    fn warn(&self, report: &Report) {
        let run = &report.run;
        if run.finish_reason.as_deref() == Some("max_output_tokens") {
            self.console.error("the answer is cut: the model reached its output limit (max_output_tokens)");
        }
        let tasks: Vec<_> =
            run.background_tasks.iter().map(|task| format!("{} ({})", task.name, task.tool_call_id)).collect();
        if !tasks.is_empty() {
            let tasks = shorten(&tasks.join(", "));
            self.console
                .error(&format!("background tasks may go on, on the server, whatever became of the run: {tasks}"));
        }
    }

    /// The closing line.
    fn close(&self, report: &Report) {
        self.warn(report);
        let time = seconds(report.duration);
        match &report.end {
            End::Failed(failure) => {
                // A mistake on the command line took no time that anybody would want to know.
                let is_usage = failure.reason == Reason::Usage;
                let after = if is_usage { String::new() } else { format!(" after {time}") };
                let error = report.error().unwrap_or_default();
                self.console.error(&format!("failed ({}){after}: {error}", failure.reason));
                for call in report.waiting().iter().flat_map(|waiting| &waiting.calls) {
                    self.console.error(&format!("still waiting for approval: {}", describe(call)));
                }
            }
            // `pending` has shown the calls on stdout, and its time is not the run's.
            End::Paused(Waiting { calls, .. }) if report.run.run_id.is_none() => {
                let waiting = if calls.len() == 1 { "tool call waits" } else { "tool calls wait" };
                self.console.error(&format!("{} {waiting} for approval", calls.len()));
                if let Some(hint) = &report.resume_hint {
                    self.console.progress(&format!("to approve: {hint}"));
                }
            }
            End::Paused(Waiting { calls, .. }) => {
                let waiting = if calls.len() == 1 { "tool call waits" } else { "tool calls wait" };
                self.console.error(&format!("paused after {time}: {} {waiting} for approval", calls.len()));
                for call in calls {
                    self.console.progress(&describe(call));
                }
                if let Some(hint) = &report.resume_hint {
                    self.console.progress(&format!("to go on: {hint}"));
                }
            }
            End::Completed if report.run.run_id.is_some() => {
                let run = &report.run;
                let tokens = run.usage.map(|usage| format!(", {} tokens", usage.total_tokens)).unwrap_or_default();
                let turns = if run.turns == 1 { "turn" } else { "turns" };
                self.console.progress(&format!("completed after {time}: {} {turns}{tokens}", run.turns));
            }
            End::Completed => {}
        }
    }

    /// What people want to know of an event while they wait.
    fn progress(&self, event: &Event<'_>) {
        let say = |line: String| self.console.progress(&line);
        match event {
            Event::ToolExecutionStarted(tool) => {
                say(format!("tool {} ({}) started", shorten(&tool.tool_name), shorten(&tool.tool_call_id)));
            }
            Event::ToolExecutionCompleted(tool) if tool.is_error => {
                let [name, id, result] =
                    [&tool.tool_name, &tool.tool_call_id, &tool.result].map(|text| shorten(text));
                say(format!("tool {name} ({id}) failed: {result}"));
            }
            Event::ToolRejected(tool) => {
                let [name, id, reason] =
                    [&tool.tool_name, &tool.tool_call_id, &tool.reason].map(|text| shorten(text));
                say(format!("tool {name} ({id}) rejected: {reason}"));
            }
            Event::RetryAttempt(retry) => say(format!(
                "the server tries its model again in {} ms (attempt {}): {}",
                retry.delay_ms,
                retry.attempt,
                shorten(&retry.reason)
            )),
            Event::CompactionStarted(compaction) => {
                say(format!("the server compacts the conversation: {}", shorten(&compaction.reason)));
            }
            Event::RunStarted
            | Event::TurnStarted(_)
            | Event::TurnCompleted(_)
            | Event::TextDelta(_)
            | Event::ThinkingDelta
            | Event::TextComplete(_)
            | Event::ToolCallsProposed(_)
            | Event::WaitingForToolApproval
            | Event::ToolExecutionProgress(_)
            | Event::ToolExecutionCompleted(_)
            | Event::CompactionCompleted(_)
            | Event::UsageReport(_)
            | Event::RunCompleted(_)
            | Event::RunError(_)
            | Event::Unknown => {}
        }
    }
}

impl Status {
    fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::TurnStarted(turn) => self.turn = turn.turn,
            Event::ToolExecutionStarted(tool) => self.tool = shorten(bare_name(&tool.tool_name)),
            Event::ToolExecutionCompleted(_) | Event::ToolRejected(_) => self.tool.clear(),
            Event::TextDelta(delta) => {
                let last = delta.delta.len().saturating_sub(LAST_WORDS);
                self.words.push_str(&delta.delta[piece_end(&delta.delta, last)..]);
                let cut = self.words.len().saturating_sub(LAST_WORDS);
                self.words.drain(..piece_end(&self.words, cut));
            }
            _ => {}
        }
    }

    fn line(&self) -> String {
        let mut line = format!("sortie: {}", seconds(self.began.elapsed()));
        if self.turn > 0 {
            line.push_str(&format!(" · turn {}", self.turn));
        }
        if !self.tool.is_empty() {
            line.push_str(&format!(" · {}", self.tool));
        }
        let words: Vec<_> = self.words.split_whitespace().collect();
        if !words.is_empty() {
            line.push_str(&format!(" · {}", words.join(" ")));
        }
        line
    }
}

/// A call on one line, its arguments shortened.
pub fn describe(call: &ToolCall) -> String {
    let [id, name, arguments] = [&call.id, &call.name, call.arguments.get()].map(shorten);
    format!("{id} {name} {arguments}")
}

fn shorten(text: &str) -> String {
    visible_start(text, MAX_ARGUMENTS)
}

/// The first place from this one on where a character begins, or the end.
fn piece_end(text: &str, from: usize) -> usize {
    (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

fn is_json(data: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(data).is_ok()
}

/// JSON on its way to stdout. It goes out in pieces, however large it is.
struct Json<'a>(&'a mut Output);

impl Write for Json<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut piece = &bytes[..bytes.len().min(ENOUGH)];
        if self.0.is_terminal() {
            let text = piece.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            self.0.buffer.extend_from_slice(harmless_json(text).as_bytes());
            // It may end within a character.
            piece = text.as_bytes();
        } else {
            self.0.buffer.extend_from_slice(piece);
        }
        if self.0.buffer.len() >= ENOUGH {
            self.0.drain()?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON for a terminal: what would act on it is escaped, which JSON allows within strings, where alone it can be.
fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                harmless.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// A time for people: 0.3s, 12.0s, 3m 20s.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
    }
}

/// The first failure counts: see [`Report::fail`].
fn fail_with(report: &mut Report, result: Result<(), Failure>) {
    if let Err(failure) = result {
        report.fail(failure);
    }
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Reason::Output, format!("cannot write to stdout: {error}"))
}
