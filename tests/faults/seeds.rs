//! Plays many seeds at the same time, and names those that went wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Returns the number in an environment variable.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

pub fn play<T>(first: u64, count: u64, at_a_time: usize, play: impl Fn(u64) -> T + Sync) {
    let (next, wrong) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if catch_unwind(AssertUnwindSafe(|| play(seed))).is_err() {
                        wrong.lock().expect("a lock").push(seed);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{} of {count} runs went wrong; SORTIE_SEED={wrong:?}", wrong.len());
}
