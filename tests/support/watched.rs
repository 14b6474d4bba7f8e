//! A value that threads change and wait upon.

use super::PATIENCE;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    // A test that panicked has poisoned it; those that clean up after it still need it.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the value.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the value and wakes all that wait.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    /// Waits until there is an answer, but no longer than `bound`.
    pub fn wait<R>(&self, bound: Duration, mut ask: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let end = Instant::now() + bound;
        let mut value = self.lock();
        loop {
            if let Some(answer) = ask(&mut value) {
                // The asking may have taken something out that others wait to see gone.
                self.changed.notify_all();
                return Some(answer);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until there is an answer; none within [`PATIENCE`] fails the test.
    #[track_caller]
    pub fn expect<R>(&self, what: &str, ask: impl FnMut(&mut T) -> Option<R>) -> R {
        match self.wait(PATIENCE, ask) {
            Some(answer) => answer,
            None => panic!("waited in vain for {what}"),
        }
    }
}
