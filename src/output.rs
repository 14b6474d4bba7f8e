//! Writes what a format shows to stdout, the result file, the recording, and through [`Progress`] the lines on stderr.

use crate::agent::events::{Envelope, Event};
use crate::agent::sse::Frame;
use crate::cli::{Format, PlainFormat};
use crate::console::Console;
use crate::outcome::{Exit, Failure, Reason, Report};
use crate::progress::Progress;
use crate::recording::Recording;
use crate::result_file::ResultFile;
use crate::run::transcript::{FilledIn, Keep, MAX_TEXT};
use crate::stdout::Stdout;
use crate::watchdog::Watch;
use memchr::memchr;
use serde::Serialize;
use serde::de::IgnoredAny;
use std::io::Write;
use std::path::Path;

/// What a format shows on stdout.
#[derive(Default)]
struct Shows {
    /// The agent's text, as it comes.
    text: bool,
    /// The text of the last turn, at the end.
    last_turn: bool,
    /// A line of JSON for each event.
    events: bool,
    /// The result record, at the end.
    record: bool,
}

impl From<Format> for Shows {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self { text: true, ..Self::default() },
            Format::Final => Self { last_turn: true, ..Self::default() },
            Format::Json => Self { record: true, ..Self::default() },
            Format::StreamJson => Self { events: true, record: true, ..Self::default() },
        }
    }
}

pub struct Output {
    shows: Shows,
    stdout: Stdout,
    /// A turn has begun since the agent's last text on stdout.
    turn_begun: bool,
    result_file: Option<ResultFile>,
    recording: Option<Recording>,
    progress: Progress,
}

impl Output {
    pub fn new(format: Format, watch: Watch, console: Console) -> Self {
        Self {
            shows: format.into(),
            stdout: Stdout::new(watch, console.clone()),
            turn_begun: false,
            result_file: None,
            recording: None,
            progress: Progress::new(console),
        }
    }

    /// Checks that the result file can be written, and writes the record there at the end.
    pub fn set_result_file(&mut self, path: &Path) -> anyhow::Result<()> {
        self.result_file = Some(ResultFile::prepare(path)?);
        Ok(())
    }

    /// Checks that the recording can be written, and writes the events there.
    pub fn set_recording(&mut self, path: &Path) -> anyhow::Result<()> {
        self.recording = Some(Recording::prepare(path)?);
        Ok(())
    }

    /// Returns how much of the agent's text is needed at the end.
    pub const fn keep(&self) -> Keep {
        if self.shows.record || self.result_file.is_some() {
            Keep::Everything
        } else if self.shows.last_turn {
            Keep::LastTurn
        } else {
            Keep::Nothing
        }
    }

    /// Writes an event of the run. `text` is the agent's text to show.
    pub fn event(
        &mut self,
        id: Option<u64>,
        frame: &Frame<'_>,
        envelope: &Envelope<'_>,
        text: &str,
    ) -> Result<(), Failure> {
        if self.stdout.is_terminal() {
            // On a terminal, stdout and stderr are read in one place and must be in order.
            self.flush()?;
        }
        self.progress.event(&envelope.event);
        if let Some(recording) = &mut self.recording {
            recording.write(frame)?;
        }
        if matches!(envelope.event, Event::TurnStarted(_)) {
            self.turn_begun = true;
        }
        self.text(text)?;
        // The data of an unknown event may be no JSON.
        if self.shows.events && (envelope.is_json || serde_json::from_str::<IgnoredAny>(frame.data).is_ok()) {
            self.event_line(id, frame)?;
        }
        Ok(())
    }

    /// Writes the event as JSON. The frame's data is JSON already and is copied.
    fn event_line(&mut self, id: Option<u64>, frame: &Frame<'_>) -> Result<(), Failure> {
        self.stdout.json(|json| {
            json.write_all(br#"{"type":"event","id":"#)?;
            serde_json::to_writer(&mut *json, &id)?;
            json.write_all(br#","event":"#)?;
            serde_json::to_writer(&mut *json, frame.event)?;
            json.write_all(br#","data":"#)?;
            let mut data = frame.data.trim_ascii().as_bytes();
            // A line break in JSON is always between two tokens, where a space means the same.
            while let Some(at) = memchr(b'\n', data) {
                json.write_all(&data[..at])?;
                json.write_all(b" ")?;
                data = &data[at + 1..];
            }
            json.write_all(data)?;
            json.write_all(b"}")
        })
    }

    fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.stdout.json(|json| Ok(serde_json::to_writer(json, value)?))?;
        self.flush()
    }

    /// Writes the agent's text if the format shows it as it comes.
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if !self.shows.text || text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.turn_begun) {
            self.stdout.end_line();
        }
        self.stdout.text(text)
    }

    /// Writes text that was held back while events were missing.
    pub fn fill_in(&mut self, filled_in: FilledIn) -> Result<(), Failure> {
        if filled_in.continues {
            self.turn_begun = false;
        }
        for text in filled_in.pieces {
            self.text(&text)?;
            self.turn_begun = true;
        }
        self.flush()
    }

    /// Writes a line to stdout that is not the agent's text, such as the help.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.stdout.line(line)?;
        self.flush()
    }

    /// Writes the answer of a command that follows no run: `json`, or `lines` for people.
    pub fn answer(
        &mut self,
        format: PlainFormat,
        json: &impl Serialize,
        lines: impl IntoIterator<Item = String>,
    ) -> Result<(), Failure> {
        match format {
            PlainFormat::Json => self.json(json),
            PlainFormat::Text => {
                lines.into_iter().try_for_each(|line| self.stdout.line(&line))?;
                self.flush()
            }
        }
    }

    /// Fails if the answer has met a closed pipe. Otherwise no record follows the answer on stdout.
    pub fn end_with_answer(&mut self) -> Result<(), Failure> {
        self.stdout.check()?;
        self.shows.record = false;
        Ok(())
    }

    /// Renews the status line, unless it would overwrite an unfinished line of the agent's text.
    pub fn renew_status(&self) {
        if !(self.stdout.is_terminal() && self.stdout.is_mid_line()) {
            self.progress.renew_status();
        }
    }

    /// Writes the buffer to stdout. A closed pipe is no failure: the run is followed to its end without output.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush()
    }

    /// Writes the rest of stdout, the result file and the closing line. Returns the exit code: 1 if a write has failed.
    pub fn finish(&mut self, mut report: Report) -> Exit {
        let written = self.finish_text(&report);
        fail_with(&mut report, written);
        let recorded = self.recording.take().map_or(Ok(()), Recording::finish);
        fail_with(&mut report, recorded);
        let kept = self.write_result_file(&report);
        fail_with(&mut report, kept);
        if self.shows.record
            && let Err(failure) = self.json(&report)
        {
            report.fail(failure);
            let kept = self.write_result_file(&report);
            fail_with(&mut report, kept);
        }
        self.progress.close(&report);
        report.end.exit()
    }

    fn finish_text(&mut self, report: &Report) -> Result<(), Failure> {
        if self.shows.last_turn {
            match &report.run.agent_message {
                Some(text) => self.stdout.text(text)?,
                // A lost answer must not look like an empty one.
                None if report.run.text_is_cut => {
                    let message = format!(
                        "the last turn is longer than {MAX_TEXT} bytes, and -o final cannot keep it; -o text prints it"
                    );
                    return Err(Failure::new(Reason::Output, message));
                }
                None => {}
            }
        }
        self.stdout.end_line();
        self.flush()
    }

    fn write_result_file(&self, report: &Report) -> Result<(), Failure> {
        let Some(file) = &self.result_file else { return Ok(()) };
        file.write(report).map_err(|error| Failure::new(Reason::Output, format!("{error:#}")))
    }
}

fn fail_with(report: &mut Report, result: Result<(), Failure>) {
    if let Err(failure) = result {
        report.fail(failure);
    }
}
