//! stdout: buffers what is written, and makes it harmless if stdout is a terminal.

use crate::console::{Console, acts, push_visible};
use crate::descriptor::Pipe;
use crate::outcome::{Failure, Reason};
use crate::watchdog::Watch;
use std::io::{self, ErrorKind, Write};

/// The size of the buffer before it is written out, in bytes. It is also written out after each read from the server.
const ENOUGH: usize = 64 * 1024;

pub struct Stdout {
    /// `None` once a write has failed.
    pipe: Option<Pipe>,
    buffer: Vec<u8>,
    /// The last character was no newline.
    mid_line: bool,
    console: Console,
}

impl Stdout {
    pub fn new(watch: Watch, console: Console) -> Self {
        let pipe = Some(Pipe::new(io::stdout(), Some(watch)));
        Self { pipe, buffer: Vec::new(), mid_line: false, console }
    }

    /// Fails if stdout is closed.
    pub fn check(&self) -> Result<(), Failure> {
        let is_open = self.pipe.is_some();
        if is_open { Ok(()) } else { Err(unwritten(&ErrorKind::BrokenPipe.into())) }
    }

    pub fn is_terminal(&self) -> bool {
        self.pipe.as_ref().is_some_and(Pipe::is_terminal)
    }

    /// Returns whether the line must still be ended. On a terminal, a line on stderr may have ended it.
    pub fn is_mid_line(&self) -> bool {
        self.mid_line && (!self.is_terminal() || !self.buffer.is_empty() || self.console.is_mid_line())
    }

    /// Ends the line if it must still be ended.
    pub fn end_line(&mut self) {
        if self.is_mid_line() {
            self.buffer.push(b'\n');
            self.mid_line = false;
        }
    }

    /// Writes the agent's text.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        let put = self.put_harmless(text.as_bytes(), |shown, c| push_visible(shown, c, &['\n', '\t']));
        put.map_err(|error| unwritten(&error))
    }

    /// Writes a line that is harmless already.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.put(line.as_bytes()).and_then(|()| self.put(b"\n")).map_err(|error| unwritten(&error))
    }

    /// Writes a line of JSON, piece by piece, so that large JSON needs no large buffer.
    pub fn json(&mut self, write: impl FnOnce(&mut Json<'_>) -> io::Result<()>) -> Result<(), Failure> {
        write(&mut Json(self)).and_then(|()| self.put(b"\n")).map_err(|error| unwritten(&error))
    }

    /// Writes the buffer out. A closed pipe is no failure: the run is followed to its end without output.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.drain().map_err(|error| unwritten(&error))
    }

    /// Takes UTF-8. On a terminal, each character goes through `escape`.
    fn put_harmless(&mut self, text: &[u8], escape: impl Fn(&mut String, char)) -> io::Result<()> {
        if !self.is_terminal() {
            return self.put(text);
        }
        let mut shown = String::new();
        for c in String::from_utf8_lossy(text).chars() {
            shown.clear();
            escape(&mut shown, c);
            self.put(shown.as_bytes())?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(ENOUGH) {
            self.buffer.extend_from_slice(piece);
            self.mid_line = !piece.ends_with(b"\n");
            if self.buffer.len() >= ENOUGH {
                self.drain()?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let is_terminal = self.is_terminal();
        let written = match &mut self.pipe {
            Some(pipe) if !self.buffer.is_empty() => {
                if is_terminal {
                    self.console.clear_status();
                }
                let written = pipe.write_all(&self.buffer);
                if is_terminal {
                    self.console.set_mid_line(self.mid_line);
                }
                written
            }
            _ => Ok(()),
        };
        self.buffer.clear();
        written.or_else(|error| {
            self.pipe = None;
            if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
        })
    }
}

/// A writer of JSON. Each write must end with a whole character, as those of `serde_json` do.
pub struct Json<'a>(&'a mut Stdout);

impl Write for Json<'_> {
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        self.0.put_harmless(json, escape_in_json)?;
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes a character that would act on a terminal. In JSON such a character can only occur within a string.
fn escape_in_json(shown: &mut String, c: char) {
    if acts(c) {
        shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
    } else {
        shown.push(c);
    }
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Reason::Output, format!("cannot write to stdout: {error}"))
}
