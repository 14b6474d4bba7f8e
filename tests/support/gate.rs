//! Gates: a server of a test holds something back there until the test lets it pass.

use super::PATIENCE;
use super::watched::Watched;
use std::sync::Arc;

#[derive(Default)]
struct State {
    reached: bool,
    open: bool,
}

/// The server's side of a gate.
#[derive(Clone)]
pub struct Barrier(Arc<Watched<State>>);

impl Barrier {
    pub fn new() -> Self {
        Self(Arc::new(Watched::new(State::default())))
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        self.0.change(|state| state.reached = true);
        let passed = self.0.wait(3 * PATIENCE, |state| state.open.then_some(()));
        assert!(passed.is_some(), "nobody opened the gate");
    }

    pub fn open(&self) {
        self.0.change(|state| state.open = true);
    }
}

/// The test's side of a gate. Dropped, it opens.
pub struct Gate(pub Barrier);

impl Gate {
    /// Waits until something is held back.
    #[track_caller]
    pub fn wait_until_reached(&self) {
        self.0.0.expect("somebody at the gate", |state| state.reached.then_some(()));
    }

    pub fn open(&self) {
        self.0.open();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
