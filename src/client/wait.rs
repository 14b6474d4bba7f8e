//! Waits for descriptors together with the watch, at most until a point in time.

use crate::watchdog::Watch;
use rustix::event::PollFd;
use std::io;
use std::time::{Duration, Instant};

/// The longest wait before the watch is asked again.
const GLANCE: Duration = Duration::from_millis(250);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// A descriptor is ready.
    Descriptor,
    /// The deadline has passed or a signal has arrived.
    Cause,
    /// The time limit of the wait is over.
    Time,
}

/// Returns the time after this duration. If it is out of range, returns a day from now.
pub(super) fn later(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + Duration::from_secs(86_400))
}

/// Waits until one of `fds` is ready, the deadline has passed or a signal has arrived, or the time is `until`. If
/// several are true, the first counts.
pub(super) fn wait<'a>(fds: &mut Vec<PollFd<'a>>, watch: Option<&'a Watch>, until: Instant) -> io::Result<Ready> {
    let ours = fds.len();
    fds.extend(watch.map(Watch::poll_fd));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let glance = watch.map_or(left, |watch| watch.cut(left)).min(GLANCE);
        let glance = glance.try_into().map_err(io::Error::other)?;
        match rustix::event::poll(fds, Some(&glance)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[..ours].iter().any(|fd| !fd.revents().is_empty()) {
            return Ok(Ready::Descriptor);
        }
        if watch.is_some_and(|watch| watch.cause().is_some()) {
            return Ok(Ready::Cause);
        }
        if left.is_zero() {
            return Ok(Ready::Time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_beyond_the_range_of_the_clock_ends_within_a_day() {
        let day = Duration::from_secs(86_400);
        assert!(later(Duration::MAX) <= Instant::now() + day);
        assert!(later(2 * day) > Instant::now() + day);
    }
}
