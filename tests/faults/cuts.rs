//! A recorded run of two turns with a tool call, its stream cut at every byte: nothing is lost and nothing comes twice.
//!
//! Thousands of runs, so they go through the library, many at a time, against one small server; every so many of them
//! goes through the binary too.

use crate::support::fixture;
use crate::support::http::{Connection, Ending};
use crate::support::process::Sortie;
use crate::support::wire::Exchange;
use serde_json::{Value, json};
use sortie::cli::Format;
use sortie::client::{self, Client, Headers};
use sortie::console::{Console, Level};
use sortie::follow::{Context, Follower};
use sortie::outcome::End;
use sortie::output::Output;
use sortie::run::batch::AskedCalls;
use sortie::run::policy::{OnApproval, Policy};
use sortie::run::transcript::Keep;
use sortie::run::{self, Start};
use sortie::settings::Follow;
use sortie::watchdog::Watch;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use uuid::Uuid;

const RECORDED: &str = "completed-tools-accepted.sse";
const TEXT: &str = "I will write the file.\nThe file is in place.";
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
/// At a time. Most of them wait: for a connection, or before they try again.
const WORKERS: usize = 8;
/// A prime.
const STRIDE: usize = 7919;
const SERVERS: usize = 4;
/// Every so many of them goes through the binary.
const SAMPLE: usize = 97;

/// How a run's first stream is cut. The session's id carries it to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// So many bytes of the answer come: of the head and the framed body, or, for a clean end, of the events.
    at: usize,
    ending: Ending,
    /// What the session then says of the run: that it is over, or that it still goes on (protocol trap 8).
    over: bool,
}

impl Cut {
    fn session(self) -> Uuid {
        let ending = match self.ending {
            Ending::Clean => 1,
            Ending::Cut => 2,
            Ending::Reset => 3,
        };
        Uuid::from_u64_pair(ending * 2 + u64::from(self.over), self.at as u64)
    }

    fn of(session: Uuid) -> Self {
        let (kind, at) = session.as_u64_pair();
        let ending = match kind / 2 {
            1 => Ending::Clean,
            2 => Ending::Cut,
            _ => Ending::Reset,
        };
        Self { at: usize::try_from(at).unwrap(), ending, over: kind % 2 == 1 }
    }
}

/// The recorded events, as the server would send them.
struct Recording {
    run: Uuid,
    events: Vec<Vec<u8>>,
}

impl Recording {
    fn read() -> Self {
        let text = String::from_utf8(fixture(RECORDED)).unwrap();
        let key = r#""run_id":""#;
        let at = text.find(key).unwrap() + key.len();
        let run = text[at..at + 36].parse().unwrap();
        // The last event of a file ends with the file.
        let events = text.split_inclusive("\n\n").map(|event| event.trim_end().to_owned() + "\n\n");
        let events: Vec<Vec<u8>> = events.map(String::into_bytes).collect();
        assert_eq!(events.len(), 16, "the ids are 1 to 16");
        Self { run, events }
    }

    fn bytes(&self) -> Vec<u8> {
        self.events.concat()
    }

    /// The answer from the event after this one: a chunk for each event. `most` bytes of the events.
    fn answer(&self, after: usize, mut most: usize) -> Vec<u8> {
        let mut answer = HEAD.to_vec();
        for event in &self.events[after..] {
            let piece = &event[..event.len().min(most)];
            most -= piece.len();
            if !piece.is_empty() {
                answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                answer.extend_from_slice(piece);
                answer.extend_from_slice(b"\r\n");
            }
        }
        answer
    }

    fn cuts(&self) -> Vec<Cut> {
        let all = |ending, length: usize| (0..length).map(move |at| (ending, at));
        let framed = self.answer(0, usize::MAX).len();
        let clean = all(Ending::Clean, self.bytes().len());
        let cuts = clean.chain(all(Ending::Cut, framed)).chain(all(Ending::Reset, framed));
        // The two streams that follow where the run is over take their time: every fourth will do.
        cuts.map(|(ending, at)| Cut { at, ending, over: at % 4 == 0 }).collect()
    }
}

/// What the server has seen of the sessions.
#[derive(Default)]
struct Seen {
    streams: HashMap<Uuid, usize>,
    /// The server asks about no call of these runs any more: a decision would kill them (protocol trap 2).
    decided: BTreeSet<Uuid>,
}

/// One small server for all. It cuts the first stream of each session as its id says, and serves what follows in full.
struct Server {
    listener: TcpListener,
    recording: Recording,
    seen: Mutex<Seen>,
    closing: AtomicBool,
}

impl Server {
    /// Serves while this runs.
    fn run(test: impl FnOnce(&Self)) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (recording, seen) = (Recording::read(), Mutex::default());
        let server = Self { listener, recording, seen, closing: AtomicBool::new(false) };
        thread::scope(|scope| {
            // No thread for each connection: there are tens of thousands, and none of them has to wait.
            for _ in 0..SERVERS {
                scope.spawn(|| server.serve());
            }
            let result = panic::catch_unwind(AssertUnwindSafe(|| test(&server)));
            server.closing.store(true, Ordering::Relaxed);
            for _ in 0..SERVERS {
                let _ = TcpStream::connect(server.address());
            }
            if let Err(panic) = result {
                panic::resume_unwind(panic);
            }
        });
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn serve(&self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.closing.load(Ordering::Relaxed) {
                break;
            }
            let mut connection = Connection::new(stream);
            if let Some(request) = connection.read_request() {
                self.answer(Exchange { request, connection });
            }
        }
    }

    fn answer(&self, exchange: Exchange) {
        let run = self.recording.run.to_string();
        let Some(Ok(session)) = exchange.request.path.split('/').nth(3).map(str::parse::<Uuid>) else {
            return exchange.json(200, &json!({ "default_model": null, "auto_approve_mode": "custom" }));
        };
        let cut = Cut::of(session);
        if exchange.is("GET", "/events") {
            let first = {
                let mut seen = self.seen.lock().unwrap();
                let count = seen.streams.entry(session).or_default();
                *count += 1;
                *count == 1
            };
            let after: usize = exchange.request.header("last-event-id").unwrap().parse().unwrap();
            let whole = self.recording.answer(after, usize::MAX);
            match cut.ending {
                _ if !first => exchange.raw(&whole, Ending::Cut),
                Ending::Clean => exchange.raw(&self.recording.answer(after, cut.at), Ending::Clean),
                ending => exchange.raw(&whole[..cut.at], ending),
            }
        } else if exchange.is("POST", "/decisions") {
            self.seen.lock().unwrap().decided.insert(session);
            exchange.json(200, &json!({ "accepted": true, "run_id": run }));
        } else if exchange.is("POST", "/messages") {
            exchange.json(200, &json!({ "run_id": run }));
        } else {
            let state = if cut.over { "idle" } else { "running" };
            let status = json!({ "state": state, "run_id": run });
            exchange.json(200, &json!({ "session": { "id": session.to_string(), "run_status": status } }));
        }
    }

    /// Each run reconnected once, or twice where the session said that it was over, and decided nothing.
    fn check(&self, cuts: &[Cut]) {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.decided, BTreeSet::new(), "nothing waited");
        assert_eq!(seen.streams.len(), cuts.len());
        for (session, streams) in &seen.streams {
            // The rest of the framing behind the last event is not waited for.
            assert!((1..=3).contains(streams), "{streams} streams for {:?}", Cut::of(*session));
        }
    }
}

/// What many runs can share.
struct Following {
    client: Client,
    watch: Watch,
    console: Console,
}

impl Following {
    fn of(server: &Server) -> Self {
        let watch = Watch::without_signals().unwrap();
        let console = Console::new(Some(watch.clone()));
        console.set_level(Level::Quiet);
        let options = client::Options {
            server: client::Address::parse(&format!("http://{}", server.address())).unwrap(),
            token: None,
            headers: Headers::default(),
            connect_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(30),
        };
        Self { client: Client::new(options, watch.clone(), console.clone()), watch, console }
    }
}

/// Follows the run that is cut like this, in process, and says what was wrong.
fn follow(server: &Server, client: &Following, cut: Cut, recorded: &Path) -> Result<(), String> {
    let Following { client, watch, console } = client;
    watch.arm(Duration::from_secs(30), "the test's patience");
    let mut output = Output::new(Format::Json, watch.clone(), console.clone());
    output.set_recording(recorded).unwrap();
    let policy = Policy { on_approval: OnApproval::Accept, ..Policy::default() };
    let options = run::Options {
        run_id: server.recording.run.to_string(),
        asked: AskedCalls::SomeCalls,
        keep: Keep::Everything,
        start: Start::Fresh,
        is_first: false,
        policy: policy.clone(),
        choices: None,
        fail_on_tool_error: false,
        sandbox: false,
        max_tokens: None,
        max_tool_calls: None,
    };
    let followed = Follow {
        idle_timeout: None,
        cancel: true,
        heartbeat: Duration::ZERO,
        policy,
        program: None,
        fail_on_tool_error: false,
        server_flags: Vec::new(),
    };
    let mut context = Context { client, watch, console, output: &mut output, follow: &followed };
    let report = Follower::new(&mut context, cut.session(), options, None).run(None);
    drop(output);
    let mut wrong = Vec::new();
    let mut expect = |what: &str, fine: bool, seen: String| {
        if !fine {
            wrong.push(format!("{what}: {seen}"));
        }
    };
    let (end, record) = (report.end, report.run);
    expect("the end", end == End::Completed, format!("{end:?}"));
    expect("the text", record.text.as_deref() == Some(TEXT), format!("{:?}", record.text));
    let tools = record.tool_calls;
    let counts = (record.turns, tools.proposed, tools.accepted, tools.rejected, tools.failed);
    expect("turns and calls", counts == (2, 1, 1, 0, 1), format!("{counts:?}"));
    let tokens = record.usage.map(|usage| usage.total_tokens);
    expect("usage", tokens == Some(36), format!("{tokens:?}"));
    expect("the cursor", record.last_event_id == Some(16), format!("{:?}", record.last_event_id));
    // Each event once, in order, byte for byte.
    let told = fs::read(recorded).unwrap();
    expect("the events", told == server.recording.bytes(), String::from_utf8_lossy(&told).into_owned());
    if wrong.is_empty() { Ok(()) } else { Err(format!("{cut:?}: {}", wrong.join("; "))) }
}

/// Runs this for each cut, many at a time, each worker with something and a file of its own; the first few that went
/// wrong fail the test.
fn each<T: Send>(cuts: &[Cut], new: impl Fn() -> T, check: impl Fn(&T, Cut, &Path) -> Result<(), String> + Sync) {
    let folder = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let file = folder.path().join(worker.to_string());
            let (next, wrong, check, own) = (&next, &wrong, &check, new());
            scope.spawn(move || {
                while let Some(index) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < cuts.len())
                {
                    // Those that wait before they try again (cut in the first event) are spread among the others.
                    let cut = cuts[index * STRIDE % cuts.len()];
                    if let Err(error) = check(&own, cut, &file) {
                        wrong.lock().unwrap().push(error);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let shown = &wrong[..wrong.len().min(10)];
    assert!(wrong.is_empty(), "{} of {} cuts:\n{}", wrong.len(), cuts.len(), shown.join("\n"));
}

#[test]
fn a_stream_that_is_cut_at_any_byte_loses_nothing() {
    Server::run(|server| {
        let cuts = server.recording.cuts();
        assert!(cuts.len() > 16_000, "{}", cuts.len());
        assert_ne!(cuts.len() % STRIDE, 0);
        each(&cuts, || Following::of(server), |own, cut, file| follow(server, own, cut, file));
        server.check(&cuts);
    });
}

#[test]
fn a_sample_of_the_cuts_through_the_binary() {
    Server::run(|server| {
        let cuts: Vec<Cut> = server.recording.cuts().into_iter().step_by(SAMPLE).collect();
        let url = format!("http://{}", server.address());
        each(
            &cuts,
            || (),
            |(), cut, file| {
                let session = cut.session().to_string();
                let sortie = Sortie::new(["run", "--session", &session, "--result-file"]).arg(file).arg("go");
                let output = sortie.env("SORTIE_SERVER", &url).run();
                let record: Value = serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default();
                let fine = output.code == 0 && output.stdout == format!("{TEXT}\n") && record["text"] == TEXT;
                if fine { Ok(()) } else { Err(format!("{cut:?}: {output:#?}\n{record:#}")) }
            },
        );
        server.check(&cuts);
    });
}
