//! Retries: when and how often a call is tried again, and the lines about it.

use super::Client;
use super::connection::ANSWER;
use super::exchange::{Call, FailedAttempt};
use super::wait::later;
use super::word::{CallError, Word};
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The time for the last attempt when the retry timeout is over.
pub(super) const LAST_TRY: Duration = Duration::from_secs(1);

/// The longest wait that a server can ask for between two questions about a run.
const MOST_IN_RUN: Duration = Duration::from_secs(5);

/// Exponential backoff: from 100 ms to 5 s, doubled each time. A random part of up to a half is subtracted, so that
/// many clients do not return to a server together.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Backoff {
    fn wait(&mut self) -> Duration {
        let full = 100_u64.saturating_mul(1 << self.0.min(6)).min(5000);
        self.0 += 1;
        let chance = Uuid::new_v4().as_u64_pair().1 % (full / 2 + 1);
        Duration::from_millis(full - chance)
    }
}

/// The attempts at one call, or at one connection of a stream.
#[derive(Debug, Default)]
pub(super) struct Retries {
    backoff: Backoff,
    /// When the next attempt may begin.
    next: Option<Instant>,
    /// There was a failed attempt.
    tried: bool,
    /// The last failure that was reported, and how many attempts in a row had it.
    last: Option<CallError>,
    count: u32,
}

impl Retries {
    /// Returns how long the next attempt may wait for its answer. `left` is the rest of the retry timeout.
    pub fn patience(&self, client: &Client, left: Duration) -> Duration {
        let least = if self.tried { LAST_TRY } else { client.options.connect_timeout };
        let patience = if left.is_zero() { least } else { left.max(LAST_TRY) };
        patience.min(ANSWER)
    }

    /// Returns how long to wait before the next attempt.
    pub fn wait(&self) -> Duration {
        self.next.map(|next| next.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// Delays the next attempt by the backoff.
    pub fn back_off(&mut self) {
        self.next = Some(later(self.backoff.wait()));
    }

    /// Takes a failed attempt, and sets the time of the next one. Returns the error if there is none.
    pub fn failed(
        &mut self,
        failed: FailedAttempt,
        client: &Client,
        call: &Call<'_>,
        left: Duration,
    ) -> Result<(), CallError> {
        self.tried = true;
        match failed.retry {
            Some(wait) if !left.is_zero() => {
                // The backoff holds even if the server asks for no wait. A cancel has little time, and while a run is
                // followed, nobody reads its stream during this wait.
                let most = if client.options.retry_timeout == Duration::MAX {
                    Duration::ZERO
                } else if call.is_post() || client.contact().is_none() {
                    left
                } else {
                    MOST_IN_RUN
                };
                let wait = self.backoff.wait().max(wait.min(most)).min(left);
                self.next = Some(later(wait));
                self.announce(client, call, failed.error, wait);
                Ok(())
            }
            _ => Err(failed.error),
        }
    }

    /// Reports a failed attempt. On a terminal, a repeated failure is a status line with a count. Elsewhere it is a
    /// line for the first, second, fourth, eighth … time.
    fn announce(&mut self, client: &Client, call: &Call<'_>, error: CallError, wait: Duration) {
        self.count = if self.last.as_ref().is_some_and(|last| is_same(last, &error)) { self.count + 1 } else { 1 };
        let (wait, count) = (wait.as_secs_f64(), self.count);
        let limit = client.options.retry_timeout;
        let limit = if limit == Duration::MAX {
            String::new()
        } else {
            format!(", for at most {}", humantime::format_duration(limit))
        };
        let line = if count == 1 {
            format!("{error}; trying again in {wait:.1} s{limit}")
        } else {
            format!("{}: failed {count} times; trying again in {wait:.1} s{limit}", client.doing(call))
        };
        log::warn!("{line}");
        if count > 1 && client.console.is_live() {
            client.console.status(&format!("attempt {} in {wait:.1} s: {error}", count + 1));
        } else if count.is_power_of_two() {
            client.console.progress(&line);
        }
        self.last = Some(error);
    }
}

/// Returns whether a failure repeats the last one. Answers may contain a request number, so only the messages of lost
/// answers are compared.
fn is_same(last: &CallError, error: &CallError) -> bool {
    last.word == error.word && (error.word != Word::Nothing || last.message == error.message)
}

impl Client {
    /// Returns the rest of the retry timeout.
    pub(super) fn left(&self, contact: Instant) -> Duration {
        self.options.retry_timeout.saturating_sub(contact.elapsed())
    }

    /// Makes attempts until one succeeds or fails for good, at most for the retry timeout.
    pub(super) fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, CallError> {
        let began = Instant::now();
        let mut retries = Retries::default();
        // A request of any attempt may have reached the server.
        let mut may_have_arrived = false;
        let mut attempts = || loop {
            self.check()?;
            let failed = match self.json(call, retries.patience(self, self.left(began))) {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            may_have_arrived |= failed.error.may_have_arrived;
            // The deadline or signal broke the connection, so it is the reason.
            self.check()?;
            retries.failed(failed, self, call, self.left(began))?;
            self.nap(retries.wait())?;
        };
        attempts().map_err(|error: CallError| error.arrived(may_have_arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_100_ms_to_5_s_with_jitter() {
        let mut backoff = Backoff::default();
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let wait = u64::try_from(backoff.wait().as_millis()).unwrap();
            assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
    }
}
