//! Reads a frame of the stream as an event of the protocol. Texts are borrowed from the frame if JSON allows it,
//! because most events are text that is written out at once.

use crate::agent::json::{self, without_long_texts};
use crate::agent::sse::Frame;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The most entries of a list: the tool calls of a turn, the messages of a page. An entry of three bytes may take a
/// hundred bytes of memory.
pub(crate) const MAX_LIST: usize = 1024;
/// The longest ID or name of a tool call, in bytes. Both are copied several times.
pub(crate) const MAX_NAME: usize = 1024;

/// A JSON string, borrowed if it contains no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// The object that contains each event.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Envelope<'a> {
    /// The run that the event belongs to.
    #[serde(borrow, default)]
    pub run_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub event: Event<'a>,
    /// All of the frame's data was parsed, so it is valid JSON.
    #[serde(skip, default = "yes")]
    pub is_json: bool,
}

const fn yes() -> bool {
    true
}

/// `gap_detected`, the only event without an envelope.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// The oldest event ID that the server still has. To replay from it, ask for the events after the ID before it.
    pub oldest_available_id: u64,
    /// The newest event ID at this time: a replay is complete with this event.
    #[serde(default)]
    pub newest_available_id: Option<u64>,
}

/// Declares the protocol's events from one list: the variants of [`Event`] with their payloads, the variant names in
/// the JSON, and the `event:` names of the frames, which are the same names in snake case.
macro_rules! events {
    ($($variant:ident $(($payload:ty))?,)*) => {
        /// One event of a run, with the fields that we use.
        #[derive(Debug, PartialEq)]
        pub enum Event<'a> {
            $($variant $(($payload))?,)*
            /// A variant that this version does not know.
            Unknown,
        }

        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        #[derive(Deserialize)]
        #[serde(field_identifier)]
        enum Variant {
            $($variant,)*
            #[serde(other)]
            Unknown,
        }

        impl Variant {
            /// Reads the payload of this variant.
            fn read<'a, A: MapAccess<'a>>(self, map: &mut A) -> Result<Event<'a>, A::Error> {
                match self {
                    $(Self::$variant => events!(@read map $variant $($payload)?),)*
                    Self::Unknown => events!(@read map Unknown),
                }
            }
        }
    };
    (@read $map:ident $variant:ident $payload:ty) => { $map.next_value().map(Event::$variant) };
    (@read $map:ident $variant:ident) => { $map.next_value().map(|IgnoredAny| Event::$variant) };
}

// The events of protocol 0.3.88. The large payloads are rare and boxed, since text deltas are moved a few times each.
events! {
    RunStarted,
    TurnStarted(Turn),
    TurnCompleted(TurnEnd<'a>),
    TextDelta(Delta<'a>),
    ThinkingDelta,
    TextComplete(Complete<'a>),
    ToolCallsProposed(Proposal),
    WaitingForToolApproval,
    ToolExecutionStarted(Box<Tool<'a>>),
    ToolExecutionProgress(Box<Tool<'a>>),
    ToolExecutionCompleted(Box<Tool<'a>>),
    ToolRejected(Box<Tool<'a>>),
    RetryAttempt(Retry<'a>),
    CompactionStarted(Compaction<'a>),
    CompactionCompleted(Compacted),
    UsageReport(Report),
    RunCompleted(Completion<'a>),
    RunError(RunFailure<'a>),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Turn {
    /// The number of the turn, from 1.
    pub turn: u64,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct TurnEnd<'a> {
    /// `stop`, `tool_calls`, `max_output_tokens` (the answer is cut), `cancelled` or `error`.
    #[serde(borrow, default)]
    pub finish_reason: Option<Text<'a>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Delta<'a> {
    #[serde(borrow)]
    pub delta: Text<'a>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Complete<'a> {
    #[serde(borrow)]
    pub text: Text<'a>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub struct Proposal {
    #[serde(deserialize_with = "few")]
    pub tool_calls: Vec<ToolCall>,
}

/// A tool call, as in the protocol, in the record and in the input of the policy program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The server's ID of the call.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// The tool's name, with the server's prefix (`stakpak__view`; protocol trap 14).
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The arguments that the model gave.
    #[serde(default)]
    pub arguments: Arguments,
}

/// The arguments of a tool call: JSON on one line. They are passed on and never read, so they are kept as text, which
/// takes much less memory than a tree of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments(Arc<str>);

impl Arguments {
    /// Returns the JSON.
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl Default for Arguments {
    fn default() -> Self {
        Self("null".into())
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        // A line break in JSON is always between two tokens, where a space means the same.
        let is_one_line = !raw.contains(['\n', '\r']);
        Ok(Self(if is_one_line { raw.into() } else { raw.replace(['\n', '\r'], " ").into() }))
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = Text::deserialize(deserializer)?;
    if name.len() > MAX_NAME {
        return Err(Error::invalid_length(name.len(), &"an id or a name of at most 1024 bytes"));
    }
    Ok(name.0.into_owned())
}

/// Reads a list of at most [`MAX_LIST`] entries.
pub(crate) fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_LIST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut few = Vec::new();
            while let Some(entry) = list.next_element()? {
                if few.len() == MAX_LIST {
                    return Err(Error::invalid_length(MAX_LIST + 1, &self));
                }
                few.push(entry);
            }
            Ok(few)
        }
    }

    deserializer.deserialize_seq(Few(PhantomData))
}

/// What happened to a tool call. An execution that has ended has a `result`, its progress a `message`, and a
/// rejection a `reason`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Tool<'a> {
    #[serde(borrow)]
    pub tool_call_id: Text<'a>,
    #[serde(borrow, default)]
    pub tool_name: Text<'a>,
    #[serde(borrow, default)]
    pub message: Text<'a>,
    #[serde(borrow, default)]
    pub result: Text<'a>,
    #[serde(borrow, default)]
    pub reason: Text<'a>,
    #[serde(default)]
    pub is_error: bool,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Retry<'a> {
    pub attempt: u64,
    #[serde(default)]
    pub delay_ms: u64,
    #[serde(borrow, default)]
    pub reason: Text<'a>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Compaction<'a> {
    /// Why the server shortens the conversation; often the model provider's error.
    #[serde(borrow, default)]
    pub reason: Text<'a>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Compacted {
    pub tokens_before: Option<u64>,
    pub tokens_after: Option<u64>,
    /// Messages were dropped, not summarized.
    pub truncated: bool,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Report {
    pub usage: Usage,
}

/// Token counts, as the server reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
}

impl Usage {
    /// Adds the counts of another turn. A sum that would overflow stays at the maximum.
    pub fn add(&mut self, turn: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(turn.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(turn.completion_tokens);
        self.total_tokens = self.total_tokens.saturating_add(turn.total_tokens);
    }
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Completion<'a> {
    #[serde(default)]
    pub total_turns: Option<u64>,
    #[serde(default)]
    pub total_usage: Option<Usage>,
    #[serde(borrow)]
    pub stop_reason: Text<'a>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct RunFailure<'a> {
    #[serde(borrow)]
    pub error: Text<'a>,
    #[serde(default)]
    pub retryable: bool,
}

/// An event of the protocol does not have the protocol's shape. The string says what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Reads a frame that is not a gap: see [`gap`].
///
/// # Errors
/// [`Malformed`] for an event of the protocol whose data does not have the protocol's shape. A frame of another name is
/// never an error, since newer servers may send one: it is an unknown event, without a run if its data cannot be read.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<Envelope<'a>, Malformed> {
    match read(frame.data) {
        Ok(envelope) => Ok(envelope),
        Err(_) if !is_known(frame.event) => Ok(Envelope { run_id: None, event: Event::Unknown, is_json: false }),
        Err(error) => Err(Malformed(format!("the {} event: {error}", frame.event))),
    }
}

/// Reads the gap that a frame reports; `None` for every other frame.
///
/// # Errors
/// [`Malformed`] if its data does not have the protocol's shape.
pub fn gap(frame: &Frame<'_>) -> Option<Result<Gap, Malformed>> {
    let malformed = |error| Malformed(format!("the {} event: {error}", frame.event));
    (frame.event == "gap_detected").then(|| json::object(frame.data.as_bytes()).map_err(malformed))
}

fn read(data: &str) -> serde_json::Result<Envelope<'_>> {
    if let Some(short) = without_long_texts(data) {
        serde_json::from_str::<Envelope<'_>>(&short)?;
    }
    serde_json::from_str(data)
}

/// Returns whether the frame's name is one of the protocol's, so that its data must have the protocol's shape.
fn is_known(name: &str) -> bool {
    ["message", "gap_detected"].contains(&name) || VARIANTS.iter().any(|variant| snake_case(variant) == name)
}

/// Returns `TextDelta` as `text_delta`.
fn snake_case(variant: &str) -> String {
    let mut name = String::new();
    for c in variant.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// Written by hand: with serde's derive an unknown variant would be an error, but newer servers may send one.
impl<'de: 'a, 'a> Deserialize<'de> for Event<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventVisitor;

        impl<'de> Visitor<'de> for EventVisitor {
            type Value = Event<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event: {\"Variant\":{…}}")
            }

            /// A variant without a payload is a string. All variants that we know have a payload.
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Event::Unknown)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let Some(variant) = map.next_key::<Variant>()? else { return Ok(Event::Unknown) };
                let event = variant.read(&mut map)?;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(event)
            }
        }

        deserializer.deserialize_any(EventVisitor)
    }
}

#[cfg(test)]
mod tests;
