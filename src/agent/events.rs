//! A frame of the stream → one event of the protocol. Strings are borrowed from the frame wherever JSON allows it, since
//! most events are text that goes straight out again.

use crate::agent::sse::Frame;
use crate::outcome::Usage;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The most entries of a list: the calls of a turn, the messages of a page. What takes three bytes to say may take a
/// hundred to keep.
pub const MAX_LIST: usize = 1024;
/// The longest id or name of a tool call, in bytes: it is kept and passed on, more than once.
pub const MAX_NAME: usize = 1024;

/// A JSON string, borrowed where it holds no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// What a frame turned out to be.
#[derive(Debug, PartialEq)]
pub enum Item<'a> {
    /// An event of some run of the session.
    Event(Envelope<'a>),
    /// The asked-for id has left the server's ring; nothing is replayed.
    Gap(Gap),
}

/// The wrapper that the server puts round each event.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Envelope<'a> {
    /// The run that the event belongs to.
    #[serde(borrow, default)]
    pub run_id: Option<Text<'a>>,
    /// The event itself.
    #[serde(borrow)]
    pub event: Event<'a>,
}

/// `gap_detected`, the one event without an envelope.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// The oldest id that the server still has; ask for what follows the one before it.
    pub oldest_available_id: u64,
    /// The newest id that the server had when it found the gap.
    #[serde(default)]
    pub newest_available_id: Option<u64>,
}

/// The events of protocol 0.3.88, with the fields that we use. A variant that we do not know is [`Event::Unknown`]. The
/// largest, which are rare, are boxed: text deltas are moved a few times each.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    RunStarted,
    TurnStarted(Turn),
    TurnCompleted(Turn),
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
    CompactionStarted,
    CompactionCompleted,
    UsageReport(Report),
    RunCompleted(Completion<'a>),
    RunError(RunFailure<'a>),
    Unknown,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Turn {
    pub turn: u64,
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

/// A tool call as the record, the policy program and the wire have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The server's id of the call.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// The name, with the server's prefix (`stakpak__view`; protocol trap 14).
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The arguments as the model gave them.
    #[serde(default)]
    pub arguments: Arguments,
}

/// A call's arguments: JSON that is passed on and never looked into, and so kept as text, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments(Arc<str>);

impl Arguments {
    /// The JSON.
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
        // Line breaks between tokens are white space, and inside strings JSON allows none.
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

/// A list of at most [`MAX_LIST`] entries.
pub fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
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

/// What happened to a call. `result` comes with the end of an execution, `message` with its progress, `reason` with a
/// rejection.
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
pub struct Report {
    pub usage: Usage,
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

/// The frame was one of the protocol's events, but not of its shape; the string says how.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Reads a frame.
///
/// # Errors
/// [`Malformed`] for an event of the protocol whose data is not what the protocol says. Frames of other names are never
/// an error, and at worst an unknown event of no run: a newer server may send them.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<Item<'a>, Malformed> {
    let decoded = place_texts(frame.data.as_bytes()).and_then(|()| {
        if frame.event == "gap_detected" {
            serde_json::from_str(frame.data).map(Item::Gap)
        } else {
            serde_json::from_str(frame.data).map(Item::Event)
        }
    });
    match decoded {
        Ok(item) => Ok(item),
        Err(_) if !NAMES.contains(&frame.event) => {
            Ok(Item::Event(Envelope { run_id: None, event: Event::Unknown }))
        }
        Err(error) => Err(Malformed(format!("the {} event: {error}", frame.event))),
    }
}

/// The gap that a frame tells of; `None` for every other frame.
pub fn gap(frame: &Frame<'_>) -> Option<Result<Gap, Malformed>> {
    (frame.event == "gap_detected").then(|| {
        let gap = place_texts(frame.data.as_bytes()).and_then(|()| serde_json::from_str(frame.data));
        gap.map_err(|error| Malformed(format!("the {} event: {error}", frame.event)))
    })
}

/// Refuses a long text where the protocol has something else. Serde would quote it whole in its error, which takes up to
/// six times its length.
///
/// # Errors
/// How long it is.
pub fn place_texts(json: &[u8]) -> serde_json::Result<()> {
    if json.len() <= LONG {
        return Ok(());
    }
    match (Place { key: "", depth: 0 }).deserialize(&mut serde_json::Deserializer::from_slice(json)) {
        // Whatever else is wrong is told as usual.
        Err(error) if !error.is_data() => Ok(()),
        placed => placed,
    }
}

/// A text of more bytes must be in its place.
const LONG: usize = 64 * 1024;
/// What the protocol has no text for; a call's, an entry's, an event's place has no name.
const NO_TEXTS: [&str; 18] = [
    "",
    "event",
    "turn",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "tool_calls",
    "is_error",
    "attempt",
    "delay_ms",
    "total_turns",
    "total_usage",
    "retryable",
    "oldest_available_id",
    "messages",
    "session",
    "run_status",
];
/// What may be long, and need not be unescaped to be passed over.
const TEXTS: [&str; 7] = ["arguments", "delta", "text", "result", "message", "reason", "error"];
/// Deeper than this the protocol has nothing that is read.
const DEEPEST: u8 = 8;

/// A value, by the key that it stands at.
#[derive(Clone, Copy)]
struct Place<'k> {
    key: &'k str,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth > DEEPEST || TEXTS.contains(&self.key) {
            return IgnoredAny::deserialize(deserializer).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if text.len() > LONG && NO_TEXTS.contains(&self.key) {
            return Err(E::custom(format_args!("a text of {} bytes where none belongs", text.len())));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let key = if ["tool_calls", "messages", "content"].contains(&self.key) { "" } else { "any" };
        while list.next_element_seed(Place { key, depth: self.depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text<'_>>()? {
            let key = if self.key == "event" { "" } else { &*key };
            map.next_value_seed(Place { key, depth: self.depth + 1 })?;
        }
        Ok(())
    }
}

/// The `event:` names of the frames that must have the protocol's shape.
const NAMES: [&str; 20] = [
    "message",
    "gap_detected",
    "run_started",
    "turn_started",
    "turn_completed",
    "text_delta",
    "thinking_delta",
    "text_complete",
    "tool_calls_proposed",
    "waiting_for_tool_approval",
    "tool_execution_started",
    "tool_execution_progress",
    "tool_execution_completed",
    "tool_rejected",
    "retry_attempt",
    "compaction_started",
    "compaction_completed",
    "usage_report",
    "run_completed",
    "run_error",
];

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Variant {
    RunStarted,
    TurnStarted,
    TurnCompleted,
    TextDelta,
    ThinkingDelta,
    TextComplete,
    ToolCallsProposed,
    WaitingForToolApproval,
    ToolExecutionStarted,
    ToolExecutionProgress,
    ToolExecutionCompleted,
    ToolRejected,
    RetryAttempt,
    CompactionStarted,
    CompactionCompleted,
    UsageReport,
    RunCompleted,
    RunError,
    #[serde(other)]
    Unknown,
}

/// By hand, since serde's derive makes an unknown variant an error.
impl<'de: 'a, 'a> Deserialize<'de> for Event<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventVisitor;

        impl<'de> Visitor<'de> for EventVisitor {
            type Value = Event<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event: {\"Variant\":{…}}")
            }

            /// A variant without a payload is a bare string; none that we use is.
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Event::Unknown)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let Some(variant) = map.next_key::<Variant>()? else { return Ok(Event::Unknown) };
                let event = match variant {
                    Variant::TextDelta => Event::TextDelta(map.next_value()?),
                    Variant::TextComplete => Event::TextComplete(map.next_value()?),
                    Variant::TurnStarted => Event::TurnStarted(map.next_value()?),
                    Variant::TurnCompleted => Event::TurnCompleted(map.next_value()?),
                    Variant::ToolCallsProposed => Event::ToolCallsProposed(map.next_value()?),
                    Variant::ToolExecutionStarted => Event::ToolExecutionStarted(map.next_value()?),
                    Variant::ToolExecutionProgress => Event::ToolExecutionProgress(map.next_value()?),
                    Variant::ToolExecutionCompleted => Event::ToolExecutionCompleted(map.next_value()?),
                    Variant::ToolRejected => Event::ToolRejected(map.next_value()?),
                    Variant::RetryAttempt => Event::RetryAttempt(map.next_value()?),
                    Variant::UsageReport => Event::UsageReport(map.next_value()?),
                    Variant::RunCompleted => Event::RunCompleted(map.next_value()?),
                    Variant::RunError => Event::RunError(map.next_value()?),
                    bare => {
                        map.next_value::<IgnoredAny>()?;
                        match bare {
                            Variant::RunStarted => Event::RunStarted,
                            Variant::ThinkingDelta => Event::ThinkingDelta,
                            Variant::WaitingForToolApproval => Event::WaitingForToolApproval,
                            Variant::CompactionStarted => Event::CompactionStarted,
                            Variant::CompactionCompleted => Event::CompactionCompleted,
                            _ => Event::Unknown,
                        }
                    }
                };
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(event)
            }
        }

        deserializer.deserialize_any(EventVisitor)
    }
}

#[cfg(test)]
mod tests;
