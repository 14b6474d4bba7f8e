//! The event streams: replay, then live, and everything that can go wrong with them.

use super::{Connection, Ending, Frame, Shared};
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// A stream that is open.
pub struct Subscriber {
    pub key: usize,
    pub session: Uuid,
    pub queue: VecDeque<Arc<Frame>>,
    pub ending: Option<Ending>,
}

type Rewrite = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// How a stream is spoilt. Event ids are the session's.
#[derive(Clone, Default)]
pub struct Fault {
    skipped: Vec<u64>,
    repeated: Vec<u64>,
    /// The first is sent after the second.
    swapped: Vec<(u64, u64)>,
    end_after: Option<(u64, Ending)>,
    end_at: Option<(usize, Ending)>,
    stalled_after: Option<u64>,
    piece: Option<usize>,
    prelude: Vec<u8>,
    rewrite: Option<Rewrite>,
}

impl Fault {
    pub fn none() -> Self {
        Self::default()
    }

    /// Leaves this event out (protocol trap 11).
    pub fn skip(mut self, id: u64) -> Self {
        self.skipped.push(id);
        self
    }

    /// Sends this event twice.
    pub fn repeat(mut self, id: u64) -> Self {
        self.repeated.push(id);
        self
    }

    /// Sends this event only after that later one.
    pub fn delay(mut self, id: u64, after: u64) -> Self {
        self.swapped.push((id, after));
        self
    }

    /// Ends the connection after this event.
    pub fn end_after(mut self, id: u64, ending: Ending) -> Self {
        self.end_after = Some((id, ending));
        self
    }

    /// Ends the connection after so many bytes of the body.
    pub fn end_at_byte(mut self, at: usize, ending: Ending) -> Self {
        self.end_at = Some((at, ending));
        self
    }

    /// Says nothing more after this event, not even comments; the connection stays open.
    pub fn stall_after(mut self, id: u64) -> Self {
        self.stalled_after = Some(id);
        self
    }

    /// Sends pieces of so many bytes.
    pub fn in_pieces(mut self, bytes: usize) -> Self {
        self.piece = Some(bytes);
        self
    }

    /// Sends this first.
    pub fn begin_with(mut self, bytes: &[u8]) -> Self {
        self.prelude = bytes.to_vec();
        self
    }

    /// Changes the bytes of every event.
    pub fn rewrite(mut self, rewrite: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.rewrite = Some(Arc::new(rewrite));
        self
    }
}

/// What the thread of a stream does next.
enum Next {
    Send(Vec<Arc<Frame>>),
    End(Ending),
    Close,
}

/// Serves a stream until it ends.
pub fn serve(shared: &Shared, mut connection: Connection, session: Uuid, after: Option<u64>) {
    let (key, fault, keepalive) = shared.change(|state| {
        let queue = state.sessions.get(&session).map(|session| session.log.replay(after)).unwrap_or_default();
        let key = state.streams_opened;
        state.streams_opened += 1;
        state.streams.push(Subscriber { key, session, queue: queue.into(), ending: None });
        let fault = state.faults.pop_front().or_else(|| state.every_fault.clone()).unwrap_or_default();
        (key, fault, state.options.keepalive)
    });
    connection.open_stream();
    let mut output =
        Output { connection: &mut connection, fault: &fault, sent: 0, delayed: Vec::new(), stalled: false };
    let mut ending = output.write(&fault.prelude).err();
    while ending.is_none() {
        let next = shared.wait(keepalive, |state| {
            let closing = state.closing || state.down;
            let subscriber = state.streams.iter_mut().find(|subscriber| subscriber.key == key)?;
            if !subscriber.queue.is_empty() {
                return Some(Next::Send(subscriber.queue.drain(..).collect()));
            }
            subscriber.ending.map(Next::End).or(closing.then_some(Next::Close))
        });
        ending = match next {
            Some(Next::Send(frames)) => frames.iter().try_for_each(|frame| output.dispatch(frame)).err(),
            Some(Next::End(ending)) => Some(End::Of(ending)),
            Some(Next::Close) => Some(End::Gone),
            None => {
                let gone = output.write(b": keepalive\n\n").err();
                shared.change(|state| state.keepalives += 1);
                gone
            }
        };
    }
    if let Some(End::Of(ending)) = ending {
        connection.end(ending);
    } else {
        drop(connection);
    }
    shared.change(|state| state.streams.retain(|subscriber| subscriber.key != key));
}

/// Why a stream is over.
enum End {
    /// The test wants it so.
    Of(Ending),
    /// The client has gone.
    Gone,
}

struct Output<'a> {
    connection: &'a mut Connection,
    fault: &'a Fault,
    sent: usize,
    delayed: Vec<Arc<Frame>>,
    stalled: bool,
}

impl Output<'_> {
    fn dispatch(&mut self, frame: &Arc<Frame>) -> Result<(), End> {
        if self.fault.skipped.contains(&frame.id) {
            return Ok(());
        }
        if self.fault.swapped.iter().any(|(late, _)| *late == frame.id) {
            self.delayed.push(Arc::clone(frame));
            return Ok(());
        }
        self.send(frame)?;
        let due: Vec<u64> =
            self.fault.swapped.iter().filter(|(_, after)| *after == frame.id).map(|(late, _)| *late).collect();
        let (due, delayed) = std::mem::take(&mut self.delayed).into_iter().partition(|late| due.contains(&late.id));
        self.delayed = delayed;
        let due: Vec<Arc<Frame>> = due;
        due.iter().try_for_each(|late| self.send(late))
    }

    fn send(&mut self, frame: &Frame) -> Result<(), End> {
        let bytes =
            self.fault.rewrite.as_ref().map_or_else(|| frame.bytes.clone(), |rewrite| rewrite(&frame.bytes));
        self.write(&bytes)?;
        if self.fault.repeated.contains(&frame.id) {
            self.write(&bytes)?;
        }
        self.stalled |= self.fault.stalled_after == Some(frame.id);
        match self.fault.end_after {
            Some((id, ending)) if id == frame.id => Err(End::Of(ending)),
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.stalled {
            return Ok(());
        }
        let left = self.fault.end_at.map_or(usize::MAX, |(at, _)| at - self.sent);
        let now = &bytes[..bytes.len().min(left)];
        self.sent += now.len();
        for piece in now.chunks(self.fault.piece.unwrap_or(usize::MAX)) {
            if !self.connection.chunk(piece) {
                return Err(End::Gone);
            }
        }
        match self.fault.end_at {
            Some((_, ending)) if now.len() == left => Err(End::Of(ending)),
            _ => Ok(()),
        }
    }
}
