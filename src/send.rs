//! Sends the prompt, and knows whether it arrived.
//!
//! | answer | the prompt | then |
//! |---|---|---|
//! | a run's ID | taken | follow the run |
//! | the server's `session_already_running`, of a session that we made | taken: only we know the session | ask again for 5 s, then find the run |
//! | the same, after an answer was lost | in doubt | ask again for 5 s, then find the run |
//! | the same, of an old session | not taken | ask again for 2 s (trap 8), for 15 s if its last run is known to have ended (trap 20) |
//! | any other refusal of the server's, nothing lost before | not taken | fail |
//! | anything else that may have arrived | in doubt | find the run: follow nothing, stop it |
//! | anything that never left us | not taken | fail |

use crate::agent::calls::NewMessage;
use crate::client::{CallError, Client, Refusal};
use crate::outcome::Failure;
use crate::watchdog::Watch;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// After a run has ended its session may refuse a new message for this long (protocol trap 8).
const SETTLING: Duration = Duration::from_secs(2);
/// The same while an ended run's sandbox is torn down (protocol trap 20).
const TEARDOWN: Duration = Duration::from_secs(15);
/// A prompt whose answer was lost may still be at work for this long.
const LOST_ANSWER: Duration = Duration::from_secs(5);
/// Between two tries at a session that is busy.
const BUSY: Duration = Duration::from_millis(100);
/// A prompt may arrive this long after we have given up on it.
const LATE: Duration = Duration::from_secs(2);

/// A prompt to be sent, under one idempotency key.
pub struct Prompt<'a> {
    pub session: Uuid,
    /// The session was made by this command: nobody else knows it.
    pub is_new_session: bool,
    pub message: &'a NewMessage,
    pub key: String,
}

/// The prompt was not taken, or nobody knows whether it was.
pub struct Unsent {
    pub failure: Failure,
    /// The server may have taken it: a run may be going on.
    pub in_doubt: bool,
}

impl Prompt<'_> {
    /// Sends the prompt. Returns the ID of the run.
    ///
    /// # Errors
    /// Why there is none, and whether there may be one all the same.
    pub fn send(&self, client: &Client, watch: &Watch) -> Result<Uuid, Unsent> {
        let (mut busy_since, mut in_doubt, mut patience) = (None, false, None);
        loop {
            let error = match client.send(self.session, self.message, &self.key) {
                Ok(run) => return Ok(run),
                Err(error) => error,
            };
            let is_busy = error.is(&Refusal::SessionBusy);
            in_doubt |= error.may_have_arrived || is_busy && self.is_new_session;
            let unsent = |error: CallError| Unsent { failure: error.into(), in_doubt };
            if !is_busy {
                return Err(unsent(error));
            }
            let since: &mut Instant = busy_since.get_or_insert_with(Instant::now);
            let patience = *patience.get_or_insert_with(|| self.patience(client, in_doubt));
            if since.elapsed() >= if in_doubt { patience.max(LOST_ANSWER) } else { patience } {
                return Err(unsent(error));
            }
            watch.sleep(BUSY).map_err(|failure| Unsent { failure, in_doubt })?;
        }
    }

    /// How long a busy session is asked again.
    fn patience(&self, client: &Client, in_doubt: bool) -> Duration {
        if in_doubt || self.is_new_session {
            return LOST_ANSWER;
        }
        let ended = crate::history::active_run_has_ended(client, self.session);
        if ended { TEARDOWN } else { SETTLING }
    }

    /// Looks for the run of a prompt that is in doubt. Something between us and the server may deliver the prompt a moment
    /// after we have given up.
    pub fn find_run(&self, client: &Client, watch: &Watch) -> Option<Uuid> {
        let began = Instant::now();
        loop {
            match client.session(self.session).map(|session| session.active_run()) {
                // Whose is it? Under the same key the server tells, and starts no other.
                Ok(Some(_)) if !self.is_new_session => {
                    return client.send(self.session, self.message, &self.key).ok();
                }
                Ok(Some(run)) => return Some(run),
                _ if began.elapsed() > LATE => return None,
                _ => watch.sleep(BUSY).ok()?,
            }
        }
    }
}
