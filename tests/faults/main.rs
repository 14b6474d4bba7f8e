//! Fault injection: streams cut anywhere, random schedules of faults, lost answers, bounds, a soak. A binary of its own: it
//! takes longer than `cargo test` may.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other suites use the rest")]
mod support;

mod bounds;
mod cuts;
mod gateways;
mod held;
mod posts;
mod schedules;
mod seeds;
mod soak;
