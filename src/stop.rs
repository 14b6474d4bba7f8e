//! Stopping a run on the server, and making sure of it: for `sortie cancel`, and for every end of ours that would leave
//! the run going unattended.

use crate::client::{CallError, Client, Refusal, Word};
use crate::outcome::Failure;
use crate::watchdog::{Cause, Watch};
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
        Err((true, error)) if matches!(error.word, Word::Stopped(Cause::Deadline(..)) | Word::Nothing) => {
            Stopped::Accepted
        }
        Err((_, error)) => Stopped::Failed(error.into()),
    }
}

/// An error carries whether the request had been taken.
fn attempt(client: &Client, session: Uuid, run: &str, watch: &Watch) -> Result<Stopped, (bool, CallError)> {
    let mut nap = Duration::from_millis(20);
    let mut taken = false;
    loop {
        let mut unknown = None;
        if !taken {
            match client.cancel(session, run) {
                Ok(()) => taken = true,
                // It is just starting, and takes no request yet.
                Err(error) if error.is(&Refusal::SessionBusy) => {}
                Err(error) if is_over(&error) => return Ok(Stopped::Confirmed),
                // The session's state must bear that out.
                Err(error) if error.is(&Refusal::NotFound) => unknown = Some(error),
                Err(error) => return Err((taken, error)),
            }
            // Protocol trap 5: a run that waits for approval does not hear a cancel. A decision about nothing wakes it,
            // and does nothing to a run that is awake.
            if taken
                && let Err(error) = client.decide(session, run, &[])
                && !is_over(&error)
                && !error.is(&Refusal::NotFound)
            {
                return Err((taken, error));
            }
        }
        match client.session(session) {
            Ok(state) if state.active_run().as_deref() != Some(run) => return Ok(Stopped::Confirmed),
            Ok(_) => unknown.map_or(Ok(()), |error| Err((taken, error)))?,
            Err(error) if error.is(&Refusal::NotFound) => return Ok(Stopped::Confirmed),
            Err(error) => return Err((taken, error)),
        }
        if watch.sleep(nap).is_err()
            && let Some(cause) = watch.cause()
        {
            return Err((taken, CallError::stopped(cause)));
        }
        nap = (nap * 2).min(Duration::from_millis(250));
    }
}

/// The server runs nothing in this session, or something else.
fn is_over(error: &CallError) -> bool {
    matches!(error.word, Word::Server(Refusal::NotRunning | Refusal::OtherRun))
}
