//! What happened before we came: the session's messages, and its last run's events.

use crate::agent::calls::{Message, end_with_answer, end_with_open_call, have_call_after_prompt};
use crate::agent::events::{Event, decode};
use crate::client::{CallError, Client, EventStream, Heard, Word};
use crate::outcome::COMPLETED;
use crate::run::History;
use std::time::Duration;
use uuid::Uuid;

/// The messages are asked for in pages of this many; fewer only where an answer is over its bound.
const PAGE: usize = 1000;
/// The most text and calls of the messages that are kept, in bytes.
const MAX_MESSAGES: usize = 8 * 1024 * 1024;
/// A replay is over after this much quiet.
const REPLAYED: Duration = Duration::from_secs(2);

/// Returns what the session's messages tell about its last run: those after the last message of a user. They are
/// complete only once the run has stopped; the server writes them down last of all.
///
/// # Errors
/// Those of the call.
pub fn read(client: &Client, session: Uuid) -> Result<History, CallError> {
    let messages = last_run_messages(client, session)?;
    let said = messages.iter().filter(|message| message.is_assistant());
    Ok(History {
        texts: said.map(|message| message.text().to_owned()).filter(|text| !text.is_empty()).collect(),
        answered: end_with_answer(&messages),
        called_tools: have_call_after_prompt(&messages),
        ends_with_open_call: end_with_open_call(&messages),
        known: true,
    })
}

/// Returns the IDs of the tool calls of the last run that have a result in the session's messages.
///
/// # Errors
/// Those of the call.
pub fn finished_calls(client: &Client, session: Uuid) -> Result<Vec<String>, CallError> {
    let messages = last_run_messages(client, session)?;
    Ok(messages.iter().flat_map(Message::results).map(str::to_owned).collect())
}

/// Whether the session ever had a prompt.
///
/// # Errors
/// Those of the call.
pub fn has_prompt(client: &Client, session: Uuid) -> Result<bool, CallError> {
    client.messages(session, 0, 0).map(|page| page.total > 0)
}

fn last_run_messages(client: &Client, session: Uuid) -> Result<Vec<Message>, CallError> {
    let mut end = client.messages(session, 0, 0)?.total;
    let (mut newest_first, mut size, mut limit) = (Vec::new(), 0, PAGE);
    while end > 0 {
        let count = end.min(limit);
        let page = match client.messages(session, end - count, count) {
            Ok(page) => page.messages,
            // One message that is over the bound alone cannot be had.
            Err(error) if error.word == Word::OverBound && count > 1 => {
                limit = count / 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        end -= count;
        size += page.iter().map(Message::size).sum::<usize>();
        if page.is_empty() || size > MAX_MESSAGES {
            let message = "cannot read the session's messages: they are fewer than the server says, or too large";
            return Err(CallError::new(Word::Broken, message));
        }
        for message in page.into_iter().rev() {
            if message.is_user() {
                end = 0;
                break;
            }
            newest_first.push(message);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// A run that the server's ring has events of.
pub struct LastRun {
    pub id: Uuid,
    /// Its terminal event, if the ring has it: whether the run completed.
    pub ended: Option<bool>,
}

/// Returns the run of the session's newest event, if the server still has any, found by reading until the replay is over
/// or is held back.
///
/// # Errors
/// Those of the stream, and the cause that ends the command.
pub fn last_run(client: &Client, session: Uuid) -> Result<Option<LastRun>, CallError> {
    find_run(client, session, |_| true, false)
}

/// Returns the run with this ID, if the server still has events of it.
///
/// # Errors
/// As [`last_run`].
pub fn run_with_id(client: &Client, session: Uuid, run: Uuid) -> Result<Option<LastRun>, CallError> {
    find_run(client, session, |id| id == run, true)
}

/// Whether the run that keeps the session busy has said that it ended: its sandbox is being torn down (protocol trap
/// 20).
pub fn active_run_has_ended(client: &Client, session: Uuid) -> bool {
    let active = client.session(session).ok().and_then(|session| session.active_run());
    let run = active.and_then(|run| run_with_id(client, session, run).ok().flatten());
    run.is_some_and(|run| run.ended.is_some())
}

/// `one`: the terminal event of a wanted run ends the search.
fn find_run(
    client: &Client,
    session: Uuid,
    is_wanted: impl Fn(Uuid) -> bool,
    one: bool,
) -> Result<Option<LastRun>, CallError> {
    let mut stream = EventStream::new(client, session, 0);
    let (mut last, mut replay_ends): (Option<LastRun>, Option<u64>) = (None, None);
    loop {
        match stream.next(None)? {
            Heard::Event { id, frame } => {
                let Ok(envelope) = decode(&frame) else { continue };
                let run = envelope.run_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
                if let Some(id) = run.filter(|run| is_wanted(*run)) {
                    last = Some(LastRun { id, ended: ended(&envelope.event) });
                }
                let is_last = replay_ends.is_some_and(|newest| id >= Some(newest));
                if is_last || one && last.as_ref().is_some_and(|run| run.ended.is_some()) {
                    return Ok(last);
                }
            }
            Heard::Lost { newest } => replay_ends = newest.or(replay_ends),
            Heard::Quiet(silence) => {
                if let Some(cause) = client.watch().cause() {
                    return Err(CallError::stopped(cause));
                }
                if silence.held_back || silence.heard && silence.quiet >= REPLAYED {
                    return Ok(last);
                }
            }
            Heard::Reconnected | Heard::Read(_) => {}
        }
    }
}

/// For a terminal event: whether the run completed.
fn ended(event: &Event<'_>) -> Option<bool> {
    match event {
        Event::RunCompleted(end) => Some(&*end.stop_reason == COMPLETED),
        Event::RunError(_) => Some(false),
        _ => None,
    }
}
