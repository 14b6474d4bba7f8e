//! Bytes in, frames out: the event stream of WHATWG HTML 9.2.6, the whole grammar, without I/O.
//!
//! However the bytes are cut, the frames are the same. Lines are looked at where they lie in the
//! input: what is kept between two chunks is the value of a known field, never a line.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::time::Duration;

use memchr::memchr2;

/// Upper bound of one event's data, in bytes of UTF-8.
pub const MAX_EVENT: usize = 8 * 1024 * 1024;

/// Upper bound of the value of an `event`, `id` or `retry` field, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// The longest name that means anything, a BOM before it included: longer ones are unknown fields.
const MAX_NAME: usize = BOM.len() + b"event".len();

/// Upper bound of one line, in bytes: as much as `data: ` and the largest data need.
const MAX_LINE: usize = MAX_EVENT + MAX_NAME + b": ".len();

/// What the data buffer may keep for the next event, in bytes.
const KEEP: usize = 64 * 1024;

/// The byte order mark that a stream may begin with, in UTF-8.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One event, as it is dispatched at the blank line that ends its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The `id` field of this very block, if it had one. The inherited id is
    /// [`Parser::last_event_id`]: an event without an id must not look like a repetition.
    pub id: Option<&'a str>,
    /// The event's name; `message` when the block gives none.
    pub event: &'a str,
    /// The `data` lines, joined by LF; what is not UTF-8 is replaced by U+FFFD.
    pub data: Cow<'a, str>,
}

/// An event or a line exceeds the bounds; the parser that said so is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event or line of the stream is over 8 MiB, or an id or name over 64 KiB")
    }
}

impl std::error::Error for TooLarge {}

/// The state between two chunks of one stream. Its memory is bounded by about [`MAX_EVENT`];
/// a frame whose UTF-8 is broken holds a repaired copy of its data, bounded likewise.
#[derive(Debug, Default)]
pub struct Parser {
    /// The first line, the only one that a BOM may precede, has ended.
    past_first_line: bool,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// Bytes of the present line so far.
    line_len: usize,
    place: Place,
    /// The present line's field name so far.
    name: Vec<u8>,
    /// The present line's value so far, unless it is data, which goes right into the block.
    value: Vec<u8>,
    block: Block,
    /// The block has been handed out as a frame, and is to be cleared before the next.
    dispatched: bool,
    last_event_id: String,
    retry: Option<Duration>,
}

/// Where in a line the parser is.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Name,
    /// Right after the colon, where one space is dropped.
    Colon(Field),
    Value(Field),
}

/// The fields that WHATWG HTML 9.2.6 gives a meaning to.
#[derive(Clone, Copy, Debug)]
enum Field {
    Data,
    Event,
    Id,
    Retry,
    /// An unknown field, or (its name is empty) a comment: skipped.
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name {
            b"data" => Self::Data,
            b"event" => Self::Event,
            b"id" => Self::Id,
            b"retry" => Self::Retry,
            _ => Self::Other,
        }
    }
}

/// The event being gathered: the buffers of WHATWG HTML 9.2.6.
#[derive(Debug, Default)]
struct Block {
    /// Every data line, each with an LF after it.
    data: Vec<u8>,
    event: String,
    id: String,
    has_id: bool,
}

impl Parser {
    /// A parser at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until an event is complete or the input is used up:
    /// call it again with the rest until it gives `None`.
    ///
    /// An event that the end of the stream leaves unfinished is never given, as the standard asks.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] as soon as a line or the event being gathered exceeds its bound.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Frame<'a>>, TooLarge> {
        if mem::take(&mut self.dispatched) {
            self.block.clear();
        }
        while let Some(first) = input.first() {
            if mem::take(&mut self.after_cr) && *first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', input) else {
                self.text(mem::take(input))?;
                break;
            };
            let (text, rest) = (&input[..end], &input[end + 1..]);
            self.after_cr = input[end] == b'\r';
            *input = rest;
            if self.line_len == 0 {
                self.whole_line(text)?;
            } else {
                self.text(text)?;
                self.end_line()?;
            }
            if self.dispatched {
                return self.block.frame(&self.last_event_id).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether no part of an event has been taken since the last one was given.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        let block = &self.block;
        self.line_len == 0 && (self.dispatched || block.data.is_empty() && block.event.is_empty() && !block.has_id)
    }

    /// The id that a reconnection sends as `Last-Event-ID`: the last one of a block that ended,
    /// with or without data; empty at first.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time that the stream's last valid `retry` field asks for.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes a line that lies in the input as a whole, as most do: nothing of it need be kept for a next chunk.
    fn whole_line(&mut self, line: &[u8]) -> Result<(), TooLarge> {
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
        let (field, value) = (Field::of(name), value.strip_prefix(b" ").unwrap_or(value));
        match field {
            Field::Data => self.block.push_data(value)?,
            Field::Other => return Ok(()),
            _ if value.len() > MAX_VALUE => return Err(TooLarge),
            _ => {}
        }
        self.end_field(field, value)
    }

    /// Takes a piece of the present line, without its line end.
    fn text(&mut self, text: &[u8]) -> Result<(), TooLarge> {
        self.line_len = self.line_len.saturating_add(text.len());
        if self.line_len > MAX_LINE {
            return Err(TooLarge);
        }
        let mut text = text;
        if let Place::Name = self.place {
            text = self.gather_name(text);
        }
        if let Place::Colon(field) = self.place
            && !text.is_empty()
        {
            text = text.strip_prefix(b" ").unwrap_or(text);
            self.place = Place::Value(field);
        }
        match self.place {
            Place::Value(Field::Data) => self.block.push_data(text),
            Place::Value(Field::Event | Field::Id | Field::Retry) => self.push_value(text),
            Place::Value(Field::Other) | Place::Colon(_) | Place::Name => Ok(()),
        }
    }

    /// Moves the field name, up to the colon, out of `text`, and returns what follows it.
    fn gather_name<'t>(&mut self, text: &'t [u8]) -> &'t [u8] {
        let room = MAX_NAME - self.name.len();
        let window = &text[..text.len().min(room + 1)];
        if let Some(colon) = window.iter().position(|&byte| byte == b':') {
            self.name.extend_from_slice(&text[..colon]);
            self.place = Place::Colon(Field::of(self.name()));
            &text[colon + 1..]
        } else if text.len() > room {
            self.place = Place::Value(Field::Other);
            text
        } else {
            self.name.extend_from_slice(text);
            &[]
        }
    }

    /// The name gathered, without the stream's BOM.
    fn name(&self) -> &[u8] {
        match self.name.strip_prefix(BOM) {
            Some(name) if !self.past_first_line => name,
            _ => &self.name,
        }
    }

    fn push_value(&mut self, text: &[u8]) -> Result<(), TooLarge> {
        if self.value.len() + text.len() > MAX_VALUE {
            return Err(TooLarge);
        }
        self.value.extend_from_slice(text);
        Ok(())
    }

    /// Interprets the line that has just ended, and makes ready for the next.
    fn end_line(&mut self) -> Result<(), TooLarge> {
        let value = mem::take(&mut self.value);
        match self.place {
            Place::Name if self.name().is_empty() => self.end_block(),
            // A line without a colon: all of it is the name, and the value is empty.
            Place::Name => self.end_field(Field::of(self.name()), &value)?,
            Place::Colon(field) | Place::Value(field) => self.end_field(field, &value)?,
        }
        self.value = value;
        self.past_first_line = true;
        self.line_len = 0;
        self.place = Place::Name;
        self.name.clear();
        self.value.clear();
        Ok(())
    }

    /// The present line's field, with its value; that of data is in the block already.
    fn end_field(&mut self, field: Field, value: &[u8]) -> Result<(), TooLarge> {
        match field {
            Field::Data => return self.block.push_data(b"\n"),
            Field::Event => replace(&mut self.block.event, value),
            Field::Id if value.contains(&0) => {}
            Field::Id => {
                replace(&mut self.block.id, value);
                self.block.has_id = true;
            }
            Field::Retry => self.retry = milliseconds(value).or(self.retry),
            Field::Other => {}
        }
        Ok(())
    }

    /// A blank line: an id counts from here on, and a block that has data is an event.
    fn end_block(&mut self) {
        if self.block.has_id {
            mem::swap(&mut self.last_event_id, &mut self.block.id);
        }
        if self.block.data.is_empty() {
            self.block.clear();
        } else {
            self.dispatched = true;
        }
    }
}

impl Block {
    /// Appends to the data, whose last LF does not count; the buffer doubles, but never beyond.
    fn push_data(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        const MOST: usize = MAX_EVENT + b"\n".len();
        let len = self.data.len() + bytes.len();
        if len > MOST {
            return Err(TooLarge);
        }
        if len > self.data.capacity() {
            let capacity = self.data.capacity().saturating_mul(2).clamp(len, MOST);
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    /// The block as an event; its id, if it had one, has just become the last event id.
    fn frame<'a>(&'a self, last_event_id: &'a str) -> Result<Frame<'a>, TooLarge> {
        let event = self.event.as_str();
        Ok(Frame {
            id: self.has_id.then_some(last_event_id),
            event: if event.is_empty() { "message" } else { event },
            data: decode(self.data.strip_suffix(b"\n").unwrap_or(&self.data))?,
        })
    }

    fn clear(&mut self) {
        self.data.clear();
        self.data.shrink_to(KEEP);
        self.event.clear();
        self.id.clear();
        self.has_id = false;
    }
}

/// UTF-8 decode. A broken byte can become three, so the bound is checked before memory is taken.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, TooLarge> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Ok(Cow::Borrowed(text));
    }
    let parts = || {
        bytes.utf8_chunks().flat_map(|chunk| {
            let broken = !chunk.invalid().is_empty();
            [chunk.valid(), if broken { "\u{FFFD}" } else { "" }]
        })
    };
    let len = parts().map(str::len).sum();
    if len > MAX_EVENT {
        return Err(TooLarge);
    }
    let mut text = String::with_capacity(len);
    text.extend(parts());
    Ok(Cow::Owned(text))
}

/// Sets `field` to the decoded value, in the memory that it already has.
fn replace(field: &mut String, value: &[u8]) {
    field.clear();
    match str::from_utf8(value) {
        Ok(value) => field.push_str(value),
        Err(_) => field.push_str(&String::from_utf8_lossy(value)),
    }
}

/// The value of a `retry` field: ASCII digits and nothing else.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Digits fail to parse only when they are too many.
    let number = str::from_utf8(value).ok()?.parse().unwrap_or(u64::MAX);
    Some(Duration::from_millis(number))
}

#[cfg(test)]
mod tests;
