//! The agent server's calls, one method each. Every call is retried within the retry timeout. An error tells whether
//! the server itself or something in front of it has answered: see [`super::word`].

use super::Client;
use super::exchange::Call;
use super::retry::LAST_TRY;
use super::word::{CallError, Word};
use crate::agent::calls as api;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use uuid::Uuid;

impl Client {
    /// `GET /v1/health`. It needs no token.
    pub fn health(&self) -> Result<api::Health, CallError> {
        let health: api::Health = self.get("check the server's health", "/v1/health".into())?;
        self.shared().server_version.clone_from(&health.version);
        Ok(health)
    }

    /// `GET /v1/config`.
    pub fn config(&self) -> Result<api::Config, CallError> {
        self.get("read the server's configuration", "/v1/config".into())
    }

    /// `GET /v1/sessions`: one page, the newest first. A page shorter than `limit` is the last one.
    pub fn sessions(&self, offset: usize, limit: usize) -> Result<Vec<api::ListedSession>, CallError> {
        let path = format!("/v1/sessions?limit={limit}&offset={offset}");
        self.get("list the sessions", path).map(|page: api::Sessions| page.sessions)
    }

    /// `POST /v1/sessions`.
    pub fn create_session(&self, session: &api::NewSession<'_>) -> Result<Uuid, CallError> {
        let key = new_key();
        self.post("create a session", "/v1/sessions".into(), session, &key).map(|created: api::Created| created.id)
    }

    /// `GET /v1/sessions/{id}`: the only call that tells whether a session exists (protocol trap 10).
    pub fn session(&self, session: Uuid) -> Result<api::SessionState, CallError> {
        let path = format!("/v1/sessions/{session}");
        self.get("read the session's state", path).map(|detail: api::SessionDetail| detail.session.state)
    }

    /// `POST /v1/sessions/{id}/messages`: returns the ID of the new run.
    pub fn send(&self, session: Uuid, message: &api::NewMessage, key: &str) -> Result<Uuid, CallError> {
        let path = format!("/v1/sessions/{session}/messages");
        self.post("send the prompt", path, message, key).map(|accepted: api::Accepted| accepted.run_id)
    }

    /// `GET /v1/sessions/{id}/messages`: one page, the oldest first. After [`Word::OverBound`] a smaller page may fit.
    pub fn messages(&self, session: Uuid, offset: usize, limit: usize) -> Result<api::Messages, CallError> {
        let path = format!("/v1/sessions/{session}/messages?limit={limit}&offset={offset}");
        self.get("read the session's messages", path)
    }

    /// `GET /v1/sessions/{id}/tools/pending`.
    pub fn pending(&self, session: Uuid) -> Result<api::Pending, CallError> {
        self.get("read the pending tool calls", format!("/v1/sessions/{session}/tools/pending"))
    }

    /// `POST /v1/sessions/{id}/tools/decisions`. It needs a new idempotency key each time: with an old key the server
    /// only repeats its old answer.
    pub fn decide(
        &self,
        session: Uuid,
        run: &str,
        decisions: BTreeMap<&str, api::Decision>,
    ) -> Result<(), CallError> {
        let path = format!("/v1/sessions/{session}/tools/decisions");
        let body = api::Decisions { run_id: run, decisions };
        self.post("decide the tool calls", path, &body, &new_key()).map(|_: api::Accepted| ())
    }

    /// `POST /v1/sessions/{id}/cancel`: a request that may have no effect (protocol traps 5 and 6).
    pub fn cancel(&self, session: Uuid, run: &str) -> Result<(), CallError> {
        let path = format!("/v1/sessions/{session}/cancel");
        self.post("cancel the run", path, &api::Cancel { run_id: run }, &new_key()).map(|_: api::Accepted| ())
    }

    /// Returns whether the server answers one health check.
    pub(super) fn is_there(&self) -> bool {
        let call = Call::get("check the server's health", "/v1/health".into());
        self.json::<api::Health>(&call, LAST_TRY).is_ok()
    }

    fn get<T: DeserializeOwned>(&self, doing: &str, path: String) -> Result<T, CallError> {
        self.call(&Call::get(doing, path))
    }

    fn post<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: String,
        body: &impl Serialize,
        key: &str,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| CallError::new(Word::Internal, format!("cannot {doing}: {error}")))?;
        self.call(&Call { body: Some(body), key: Some(key), ..Call::get(doing, path) })
    }
}

/// Returns an idempotency key for one POST and its retries.
pub fn new_key() -> String {
    Uuid::new_v4().to_string()
}
