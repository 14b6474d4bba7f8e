//! Runs at random behind gateways that do things at random: see `support/disturbed.rs`.
//!
//! Two hundred of them by default; more by
//!
//! ```sh
//! SORTIE_GATEWAYS=5000 cargo test --test faults gateways
//! ```
//!
//! `SORTIE_SEED` names the first seed; with `SORTIE_GATEWAYS=1` it is the only one.

use crate::support::disturbed;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const AT_A_TIME: usize = 40;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
fn gateways_at_random_never_make_the_client_state_what_is_not_so() {
    let (first, count) = (number("SORTIE_SEED", 1000), number("SORTIE_GATEWAYS", 200));
    let (next, wrong) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if catch_unwind(AssertUnwindSafe(|| disturbed::play(seed))).is_err() {
                        wrong.lock().expect("a lock").push(seed);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{} of {count} went wrong; SORTIE_SEED={wrong:?}", wrong.len());
}
