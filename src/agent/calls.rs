//! The wire's types, both directions (`/v1`, server 0.3.88). Answers are read leniently: what we do not use is not there.

use crate::agent::events::{MAX_LIST, ToolCall, few};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
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
    pub content: Prompt,
}

/// What the user says: a text, or a list of parts where images go with it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Parts(Vec<PromptPart>),
}

/// A part of [`Prompt`].
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum PromptPart {
    Text {
        text: String,
    },
    /// An image in a `data:` URL.
    Image {
        url: String,
    },
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
    pub auto_approve: Option<AutoApproveOverride>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
}

/// Which calls of this run the server approves, in place of its own policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AutoApproveOverride {
    /// `none`: each call is asked about.
    Word(&'static str),
    /// These tools and command scopes; other calls are asked about.
    List(Vec<String>),
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

/// What the server says that a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// A run is starting or running.
    Active(Uuid),
    /// Nothing runs.
    Idle,
    /// The last run failed; the server does not name it (protocol trap 21).
    Failed,
    /// A word that we do not know.
    Unknown,
}

impl Session {
    /// What the session runs.
    pub fn state(&self) -> SessionState {
        match (self.run_status.state.as_str(), self.run_status.run_id) {
            ("starting" | "running", Some(run)) => SessionState::Active(run),
            ("idle", _) => SessionState::Idle,
            ("failed", _) => SessionState::Failed,
            _ => SessionState::Unknown,
        }
    }

    /// The run that the session is busy with.
    pub fn active_run(&self) -> Option<Uuid> {
        match self.state() {
            SessionState::Active(run) => Some(run),
            SessionState::Idle | SessionState::Failed | SessionState::Unknown => None,
        }
    }
}

/// `GET /v1/health`.
#[derive(Debug, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    #[serde(default)]
    pub version: Option<String>,
    /// How long the server has been up, in seconds.
    #[serde(default)]
    pub uptime_seconds: Option<u64>,
    /// What it says of its sandbox.
    #[serde(default)]
    pub sandbox: Option<Box<serde_json::value::RawValue>>,
}

/// `GET /v1/sessions`, one page, the newest first.
#[derive(Debug, Deserialize)]
pub struct Sessions {
    #[serde(deserialize_with = "few")]
    pub sessions: Vec<ListedSession>,
}

/// An entry of [`Sessions`].
#[derive(Debug, Deserialize)]
pub struct ListedSession {
    pub id: Uuid,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub cwd: Option<String>,
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(default)]
    pub updated_at: Option<String>,
    pub run_status: RunStatus,
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
    pub auto_approve_mode: AutoApprove,
}

/// Which calls the operator's policy approves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutoApprove {
    /// None: every call is asked about.
    None,
    /// All.
    All,
    /// Some, by rules that it does not tell.
    #[serde(other)]
    Custom,
}

/// `GET /v1/sessions/{id}/messages`.
#[derive(Debug, Deserialize)]
pub struct Messages {
    #[serde(deserialize_with = "few")]
    pub messages: Vec<Message>,
    pub total: usize,
}

#[derive(Debug, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: Content,
}

/// What of a message's content is of use: a string, or the parts of a list.
#[derive(Debug, Default)]
pub struct Content {
    /// The text, that of its parts joined.
    pub text: String,
    /// The calls whose results are among the parts.
    results: Vec<String>,
    /// A part is a tool call.
    calls_tools: bool,
}

/// A part: text has `text`, a tool's result has `tool_call_id`.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    r#type: String,
}

/// By hand, since serde's untagged enums first make a tree of whatever comes.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content { text: text.to_owned(), ..Content::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut content = Content::default();
                while let Some(part) = parts.next_element::<Part>()? {
                    content.text.push_str(part.text.as_deref().unwrap_or_default());
                    content.calls_tools |= part.r#type == "tool_call";
                    content.results.extend(part.tool_call_id);
                    if content.results.len() > MAX_LIST {
                        return Err(A::Error::invalid_length(content.results.len(), &"at most 1024 results"));
                    }
                }
                Ok(content)
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

impl Message {
    pub fn is_user(&self) -> bool {
        self.role == "user"
    }

    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// The text of its parts, joined.
    pub fn text(&self) -> &str {
        &self.content.text
    }

    /// Whether it proposes tool calls.
    pub const fn calls_tools(&self) -> bool {
        self.content.calls_tools
    }

    /// The calls whose results the message holds.
    pub fn results(&self) -> impl Iterator<Item = &str> {
        let results = if self.role == "tool" { self.content.results.as_slice() } else { &[] };
        results.iter().map(String::as_str)
    }

    /// About the memory that it takes, in bytes.
    pub fn size(&self) -> usize {
        let results = self.content.results.iter().map(|id| id.len() + 32).sum::<usize>();
        256 + self.role.len() + self.content.text.len() + results
    }
}

/// `GET /v1/sessions/{id}/tools/pending`: every call of the current batch, decided or not.
#[derive(Debug, Deserialize)]
pub struct Pending {
    pub run_id: Option<Uuid>,
    #[serde(deserialize_with = "few")]
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
