//! Who has answered a call: the server itself, or a proxy, load balancer or login page in front of it. Only the
//! server's own answer proves anything about a run.
//!
//! | answer | from |
//! |---|---|
//! | 2xx whose body has the call's shape, or an event stream | the server |
//! | 4xx or 5xx whose JSON body has `code` (401: `unauthorized`, 404: `not_found`) | the server |
//! | 400 or 422 in plain text | the server's request parser |
//! | 413, 414, 431 | counts as the server, because the request was certainly not taken |
//! | 2xx with a Content-Encoding, or too large | the server, but the answer is unusable |
//! | everything else | something in front of the server |

use crate::outcome::{Failure, Reason};
use crate::watchdog::Cause;
use std::fmt;

/// A call without a usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    pub word: Word,
    /// One line: what failed, on what, why, and what to do.
    pub message: String,
    /// Whether the request may have reached the server, in this attempt or an earlier one.
    pub may_have_arrived: bool,
}

/// Who refused a call, or why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The server's own refusal.
    Server(Refusal),
    /// Something in front of the server answered. This proves nothing about a run.
    Gateway {
        status: u16,
        /// [`Reason::Auth`] for a 401, [`Reason::Connection`] for an answer of the HTTP proxy itself,
        /// [`Reason::Server`] for another page that may go away, and [`Reason::Protocol`] for the rest.
        reason: Reason,
    },
    /// No answer came within the retry timeout.
    Nothing,
    /// A fault that no retry can change (a certificate, the wrong scheme, a proxy that refuses). The request was not
    /// sent.
    Permanent,
    /// The server's answer breaks the protocol.
    Broken,
    /// The answer is too large. A call for less may succeed.
    OverBound,
    /// The deadline or a signal ended the call.
    Stopped(Cause),
    /// A bug in sortie.
    Internal,
}

/// The server's own refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401 `unauthorized`: the token is not the server's current one.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404 `not_found`: the server does not know the session.
    NotFound,
    /// 409 `session_already_running`.
    SessionBusy,
    /// 409 `session_not_running` or `run_mismatch`: the session runs nothing, or another run.
    RunNotActive,
    /// 413, 414 or 431: the request is too large for the server, or for something in front of it.
    TooLarge,
    /// 400 or 422: the request does not have the shape that the server expects.
    Invalid,
    /// Another status, with the server's code.
    Other { status: u16, code: String },
}

impl CallError {
    /// Creates an error for a request that did not reach the server.
    pub fn new(word: Word, message: impl Into<String>) -> Self {
        Self { word, message: message.into(), may_have_arrived: false }
    }

    #[must_use]
    pub fn arrived(mut self, may_have_arrived: bool) -> Self {
        self.may_have_arrived = may_have_arrived;
        self
    }

    /// Returns whether this is the server's own refusal of this kind.
    pub fn is(&self, refusal: &Refusal) -> bool {
        matches!(&self.word, Word::Server(said) if said == refusal)
    }

    /// Creates the error for a call that the deadline or a signal ended.
    pub(super) fn stopped(cause: Cause) -> Self {
        Self::new(Word::Stopped(cause), Failure::from(cause).message)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallError {}

impl Refusal {
    /// Returns the server's refusal for a status and the `code` of its JSON body, which may be empty. Returns `None`
    /// if the answer is not the server's own.
    pub(super) fn of(status: u16, code: &str) -> Option<Self> {
        match (status, code) {
            (413 | 414 | 431, _) => Some(Self::TooLarge),
            (401, "unauthorized") => Some(Self::Unauthorized),
            (404, "not_found") => Some(Self::NotFound),
            (401 | 404, _) | (_, "") => None,
            (403, _) => Some(Self::Forbidden),
            (409, "session_already_running") => Some(Self::SessionBusy),
            (409, "session_not_running" | "run_mismatch") => Some(Self::RunNotActive),
            (400 | 422, _) => Some(Self::Invalid),
            (400.., code) => Some(Self::Other { status, code: code.to_owned() }),
            _ => None,
        }
    }

    /// Returns whether a retry may succeed.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Other { status: 408 | 425 | 429 | 500 | 502..=504, .. })
    }

    /// Returns the record's reason, and whether the same command may succeed later.
    fn reason(&self) -> (Reason, bool) {
        match self {
            Self::Unauthorized | Self::Forbidden => (Reason::Auth, false),
            Self::NotFound => (Reason::NotFound, false),
            Self::SessionBusy | Self::RunNotActive => (Reason::Conflict, false),
            Self::TooLarge | Self::Invalid => (Reason::Server, false),
            Self::Other { status: 409, .. } => (Reason::Conflict, false),
            Self::Other { status, .. } => (Reason::Server, *status >= 500 || self.passes()),
        }
    }
}

/// Returns whether a retry may succeed after this status from something in front of the server.
pub(super) const fn passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 499 | 500..)
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (reason, passes) = match &error.word {
            Word::Server(refusal) => refusal.reason(),
            Word::Gateway { status, reason } => (*reason, passes(*status)),
            Word::Nothing => (Reason::Connection, true),
            Word::Permanent => (Reason::Connection, false),
            Word::Broken | Word::OverBound => (Reason::Protocol, false),
            Word::Stopped(cause) => return Self::from(*cause),
            Word::Internal => (Reason::Internal, false),
        };
        Self::new(reason, error.message).passing(passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_an_answer_with_the_servers_code_is_its_refusal() {
        let other = |status, code: &str| Some(Refusal::Other { status, code: code.into() });
        let rows = [
            (401, "unauthorized", Some(Refusal::Unauthorized)),
            (401, "", None),
            (401, "login_required", None),
            (403, "forbidden", Some(Refusal::Forbidden)),
            (403, "", None),
            (404, "not_found", Some(Refusal::NotFound)),
            (404, "no_such_route", None),
            (404, "", None),
            (409, "session_already_running", Some(Refusal::SessionBusy)),
            (409, "session_not_running", Some(Refusal::RunNotActive)),
            (409, "run_mismatch", Some(Refusal::RunNotActive)),
            (409, "idempotency_key_reused", other(409, "idempotency_key_reused")),
            (409, "something_new", other(409, "something_new")),
            (409, "", None),
            (400, "bad", Some(Refusal::Invalid)),
            (422, "bad", Some(Refusal::Invalid)),
            (422, "", None),
            (413, "", Some(Refusal::TooLarge)),
            (414, "", Some(Refusal::TooLarge)),
            (431, "", Some(Refusal::TooLarge)),
            (429, "slow_down", other(429, "slow_down")),
            (500, "oh", other(500, "oh")),
            (524, "", None),
            (302, "found", None),
        ];
        for (status, code, refusal) in rows {
            assert_eq!(Refusal::of(status, code), refusal, "{status} {code:?}");
        }
    }

    #[test]
    fn each_word_has_its_reason_and_whether_it_passes() {
        let gateway = |status, reason| Word::Gateway { status, reason };
        let other = |status| Word::Server(Refusal::Other { status, code: "x".into() });
        let rows = [
            (Word::Server(Refusal::Unauthorized), Reason::Auth, false),
            (Word::Server(Refusal::Forbidden), Reason::Auth, false),
            (Word::Server(Refusal::NotFound), Reason::NotFound, false),
            (Word::Server(Refusal::SessionBusy), Reason::Conflict, false),
            (Word::Server(Refusal::RunNotActive), Reason::Conflict, false),
            (Word::Server(Refusal::TooLarge), Reason::Server, false),
            (Word::Server(Refusal::Invalid), Reason::Server, false),
            (other(409), Reason::Conflict, false),
            (other(429), Reason::Server, true),
            (other(418), Reason::Server, false),
            (other(501), Reason::Server, true),
            (gateway(401, Reason::Auth), Reason::Auth, false),
            (gateway(200, Reason::Protocol), Reason::Protocol, false),
            (gateway(524, Reason::Server), Reason::Server, true),
            (gateway(404, Reason::Server), Reason::Server, false),
            (gateway(407, Reason::Connection), Reason::Connection, false),
            (gateway(502, Reason::Connection), Reason::Connection, true),
            (Word::Nothing, Reason::Connection, true),
            (Word::Permanent, Reason::Connection, false),
            (Word::Broken, Reason::Protocol, false),
            (Word::OverBound, Reason::Protocol, false),
            (Word::Stopped(Cause::Signal("SIGTERM")), Reason::Interrupted, true),
            (Word::Stopped(Cause::Deadline(Duration::from_secs(1), "--timeout")), Reason::Timeout, true),
            (Word::Internal, Reason::Internal, false),
        ];
        for (word, reason, retryable) in rows {
            let failure = Failure::from(CallError::new(word.clone(), "why").arrived(true));
            assert_eq!((failure.reason, failure.passes), (reason, retryable), "{word:?}");
        }
    }
}
