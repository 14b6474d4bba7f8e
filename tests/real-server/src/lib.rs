//! The published agent server in this process, a model that plays a script, and the built `sortie`
//! between them.
//!
//! A test starts a [`RealServer`] with a [`Model`], runs a [`Sortie`] against it, and looks at what
//! came out of the process, at what reached the server and at what reached the model.

mod model;
mod server;
mod sortie;
mod storage;
mod tools;

pub use model::{Gate, Model, Reply, Request};
pub use server::{Event, Options, RealServer, TOKEN};
pub use sortie::{Finished, Running, Sortie};
pub use stakpak_agent_core::{ToolApprovalAction, ToolApprovalPolicy};
pub use storage::StorageGate;
pub use tools::Tools;

use std::time::{Duration, Instant};

/// How long anything in a test may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
///
/// When there is none within [`PATIENCE`]; `what` names what was waited for.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks that a condition holds for as long as `duration`.
///
/// # Panics
///
/// As soon as it does not; `what` names the condition.
pub fn for_at_least(duration: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < duration {
        assert!(holds(), "after {:?}, no longer: {what}", start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}
