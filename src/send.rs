//! Sends the prompt and finds out whether the server has taken it.
//!
//! | answer | was the prompt taken? | then |
//! |---|---|---|
//! | a run ID | yes | follow the run |
//! | `session_already_running`, in a session that this command has created | yes: nobody else knows the session | try again for 5 s, then look for the run |
//! | `session_already_running`, after an answer was lost | in doubt | try again for 5 s, then look for the run |
//! | `session_already_running`, otherwise | no | try again for 2 s (trap 8), or for 15 s if the active run has ended (trap 20) |
//! | `not_found`, in a session that this command has created | no: another server has answered | try again for 5 s |
//! | another refusal with a 5xx status | in doubt: the server may have failed after it took the prompt | look for the run, to cancel it; no, if there is none and the session has no message |
//! | any other refusal by the server, and no answer was lost before | no | fail |
//! | none, but the request may have arrived | in doubt | look for the run, to cancel it |
//! | none, and the request was not sent | no | fail |

use crate::agent::calls::{NewMessage, SessionState};
use crate::client::{CallError, Client, Refusal, Word};
use crate::outcome::Failure;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a session may refuse a new message after its run has ended (protocol trap 8).
const SETTLING: Duration = Duration::from_secs(2);
/// How long it may do so while the run's sandbox is torn down (protocol trap 20).
const TEARDOWN: Duration = Duration::from_secs(15);
/// How long the server may still work on a prompt whose answer was lost, or another server may answer.
const LOST_ANSWER: Duration = Duration::from_secs(5);
/// The time between two tries in a busy session.
const BUSY: Duration = Duration::from_millis(100);
/// How long a prompt may still arrive after we have given up.
const LATE: Duration = Duration::from_secs(2);

/// A prompt and its idempotency key.
pub struct Prompt<'a> {
    pub session: Uuid,
    /// This command has created the session, so nobody else knows it.
    pub is_new_session: bool,
    pub message: &'a NewMessage,
    pub key: String,
}

/// Why there is no run ID.
pub struct Unsent {
    pub failure: Failure,
    /// The server may have taken the prompt, so a run may be going on.
    pub in_doubt: bool,
    /// The server itself has answered each time, so the prompt cannot arrive later.
    pub is_answered: bool,
}

impl Prompt<'_> {
    /// Sends the prompt and returns the ID of the run.
    pub fn send(&self, client: &Client) -> Result<Uuid, Unsent> {
        let (mut busy, mut in_doubt, mut is_answered) = (None, false, true);
        loop {
            let error = match client.send(self.session, self.message, &self.key) {
                Ok(run) => return Ok(run),
                Err(error) => error,
            };
            let is_busy = error.is(&Refusal::SessionBusy);
            let is_elsewhere = self.is_new_session && error.is(&Refusal::NotFound);
            let has_failed_inside = matches!(error.word, Word::Server(Refusal::Other { status: 500.., .. }));
            is_answered &= !error.may_have_arrived && !is_busy;
            in_doubt |= error.may_have_arrived || has_failed_inside || is_busy && self.is_new_session;
            let unsent = |error: CallError| Unsent { failure: error.into(), in_doubt, is_answered };
            if !is_busy && !is_elsewhere {
                return Err(unsent(error));
            }
            let (since, patience) = *busy.get_or_insert_with(|| (Instant::now(), self.patience(client, in_doubt)));
            if since.elapsed() >= if in_doubt { patience.max(LOST_ANSWER) } else { patience } {
                return Err(unsent(error));
            }
            client.watch().sleep(BUSY).map_err(|failure| Unsent { failure, in_doubt, is_answered })?;
        }
    }

    /// Returns how long to try again in a busy session.
    fn patience(&self, client: &Client, in_doubt: bool) -> Duration {
        if in_doubt || self.is_new_session {
            return LOST_ANSWER;
        }
        let ended = crate::history::active_run_has_ended(client, self.session);
        if ended { TEARDOWN } else { SETTLING }
    }

    /// Looks for the run of a prompt that is in doubt. A proxy may deliver the prompt a moment after we have given up.
    pub fn find_run(&self, client: &Client) -> Option<Uuid> {
        let began = Instant::now();
        loop {
            match client.session(self.session).map(SessionState::active_run) {
                // The run may be somebody else's. With the same key, the server tells ours and starts no other.
                Ok(Some(_)) if !self.is_new_session => {
                    return client.send(self.session, self.message, &self.key).ok();
                }
                Ok(Some(run)) => return Some(run),
                _ if began.elapsed() > LATE => return None,
                _ => client.watch().sleep(BUSY).ok()?,
            }
        }
    }
}
