//! A faithful model of the agent server, steered by the test step by step: the test plays the language model and the
//! tools, and can spoil any answer and any stream.
//!
//! The server's own rules are in [`run`] (the agent loop), [`log`] (events and replay) and [`routes`] (the calls); what
//! the test does with them is here.

mod log;
mod routes;
mod run;
mod stream;

pub use log::Fields;
pub use routes::Route;
pub use run::{Action, Call, Decision, Effect, Policy, Starting, Step, call, command_task, subagent_task};
pub use stream::Fault;

use super::gate::Barrier;
pub use super::gate::Gate;
use super::http::{Connection, Ending, Listener, Request};
use super::process::Sortie;
use super::watched::Watched;
use log::{Frame, Log};
use run::{Phase, Run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The token that the server takes.
pub const TOKEN: &str = "tok-5f0c9d1e";

/// How the server is set up.
#[derive(Clone)]
pub struct Options {
    pub policy: Policy,
    /// Events kept for replay in each session.
    pub events_kept: usize,
    pub token: Option<&'static str>,
    /// A comment is sent after so much silence.
    pub keepalive: Duration,
    /// For how long the server has been up when it starts.
    pub uptime: Duration,
    /// What health says.
    pub version: &'static str,
    /// What health says of the sandbox, if anything.
    pub sandbox: Option<Value>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::usual(),
            events_kept: 4096,
            token: Some(TOKEN),
            keepalive: Duration::from_secs(15),
            uptime: Duration::from_secs(86_400),
            version: "0.3.88",
            sandbox: None,
        }
    }
}

type Script = Arc<dyn Fn(&RunHandle) + Send + Sync>;

struct Session {
    /// When it was made and last changed, in ticks of [`State::now`].
    created: u32,
    updated: u32,
    title: String,
    cwd: Option<String>,
    log: Log,
    /// As of the last checkpoint: the only part that a restart leaves.
    messages: Vec<Value>,
    /// The last one may be active.
    runs: Vec<Run>,
    state: SessionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionState {
    Idle,
    Running,
    Failed,
}

struct State {
    options: Options,
    token: Option<String>,
    sessions: BTreeMap<Uuid, Session>,
    /// Runs in the order in which they began: session, index in the session, id.
    started: Vec<(Uuid, usize, Uuid)>,
    handed_out: usize,
    /// By method, path and idempotency key: the request's body and the answer.
    answers: HashMap<String, (Value, u16, Value)>,
    requests: Vec<Logged>,
    plans: Vec<Plan>,
    gates: Vec<Barrier>,
    streams: Vec<stream::Subscriber>,
    streams_opened: usize,
    keepalives: usize,
    faults: VecDeque<Fault>,
    every_fault: Option<Fault>,
    script: Option<Script>,
    /// The state lags behind the run's end until the test says otherwise (protocol trap 8).
    lagging: bool,
    /// Runs do not start before the test lets them.
    starting: Option<Starting>,
    uptime: Duration,
    up_since: Instant,
    /// Counts what changes sessions.
    now: u32,
    down: bool,
    refused: usize,
    connections: usize,
    /// Each connection is closed after one answer, without a word.
    hangs_up: bool,
    closing: bool,
    /// What no client of ours should ever do.
    complaints: Vec<String>,
}

struct Logged {
    route: Option<Route>,
    request: Request,
    /// It has had its effect, or never will.
    settled: bool,
}

/// What is to become of a request.
#[derive(Clone)]
enum Mishap {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// It takes effect first.
    AnswerAfterwards {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    LoseRequest(Ending),
    LoseAnswer(Ending),
    Hold(Barrier),
    HoldAnswer(Barrier),
}

struct Plan {
    route: Route,
    mishap: Mishap,
    /// For this request only, not for all that follow.
    once: bool,
}

impl State {
    fn session(&mut self, id: Uuid) -> &mut Session {
        self.sessions.get_mut(&id).expect("a session")
    }

    fn active_run(&mut self, session: Uuid) -> Option<&mut Run> {
        let session = self.sessions.get_mut(&session)?;
        if session.state == SessionState::Running { session.runs.last_mut() } else { None }
    }

    /// Publishes what the session's last run has to say, and lets the session's state follow.
    fn publish(&mut self, id: Uuid) {
        let lagging = self.lagging;
        let session = self.sessions.get_mut(&id).expect("a session");
        let run = session.runs.last_mut().expect("a run");
        let frames: Vec<Arc<Frame>> = std::mem::take(&mut run.outbox)
            .iter()
            .map(|(variant, fields)| session.log.publish(id, run.id, variant, fields))
            .collect();
        if let Phase::Over(outcome) = &run.phase
            && session.state == SessionState::Running
            && !lagging
            && !run.has_sandbox
        {
            if run.started {
                session.messages.clone_from(&run.messages);
            }
            session.state = if outcome.is_ok() { SessionState::Idle } else { SessionState::Failed };
        }
        let fatal = run.decisions.iter().find(|(.., effect)| *effect == Effect::Fatal);
        if let Some((call, ..)) = fatal {
            let complaint = format!("a decision about {call} killed the run (protocol trap 2)");
            if !self.complaints.contains(&complaint) {
                self.complaints.push(complaint);
            }
        }
        self.broadcast(id, &frames);
    }

    fn broadcast(&mut self, session: Uuid, frames: &[Arc<Frame>]) {
        for subscriber in self.streams.iter_mut().filter(|subscriber| subscriber.session == session) {
            subscriber.queue.extend(frames.iter().cloned());
        }
    }
}

type Shared = Watched<State>;

/// See the module.
pub struct Agent {
    shared: Arc<Shared>,
    listener: Listener,
    reach: Reach,
}

/// Whether a client comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Must,
    May,
    MustNot,
}

impl Agent {
    /// A server as it comes: `view` is approved, `create` is asked about.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// A server with this policy.
    pub fn with_policy(policy: Policy) -> Self {
        Self::with(Options { policy, ..Options::default() })
    }

    /// A server whose runs say this and complete, before the client even learns of them (protocol trap 1).
    pub fn answering(text: &str) -> Self {
        let text = text.to_owned();
        let agent = Self::start();
        agent.script(move |run| {
            if !text.is_empty() {
                run.text(&text);
            }
            run.complete();
        });
        agent
    }

    /// A server that must not be reached.
    pub fn out_of_bounds() -> Self {
        let mut agent = Self::start();
        agent.reach = Reach::MustNot;
        agent
    }

    /// Another server, which knows nothing of the first one's sessions and takes the same token. It may stay unreached.
    pub fn replica() -> Self {
        Self::replica_with(Options::default())
    }

    /// The same, set up like this.
    pub fn replica_with(options: Options) -> Self {
        let mut agent = Self::with(options);
        agent.reach = Reach::May;
        agent
    }

    pub fn with(options: Options) -> Self {
        let uptime = options.uptime;
        let shared = Arc::new(Watched::new(State {
            token: options.token.map(str::to_owned),
            options,
            sessions: BTreeMap::new(),
            started: Vec::new(),
            handed_out: 0,
            answers: HashMap::new(),
            requests: Vec::new(),
            plans: Vec::new(),
            gates: Vec::new(),
            streams: Vec::new(),
            streams_opened: 0,
            keepalives: 0,
            faults: VecDeque::new(),
            every_fault: None,
            script: None,
            lagging: false,
            starting: None,
            uptime,
            up_since: Instant::now(),
            now: 0,
            down: false,
            refused: 0,
            connections: 0,
            hangs_up: false,
            closing: false,
            complaints: Vec::new(),
        }));
        let listener = Listener::start({
            let shared = Arc::clone(&shared);
            move |connection| routes::serve(&shared, connection)
        });
        Self { shared, listener, reach: Reach::Must }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub const fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// A command line for this server, with its token.
    pub fn sortie<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Sortie {
        Sortie::new(arguments).env("SORTIE_SERVER", self.url()).env("SORTIE_TOKEN", TOKEN)
    }

    // Runs.

    /// The next run that has begun, each once, in order.
    #[track_caller]
    pub fn next_run(&self) -> RunHandle {
        let (session, index, id) = self.shared.expect("a run to begin", |state| {
            let run = *state.started.get(state.handed_out)?;
            state.handed_out += 1;
            Some(run)
        });
        RunHandle { shared: Arc::clone(&self.shared), session, index, id }
    }

    /// How many runs have begun, whoever began them.
    pub fn runs_begun(&self) -> usize {
        self.shared.look(|state| state.started.len())
    }

    /// Plays every run by this, before the message that began it is answered (protocol trap 1).
    pub fn script(&self, script: impl Fn(&RunHandle) + Send + Sync + 'static) {
        self.shared.change(|state| state.script = Some(Arc::new(script)));
    }

    /// A session that is there already, idle.
    pub fn session(&self) -> Uuid {
        self.shared.change(|state| state.create_session("an old session", None))
    }

    /// A run begun by somebody else, in a session that is there.
    pub fn begin_run(&self, session: Uuid) -> RunHandle {
        self.begin_run_with(session, None)
    }

    /// The same, under a policy of its own.
    pub fn begin_run_with(&self, session: Uuid, policy: Option<Policy>) -> RunHandle {
        self.begin(session, policy, 64)
    }

    /// The same as [`Agent::begin_run`], and it may take the most turns that the server allows.
    pub fn begin_long_run(&self, session: Uuid) -> RunHandle {
        self.begin(session, None, 256)
    }

    fn begin(&self, session: Uuid, policy: Option<Policy>, max_turns: u64) -> RunHandle {
        let (index, id) = self.shared.change(|state| {
            let policy = policy.unwrap_or_else(|| state.options.policy.clone());
            let begun = state.begin_run(session, &json!("a prompt of somebody else"), policy, max_turns);
            state.handed_out += 1;
            begun
        });
        RunHandle { shared: Arc::clone(&self.shared), session, index, id }
    }

    /// From now on the state goes on saying `running` after a run's end, until [`Agent::catch_up`] (protocol trap 8).
    pub fn lag(&self) {
        self.shared.change(|state| state.lagging = true);
    }

    /// Lets the state follow.
    pub fn catch_up(&self) {
        self.shared.change(|state| {
            state.lagging = false;
            let running: Vec<Uuid> = state.sessions.keys().copied().collect();
            for session in running {
                if !state.session(session).runs.is_empty() {
                    state.publish(session);
                }
            }
        });
    }

    /// Runs that begin from now on have no event before [`RunHandle::start`].
    pub fn hold_starts(&self, starting: Starting) {
        self.shared.change(|state| state.starting = Some(starting));
    }

    pub fn has_session(&self, session: Uuid) -> bool {
        self.shared.look(|state| state.sessions.contains_key(&session))
    }

    /// The title and the working directory of a session.
    pub fn session_details(&self, session: Uuid) -> (String, Option<String>) {
        self.shared.look(|state| {
            let session = &state.sessions[&session];
            (session.title.clone(), session.cwd.clone())
        })
    }

    // Connections.

    /// How many connections have brought a request so far.
    pub fn connections(&self) -> usize {
        self.shared.look(|state| state.connections)
    }

    /// From now on each connection is closed after one answer, which does not say so.
    pub fn hang_up_after_answers(&self) {
        self.shared.change(|state| state.hangs_up = true);
    }

    // Requests.

    /// All requests of a kind so far.
    pub fn requests(&self, route: Route) -> Vec<Request> {
        self.shared.look(|state| {
            let of_the_kind = state.requests.iter().filter(|logged| logged.route == Some(route));
            of_the_kind.map(|logged| logged.request.clone()).collect()
        })
    }

    /// All requests so far.
    pub fn all_requests(&self) -> Vec<Request> {
        self.shared.look(|state| state.requests.iter().map(|logged| logged.request.clone()).collect())
    }

    /// The one request of a kind.
    #[track_caller]
    pub fn only_request(&self, route: Route) -> Request {
        let mut requests = self.requests(route);
        assert_eq!(requests.len(), 1, "{route:?}: {requests:#?}");
        requests.remove(0)
    }

    /// Waits until so many requests of a kind have had their effect (a gate tells when one has come), and hands out
    /// the last of them.
    #[track_caller]
    pub fn wait_for(&self, route: Route, count: usize) -> Request {
        self.shared.expect(&format!("request {count} of {route:?}"), |state| {
            let mut of_the_kind = state.requests.iter().filter(|logged| logged.route == Some(route));
            of_the_kind.nth(count - 1).filter(|logged| logged.settled).map(|logged| logged.request.clone())
        })
    }

    /// The next request of a kind that nothing is planned for yet: what is to become of it?
    pub fn next(&self, route: Route) -> Planning<'_> {
        Planning { agent: self, route, once: true }
    }

    /// All requests of a kind, once the plans for single ones are used up.
    pub fn every(&self, route: Route) -> Planning<'_> {
        Planning { agent: self, route, once: false }
    }

    /// No plan holds any more.
    pub fn behave(&self) {
        self.shared.change(|state| {
            state.plans.clear();
            state.faults.clear();
            state.every_fault = None;
            state.gates.iter().for_each(Barrier::open);
        });
    }

    // Streams.

    /// Spoils the next stream that nothing is planned for yet.
    pub fn spoil_stream(&self, fault: Fault) {
        self.shared.change(|state| state.faults.push_back(fault));
    }

    /// Spoils every stream that no single plan is for.
    pub fn spoil_streams(&self, fault: Fault) {
        self.shared.change(|state| state.every_fault = Some(fault));
    }

    /// Waits until so many streams have been opened in all.
    #[track_caller]
    pub fn wait_for_streams(&self, count: usize) {
        self.shared.expect(&format!("stream {count}"), |state| (state.streams_opened >= count).then_some(()));
    }

    /// How many streams have been opened in all.
    pub fn streams_opened(&self) -> usize {
        self.shared.look(|state| state.streams_opened)
    }

    /// Waits for so much silence on the open streams, in keep-alive intervals.
    #[track_caller]
    pub fn wait_for_silence(&self, intervals: usize) {
        let before = self.shared.look(|state| state.keepalives);
        self.shared.expect("a keep-alive comment", |state| (state.keepalives >= before + intervals).then_some(()));
    }

    /// Ends all open streams, once all that was published is out.
    #[track_caller]
    pub fn drop_streams(&self, ending: Ending) {
        let dropped: Vec<usize> = self.shared.change(|state| {
            state.streams.iter_mut().for_each(|stream| stream.ending = Some(ending));
            state.streams.iter().map(|stream| stream.key).collect()
        });
        self.shared.expect("the streams to end", |state| {
            (!state.streams.iter().any(|stream| dropped.contains(&stream.key))).then_some(())
        });
    }

    // The server as a whole.

    /// The process is killed and started again: sessions and messages are there, all else is gone (protocol trap 12).
    pub fn restart(&self) {
        self.forget();
    }

    /// The same, and the token is another.
    pub fn restart_with_token(&self, token: &str) {
        self.forget();
        self.shared.change(|state| state.token = Some(token.to_owned()));
    }

    /// The server takes another token from now on, and goes on with all else.
    pub fn set_token(&self, token: &str) {
        self.shared.change(|state| state.token = Some(token.to_owned()));
    }

    /// Health says this from now on, and counts on from it.
    pub fn set_uptime(&self, uptime: Duration) {
        self.shared.change(|state| (state.uptime, state.up_since) = (uptime, Instant::now()));
    }

    fn forget(&self) {
        self.down();
        self.set_uptime(Duration::ZERO);
        self.shared.change(|state| {
            let kept = state.options.events_kept;
            for session in state.sessions.values_mut() {
                session.log = Log::new(kept);
                session.state = SessionState::Idle;
            }
            state.answers.clear();
        });
        self.up();
    }

    /// Hangs up on everybody from now on.
    pub fn down(&self) {
        self.shared.change(|state| state.down = true);
        self.listener.hang_up();
        self.shared.expect("the streams to end", |state| state.streams.is_empty().then_some(()));
    }

    /// Serves again.
    pub fn up(&self) {
        self.shared.change(|state| state.down = false);
    }

    /// Waits until so many connections have been hung up on.
    #[track_caller]
    pub fn wait_for_refusals(&self, count: usize) {
        self.shared.expect("a connection while it is down", |state| (state.refused >= count).then_some(()));
    }

    /// Takes back the complaints of which one holds this; there must be one.
    #[track_caller]
    pub fn forgive(&self, complaint: &str) {
        let complaints = self.shared.change(|state| std::mem::take(&mut state.complaints));
        assert!(complaints.iter().any(|known| known.contains(complaint)), "{complaint:?} in {complaints:#?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.closing = true;
            state.gates.iter().for_each(Barrier::open);
        });
        self.listener.stop();
        let (requests, complaints) = self
            .shared
            .change(|state| (std::mem::take(&mut state.requests), std::mem::take(&mut state.complaints)));
        if thread::panicking() {
            // Shown with the test's failure.
            let requests: Vec<String> = requests.iter().map(|logged| format!("{:?}", logged.request)).collect();
            println!("the server was asked:\n  {}", requests.join("\n  "));
            return;
        }
        assert!(complaints.is_empty(), "the server complains: {complaints:#?}");
        match self.reach {
            Reach::Must => assert!(!requests.is_empty(), "the server was never reached"),
            Reach::May => {}
            Reach::MustNot => {
                let requests: Vec<&Request> = requests.iter().map(|logged| &logged.request).collect();
                assert!(requests.is_empty(), "the server was reached: {requests:#?}");
            }
        }
    }
}

/// What is to become of a request: see [`Agent::next`].
#[must_use]
pub struct Planning<'a> {
    agent: &'a Agent,
    route: Route,
    once: bool,
}

impl Planning<'_> {
    fn plan(self, mishap: Mishap) {
        let plan = Plan { route: self.route, mishap, once: self.once };
        self.agent.shared.change(|state| state.plans.push(plan));
    }

    fn gate(self, mishap: impl FnOnce(Barrier) -> Mishap) -> Gate {
        let barrier = Barrier::new();
        self.agent.shared.change(|state| state.gates.push(barrier.clone()));
        self.plan(mishap(barrier.clone()));
        Gate(barrier)
    }

    /// The connection ends without an answer, and nothing happened on the server.
    pub fn lose_request(self, ending: Ending) {
        self.plan(Mishap::LoseRequest(ending));
    }

    /// It takes effect on the server, but the connection ends without an answer.
    pub fn lose_answer(self, ending: Ending) {
        self.plan(Mishap::LoseAnswer(ending));
    }

    /// This is the answer, and nothing happened on the server.
    pub fn answer(self, status: u16, headers: &[(&str, &str)], body: &str) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.plan(Mishap::Answer { status, headers, body: body.as_bytes().to_vec() });
    }

    /// It takes effect on the server, but something in between answers this.
    pub fn answer_afterwards(self, status: u16, headers: &[(&str, &str)], body: &str) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.plan(Mishap::AnswerAfterwards { status, headers, body: body.as_bytes().to_vec() });
    }

    /// An error of the server's own kind.
    pub fn fail(self, status: u16, code: &str) {
        let body = json!({ "error": format!("because {code}"), "code": code, "request_id": "req_0" });
        self.answer(status, &[("content-type", "application/json")], &body.to_string());
    }

    /// It is not taken in hand before the gate opens.
    pub fn hold(self) -> Gate {
        self.gate(Mishap::Hold)
    }

    /// It takes effect, but the answer waits for the gate.
    pub fn hold_answer(self) -> Gate {
        self.gate(Mishap::HoldAnswer)
    }
}

/// A run, for the test to play. Steps that the run is not ready for wait until it is.
#[derive(Clone)]
pub struct RunHandle {
    shared: Arc<Shared>,
    pub session: Uuid,
    index: usize,
    pub id: Uuid,
}

impl RunHandle {
    #[track_caller]
    fn when<R>(&self, what: &str, mut ready: impl FnMut(&mut Run) -> Option<R>) -> R {
        let answer = self.shared.expect(what, |state| {
            let run = &mut state.session(self.session).runs[self.index];
            let over = run.is_over();
            if let Some(answer) = ready(run) {
                state.publish(self.session);
                return Some(Ok(answer));
            }
            over.then(|| Err(format!("{what}: the run is over ({:?})", run.phase)))
        });
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn as_model(&self, what: &str, act: impl FnOnce(&mut Run)) {
        let mut act = Some(act);
        self.when(what, |run| if run.phase == Phase::Inference { act.take().map(|act| act(run)) } else { None });
    }

    fn at_once(&self, act: impl FnOnce(&mut Run)) {
        self.shared.change(|state| {
            act(&mut state.session(self.session).runs[self.index]);
            state.publish(self.session);
        });
    }

    // The model.

    /// The model says a piece of the turn's text.
    #[track_caller]
    pub fn text(&self, delta: &str) {
        self.as_model(&format!("the model to say {delta:?}"), |run| run.text(delta));
    }

    /// The model calls tools, which ends its answer.
    #[track_caller]
    pub fn propose(&self, calls: impl IntoIterator<Item = Call>) {
        let calls = calls.into_iter().collect();
        self.as_model("the model to call tools", |run| run.propose(calls));
    }

    /// The model has said all: the run completes.
    #[track_caller]
    pub fn complete(&self) {
        self.complete_with("stop");
    }

    /// The same, with another finish reason.
    #[track_caller]
    pub fn complete_with(&self, finish_reason: &str) {
        self.as_model("the model to be done", |run| run.stop(finish_reason));
    }

    /// The model fails for good.
    #[track_caller]
    pub fn error(&self, error: &str, retryable: bool) {
        self.as_model("the model to fail", |run| run.error(error, retryable));
    }

    /// The server makes room in the model's context: two events (protocol trap 15).
    #[track_caller]
    pub fn compact(&self, reason: &str) {
        let after = [("tokens_before", json!(9)), ("tokens_after", json!(9)), ("truncated", json!(false))];
        self.as_model("the model to be asked", |run| {
            run.outbox.push(("CompactionStarted", vec![("reason", reason.into())]));
            run.outbox.push(("CompactionCompleted", after.into()));
        });
    }

    // The tools.

    /// Waits until a call of [`Call::held`] runs, and finishes it.
    #[track_caller]
    pub fn finish_tool(&self, id: &str, result: &str, is_error: bool) {
        self.when(&format!("the tool call {id} to run"), |run| match run.phase {
            Phase::Tool(index) if run.calls()[index].id == id => {
                run.finish_tool(index, result, is_error);
                Some(())
            }
            _ => None,
        });
    }

    /// Waits until a call of [`Call::with_slow_checkpoint`] has finished, and lets the loop go on.
    #[track_caller]
    pub fn write_checkpoint(&self, id: &str) {
        self.when(&format!("the checkpoint after {id}"), |run| match run.phase {
            Phase::Checkpoint(index) if run.calls()[index].id == id => {
                run.checkpoint_written();
                Some(())
            }
            _ => None,
        });
    }

    // The server.

    /// A run that was held at its start begins ([`Agent::hold_starts`]).
    pub fn start(&self) {
        assert!(self.attempt(Step::Start), "the run is not held at its start");
    }

    /// Takes a step if the run is ready for it, and says whether it was.
    pub fn attempt(&self, step: Step) -> bool {
        self.shared.change(|state| {
            let session = state.session(self.session);
            let run = &mut session.runs[self.index];
            let taken = run.attempt(step);
            if taken && step == Step::Start {
                session.messages.clone_from(&run.messages);
            }
            state.publish(self.session);
            taken
        })
    }

    /// The run has a sandbox: after its end the state stays `running` until [`RunHandle::tear_down`], and the last
    /// messages are written only then (protocol trap 20).
    pub fn give_sandbox(&self) {
        self.at_once(|run| run.has_sandbox = true);
    }

    /// The sandbox is gone.
    pub fn tear_down(&self) {
        self.at_once(|run| run.has_sandbox = false);
    }

    /// The run ends with this stop reason, whatever it was doing.
    pub fn end(&self, stop_reason: &str) {
        self.at_once(|run| run.end(stop_reason));
    }

    /// The run ends without a word (protocol trap 7). Before its start: its sandbox did not start (protocol trap 21).
    pub fn fail_silently(&self) {
        self.at_once(Run::fail_silently);
    }

    /// The messages are written down, as the server does every five seconds, besides at the run's end.
    pub fn write_messages(&self) {
        self.shared.change(|state| {
            let session = state.session(self.session);
            session.messages.clone_from(&session.runs[self.index].messages);
        });
    }

    /// Publishes any event for the run.
    pub fn emit(&self, variant: &'static str, fields: Fields) {
        let fields = fields.to_vec();
        self.at_once(|run| run.outbox.push((variant, fields)));
    }

    /// Publishes bytes under the session's next id.
    pub fn raw(&self, write: impl FnOnce(u64) -> Vec<u8>) {
        self.shared.change(|state| {
            let frame = state.session(self.session).log.publish_raw(write);
            state.broadcast(self.session, &[frame]);
        });
    }

    /// An event of another run in the same session.
    pub fn emit_for_another_run(&self, run: Uuid, variant: &'static str, fields: Fields) {
        let session = self.session;
        self.raw(|id| log::frame(id, session, run, variant, fields));
    }

    /// Somebody else cancels it.
    pub fn cancel(&self) {
        self.at_once(Run::cancel);
    }

    /// Somebody else decides.
    pub fn decide(&self, decisions: impl IntoIterator<Item = (&'static str, Decision)>) {
        let decisions = decisions.into_iter().map(|(id, decision)| (id.to_owned(), decision)).collect();
        self.at_once(|run| run.decide(decisions));
    }

    // What can be seen.

    /// Waits until the server is stopped at this call.
    #[track_caller]
    pub fn wait_until_waiting_at(&self, id: &str) {
        self.when(&format!("the run to wait at {id}"), |run| {
            run.waits_at().is_some_and(|call| call.id == id).then_some(())
        });
    }

    /// Waits until this call runs.
    #[track_caller]
    pub fn wait_until_running(&self, id: &str) {
        self.when(&format!("the tool call {id} to run"), |run| match run.phase {
            Phase::Tool(index) => (run.calls()[index].id == id).then_some(()),
            _ => None,
        });
    }

    /// Waits until the model is asked (again).
    #[track_caller]
    pub fn wait_until_thinking(&self) {
        self.when("the model to be asked", |run| (run.phase == Phase::Inference).then_some(()));
    }

    /// Waits until somebody has cancelled it.
    #[track_caller]
    pub fn wait_until_cancelled(&self) {
        self.when("the run to be cancelled", |run| run.cancelled.then_some(()));
    }

    /// Waits until it is over.
    #[track_caller]
    pub fn wait_until_over(&self) {
        self.when("the run to be over", |run| run.is_over().then_some(()));
    }

    pub fn is_over(&self) -> bool {
        self.shared.look(|state| state.sessions[&self.session].runs[self.index].is_over())
    }

    /// The text of its turns, as the client puts it together.
    pub fn said(&self) -> String {
        let mut said = String::new();
        self.shared.look(|state| {
            let messages = &state.sessions[&self.session].runs[self.index].messages;
            let begin = messages.iter().rposition(|message| message["role"] == "user").unwrap_or(0);
            for parts in messages[begin..].iter().filter(|message| message["role"] == "assistant") {
                for text in
                    parts["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str())
                {
                    if !said.is_empty() && !said.ends_with('\n') {
                        said.push('\n');
                    }
                    said.push_str(text);
                }
            }
        });
        said
    }

    /// What its `RunCompleted` said, if there was one.
    pub fn stop_reason(&self) -> Option<String> {
        self.shared.look(|state| state.sessions[&self.session].runs[self.index].stop_reason.clone())
    }

    pub fn is_cancelled(&self) -> bool {
        self.shared.look(|state| state.sessions[&self.session].runs[self.index].cancelled)
    }

    /// Every decision so far, and what became of it.
    pub fn decisions(&self) -> Vec<(String, Decision, Effect)> {
        self.shared.look(|state| state.sessions[&self.session].runs[self.index].decisions.clone())
    }

    /// Waits until so many decisions have been looked at.
    #[track_caller]
    pub fn wait_for_decisions(&self, count: usize) -> Vec<(String, Decision, Effect)> {
        self.shared.expect(&format!("{count} decisions"), |state| {
            let decisions = &state.session(self.session).runs[self.index].decisions;
            (decisions.len() >= count).then(|| decisions.clone())
        })
    }

    /// The last event id of the session.
    pub fn newest_event(&self) -> u64 {
        self.shared.look(|state| state.sessions[&self.session].log.newest())
    }
}
