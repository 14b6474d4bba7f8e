//! Calls to the server over plain HTTP, without `sortie`.

use real_server::{Event, RealServer};
use serde_json::{Value, json};

pub fn session(server: &RealServer) -> String {
    let (status, body) = server.post("/v1/sessions", &json!({ "title": "a test" }));
    assert_eq!(status, 201, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

pub fn send(server: &RealServer, session: &str, prompt: &str) -> String {
    let message = json!({ "message": { "role": "user", "content": prompt }, "type": "message" });
    let (status, body) = server.post(&format!("/v1/sessions/{session}/messages"), &message);
    assert_eq!(status, 200, "{body}");
    body["run_id"].as_str().unwrap().to_owned()
}

pub fn decide(server: &RealServer, session: &str, run: &str, decisions: &Value) -> (u16, Value) {
    let path = format!("/v1/sessions/{session}/tools/decisions");
    server.post(&path, &json!({ "run_id": run, "decisions": decisions }))
}

/// Reads events up to and with the first of this name.
pub fn up_to(name: &str, events: &mut impl Iterator<Item = Event>) -> Vec<Event> {
    let mut seen = Vec::new();
    for event in events {
        seen.push(event);
        if seen.last().is_some_and(|event| event.name == name) {
            return seen;
        }
    }
    panic!("the stream ended before {name}: {seen:#?}");
}

pub fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}
