//! What the suites stand on: servers that do what a test tells them, and the real binary in a clean environment.
//!
//! Nothing here sleeps: every wait is for something to happen, and gives up after [`PATIENCE`].

pub mod agent;
pub mod disturbed;
pub mod gate;
pub mod gateway;
pub mod http;
pub mod names;
pub mod process;
pub mod story;
pub mod terminal;
pub mod watched;
pub mod wire;

use std::path::Path;
use std::time::Duration;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lets time pass where time is what the product is given: how old a run is, or how long a process is frozen. Never to
/// wait for something to happen.
pub fn let_pass(time: Duration) {
    watched::Watched::new(()).wait(time, |()| None::<()>);
}

/// A recorded transcript, byte for byte.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
