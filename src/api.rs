//! The wire's types, both directions (`/v1`, server 0.3.88). Answers are read leniently: what we do not use is not there.

use crate::approval::Verdict;
use crate::event::ToolCall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// `POST /v1/sessions`.
#[derive(Debug, Serialize)]
pub struct NewSession<'a> {
    pub title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<&'a str>,
}

/// The answer to [`NewSession`].
#[derive(Debug, Deserialize)]
pub struct Created {
    pub id: Uuid,
}

/// `POST /v1/sessions/{id}/messages`.
#[derive(Clone, Debug, Serialize)]
pub struct NewMessage {
    pub message: UserMessage,
    pub r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<Context>,
    #[serde(skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
}

#[derive(Clone, Debug, Serialize)]
pub struct UserMessage {
    pub role: &'static str,
    pub content: String,
}

/// A file or text that goes with the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Context {
    pub name: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// How much a context entry matters when the model's window is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    Normal,
}

/// What this run does otherwise than the server's configuration says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_approve: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
}

impl Overrides {
    fn is_empty(&self) -> bool {
        self.auto_approve.is_none() && self.system_prompt.is_none() && self.max_turns.is_none()
    }
}

/// The answer to [`NewMessage`].
#[derive(Debug, Deserialize)]
pub struct Sent {
    pub run_id: Uuid,
}

/// `GET /v1/sessions/{id}`.
#[derive(Debug, Deserialize)]
pub struct SessionDetail {
    pub session: Session,
}

#[derive(Debug, Deserialize)]
pub struct Session {
    pub run_status: RunStatus,
}

#[derive(Debug, Deserialize)]
pub struct RunStatus {
    pub state: String,
    #[serde(default)]
    pub run_id: Option<Uuid>,
}

impl Session {
    /// The run that the session is busy with.
    pub fn active_run(&self) -> Option<String> {
        let status = &self.run_status;
        let active = matches!(status.state.as_str(), "starting" | "running");
        status.run_id.filter(|_| active).map(|id| id.to_string())
    }
}

/// `GET /v1/health`.
#[derive(Debug, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// The answer to decisions and to a cancel: the run that took them.
#[derive(Debug, Deserialize)]
pub struct Taken {
    /// Its id.
    pub run_id: Uuid,
}

/// `GET /v1/config`.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub auto_approve_mode: String,
}

/// `GET /v1/sessions/{id}/messages`.
#[derive(Debug, Deserialize)]
pub struct Messages {
    pub messages: Vec<Message>,
    pub total: usize,
}

#[derive(Debug, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message: text has `text`, a tool's result has `tool_call_id`.
#[derive(Debug, Deserialize)]
pub struct Part {
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// The message's text, its parts joined.
    pub fn text(&self) -> String {
        match &self.content {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
        }
    }

    /// The calls whose results the message holds.
    pub fn results(&self) -> impl Iterator<Item = &str> {
        let parts = match &self.content {
            Content::Parts(parts) if self.role == "tool" => parts.as_slice(),
            _ => &[],
        };
        parts.iter().filter_map(|part| part.tool_call_id.as_deref())
    }
}

/// `GET /v1/sessions/{id}/tools/pending`: every call of the current batch, decided or not.
#[derive(Debug, Deserialize)]
pub struct Pending {
    pub run_id: Option<Uuid>,
    pub tool_calls: Vec<ToolCall>,
}

/// `POST /v1/sessions/{id}/tools/decisions`. An empty one wakes a run that waits (protocol trap 5).
#[derive(Debug, Serialize)]
pub struct Decisions<'a> {
    pub run_id: &'a str,
    pub decisions: BTreeMap<&'a str, Decision>,
}

/// One decision.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Decision {
    Accept,
    Reject,
    CustomResult { content: String },
}

impl Decision {
    /// What a verdict says to the server; a pause says nothing. A reason goes as the call's result, since the server
    /// drops the content of a plain rejection (protocol trap 9).
    pub fn of(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Accept => Some(Self::Accept),
            Verdict::Reject(None) => Some(Self::Reject),
            Verdict::Reject(Some(reason)) => {
                Some(Self::CustomResult { content: format!("Tool call rejected: {reason}") })
            }
            Verdict::Pause => None,
        }
    }
}

/// `POST /v1/sessions/{id}/cancel`.
#[derive(Debug, Serialize)]
pub struct Cancel<'a> {
    pub run_id: &'a str,
}

/// The body of most errors; some are plain text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Error {
    pub error: String,
    pub code: String,
}
