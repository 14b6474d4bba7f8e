//! Reads the past of a session: its messages, and the events of its last run.

use crate::agent::calls::{Message, SessionState, end_with_answer, end_with_open_call, have_call_after_prompt};
use crate::agent::events::Event;
use crate::client::{CallError, Client, EventStream, StreamItem, Word};
use crate::outcome::COMPLETED;
use crate::run::{History, is_replayed};
use uuid::Uuid;

/// The messages on a page. The page gets smaller if the answer is over its bound.
const PAGE: usize = 1000;
/// The most memory for messages, in bytes.
const MAX_MESSAGES: usize = 8 * 1024 * 1024;

/// Returns what the messages after the last prompt tell. They are complete only some time after the run has ended.
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

/// Returns the IDs of the last run's tool calls that have a result in the messages.
pub fn finished_calls(client: &Client, session: Uuid) -> Result<Vec<String>, CallError> {
    let messages = last_run_messages(client, session)?;
    Ok(messages.iter().flat_map(Message::results).map(str::to_owned).collect())
}

/// Returns whether the session ever had a prompt.
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
            // A single message over the bound cannot be read.
            Err(error) if error.word == Word::OverBound && count > 1 => {
                limit = count / 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        end -= count;
        size += page.iter().map(Message::size).sum::<usize>();
        if page.is_empty() || size > MAX_MESSAGES {
            let message =
                "cannot read the session's messages: there are fewer than the server says, or they are too large";
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

/// A run with events in the server's ring.
pub struct LastRun {
    pub id: Uuid,
    /// Whether the run completed, if the ring has its terminal event.
    pub ended: Option<bool>,
}

/// Returns whether the session's active run has sent its terminal event: its sandbox is being torn down (protocol
/// trap 20).
pub fn active_run_has_ended(client: &Client, session: Uuid) -> bool {
    let active = client.session(session).ok().and_then(SessionState::active_run);
    let run = active.and_then(|run| find_run(client, session, Some(run)).ok().flatten());
    run.is_some_and(|run| run.ended.is_some())
}

/// Returns the run with this ID, if the ring has events of it, or else the run of the session's newest event. It reads
/// until the wanted run's terminal event, or until the replay is complete or held back.
pub fn find_run(client: &Client, session: Uuid, wanted: Option<Uuid>) -> Result<Option<LastRun>, CallError> {
    let mut stream = EventStream::new(client, session, 0);
    let (mut last, mut replay_ends): (Option<LastRun>, Option<u64>) = (None, None);
    loop {
        match stream.next(None)? {
            StreamItem::Event { id, envelope: Ok(envelope), .. } => {
                let run = envelope.run_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
                if let Some(id) = run.filter(|run| wanted.is_none_or(|wanted| wanted == *run)) {
                    last = Some(LastRun { id, ended: ended(&envelope.event) });
                }
                let is_last = replay_ends.is_some_and(|newest| id >= Some(newest));
                let is_found = wanted.is_some() && last.as_ref().is_some_and(|run| run.ended.is_some());
                if is_last || is_found {
                    return Ok(last);
                }
            }
            StreamItem::Lost { newest } => replay_ends = newest.or(replay_ends),
            StreamItem::Quiet(silence) => {
                client.check()?;
                if is_replayed(&silence) {
                    return Ok(last);
                }
            }
            StreamItem::Reconnected | StreamItem::Read(_) | StreamItem::Event { .. } => {}
        }
    }
}

/// For a terminal event, returns whether the run completed.
fn ended(event: &Event<'_>) -> Option<bool> {
    match event {
        Event::RunCompleted(end) => Some(&*end.stop_reason == COMPLETED),
        Event::RunError(_) => Some(false),
        _ => None,
    }
}
