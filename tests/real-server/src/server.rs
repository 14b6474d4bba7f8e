//! The published server, hosted on loopback.

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
};
use serde_json::Value;
use stakai::{
    Inference,
    providers::openai::{OpenAIConfig, OpenAIProvider},
    registry::ProviderRegistry,
};
use stakpak_agent_core::ToolApprovalPolicy;
use stakpak_api::LocalStorage;
use stakpak_server::{
    AppState, AuthConfig, CheckpointStore, EventLog, IdempotencyStore, SandboxConfig, SandboxMode,
    SandboxUserMapping,
};
use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use ureq::Agent;

use crate::{Model, PATIENCE, Sortie, StorageGate, Tools, eventually, storage::Gated};

/// The bearer token that every hosted server takes.
pub const TOKEN: &str = "a-token-for-tests";

/// What an operator would set.
#[derive(Clone)]
pub struct Options {
    /// The server's own approval policy. By default `view` is approved, and `create`, `run_command`
    /// and `remove` are asked about.
    pub policy: ToolApprovalPolicy,
    /// How many events a session keeps for replay.
    pub events_kept: usize,
    /// The tool server. Without one, every call that the agent server runs fails.
    pub tools: Option<Tools>,
    /// Lets the test hold back checkpoint writes.
    pub storage: Option<StorageGate>,
    /// Whether a sandbox is configured. It cannot start: its program does not exist.
    pub broken_sandbox: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: ToolApprovalPolicy::with_defaults(),
            events_kept: 4096,
            tools: None,
            storage: None,
            broken_sandbox: false,
        }
    }
}

/// A running server with a model of its own. Dropped, it is gone at once, whatever it was doing.
pub struct RealServer {
    address: SocketAddr,
    model: Model,
    options: Options,
    token: String,
    requests: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
    // Sessions and checkpoints: what outlives a restart.
    disk: TempDir,
    agent: Agent,
}

impl RealServer {
    /// Starts a server with the default options.
    pub fn start(model: &Model) -> Self {
        Self::start_with(Options::default(), model)
    }

    /// Starts a server.
    pub fn start_with(options: Options, model: &Model) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .build()
            .into();
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: model.clone(),
            options,
            token: TOKEN.to_owned(),
            requests: Arc::default(),
            runtime: None,
            disk: tempfile::tempdir().expect("a temporary directory"),
            agent,
        };
        server.serve();
        server
    }

    /// Kills the server and starts it again on the same address, with what it had on disk.
    pub fn restart(&mut self) {
        self.stop();
        self.serve();
    }

    /// Restarts it with another token, as a server does that generates its token.
    pub fn restart_with_token(&mut self, token: &str) {
        self.stop();
        token.clone_into(&mut self.token);
        self.serve();
    }

    /// Starts it again after a stop.
    pub fn serve(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let model = runtime.block_on(listen(SocketAddr::from(([127, 0, 0, 1], 0)), self.model.router()));
        let state = runtime.block_on(state(&self.options, model, self.disk.path()));
        let requests = Arc::clone(&self.requests);
        let log = from_fn(move |request: Request, next: Next| {
            let line = format!("{} {}", request.method(), request.uri());
            let requests = Arc::clone(&requests);
            async move {
                let response = next.run(request).await;
                requests.lock().unwrap().push(line);
                response
            }
        });
        let app = stakpak_server::router(state, AuthConfig::token(self.token.clone())).layer(log);
        self.address = runtime.block_on(listen(self.address, app));
        self.runtime = Some(runtime);
    }

    /// Kills the server; its address stays the same.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Event streams never end by themselves, so there is nothing to wait for.
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    /// Makes what the server keeps of a session unreadable: its next run dies before its first event.
    pub fn spoil(&self, session: &str) {
        let path = self.disk.path().join("checkpoints").join(session).join("latest.checkpoint");
        std::fs::write(path, "not a checkpoint").expect("a checkpoint to spoil");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `sortie` with these arguments, this server and its token.
    pub fn sortie<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Sortie {
        Sortie::new(arguments).env("SORTIE_SERVER", self.url()).env("SORTIE_TOKEN", &self.token)
    }

    /// The last result that the model was given for a tool call.
    pub fn tool_result(&self, call: &str) -> String {
        let requests = self.model.requests();
        let result = requests.iter().rev().find_map(|request| request.tool_result(call));
        result.unwrap_or_else(|| panic!("the model was told nothing of {call}"))
    }

    /// Every request that was handled so far, as `METHOD /path`, oldest first. An event stream counts from its
    /// subscription.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests were handled whose line ends like this, and hands out the last.
    pub fn wait_for_requests(&self, count: usize, end: &str) -> String {
        eventually(&format!("{count} requests {end}"), || {
            let requests = self.requests.lock().unwrap();
            let mut lines = requests.iter().filter(|line| line.ends_with(end));
            lines.nth(count - 1).cloned()
        })
    }

    /// A GET with the token: the status, and the body as JSON, or as a string where it is none.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let request = self.agent.get(format!("{}{path}", self.url()));
        let answer = request.header("authorization", format!("Bearer {}", self.token)).call();
        read(answer.expect("an answer"))
    }

    /// A POST of JSON with the token.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.agent.post(format!("{}{path}", self.url()));
        let answer = request.header("authorization", format!("Bearer {}", self.token)).send_json(body);
        read(answer.expect("an answer"))
    }

    /// The session's `run_status`.
    pub fn run_status(&self, session: &str) -> Value {
        let (status, body) = self.get(&format!("/v1/sessions/{session}"));
        assert_eq!(status, 200, "{body}");
        body["session"]["run_status"].clone()
    }

    /// Waits until nothing runs in the session any more.
    pub fn wait_until_idle(&self, session: &str) {
        eventually("the session to be idle", || (self.run_status(session)["state"] == "idle").then_some(()));
    }

    /// Waits until nothing runs in any session.
    pub fn wait_until_all_idle(&self) {
        eventually("all sessions to be idle", || {
            let (_, body) = self.get("/v1/sessions");
            let sessions = body["sessions"].as_array()?;
            sessions.iter().all(|session| session["run_status"]["state"] == "idle").then_some(())
        });
    }

    /// Subscribes to a session's events, from the one after `last_event_id` where it is given.
    pub fn events(&self, session: &str, last_event_id: Option<u64>) -> impl Iterator<Item = Event> + use<> {
        let mut request = self
            .agent
            .get(format!("{}/v1/sessions/{session}/events", self.url()))
            .header("authorization", format!("Bearer {}", self.token));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id.to_string());
        }
        let body = request.call().expect("an event stream").into_body();
        let mut lines = BufReader::new(body.into_reader()).lines().map_while(Result::ok);
        std::iter::from_fn(move || Event::read(&mut lines))
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// Absent in `gap_detected`.
    pub id: Option<u64>,
    /// The event's name in snake case.
    pub name: String,
    /// The whole envelope.
    pub data: Value,
}

impl Event {
    fn read(lines: &mut impl Iterator<Item = String>) -> Option<Self> {
        let mut event = Self { id: None, name: String::new(), data: Value::Null };
        for line in lines {
            if let Some(id) = line.strip_prefix("id: ") {
                event.id = id.parse().ok();
            } else if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event.name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                event.data = serde_json::from_str(data).expect("JSON in an event");
            } else if line.is_empty() && !event.name.is_empty() {
                return Some(event);
            }
        }
        None
    }
}

fn read(mut answer: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let text = answer.body_mut().read_to_string().expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (answer.status().as_u16(), body)
}

pub(crate) async fn listen(address: SocketAddr, app: Router) -> SocketAddr {
    let began = Instant::now();
    let listener = loop {
        match TcpListener::bind(address).await {
            // A child that another test is just starting may hold the old listener for a moment.
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => break bound.expect("a port on loopback"),
        }
    };
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn state(options: &Options, model: SocketAddr, disk: &Path) -> AppState {
    let database = disk.join("sessions.db");
    let storage = LocalStorage::new(database.to_str().expect("a path in UTF-8")).await;
    // A base address other than OpenAI's own makes the provider speak plain chat completions.
    let provider = OpenAIConfig::new("unused").with_base_url(format!("http://{model}/v1"));
    let provider = OpenAIProvider::new(provider).expect("a provider");
    let registry = ProviderRegistry::new().register("openai", provider);
    let inference = Inference::builder().with_registry(registry).build();
    let stub = stakai::Model::custom("stub", "openai");
    let storage = Gated::new(storage.expect("session storage"), options.storage.clone());
    let mut state = AppState::new(
        Arc::new(storage),
        Arc::new(EventLog::new(options.events_kept)),
        Arc::new(IdempotencyStore::new(Duration::from_secs(24 * 60 * 60))),
        Arc::new(inference.expect("an inference client")),
        vec![stub.clone()],
        Some(stub),
        options.policy.clone(),
    )
    .with_checkpoint_store(Arc::new(CheckpointStore::new(disk.join("checkpoints"))))
    // Else the server describes the directory that the tests run in to the model.
    .with_project_dir(disk.to_str().map(str::to_owned));
    if let Some(tools) = &options.tools {
        state = state.with_mcp(tools.connect().await, Vec::new(), None, None);
    }
    if options.broken_sandbox {
        state = state.with_sandbox(SandboxConfig {
            warden_path: "/nonexistent/warden".to_owned(),
            image: "none".to_owned(),
            volumes: Vec::new(),
            mode: SandboxMode::Ephemeral,
            user_mapping: SandboxUserMapping::ImageDefault,
        });
    }
    state
}
