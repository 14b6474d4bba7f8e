//! Reads a session's events: each once and in order, across reconnects. Only this reader has the cursor, the backoff
//! and the time that the stream has been quiet.

use super::Client;
use super::connection::{Body, Chunk, TICK};
use super::cursor::{Arrival, Cursor, Gap};
use super::exchange::Call;
use super::retry::Retries;
use super::word::{CallError, Word};
use crate::agent::events::{self, Envelope, Malformed};
use crate::agent::sse::{Frame, Parser};
use crate::run::Silence;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Reconnect after this long without a byte: the server sends a keep-alive every 15 s, so three are missing.
const SILENCE: Duration = Duration::from_secs(45);
/// A stream without a byte for this long after the request is held back. It is also the limit for the head of the
/// answer.
const HELD_BACK: Duration = Duration::from_secs(20);
/// The limit for the head while the stream is held back: in between, the session's state is asked for.
const HELD_AGAIN: Duration = Duration::from_secs(5);
/// The most that is read at once, in bytes.
const BUFFER: usize = 64 * 1024;
/// The most that is read at once until a read fills it, in bytes: a short run never uses the memory of the large
/// buffer.
const SHORT_BUFFER: usize = 8 * 1024;

/// What [`EventStream::next`] returns.
#[derive(Debug)]
pub enum StreamItem<'a> {
    Event {
        id: Option<u64>,
        frame: Frame<'a>,
        envelope: Result<Envelope<'a>, Malformed>,
    },
    /// The server no longer has the events before the next one. If the server said so in a gap, `newest` is the newest
    /// event at that time: the replay is complete with that event.
    Lost {
        newest: Option<u64>,
    },
    Reconnected,
    /// All events of one read have been returned: a caller that buffers its output writes it now.
    Read(Silence),
    /// A read found nothing, or there is no connection.
    Quiet(Silence),
}

/// A reader of a session's events. It ends with its client's watch.
pub struct EventStream<'c> {
    client: &'c Client,
    session: Uuid,
    cursor: Cursor,
    connection: Option<Connection>,
    parser: Parser,
    buffer: Vec<u8>,
    /// The part of the buffer that is read but not parsed.
    unparsed: std::ops::Range<usize>,
    /// [`StreamItem::Read`] has not been returned yet for the last read.
    fresh: bool,
    /// The parser's event has not been returned yet, only the loss before it.
    has_next: bool,
    quiet: Duration,
    /// An event was returned since `last_event` was set.
    given: bool,
    last_event: Instant,
    /// When the last byte came, the stream was last opened, or the last connection broke.
    contact: Instant,
    retries: Retries,
    opened: bool,
    held_back: bool,
    said_held_back: bool,
    /// The last event must come again.
    overlap: bool,
    /// When the stream was first requested after the last byte; `None` after a byte.
    silent_since: Option<Instant>,
}

struct Connection {
    body: Body,
    /// The cursor when the stream was opened.
    from: u64,
}

/// [`StreamItem`] without the frame, which is in the parser.
enum Told {
    Event,
    Lost(Option<u64>),
    Reconnected,
    Read,
    Quiet,
}

impl<'c> EventStream<'c> {
    /// Creates a reader of the events after this one; 0 is the start (protocol trap 1). The first [`next`](Self::next)
    /// connects.
    pub fn new(client: &'c Client, session: Uuid, after: u64) -> Self {
        let now = Instant::now();
        Self {
            client,
            session,
            cursor: Cursor::new(after),
            connection: None,
            parser: Parser::new(),
            buffer: vec![0; SHORT_BUFFER],
            unparsed: 0..0,
            fresh: false,
            has_next: false,
            quiet: Duration::ZERO,
            given: false,
            last_event: now,
            contact: now,
            retries: Retries::default(),
            opened: false,
            held_back: false,
            said_held_back: false,
            overlap: false,
            silent_since: None,
        }
    }

    /// Returns the ID of the last event.
    pub fn cursor(&self) -> u64 {
        self.cursor.last()
    }

    /// Reads the stream, and opens it if necessary. The last event counts as processed, unless
    /// [`EventStream::reject`] was called.
    ///
    /// A read blocks for one tick at most, opening for 20 s at most, and both for at most one tick after `until`.
    /// After the deadline or a signal, the events that have arrived are still returned, and then a [`StreamItem::Quiet`].
    ///
    /// # Errors
    /// The stream could not be opened within the retry timeout. [`Word::Broken`] if the stream breaks the protocol.
    /// [`Word::Stopped`] if a connection is needed after the deadline or a signal.
    pub fn next(&mut self, until: Option<Instant>) -> Result<StreamItem<'_>, CallError> {
        self.cursor.settle();
        Ok(match self.advance(until)? {
            Told::Event => {
                let frame = self.parser.frame();
                StreamItem::Event { id: id(&frame), frame, envelope: events::decode(&frame) }
            }
            Told::Lost(newest) => StreamItem::Lost { newest },
            Told::Reconnected => StreamItem::Reconnected,
            Told::Read => StreamItem::Read(self.silence()),
            Told::Quiet => StreamItem::Quiet(self.silence()),
        })
    }

    /// Reports that the last event is malformed. The first time at a cursor the stream reconnects; the second time this
    /// returns [`Word::Broken`].
    pub fn reject(&mut self, why: &str) -> Result<(), CallError> {
        if self.cursor.reject() {
            self.close("an event is malformed");
            return Ok(());
        }
        Err(self.broken(why))
    }

    /// Resets the quiet, after a call or a policy program.
    pub fn restart_quiet(&mut self) {
        self.quiet = Duration::ZERO;
    }

    pub const fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Returns when the last event was processed, or else when the reader was created.
    pub const fn last_event(&self) -> Instant {
        self.last_event
    }

    /// Resets the idle time, after a time that does not count, such as that of a policy program.
    pub fn restart_idle(&mut self) {
        self.last_event = Instant::now();
    }

    /// Reconnects from before the last event. When this event comes again, the stream is known to be alive.
    pub fn replay(&mut self, why: &str) {
        self.reconnect(why);
        self.overlap = true;
    }

    /// Closes the stream. The next [`next`](Self::next) opens it after the last event.
    pub fn reconnect(&mut self, why: &str) {
        self.cursor.settle();
        self.close(why);
    }

    fn advance(&mut self, until: Option<Instant>) -> Result<Told, CallError> {
        if std::mem::take(&mut self.has_next)
            && let Some(told) = self.frame()?
        {
            return Ok(told);
        }
        loop {
            if self.connection.is_none() {
                return self.open(until);
            }
            if let Some(told) = self.parse()? {
                return Ok(told);
            }
            if std::mem::take(&mut self.fresh) {
                if std::mem::take(&mut self.given) {
                    self.last_event = Instant::now();
                }
                return Ok(Told::Read);
            }
            if let Some(told) = self.read() {
                return Ok(told);
            }
        }
    }

    /// Parses the buffer up to the next event to return.
    fn parse(&mut self) -> Result<Option<Told>, CallError> {
        while !self.unparsed.is_empty() {
            let mut input = &self.buffer[self.unparsed.clone()];
            let complete = self.parser.advance(&mut input);
            self.unparsed.start = self.unparsed.end - input.len();
            if !complete.map_err(|error| self.broken(&error.to_string()))? {
                break;
            }
            self.quiet = Duration::ZERO;
            if let Some(told) = self.frame()? {
                return Ok(Some(told));
            }
        }
        if !self.parser.is_between_events() {
            self.quiet = Duration::ZERO;
        }
        Ok(None)
    }

    /// Returns the parser's event. Skips a repeated one, and reconnects at a gap or hole.
    fn frame(&mut self) -> Result<Option<Told>, CallError> {
        let frame = self.parser.frame();
        if let Some(gap) = events::gap(&frame) {
            return match gap {
                Ok(gap) => self.gap(&gap),
                Err(malformed) => self.reject(&malformed.0).map(|()| Some(Told::Quiet)),
            };
        }
        match self.cursor.event(id(&frame)) {
            Arrival::New => {
                self.given = true;
                Ok(Some(Told::Event))
            }
            Arrival::Repeated => {
                self.overlap = false;
                Ok(None)
            }
            Arrival::Hole => {
                self.close("events are missing");
                Ok(Some(Told::Quiet))
            }
            Arrival::AfterLoss => {
                self.has_next = true;
                Ok(Some(Told::Lost(None)))
            }
        }
    }

    fn gap(&mut self, gap: &events::Gap) -> Result<Option<Told>, CallError> {
        match self.cursor.gap(gap.oldest_available_id) {
            // Only the event for the replay has left the server's ring, and after a gap the server replays nothing.
            Gap::None if std::mem::take(&mut self.overlap) => {
                self.close("the last event cannot be replayed");
                Ok(Some(Told::Quiet))
            }
            Gap::None => Ok(None),
            Gap::Lost => {
                self.close("the server no longer has the next events");
                Ok(Some(Told::Lost(gap.newest_available_id)))
            }
            Gap::Nonsense => Err(self.broken("the server reports one gap after the other")),
        }
    }

    /// Reads once. Returns `None` if bytes came.
    fn read(&mut self) -> Option<Told> {
        let connection = self.connection.as_mut()?;
        let asked = Instant::now();
        match connection.body.read(&mut self.buffer) {
            Ok(Chunk::Bytes(length)) => {
                self.contact = Instant::now();
                // A comment does not end the quiet. The parser tells about parts of an event.
                self.quiet += asked.elapsed().min(TICK);
                (self.held_back, self.silent_since) = (false, None);
                self.unparsed = 0..length;
                self.fresh = true;
                if length == SHORT_BUFFER {
                    self.buffer.resize(BUFFER, 0);
                }
                return None;
            }
            Ok(Chunk::Tick) => {
                if self.parser.is_between_events() {
                    self.quiet += asked.elapsed().min(TICK);
                }
                self.judge_silence();
                if self.contact.elapsed() >= SILENCE {
                    self.close(&format!("nothing heard for {} s", SILENCE.as_secs()));
                }
            }
            Ok(Chunk::End) => self.lose("the stream ended before the run did"),
            Err(why) => self.lose(&why),
        }
        Some(Told::Quiet)
    }

    fn lose(&mut self, why: &str) {
        // The connection was alive until now, so the time without contact starts now.
        self.contact = Instant::now();
        self.judge_silence();
        self.close(why);
    }

    fn close(&mut self, why: &str) {
        let Some(connection) = self.connection.take() else { return };
        self.unparsed = 0..0;
        self.fresh = false;
        self.quiet = Duration::ZERO;
        let cursor = self.cursor.last();
        if self.client.watch.cause().is_none() {
            self.client.console.progress(&format!("{why}: reconnecting after event {cursor}"));
            log::info!("reconnecting after event {cursor}: {why}");
        }
        if connection.from == cursor {
            self.retries.back_off();
        } else {
            self.retries = Retries::default();
        }
    }

    /// Opens the stream, or waits until the backoff is over.
    fn open(&mut self, until: Option<Instant>) -> Result<Told, CallError> {
        let until_then =
            |time: Duration| until.map_or(time, |until| time.min(until.saturating_duration_since(Instant::now())));
        self.client.check()?;
        let wait = self.retries.wait();
        if !wait.is_zero() {
            self.client.nap(until_then(wait.min(TICK)))?;
            return Ok(Told::Quiet);
        }
        let silent = self.silent_since.get_or_insert_with(Instant::now).elapsed();
        let head = if self.held_back { HELD_AGAIN } else { HELD_BACK.saturating_sub(silent).max(TICK) };
        let patience = self.retries.patience(self.client, self.left());
        let bounded = until_then(patience.min(head));
        if bounded.is_zero() {
            return Ok(Told::Quiet);
        }
        let path = format!("/v1/sessions/{}/events", self.session);
        let cursor = self.cursor.last();
        let after = cursor.saturating_sub(u64::from(self.overlap));
        let call = Call { after: Some(after), ..Call::get("follow the run", path) };
        let failed = match self.client.stream(&call, bounded) {
            Ok(body) => return Ok(self.begin(body, cursor)),
            Err(failed) => failed,
        };
        self.client.check()?;
        // The server sends the head at once, so something in front of it buffers the stream or answers instead.
        if failed.late || matches!(failed.error.word, Word::Gateway { .. }) {
            self.judge_silence();
        }
        if failed.late && self.may_be_held_back(bounded < patience) {
            return Ok(Told::Quiet);
        }
        self.retries.failed(failed, self.client, &call, self.left())?;
        Ok(Told::Quiet)
    }

    /// If the head of the answer is late: returns whether the stream may only be held back. Any answer of the server is
    /// contact.
    fn may_be_held_back(&self, was_cut_short: bool) -> bool {
        if self.left().is_zero() {
            return self.client.is_there();
        }
        self.held_back || was_cut_short
    }

    fn begin(&mut self, body: Body, cursor: u64) -> Told {
        self.contact = Instant::now();
        self.connection = Some(Connection { body, from: cursor });
        self.parser = Parser::new();
        self.quiet = Duration::ZERO;
        log::info!("the event stream is open after event {cursor}");
        if std::mem::replace(&mut self.opened, true) { Told::Reconnected } else { Told::Quiet }
    }

    /// Checks whether the stream is held back: no byte for too long, over all connections.
    fn judge_silence(&mut self) {
        if self.silent_since.is_none_or(|since| since.elapsed() < HELD_BACK) {
            return;
        }
        self.held_back = true;
        if !std::mem::replace(&mut self.said_held_back, true) {
            let limit = HELD_BACK.as_secs();
            self.client.console.progress(&format!(
                "no byte of the event stream for {limit} s: something in front of the server may be buffering it; \
                 asking for the session's state instead"
            ));
        }
    }

    /// Returns the rest of the retry timeout since the last contact with the server, by the stream or any call.
    fn left(&self) -> Duration {
        self.client.left(self.client.contact().map_or(self.contact, |contact| contact.max(self.contact)))
    }

    fn silence(&self) -> Silence {
        Silence {
            quiet: self.quiet,
            heard: self.connection.is_some() && self.silent_since.is_none(),
            held_back: self.held_back,
            idle: self.last_event.elapsed(),
        }
    }

    fn broken(&self, why: &str) -> CallError {
        CallError::new(Word::Broken, format!("cannot follow the run: after event {}, {why}", self.cursor.last()))
    }
}

fn id(frame: &Frame<'_>) -> Option<u64> {
    frame.id.and_then(|id| id.parse().ok())
}
