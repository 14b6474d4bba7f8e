//! The command line's contract, kept by the built `sortie` on the published server.

mod answers;
mod decisions;
mod dropped;
mod failures;
mod host;
mod interruptions;
mod known;
mod pauses;
mod plain;
mod replays;
mod scopes;
mod sessions;
mod soak;

use serde_json::Value;

/// What the model is told of every call that the server runs: the tests' server has no tools.
const NO_TOOLS: &str = "MCP client is not initialized";

/// What the model is told of a call that was rejected without a reason.
const REJECTED: &str = "Tool call rejected by user";

/// A text field of a record.
#[track_caller]
fn field<'a>(record: &'a Value, name: &str) -> &'a str {
    let value = record[name].as_str();
    value.unwrap_or_else(|| panic!("no text in {name}: {record:#}"))
}

/// The ids of the calls that a record says are waiting.
#[track_caller]
fn waiting(record: &Value) -> Vec<&str> {
    let calls = record["pause_reason"]["pending_tool_calls"].as_array();
    let calls = calls.unwrap_or_else(|| panic!("no calls: {record:#}"));
    calls.iter().map(|call| field(call, "id")).collect()
}
