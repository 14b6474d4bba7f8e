//! The bodies of the calls, in both directions (`/v1`, server 0.3.88). In answers, fields that we do not use are
//! ignored.

use crate::agent::events::{ToolCall, few};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uuid::Uuid;

/// `GET /v1/health`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    pub version: Option<String>,
    /// Whole seconds since the server started.
    pub uptime_seconds: Option<u64>,
    /// Only with a persistent sandbox.
    pub sandbox: Option<Sandbox>,
}

/// The state of the server's sandbox.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Sandbox {
    pub mode: Option<String>,
    pub healthy: Option<bool>,
    pub last_error: Option<String>,
}

/// `GET /v1/config`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    pub auto_approve_mode: AutoApprove,
}

/// Which tool calls the server's configuration approves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
pub enum AutoApprove {
    /// None: the server asks about every call.
    None,
    /// All: the server asks about no call.
    All,
    /// Some: `custom`, or a word of a newer server.
    #[serde(other)]
    Custom,
}

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

/// `GET /v1/sessions`: one page, the session that changed last first.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Sessions {
    #[serde(deserialize_with = "few")]
    pub sessions: Vec<ListedSession>,
}

/// A session of the list. The times are in RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListedSession {
    pub id: Uuid,
    pub title: Option<String>,
    pub cwd: Option<String>,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
    #[serde(rename = "run_status")]
    pub state: SessionState,
}

impl ListedSession {
    /// Returns the memory that the session takes, in bytes.
    pub fn size(&self) -> usize {
        let texts = [&self.title, &self.cwd, &self.created_at, &self.updated_at];
        size_of::<Self>() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// `GET /v1/sessions/{id}`.
#[derive(Debug, Deserialize)]
pub struct SessionDetail {
    pub session: Session,
}

#[derive(Debug, Deserialize)]
pub struct Session {
    #[serde(rename = "run_status")]
    pub state: SessionState,
}

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RunStatus")]
pub enum SessionState {
    /// This run is starting or running.
    Active(Uuid),
    Idle,
    /// The last run failed. The server does not say which run that was (protocol trap 21).
    Failed,
    /// A state of a newer server, without a run.
    Unknown,
}

#[derive(Deserialize)]
struct RunStatus {
    state: String,
    run_id: Option<Uuid>,
}

impl From<RunStatus> for SessionState {
    fn from(status: RunStatus) -> Self {
        match (status.state.as_str(), status.run_id) {
            ("idle", _) => Self::Idle,
            ("failed", _) => Self::Failed,
            // An unknown state with a run ID counts as active.
            (_, Some(run)) => Self::Active(run),
            (_, None) => Self::Unknown,
        }
    }
}

impl SessionState {
    pub const fn active_run(self) -> Option<Uuid> {
        match self {
            Self::Active(run) => Some(run),
            Self::Idle | Self::Failed | Self::Unknown => None,
        }
    }
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
    pub content: UserContent,
}

/// The prompt: a text, or a list of texts and images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum UserContent {
    Text(String),
    Parts(Vec<UserPart>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum UserPart {
    Text {
        text: String,
    },
    /// An image as a `data:` URL.
    Image {
        url: String,
    },
}

/// A file or text that is sent with the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Context {
    pub name: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

/// How important a context entry is when the model's context window is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    Normal,
}

/// Settings that replace the server's configuration for this run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_approve: Option<ApproveOverride>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
}

/// The tool calls that the server approves in this run. It replaces the server's whole policy, denials included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ApproveOverride {
    None,
    All,
    /// The calls of these tools or command scopes (`run_command::git::status`); the server asks about all others.
    #[serde(untagged)]
    Tools(Vec<String>),
}

impl Overrides {
    fn is_empty(&self) -> bool {
        self.auto_approve.is_none() && self.system_prompt.is_none() && self.max_turns.is_none()
    }
}

/// The answer to [`NewMessage`], to [`Decisions`] and to [`Cancel`]. An answer without a run's ID is not the server's.
#[derive(Debug, Deserialize)]
pub struct Accepted {
    pub run_id: Uuid,
}

/// `GET /v1/sessions/{id}/messages`: one page, the oldest message first.
#[derive(Debug, Deserialize)]
pub struct Messages {
    #[serde(deserialize_with = "few")]
    pub messages: Vec<Message>,
    /// The number of messages in the session.
    pub total: usize,
}

#[derive(Debug, Deserialize)]
pub struct Message {
    /// `user`, `assistant` or `tool`.
    role: String,
    content: Content,
}

/// What we use of a message's content.
#[derive(Debug, Default)]
pub struct Content {
    text: String,
    /// The IDs of the tool calls.
    calls: Vec<String>,
    /// The IDs of the tool calls whose results these are.
    results: Vec<String>,
}

/// A part of a message's content. `type` is `text` (with `text`), `image`, `tool_call` (with `id`) or `tool_result`
/// (with `tool_call_id`).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    r#type: String,
    text: String,
    id: String,
    tool_call_id: Option<String>,
}

/// Written by hand: serde's untagged and tagged enums first build a tree of all values, which takes much more memory.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let content = if json.starts_with('[') {
            few(&mut serde_json::Deserializer::from_str(json)).map(Self::of)
        } else {
            serde_json::from_str(json).map(|text| Self { text, ..Self::default() })
        };
        content.map_err(D::Error::custom)
    }
}

impl Content {
    fn of(parts: Vec<Part>) -> Self {
        let mut content = Self::default();
        for part in parts {
            content.text.push_str(&part.text);
            content.results.extend(part.tool_call_id);
            if part.r#type == "tool_call" {
                content.calls.push(part.id);
            }
        }
        content
    }
}

impl Message {
    pub fn is_user(&self) -> bool {
        self.role == "user"
    }

    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Returns the text, or the joined texts of the parts.
    pub fn text(&self) -> &str {
        &self.content.text
    }

    pub const fn calls_tools(&self) -> bool {
        !self.content.calls.is_empty()
    }

    /// Returns the IDs of the tool calls whose results the message contains.
    pub fn results(&self) -> impl Iterator<Item = &str> {
        let results = if self.role == "tool" { self.content.results.as_slice() } else { &[] };
        results.iter().map(String::as_str)
    }

    /// Returns the approximate memory of the message, in bytes.
    pub fn size(&self) -> usize {
        let ids = self.content.results.iter().chain(&self.content.calls);
        256 + self.role.len() + self.content.text.len() + ids.map(|id| id.len() + 32).sum::<usize>()
    }
}

/// Returns whether the messages end with a finished answer of the assistant.
pub fn end_with_answer(messages: &[Message]) -> bool {
    messages.last().is_some_and(|message| message.is_assistant() && !message.calls_tools())
}

/// Returns whether the messages end with tool calls of which at least one has no result.
pub fn end_with_open_call(messages: &[Message]) -> bool {
    let Some(at) = messages.iter().rposition(|message| message.role != "tool") else { return false };
    let results: Vec<_> = messages[at..].iter().flat_map(Message::results).collect();
    messages[at].content.calls.iter().any(|call| !results.contains(&call.as_str()))
}

/// Returns whether there is a tool call after the last message of the user.
pub fn have_call_after_prompt(messages: &[Message]) -> bool {
    messages.iter().rev().take_while(|message| !message.is_user()).any(Message::calls_tools)
}

/// `GET /v1/sessions/{id}/tools/pending`: every call of the current batch, whether decided or not.
#[derive(Debug, Deserialize)]
pub struct Pending {
    pub run_id: Option<Uuid>,
    #[serde(deserialize_with = "few")]
    pub tool_calls: Vec<ToolCall>,
}

/// `POST /v1/sessions/{id}/tools/decisions`. Without a decision in it, it wakes a run that waits (protocol trap 5).
#[derive(Debug, Serialize)]
pub struct Decisions<'a> {
    pub run_id: &'a str,
    pub decisions: BTreeMap<&'a str, Decision>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Decision {
    Accept,
    /// The model is told only that the user rejected the call (protocol trap 9).
    Reject,
    /// The model gets this content as the call's result.
    CustomResult {
        content: String,
    },
}

/// `POST /v1/sessions/{id}/cancel`.
#[derive(Debug, Serialize)]
pub struct Cancel<'a> {
    pub run_id: &'a str,
}

/// The body of most errors. Some errors are plain text instead.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Error {
    pub error: String,
    pub code: String,
}

#[cfg(test)]
mod tests;
