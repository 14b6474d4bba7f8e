//! A session's events: numbered, and kept in a ring for replay.

use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// An event's payload, besides the run's id.
pub type Fields<'a> = &'a [(&'static str, Value)];

/// What goes out for one event.
pub struct Frame {
    pub id: u64,
    pub bytes: Vec<u8>,
}

/// See the module.
pub struct Log {
    kept: usize,
    next: u64,
    ring: VecDeque<Arc<Frame>>,
}

impl Log {
    /// A log that keeps so many events.
    pub const fn new(kept: usize) -> Self {
        Self { kept, next: 1, ring: VecDeque::new() }
    }

    /// Adds an event as the server writes it.
    pub fn publish(&mut self, session: Uuid, run: Uuid, variant: &str, fields: Fields) -> Arc<Frame> {
        self.publish_raw(|id| frame(id, session, run, variant, fields))
    }

    /// Adds bytes under the next id.
    pub fn publish_raw(&mut self, write: impl FnOnce(u64) -> Vec<u8>) -> Arc<Frame> {
        let id = self.next;
        self.next += 1;
        let frame = Arc::new(Frame { id, bytes: write(id) });
        self.ring.push_back(Arc::clone(&frame));
        while self.ring.len() > self.kept {
            self.ring.pop_front();
        }
        frame
    }

    /// What a new subscriber gets first: nothing without an id; all later events; or, when the next one has left the
    /// ring, `gap_detected` alone.
    pub fn replay(&self, after: Option<u64>) -> Vec<Arc<Frame>> {
        let (Some(after), Some(oldest), Some(newest)) = (after, self.ring.front(), self.ring.back()) else {
            return Vec::new();
        };
        if after.saturating_add(1) < oldest.id {
            let gap = format!(
                "event: gap_detected\ndata: {{\"requested_after_id\":{after},\"oldest_available_id\":{},\
                 \"newest_available_id\":{},\"resume_hint\":\"refresh_snapshot_then_resume\"}}\n\n",
                oldest.id, newest.id
            );
            return vec![Arc::new(Frame { id: 0, bytes: gap.into_bytes() })];
        }
        self.ring.iter().filter(|frame| frame.id > after).cloned().collect()
    }

    /// The last id given.
    pub const fn newest(&self) -> u64 {
        self.next - 1
    }
}

/// An event as the server writes it.
pub fn frame(id: u64, session: Uuid, run: Uuid, variant: &str, fields: Fields) -> Vec<u8> {
    let name = snake_case(variant);
    let rest: Map<String, Value> = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let rest = Value::Object(rest).to_string();
    let rest = rest.trim_start_matches('{');
    let comma = if fields.is_empty() { "" } else { "," };
    let timestamp = format!("2026-11-22T10:20:{:02}.{id:09}Z", id % 60);
    format!(
        "id: {id}\nevent: {name}\ndata: {{\"id\":{id},\"session_id\":\"{session}\",\"run_id\":\"{run}\",\
         \"timestamp\":\"{timestamp}\",\"event\":{{\"{variant}\":{{\"run_id\":\"{run}\"{comma}{rest}}}}}\n\n"
    )
    .into_bytes()
}

fn snake_case(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
