//! The events of a session, each once and in order, whatever the connection does. This is the one reader of streams: it
//! owns the cursor, reconnects, and the time that the stream has been quiet.

use super::Client;
use super::connection::{Body, Chunk, TICK};
use super::exchange::Call;
use super::place::{Arrival, Gap, Place};
use super::retry::Retries;
use super::word::{CallError, Word};
use crate::agent::events;
use crate::agent::sse::{Frame, Parser};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Three keep-alives missed (the server sends one every 15 s): nobody is there any more.
const SILENCE: Duration = Duration::from_secs(45);
/// A stream that has brought no byte for so long after the request is held back: the server sends a keep-alive every
/// 15 s. Also the time that the head of the answer has.
const HELD_BACK: Duration = Duration::from_secs(20);
/// The same once the stream is known to be held back: in between the session's state is asked for.
const HELD_AGAIN: Duration = Duration::from_secs(5);
/// Where no more than this is left of the retry timeout, the head is waited for until it is over.
const MIN_GLANCE: Duration = Duration::from_secs(2);
/// The most that is read at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// What a reader of events is told.
#[derive(Debug)]
pub enum Heard<'a> {
    /// An event, with its id in the session if it has one: each once, and in order.
    Event {
        /// The id.
        id: Option<u64>,
        /// The event as it came.
        frame: Frame<'a>,
    },
    /// Events before the next one are lost for good. Where the server said so, `newest` is the newest event that it had
    /// then: the replay is over with that event.
    Lost {
        /// The newest event's id.
        newest: Option<u64>,
    },
    /// The stream is open again, after the last event.
    Reconnected,
    /// All that one read brought has been told: a caller that buffers its output writes it now.
    Read(Silence),
    /// A read found nothing, or there is no connection at the moment.
    Quiet(Silence),
}

/// How quiet the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// How long reads have blocked since the last event (or a part of one), call, or reconnect. A comment does not end
    /// it. It is no clock: bytes that nobody has read yet are no quiet.
    pub quiet: Duration,
    /// A byte, also of a comment, has come since the stream was opened.
    pub heard: bool,
    /// No byte has come for 20 s after the request: something between us and the server holds the stream back.
    pub held_back: bool,
    /// How long ago the last event was dispatched, by the clock.
    pub idle: Duration,
}

/// A reader of a session's events. It belongs to one client, and ends with that client's watch.
pub struct EventStream<'c> {
    client: &'c Client,
    session: Uuid,
    place: Place,
    connection: Option<Connection>,
    parser: Parser,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not been parsed yet.
    unparsed: std::ops::Range<usize>,
    /// A read has brought something, and [`Heard::Read`] has not been said of it.
    fresh: bool,
    /// The parser's event comes next: the loss before it has been told.
    has_next: bool,
    quiet: Duration,
    /// An event was given since the clock was last looked at.
    given: bool,
    last_event: Instant,
    /// The last byte, or the break of a connection that stood until then.
    contact: Instant,
    retries: Retries,
    next_try: Option<Instant>,
    opened: bool,
    held_back: bool,
    said_held_back: bool,
    /// The last event is to come again.
    overlap: bool,
    /// When the stream was first asked for since the last byte.
    silent_since: Option<Instant>,
}

/// An open stream.
struct Connection {
    body: Body,
    heard: bool,
    /// When the last byte came; at first, when the stream was opened.
    byte: Instant,
    /// The cursor at its beginning.
    from: u64,
}

/// [`Heard`] without the frame, which lies in the parser.
enum Told {
    Event(Option<u64>),
    Lost(Option<u64>),
    Reconnected,
    Read,
    Quiet,
}

impl<'c> EventStream<'c> {
    /// A reader of the events after this one; 0 is the start (protocol trap 1). It connects when it is first asked.
    pub fn new(client: &'c Client, session: Uuid, after: u64) -> Self {
        let now = Instant::now();
        Self {
            client,
            session,
            place: Place::new(after),
            connection: None,
            parser: Parser::new(),
            buffer: vec![0; BUFFER],
            unparsed: 0..0,
            fresh: false,
            has_next: false,
            quiet: Duration::ZERO,
            given: false,
            last_event: now,
            contact: now,
            retries: Retries::default(),
            next_try: None,
            opened: false,
            held_back: false,
            said_held_back: false,
            overlap: false,
            silent_since: None,
        }
    }

    /// The id of the event given last; before that, the one after which the reader began.
    pub fn cursor(&self) -> u64 {
        self.place.last()
    }

    /// Reads on; opens the stream where it is not open. The event given before counts as dispatched, unless
    /// [`EventStream::reject`] said otherwise.
    ///
    /// A read blocks for a tick at the most, opening for up to 20 s, and both not beyond `until` by more than a tick.
    /// Once there is a cause to end, what has already arrived is still given; then comes a [`Heard::Quiet`].
    ///
    /// # Errors
    /// What the opening failed with, once its retries are over. [`Word::Broken`] where the stream is not of the
    /// protocol. [`Word::Stopped`] where a connection would have to be made after a cause to end.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Heard<'_>, CallError> {
        self.place.settle();
        Ok(match self.advance(until)? {
            Told::Event(id) => Heard::Event { id, frame: self.parser.frame() },
            Told::Lost(newest) => Heard::Lost { newest },
            Told::Reconnected => Heard::Reconnected,
            Told::Read => Heard::Read(self.silence()),
            Told::Quiet => Heard::Quiet(self.silence()),
        })
    }

    /// The event given last is not of the protocol's shape. The first time at this cursor it is asked for again.
    ///
    /// # Errors
    /// [`Word::Broken`], the second time.
    pub fn reject(&mut self, why: &str) -> Result<(), CallError> {
        if self.place.reject() {
            self.close("an event is malformed");
            return Ok(());
        }
        Err(self.broken(why))
    }

    /// A call was made or a program was asked: quiet begins anew.
    pub fn restart_quiet(&mut self) {
        self.quiet = Duration::ZERO;
    }

    /// Whether there is a connection at the moment.
    pub const fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// When the last event was dispatched; at first, when the reader was made.
    pub const fn last_event(&self) -> Instant {
        self.last_event
    }

    /// Time was spent that is not the run's: idleness begins anew.
    pub fn restart_idle(&mut self) {
        self.last_event = Instant::now();
    }

    /// The same, from before the last event: it comes again, which shows that the stream is alive.
    pub fn replay(&mut self, why: &str) {
        self.reconnect(why);
        self.overlap = true;
    }

    /// Opens the stream anew, after the last event, when it is next asked.
    pub fn reconnect(&mut self, why: &str) {
        self.place.settle();
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

    /// Parses what has been read, up to the next thing to tell.
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

    /// What the parser's event is to the reader.
    fn frame(&mut self) -> Result<Option<Told>, CallError> {
        let frame = self.parser.frame();
        if let Some(gap) = events::gap(&frame) {
            return match gap {
                Ok(gap) => self.gap(&gap),
                Err(malformed) => self.reject(&malformed.0).map(|()| Some(Told::Quiet)),
            };
        }
        let id = frame.id.and_then(|id| id.parse().ok());
        match self.place.event(id) {
            Arrival::New => Ok(Some(self.give())),
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
        match self.place.gap(gap.oldest_available_id) {
            // Only the event that was to come again has left the server's ring, and the server replays nothing.
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

    fn give(&mut self) -> Told {
        self.given = true;
        Told::Event(self.parser.frame().id.and_then(|id| id.parse().ok()))
    }

    /// Reads once. `None` where that brought bytes.
    fn read(&mut self) -> Option<Told> {
        let connection = self.connection.as_mut()?;
        let asked = Instant::now();
        match connection.body.read(&mut self.buffer) {
            Ok(Chunk::Bytes(length)) => {
                self.contact = Instant::now();
                (connection.heard, connection.byte) = (true, self.contact);
                // A comment does not break the silence; a part of an event does.
                self.quiet += asked.elapsed().min(TICK);
                (self.held_back, self.silent_since) = (false, None);
                self.unparsed = 0..length;
                self.fresh = true;
                return None;
            }
            Ok(Chunk::Tick) => {
                if self.parser.is_between_events() {
                    self.quiet += asked.elapsed().min(TICK);
                }
                let (heard, silent) = (connection.heard, connection.byte.elapsed() >= SILENCE);
                if !heard {
                    self.judge_silence();
                }
                if silent {
                    self.close(&format!("nothing heard for {} s", SILENCE.as_secs()));
                }
            }
            Ok(Chunk::End) => self.lose("the stream ended before the run did"),
            Err(why) => self.lose(&why),
        }
        Some(Told::Quiet)
    }

    /// The connection is gone. It stood until now: for so long there was contact.
    fn lose(&mut self, why: &str) {
        self.contact = Instant::now();
        self.judge_silence();
        self.close(why);
    }

    /// Closes the connection, for the next one to go on after the cursor.
    fn close(&mut self, why: &str) {
        let Some(connection) = self.connection.take() else { return };
        self.unparsed = 0..0;
        self.fresh = false;
        self.quiet = Duration::ZERO;
        let cursor = self.place.last();
        if self.client.watch.cause().is_none() {
            self.client.console.progress(&format!("{why}: reconnecting from event {cursor}"));
            log::info!("reconnecting from event {cursor}: {why}");
        }
        if connection.from == cursor {
            self.next_try = Instant::now().checked_add(self.retries.backoff.wait());
        } else {
            self.retries = Retries::default();
        }
    }

    /// Opens the stream, or waits for the time to do so.
    fn open(&mut self, until: Option<Instant>) -> Result<Told, CallError> {
        let until_then =
            |time: Duration| until.map_or(time, |until| time.min(until.saturating_duration_since(Instant::now())));
        if let Some(stopped) = self.client.stopped() {
            return Err(stopped);
        }
        let wait = self.next_try.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        if !wait.is_zero() {
            self.client.nap(until_then(wait.min(TICK)))?;
            return Ok(Told::Quiet);
        }
        let silent = self.silent_since.get_or_insert_with(Instant::now).elapsed();
        let head = if self.held_back { HELD_AGAIN } else { HELD_BACK.saturating_sub(silent).max(TICK) };
        let patience = self.retries.patience(self.client, self.contact());
        let left = self.client.left(self.contact());
        // Before the retry timeout is over, the session's state is asked for: its answer is contact.
        let glance = if patience < head && left > MIN_GLANCE { left / 2 } else { patience };
        let bounded = until_then(glance.min(head));
        if bounded.is_zero() {
            return Ok(Told::Quiet);
        }
        let path = format!("/v1/sessions/{}/events", self.session);
        let cursor = self.place.last();
        let after = cursor.saturating_sub(u64::from(self.overlap));
        let call = Call { doing: "follow the run", path, body: None, key: None, after: Some(after) };
        let missed = match self.client.stream(&call, bounded) {
            Ok(body) => return Ok(self.begin(body, cursor)),
            Err(missed) => missed,
        };
        if let Some(stopped) = self.client.stopped() {
            return Err(stopped);
        }
        // The server sends the head at once: something between holds it back, or answers in its place.
        if missed.late || matches!(missed.error.word, Word::Between(_)) {
            self.judge_silence();
        }
        if missed.late && self.may_be_held_back(bounded < patience) {
            return Ok(Told::Quiet);
        }
        let contact = self.contact();
        let wait = self.retries.missed(self.client, &call, contact, missed)?;
        self.next_try = Instant::now().checked_add(wait);
        Ok(Told::Quiet)
    }

    /// The head of the answer is late: whether the stream may only be held back. Any answer of the server is contact.
    fn may_be_held_back(&self, was_cut_short: bool) -> bool {
        if self.client.left(self.contact()).is_zero() {
            return self.client.is_there();
        }
        self.held_back || was_cut_short
    }

    fn begin(&mut self, body: Body, cursor: u64) -> Told {
        let byte = Instant::now();
        self.contact = byte;
        self.connection = Some(Connection { body, heard: false, byte, from: cursor });
        self.parser = Parser::new();
        self.next_try = None;
        self.quiet = Duration::ZERO;
        log::info!("the event stream is open after event {cursor}");
        if std::mem::replace(&mut self.opened, true) { Told::Reconnected } else { Told::Quiet }
    }

    /// Whether a stream that brings no byte, over however many connections, is held back by now.
    fn judge_silence(&mut self) {
        if self.silent_since.is_some_and(|since| since.elapsed() >= HELD_BACK) {
            self.hold_back();
        }
    }

    /// Something between us and the server holds the stream back.
    fn hold_back(&mut self) {
        self.held_back = true;
        if !std::mem::replace(&mut self.said_held_back, true) {
            let limit = HELD_BACK.as_secs();
            self.client.console.progress(&format!(
                "nothing has come of the event stream for {limit} s: something between here and the server holds it \
                 back (proxy buffering?); the session's state is asked for instead"
            ));
        }
    }

    /// The last contact, by the stream or by any call.
    fn contact(&self) -> Instant {
        self.contact.max(self.client.contact())
    }

    fn silence(&self) -> Silence {
        Silence {
            quiet: self.quiet,
            heard: self.connection.as_ref().is_some_and(|connection| connection.heard),
            held_back: self.held_back,
            idle: self.last_event.elapsed(),
        }
    }

    fn broken(&self, why: &str) -> CallError {
        CallError::new(Word::Broken, format!("cannot follow the run: after event {}, {why}", self.place.last()))
    }
}
