//! The server's agent loop, with the test in the place of the model and of the tools. Pure: it is told what happens and
//! says which events that makes. It follows `run_agent`, `run_tool_cycle` and `ApprovalStateMachine` of the published
//! server, mistakes included.

use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use uuid::Uuid;

/// What the server does with a call by itself.
/// The more restrictive one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Approve,
    Ask,
    Deny,
}

/// The operator's policy, or what a message put in its place.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Every call is asked about.
    None,
    /// Every call is approved.
    All,
    /// By the tool's name without its prefix, or by a command scope: `run_command::git::status`.
    Custom { rules: HashMap<String, Action>, default: Action },
}

impl Policy {
    /// As the server comes: `view` is approved; `create`, `run_command` and whatever it does not know are asked about.
    pub fn usual() -> Self {
        Self::approving(["view", "search_docs", "load_skill"])
    }

    /// Approves these and asks about the rest.
    pub fn approving<'a>(tools: impl IntoIterator<Item = &'a str>) -> Self {
        let rules = tools.into_iter().map(|tool| (bare_name(tool).to_owned(), Action::Approve)).collect();
        Self::Custom { rules, default: Action::Ask }
    }

    /// Approves these and denies the rest.
    pub fn only<'a>(tools: impl IntoIterator<Item = &'a str>) -> Self {
        let rules = tools.into_iter().map(|tool| (bare_name(tool).to_owned(), Action::Approve)).collect();
        Self::Custom { rules, default: Action::Deny }
    }

    fn action(&self, call: &Call) -> Action {
        match self {
            Self::None => Action::Ask,
            Self::All => Action::Approve,
            Self::Custom { rules, default } => {
                let tool = bare_name(&call.name);
                let command = call.arguments["command"].as_str().filter(|_| SHELL_TOOLS.contains(&tool));
                let parts = command.into_iter().flat_map(|command| command.split(['|', ';', '&', '\n']));
                let parts = parts.filter(|part| !part.trim().is_empty());
                let of_command = parts.map(|part| scope(rules, tool, part).unwrap_or(*default)).max();
                of_command.unwrap_or_else(|| rules.get(tool).copied().unwrap_or(*default))
            }
        }
    }

    /// The name of it in `/v1/config`.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::Custom { .. } => "custom",
        }
    }
}

/// `run_command` in a list speaks of the other three, too.
const SHELL_TOOLS: [&str; 4] = ["run_command", "run_command_task", "run_remote_command", "run_remote_command_task"];

/// The rule of the longest scope that a command's words begin with.
fn scope(rules: &HashMap<String, Action>, tool: &str, command: &str) -> Option<Action> {
    let words: Vec<&str> = command.split_whitespace().collect();
    [tool, SHELL_TOOLS[0]].into_iter().find_map(|tool| {
        let scopes = (0..=words.len()).rev().map(|count| [&[tool], &words[..count]].concat().join("::"));
        scopes.into_iter().find_map(|scope| rules.get(&scope).copied())
    })
}

fn bare_name(tool: &str) -> &str {
    tool.split_once("__").map(|(_, name)| name).filter(|name| !name.is_empty()).unwrap_or(tool)
}

/// A tool call of the script.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: Value,
    result: Option<(String, bool)>,
    slow_checkpoint: bool,
}

/// A call that succeeds at once when it is let run. The tool's name gets the server's prefix.
pub fn call(id: &str, tool: &str) -> Call {
    let name = if tool.contains("__") { tool.to_owned() } else { format!("stakpak__{tool}") };
    let result = Some(("done".to_owned(), false));
    Call { id: id.to_owned(), name, arguments: json!({ "path": "motd.txt" }), result, slow_checkpoint: false }
}

/// A call that starts a task in the background, which goes on whatever becomes of the run (protocol trap 17).
pub fn command_task(id: &str, task: &str) -> Call {
    let result = format!("Background task started:\n{{\n  \"id\": \"{task}\",\n  \"status\": \"Running\"\n}}");
    call(id, "run_command_task").with(json!({ "command": "sleep 6; touch done" })).returning(&result)
}

/// The same, of a subagent.
pub fn subagent_task(id: &str, task: &str) -> Call {
    let result = format!("🤖 Dynamic Subagent Created\n\nTask ID: {task}\nDescription: look\nStatus: Running");
    call(id, "dynamic_subagent_task").with(json!({ "description": "look" })).returning(&result)
}

impl Call {
    /// It succeeds at once with this result.
    pub fn returning(mut self, result: &str) -> Self {
        self.result = Some((result.to_owned(), false));
        self
    }

    pub fn with(mut self, arguments: Value) -> Self {
        self.arguments = arguments;
        self
    }

    /// It runs until the test finishes it.
    pub fn held(mut self) -> Self {
        self.result = None;
        self
    }

    /// It fails when it is run.
    pub fn failing(mut self) -> Self {
        self.result = Some(("no such file".to_owned(), true));
        self
    }

    /// The checkpoint that is written after it takes until the test lets it be done (protocol trap 3).
    pub fn with_slow_checkpoint(mut self) -> Self {
        self.slow_checkpoint = true;
        self
    }

    pub fn json(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "arguments": self.arguments })
    }
}

/// Something that may happen to a run, if it is ready for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A run that was held at its start begins.
    Start,
    Say(&'static str),
    /// The model has said all, and something at least.
    Complete,
    /// The model fails for good.
    Error,
    /// The tool that runs is done.
    FinishTool,
    /// The loop ends without a word (protocol traps 7 and 21).
    FailSilently,
}

/// What the client decided about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Accept,
    Reject,
    Custom(String),
}

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call waited for it.
    Applied,
    /// It came while something else was going on, and stays queued for a later call of the same id (protocol trap 3).
    Dropped,
    /// The call was not the client's to decide any more, and the run died of it (protocol trap 2).
    Fatal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Pending,
    Ready(Decision),
    Dispatched,
}

/// Why a run has not started yet: it is known, and has no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starting {
    /// The session's state is `starting`; cancels and decisions are refused.
    Actor,
    /// Its sandbox starts: the state is `running`, and a cancel is taken but not heeded (protocol trap 20).
    Sandbox,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no `RunStarted` yet.
    Starting(Starting),
    /// The model thinks: cancelling has no effect until it answers (protocol trap 6).
    Inference,
    /// The loop sleeps until a command comes; cancelling does not wake it (protocol trap 5).
    Waiting,
    /// A tool runs.
    Tool(usize),
    /// A tool has finished, and the checkpoint is being written.
    Checkpoint(usize),
    /// The loop has returned: well, or with an error.
    Over(Result<(), String>),
}

/// An event to publish.
pub type Emission = (&'static str, Vec<(&'static str, Value)>);

/// One run.
pub struct Run {
    pub id: Uuid,
    pub phase: Phase,
    /// To be published.
    pub outbox: Vec<Emission>,
    /// The conversation so far.
    pub messages: Vec<Value>,
    /// Every decision that came, in order, and what became of it.
    pub decisions: Vec<(String, Decision, Effect)>,
    pub cancelled: bool,
    /// There was a `RunStarted`. Before that nothing is written to the session's messages either.
    pub started: bool,
    /// What its `RunCompleted` said.
    pub stop_reason: Option<String>,
    /// Its sandbox is still to be torn down after its end (protocol trap 20).
    pub has_sandbox: bool,
    policy: Policy,
    max_turns: u64,
    turn: u64,
    said: String,
    commands: VecDeque<HashMap<String, Decision>>,
    queued: HashMap<String, Decision>,
    calls: Vec<Call>,
    entries: Vec<Entry>,
    next: usize,
    finished: HashSet<String>,
}

impl Run {
    /// A run that is yet to be started.
    pub fn new(id: Uuid, policy: Policy, max_turns: u64, messages: Vec<Value>) -> Self {
        Self {
            id,
            phase: Phase::Starting(Starting::Actor),
            outbox: Vec::new(),
            messages,
            decisions: Vec::new(),
            cancelled: false,
            started: false,
            stop_reason: None,
            has_sandbox: false,
            policy,
            max_turns,
            turn: 0,
            said: String::new(),
            commands: VecDeque::new(),
            queued: HashMap::new(),
            calls: Vec::new(),
            entries: Vec::new(),
            next: 0,
            finished: HashSet::new(),
        }
    }

    /// The loop begins.
    pub fn start(&mut self) {
        self.started = true;
        self.emit("RunStarted", []);
        self.next_turn();
    }

    /// The calls of the current batch, decided or not.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The call that the loop has stopped at.
    pub fn waits_at(&self) -> Option<&Call> {
        (self.phase == Phase::Waiting).then(|| &self.calls[self.next])
    }

    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    fn emit<const N: usize>(&mut self, variant: &'static str, fields: [(&'static str, Value); N]) {
        self.outbox.push((variant, fields.into()));
    }

    /// Takes a step if the run is ready for it, and says whether it was.
    pub fn attempt(&mut self, step: Step) -> bool {
        match (step, &self.phase) {
            (_, Phase::Over(_)) => return false,
            (Step::FailSilently, _) => self.fail_silently(),
            (Step::Start, Phase::Starting(_)) => self.start(),
            (Step::Say(text), Phase::Inference) => self.text(text),
            (Step::Complete, Phase::Inference) => {
                if self.said.is_empty() {
                    self.text("Done. ");
                }
                self.stop("stop");
            }
            (Step::Error, Phase::Inference) => self.error("the model is out of order", false),
            (Step::FinishTool, Phase::Tool(index)) => self.finish_tool(*index, "done", false),
            _ => return false,
        }
        true
    }

    // What the model does.

    /// A piece of the turn's text.
    pub fn text(&mut self, delta: &str) {
        self.said.push_str(delta);
        self.emit("TextDelta", [("delta", delta.into())]);
    }

    /// The answer is complete, with these calls in it.
    pub fn propose(&mut self, calls: Vec<Call>) {
        let mut parts = self.said_parts();
        parts.extend(calls.iter().map(
            |call| json!({ "type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments }),
        ));
        self.messages.push(json!({ "role": "assistant", "content": parts }));
        self.answered();
        let ids: Vec<&str> = calls.iter().map(|call| call.id.as_str()).collect();
        let pending = json!(ids);
        self.emit("ToolCallsProposed", [("tool_calls", calls.iter().map(Call::json).collect())]);
        self.emit("WaitingForToolApproval", [("pending_tool_call_ids", pending)]);
        self.entries = calls.iter().map(|call| Self::entry(self.policy.action(call))).collect();
        self.calls = calls;
        self.next = 0;
        self.finished.clear();
        let early: Vec<(String, Decision)> =
            self.calls.iter().filter_map(|call| self.queued.remove_entry(&call.id)).collect();
        match self.resolve(early) {
            Ok(()) => self.cycle(),
            Err(error) => self.over(Err(error)),
        }
    }

    const fn entry(action: Action) -> Entry {
        match action {
            Action::Approve => Entry::Ready(Decision::Accept),
            Action::Deny => Entry::Ready(Decision::Reject),
            Action::Ask => Entry::Pending,
        }
    }

    /// The answer is complete, without calls: the run ends.
    pub fn stop(&mut self, finish_reason: &str) {
        let parts = self.said_parts();
        if !parts.is_empty() {
            self.messages.push(json!({ "role": "assistant", "content": parts }));
        }
        self.answered();
        self.turn_completed(finish_reason);
        self.run_completed(if finish_reason == "error" { "error" } else { "completed" });
    }

    fn said_parts(&self) -> Vec<Value> {
        if self.said.is_empty() { Vec::new() } else { vec![json!({ "type": "text", "text": self.said })] }
    }

    fn answered(&mut self) {
        let text = std::mem::take(&mut self.said);
        if !text.is_empty() {
            self.emit("TextComplete", [("text", text.into())]);
        }
        let usage = json!({
            "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
            "input_token_details": { "total": 11, "no_cache": 11 }, "output_token_details": { "total": 7 },
        });
        self.emit("UsageReport", [("turn", self.turn.into()), ("usage", usage)]);
    }

    /// The model cannot be had.
    pub fn error(&mut self, error: &str, retryable: bool) {
        self.emit("RunError", [("error", error.into()), ("retryable", retryable.into())]);
        self.over(Err(error.to_owned()));
    }

    /// The loop ends without a word (protocol trap 7).
    pub fn fail_silently(&mut self) {
        self.over(Err("checkpoint storage is unavailable".to_owned()));
    }

    /// The run says that it ended like this, whatever it was doing.
    pub fn end(&mut self, stop_reason: &str) {
        self.run_completed(stop_reason);
    }

    // What the tools do.

    /// The tool that runs is done.
    pub fn finish_tool(&mut self, index: usize, result: &str, is_error: bool) {
        if self.tool_done(index, result, is_error) {
            self.cycle();
        }
    }

    /// The checkpoint after a tool is written.
    pub fn checkpoint_written(&mut self) {
        self.drain();
        self.cycle();
    }

    /// Whether the loop goes on: it does not while the checkpoint is being written.
    fn tool_done(&mut self, index: usize, result: &str, is_error: bool) -> bool {
        self.completed(index, result, is_error);
        if self.calls[index].slow_checkpoint {
            self.phase = Phase::Checkpoint(index);
            return false;
        }
        self.drain();
        true
    }

    fn completed(&mut self, index: usize, result: &str, is_error: bool) {
        let call = self.tool_result(index, result);
        self.emit(
            "ToolExecutionCompleted",
            [
                ("tool_call_id", call.id.into()),
                ("tool_name", call.name.into()),
                ("result", result.into()),
                ("is_error", is_error.into()),
            ],
        );
    }

    fn tool_result(&mut self, index: usize, content: &str) -> Call {
        let call = self.calls[index].clone();
        self.finished.insert(call.id.clone());
        let part = json!({ "type": "tool_result", "tool_call_id": call.id, "content": content });
        self.messages.push(json!({ "role": "tool", "content": [part] }));
        call
    }

    // What clients do.

    /// Decisions have arrived.
    pub fn decide(&mut self, decisions: HashMap<String, Decision>) {
        self.commands.push_back(decisions);
        if self.phase == Phase::Waiting {
            self.next_command();
        }
    }

    /// Somebody wants it to stop.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        if let Phase::Tool(index) = self.phase {
            self.completed(index, CANCELLED, true);
            self.cycle();
        }
    }

    // The loop.

    fn next_turn(&mut self) {
        self.drain();
        if self.cancelled {
            return self.run_completed("cancelled");
        }
        if self.turn >= self.max_turns {
            return self.run_completed("max_turns");
        }
        self.turn += 1;
        self.emit("TurnStarted", [("turn", self.turn.into())]);
        self.phase = Phase::Inference;
    }

    fn cycle(&mut self) {
        loop {
            if self.cancelled {
                for index in 0..self.calls.len() {
                    if !self.finished.contains(&self.calls[index].id) {
                        self.completed(index, CANCELLED, true);
                    }
                }
                self.turn_completed("cancelled");
                return self.run_completed("cancelled");
            }
            if let Some((index, decision)) = self.next_ready() {
                if !self.dispatch(index, decision) {
                    return;
                }
            } else if self.next >= self.entries.len() {
                self.turn_completed("tool_calls");
                return self.next_turn();
            } else {
                return self.next_command();
            }
        }
    }

    fn next_ready(&mut self) -> Option<(usize, Decision)> {
        let entry = self.entries.get_mut(self.next)?;
        let Entry::Ready(decision) = entry.clone() else { return None };
        *entry = Entry::Dispatched;
        self.next += 1;
        Some((self.next - 1, decision))
    }

    /// Whether the loop goes on.
    fn dispatch(&mut self, index: usize, decision: Decision) -> bool {
        let Call { id, name, result, .. } = self.calls[index].clone();
        match decision {
            Decision::Accept => {
                self.emit("ToolExecutionStarted", [("tool_call_id", id.into()), ("tool_name", name.into())]);
                let Some((result, is_error)) = result else {
                    self.phase = Phase::Tool(index);
                    return false;
                };
                return self.tool_done(index, &result, is_error);
            }
            Decision::Reject => {
                self.tool_result(index, REJECTED);
                self.emit(
                    "ToolRejected",
                    [("tool_call_id", id.into()), ("tool_name", name.into()), ("reason", REJECTED.into())],
                );
            }
            Decision::Custom(content) => self.completed(index, &content, false),
        }
        self.drain();
        true
    }

    fn next_command(&mut self) {
        self.phase = Phase::Waiting;
        let Some(decisions) = self.commands.pop_front() else { return };
        let (now, later): (Vec<_>, Vec<_>) =
            decisions.into_iter().partition(|(id, _)| self.calls.iter().any(|call| call.id == *id));
        self.queue(later);
        match self.resolve(now) {
            Ok(()) => self.cycle(),
            Err(error) => self.over(Err(error)),
        }
    }

    fn resolve(&mut self, decisions: Vec<(String, Decision)>) -> Result<(), String> {
        for (id, decision) in decisions {
            let index = self.calls.iter().position(|call| call.id == id);
            let entry = index.map(|index| &mut self.entries[index]);
            let effect = match entry {
                Some(entry) if *entry == Entry::Pending => {
                    *entry = Entry::Ready(decision.clone());
                    Effect::Applied
                }
                Some(entry) if *entry == Entry::Ready(decision.clone()) => Effect::Applied,
                _ => Effect::Fatal,
            };
            self.decisions.push((id.clone(), decision, effect));
            if effect == Effect::Fatal {
                return Err(format!("tool_call_id {id} is already resolved"));
            }
        }
        Ok(())
    }

    /// What came while the loop was busy is kept for a call that is yet to be proposed.
    fn drain(&mut self) {
        while let Some(decisions) = self.commands.pop_front() {
            self.queue(decisions.into_iter().collect());
        }
    }

    fn queue(&mut self, decisions: Vec<(String, Decision)>) {
        for (id, decision) in decisions {
            self.decisions.push((id.clone(), decision.clone(), Effect::Dropped));
            self.queued.insert(id, decision);
        }
    }

    fn turn_completed(&mut self, finish_reason: &str) {
        self.calls.clear();
        self.entries.clear();
        self.emit("TurnCompleted", [("turn", self.turn.into()), ("finish_reason", finish_reason.into())]);
    }

    fn run_completed(&mut self, stop_reason: &str) {
        self.stop_reason = Some(stop_reason.to_owned());
        let usage = json!({
            "prompt_tokens": 11 * self.turn, "completion_tokens": 7 * self.turn, "total_tokens": 18 * self.turn,
        });
        self.emit(
            "RunCompleted",
            [("total_turns", self.turn.into()), ("total_usage", usage), ("stop_reason", stop_reason.into())],
        );
        self.over(Ok(()));
    }

    fn over(&mut self, outcome: Result<(), String>) {
        self.calls.clear();
        self.entries.clear();
        self.phase = Phase::Over(outcome);
    }
}

const CANCELLED: &str = "TOOL_CALL_CANCELLED";
const REJECTED: &str = "Tool call rejected by user";
