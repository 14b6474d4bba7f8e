//! A run that is over: its messages are all there, and of its events only the newest.

use crate::stream::{Framing, Wire};
use std::collections::VecDeque;

/// Events that the server still has.
const KEPT: usize = 64;

pub struct Past {
    messages: Vec<String>,
    /// The newest events, each in a chunk of its own.
    events: VecDeque<Vec<u8>>,
    newest: u64,
    /// What `--output text` must make of it.
    pub text: String,
}

impl Past {
    /// A run of so many turns, each but the last with a tool call: two messages a turn.
    pub fn new(turns: usize) -> Self {
        let messages = vec!["{\"role\":\"user\",\"content\":\"do it\"}".into()];
        let mut past = Self { messages, events: VecDeque::new(), newest: 0, text: String::new() };
        let mut wire = Wire::new(Framing::Event);
        past.event(&mut wire, "run_started", "RunStarted", &[]);
        for turn in 1..=turns {
            past.turn(&mut wire, turn, turn == turns);
        }
        let end = [",\"total_turns\":", &turns.to_string(), ",\"stop_reason\":\"completed\""];
        past.event(&mut wire, "run_completed", "RunCompleted", &end);
        past
    }

    fn turn(&mut self, wire: &mut Wire, turn: usize, is_last: bool) {
        let text = &format!("Turn {turn} looks at the next of the hosts, and finds nothing that is wrong with it.");
        let number = &turn.to_string();
        self.event(wire, "turn_started", "TurnStarted", &[",\"turn\":", number]);
        self.event(wire, "text_delta", "TextDelta", &[",\"delta\":\"", text, "\""]);
        if is_last {
            self.messages.push(format!("{{\"role\":\"assistant\",\"content\":\"{text}\"}}"));
        } else {
            let call =
                format!("\"id\":\"call_{turn}\",\"name\":\"view\",\"arguments\":{{\"path\":\"/etc/hosts\"}}");
            let calls = format!(",\"tool_calls\":[{{{call}}}]");
            self.event(wire, "tool_calls_proposed", "ToolCallsProposed", &[&calls]);
            let result = "10.0.0.1 a host\\n".repeat(20);
            let id = &format!(",\"tool_call_id\":\"call_{turn}\",\"tool_name\":\"view\"");
            self.event(wire, "tool_execution_started", "ToolExecutionStarted", &[id]);
            let done = [id, ",\"result\":\"", &result, "\",\"is_error\":false"];
            self.event(wire, "tool_execution_completed", "ToolExecutionCompleted", &done);
            self.messages.push(format!(
                "{{\"role\":\"assistant\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}},\
                 {{\"type\":\"tool_call\",{call}}}]}}"
            ));
            self.messages.push(format!(
                "{{\"role\":\"tool\",\"content\":[{{\"type\":\"tool_result\",\"tool_call_id\":\"call_{turn}\",\
                 \"content\":\"{result}\"}}]}}"
            ));
        }
        let finish = if is_last { "stop" } else { "tool_calls" };
        let finish = [",\"turn\":", number, ",\"finish_reason\":\"", finish, "\""];
        self.event(wire, "turn_completed", "TurnCompleted", &finish);
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn event(&mut self, wire: &mut Wire, name: &str, variant: &str, payload: &[&str]) {
        wire.event(name, variant, payload);
        self.events.push_back(wire.take());
        self.newest += 1;
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
    }

    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// The page that `offset=…&limit=…` asks for.
    pub fn page(&self, query: &str) -> String {
        let asked = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<usize>().ok())
        };
        let from = asked("offset").unwrap_or(0).min(self.messages.len());
        let to = from.saturating_add(asked("limit").unwrap_or(100)).min(self.messages.len());
        format!("{{\"messages\":[{}],\"total\":{}}}", self.messages[from..to].join(","), self.messages.len())
    }

    /// The events after this one, or that they are gone.
    pub fn replay(&self, after: u64) -> Vec<u8> {
        let oldest = self.newest + 1 - self.events.len() as u64;
        if after + 1 >= oldest {
            let told = (after + 1 - oldest) as usize;
            return self.events.iter().skip(told).flatten().copied().collect();
        }
        let gap = format!(
            "event: gap_detected\ndata: {{\"requested_after_id\":{after},\"oldest_available_id\":{oldest},\
             \"newest_available_id\":{},\"resume_hint\":\"refresh_snapshot_then_resume\"}}\n\n",
            self.newest
        );
        format!("{:x}\r\n{gap}\r\n", gap.len()).into_bytes()
    }
}
