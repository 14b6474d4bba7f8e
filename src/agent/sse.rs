//! Parses an event stream: bytes in, frames out. It knows the grammar of WHATWG HTML 9.2.6 and does no I/O.
//!
//! The frames do not depend on where the bytes are cut into chunks. A whole line is read in the input buffer. Only a line
//! that is cut is gathered first.
//!
//! The `retry` field is skipped like an unknown one: the client has its own backoff.

use std::{fmt, mem};

use memchr::memchr2;

/// The most data of one event, in bytes of UTF-8.
pub const MAX_EVENT: usize = 8 * 1024 * 1024;

/// The most data of one event with an LF after its last line too, in bytes.
const MAX_DATA: usize = MAX_EVENT + b"\n".len();

/// The longest value of an `event` or `id` field, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// The longest name of a known field, with a BOM before it, in bytes. A longer name is an unknown field.
const MAX_NAME: usize = BOM.len() + b"event".len();

/// The longest line, in bytes: enough for the name of a field and the largest data.
const MAX_LINE: usize = MAX_EVENT + MAX_NAME + b": ".len();

/// The capacity that the data buffer keeps from one event to the next, in bytes.
const KEEP: usize = 64 * 1024;

/// The byte order mark that may begin a stream, in UTF-8.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One event of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The `id` field of this event, if it has one. The id of an earlier event is not inherited: an event without an id
    /// must not look like a repetition.
    pub id: Option<&'a str>,
    /// The event's name; `message` if the event has none.
    pub event: &'a str,
    /// The `data` lines, joined by LF. Invalid UTF-8 is replaced by U+FFFD.
    pub data: &'a str,
}

/// An event or a line is larger than its bound. The parser that returned this error must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event or line of the stream is over 8 MiB, or an id or name over 64 KiB")
    }
}

impl std::error::Error for TooLarge {}

/// The state between two chunks of one stream. It takes about twice [`MAX_EVENT`] bytes at most: the data of an event,
/// and a line that is cut.
#[derive(Debug, Default)]
pub struct Parser {
    /// The first line has ended. Only the first line may begin with a BOM.
    past_first_line: bool,
    /// The last byte was a CR. If the next byte is an LF, it belongs to the same line end.
    after_cr: bool,
    /// The current line so far, if it comes in several pieces.
    line: Vec<u8>,
    block: Block,
    /// The block is a complete event. It is cleared before the next byte is read.
    is_complete: bool,
}

/// The fields that this parser reads.
#[derive(Clone, Copy, Debug)]
enum Field {
    Data,
    Event,
    Id,
    /// Any other field, or a comment, whose name is empty. It is skipped.
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name {
            b"data" => Self::Data,
            b"event" => Self::Event,
            b"id" => Self::Id,
            _ => Self::Other,
        }
    }

    /// Returns the length of the longest value that the field may have, in bytes.
    const fn longest(self) -> usize {
        match self {
            Self::Data => MAX_DATA,
            Self::Event | Self::Id => MAX_VALUE,
            Self::Other => usize::MAX,
        }
    }
}

/// The event that is being read: the buffers of WHATWG HTML 9.2.6.
#[derive(Debug, Default)]
struct Block {
    /// The data lines, each followed by an LF until the event is complete.
    data: String,
    event: String,
    id: String,
    has_id: bool,
}

impl Parser {
    /// Creates a parser for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until an event is complete or the input is empty. Returns whether an event
    /// is complete: then [`frame`](Self::frame) returns that event. Call it again with the rest of the input until it
    /// returns false.
    ///
    /// An event that the end of the stream leaves unfinished never becomes a frame, as the standard demands.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] as soon as a line or the event exceeds its bound.
    pub fn advance(&mut self, input: &mut &[u8]) -> Result<bool, TooLarge> {
        if mem::take(&mut self.is_complete) {
            self.block.clear();
        }
        while let Some(first) = input.first() {
            if mem::take(&mut self.after_cr) && *first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', input) else {
                self.gather(mem::take(input))?;
                break;
            };
            let (text, rest) = (&input[..end], &input[end + 1..]);
            self.after_cr = input[end] == b'\r';
            *input = rest;
            if self.line.is_empty() {
                self.line(text)?;
            } else {
                self.gather(text)?;
                let line = mem::take(&mut self.line);
                self.line(&line)?;
                self.line = line;
                self.line.clear();
                self.line.shrink_to(KEEP);
            }
            if self.is_complete {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the event that the last [`advance`](Self::advance) completed. Without one, the frame is empty.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        let block = &self.block;
        Frame {
            id: block.has_id.then_some(block.id.as_str()),
            event: if block.event.is_empty() { "message" } else { &block.event },
            data: &block.data,
        }
    }

    /// Returns whether the stream is between two events: no part of the next event has been read.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        let block = &self.block;
        self.line.is_empty()
            && (self.is_complete || block.data.is_empty() && block.event.is_empty() && !block.has_id)
    }

    /// Keeps a piece of a line that is cut.
    fn gather(&mut self, piece: &[u8]) -> Result<(), TooLarge> {
        let len = self.line.len() + piece.len();
        if len > MAX_LINE {
            return Err(TooLarge);
        }
        self.line.reserve_exact(growth(self.line.len(), self.line.capacity(), len));
        self.line.extend_from_slice(piece);
        Ok(())
    }

    /// Reads a line, without the line end.
    fn line(&mut self, line: &[u8]) -> Result<(), TooLarge> {
        if line.len() > MAX_LINE {
            return Err(TooLarge);
        }
        let is_first = !mem::replace(&mut self.past_first_line, true);
        let line = line.strip_prefix(BOM).filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            self.end_block();
            return Ok(());
        }
        let (name, value) = match line.iter().take(MAX_NAME).position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        self.block.set(Field::of(name), value.strip_prefix(b" ").unwrap_or(value))
    }

    /// Ends the block at a blank line. A block that has data is an event.
    fn end_block(&mut self) {
        // The LF after the last data line is not part of the data.
        if self.block.data.pop().is_none() {
            self.block.clear();
            return;
        }
        self.is_complete = true;
    }
}

impl Block {
    /// Stores a field.
    fn set(&mut self, field: Field, value: &[u8]) -> Result<(), TooLarge> {
        if value.len() > field.longest() {
            return Err(TooLarge);
        }
        match field {
            Field::Data => {
                match simdutf8::basic::from_utf8(value) {
                    Ok(text) => self.push_data(text)?,
                    Err(_) => self.push_repaired(value)?,
                }
                self.push_data("\n")?;
            }
            Field::Event => {
                self.event.clear();
                self.event.push_str(&String::from_utf8_lossy(value));
            }
            Field::Id if value.contains(&0) => {}
            Field::Id => {
                self.id.clear();
                self.id.push_str(&String::from_utf8_lossy(value));
                self.has_id = true;
            }
            Field::Other => {}
        }
        Ok(())
    }

    fn push_data(&mut self, text: &str) -> Result<(), TooLarge> {
        let len = self.data.len() + text.len();
        if len > MAX_DATA {
            return Err(TooLarge);
        }
        self.data.reserve_exact(growth(self.data.len(), self.data.capacity(), len));
        self.data.push_str(text);
        Ok(())
    }

    /// Appends data with U+FFFD in place of invalid UTF-8, which may be three times as long as the line: so it is bounded
    /// piece by piece. A line can be decoded alone, because an LF is never a part of another character.
    fn push_repaired(&mut self, line: &[u8]) -> Result<(), TooLarge> {
        for chunk in line.utf8_chunks() {
            self.push_data(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                self.push_data("\u{FFFD}")?;
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.data.clear();
        self.data.shrink_to(KEEP);
        self.event.clear();
        self.id.clear();
        self.has_id = false;
    }
}

/// Returns how much a buffer of this length and capacity must grow to hold `needed` bytes: its capacity doubles, but
/// never exceeds the longest line.
fn growth(len: usize, capacity: usize, needed: usize) -> usize {
    if needed > capacity { capacity.saturating_mul(2).clamp(needed, MAX_LINE) - len } else { 0 }
}
#[cfg(test)]
mod tests;
