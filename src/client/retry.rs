//! Retries: when and how often a call is tried again, and the lines about it.

use super::Client;
use super::connection::ANSWER;
use super::exchange::{Call, FailedAttempt};
use super::word::{CallError, Word};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The time for the last attempt when the retry timeout is over.
pub(super) const LAST_TRY: Duration = Duration::from_secs(1);

/// Exponential backoff: from 100 ms to 5 s, doubled each time. A random part of up to a half is subtracted, so that
/// many clients do not return to a server together.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    pub fn wait(&mut self) -> Duration {
        let full = 100_u64.saturating_mul(1 << self.0.min(6)).min(5000);
        self.0 += 1;
        let chance = Uuid::new_v4().as_u64_pair().1 % (full / 2 + 1);
        Duration::from_millis(full - chance)
    }
}

/// The attempts at one call, or at one connection of a stream.
#[derive(Debug, Default)]
pub(super) struct Retries {
    pub backoff: Backoff,
    /// There was a failed attempt.
    tried: bool,
    /// A request may have reached the server.
    may_have_arrived: bool,
    /// The last failure, and how many attempts in a row had it.
    last: Option<(Word, String)>,
    count: u32,
}

impl Retries {
    /// Returns how long the next attempt may wait for its answer.
    pub fn patience(&self, client: &Client, contact: Instant) -> Duration {
        let left = client.left(contact);
        let least = if self.tried { LAST_TRY } else { client.options.connect_timeout };
        let patience = if left.is_zero() { least } else { left.max(LAST_TRY) };
        patience.min(ANSWER)
    }

    /// Takes a failed attempt and returns the wait before the next one, or the error if there is none.
    pub fn missed(
        &mut self,
        client: &Client,
        call: &Call<'_>,
        contact: Instant,
        missed: FailedAttempt,
    ) -> Result<Duration, CallError> {
        self.tried = true;
        self.may_have_arrived |= missed.error.may_have_arrived;
        if missed.stale {
            log::info!("{}", missed.error);
            return Ok(Duration::ZERO);
        }
        let left = client.left(contact);
        if !missed.again || left.is_zero() {
            return Err(missed.error.arrived(self.may_have_arrived));
        }
        // The backoff holds even if the server asks for no wait.
        let wait = self.backoff.wait().max(missed.wait.unwrap_or_default()).min(left);
        self.announce(client, call, &missed.error, wait);
        Ok(wait)
    }

    /// Completes the error of a call that the deadline or a signal ended.
    pub fn stopped(&self, error: CallError) -> CallError {
        let may_have_arrived = error.may_have_arrived || self.may_have_arrived;
        error.arrived(may_have_arrived)
    }

    /// Reports a failed attempt. On a terminal, a repeated failure is a status line with a count. Elsewhere it is a
    /// line for the first, second, fourth, eighth … time.
    fn announce(&mut self, client: &Client, call: &Call<'_>, error: &CallError, wait: Duration) {
        if self.last.as_ref().is_some_and(|(word, message)| is_same(word, message, error)) {
            self.count += 1;
        } else {
            self.last = Some((error.word.clone(), error.message.clone()));
            self.count = 1;
        }
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
    }
}

/// Returns whether the failure repeats the last one. Answers may contain a request number, so only the messages of lost
/// answers are compared.
fn is_same(word: &Word, message: &str, error: &CallError) -> bool {
    *word == error.word && (*word != Word::Nothing || message == error.message)
}

impl Client {
    /// Returns the rest of the retry timeout.
    pub(super) fn left(&self, contact: Instant) -> Duration {
        self.options.retry_timeout.saturating_sub(contact.elapsed())
    }

    /// Makes attempts until one succeeds or fails for good, at most for the retry timeout.
    pub(super) fn retry<T>(
        &self,
        call: &Call<'_>,
        attempt: impl Fn(Duration) -> Result<T, FailedAttempt>,
    ) -> Result<T, CallError> {
        let began = Instant::now();
        let mut retries = Retries::default();
        loop {
            if let Some(stopped) = self.stopped() {
                return Err(retries.stopped(stopped));
            }
            let missed = match attempt(retries.patience(self, began)) {
                Ok(done) => return Ok(done),
                Err(missed) => missed,
            };
            // The deadline or signal broke the connection, so it is the reason.
            if let Some(stopped) = self.stopped() {
                return Err(retries.stopped(stopped.arrived(missed.error.may_have_arrived)));
            }
            let wait = retries.missed(self, call, began, missed)?;
            self.nap(wait).map_err(|stopped| retries.stopped(stopped))?;
        }
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
