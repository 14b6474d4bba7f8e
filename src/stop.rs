//! Stopping a run on the server, and making sure of it: for `sortie cancel`, and for every end of ours that would leave
//! the run going unattended.

use crate::client::Client;
use crate::outcome::{Failure, Reason};
use crate::watchdog::Watch;
use std::time::Duration;
use uuid::Uuid;

/// What is known of the run after the attempt to stop it.
#[derive(Debug)]
pub enum Stopped {
    /// The server says that it no longer runs.
    Confirmed,
    /// The server took the request, but the run goes on: a model's answer cannot be interrupted (protocol trap 6).
    Accepted,
    /// The server did not take it.
    Failed(Failure),
}

/// Cancels the run, wakes it in case it waits for approval, and watches until it has stopped or `watch` is over.
pub fn stop(client: &Client, session: Uuid, run: &str, watch: &Watch) -> Stopped {
    match attempt(client, session, run, watch) {
        Ok(stopped) => stopped,
        // The watch's own end is no failure of the request.
        Err((true, failure)) if matches!(failure.reason, Reason::Timeout | Reason::Connection) => Stopped::Accepted,
        Err((_, failure)) => Stopped::Failed(failure),
    }
}

/// An error carries whether the request had been taken.
fn attempt(client: &Client, session: Uuid, run: &str, watch: &Watch) -> Result<Stopped, (bool, Failure)> {
    let mut nap = Duration::from_millis(20);
    let mut taken = false;
    loop {
        let mut unknown = None;
        if !taken {
            match client.cancel(session, run) {
                Ok(()) => taken = true,
                // It is just starting, and takes no request yet.
                Err(failure) if failure.code == "session_already_running" => {}
                Err(failure) if is_over(&failure) => return Ok(Stopped::Confirmed),
                // The session's state must bear that out.
                Err(failure) if failure.reason == Reason::NotFound => unknown = Some(failure),
                Err(failure) => return Err((taken, failure)),
            }
            // Protocol trap 5: a run that waits for approval does not hear a cancel. A decision about nothing wakes it,
            // and does nothing to a run that is awake.
            if taken
                && let Err(failure) = client.decide(session, run, &[])
                && !is_over(&failure)
                && failure.reason != Reason::NotFound
            {
                return Err((taken, failure));
            }
        }
        match client.session(session) {
            Ok(state) if state.active_run().as_deref() != Some(run) => return Ok(Stopped::Confirmed),
            Ok(_) => unknown.map_or(Ok(()), |failure| Err((taken, failure)))?,
            Err(failure) if failure.reason == Reason::NotFound => return Ok(Stopped::Confirmed),
            Err(failure) => return Err((taken, failure)),
        }
        watch.sleep(nap).map_err(|cause| (taken, cause))?;
        nap = (nap * 2).min(Duration::from_millis(250));
    }
}

/// The server runs nothing in this session, or something else.
fn is_over(failure: &Failure) -> bool {
    matches!(failure.code.as_str(), "session_not_running" | "run_mismatch")
}
