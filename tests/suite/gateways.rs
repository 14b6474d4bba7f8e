//! The gateway that stands between the client and the server: it must do what the tests tell it, or they prove nothing.
//! And what the client says of runs behind gateways that do things at random.

use crate::support::PATIENCE;
use crate::support::agent::{Agent, Route, TOKEN};
use crate::support::disturbed;
use crate::support::gateway::{Calls, Gateway, Page};
use crate::support::http::Ending;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

/// A connection to a gateway, by hand.
struct Client(BufReader<TcpStream>);

impl Client {
    fn to(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.url().trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn get(&mut self, path: &str) -> &mut Self {
        let head = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\nlast-event-id: 0\r\n\r\n");
        let _ = self.0.get_mut().write_all(head.as_bytes());
        self
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// The status and the body of an answer that says how long it is.
    fn answer(&mut self) -> io::Result<(u16, String)> {
        let status = self.line()?.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((status, String::from_utf8(body).unwrap()))
    }

    /// Reads up to the line that begins like this.
    fn wait_for(&mut self, beginning: &str) -> String {
        loop {
            let line = self.line().unwrap();
            if line.starts_with(beginning) {
                return line;
            }
        }
    }
}

#[test]
fn calls_and_streams_pass_a_gateway_unchanged() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let running = gateway.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    run.text("First, ");
    running.wait_for_stdout("First, ");
    run.text("second.");
    run.complete();
    running.wait().code(0).stdout("First, second.\n");
    assert_eq!(gateway.requests(Route::Send)[0].body, agent.only_request(Route::Send).body);
}

#[test]
fn a_gateway_keeps_a_connection_open_and_answers_by_number() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Health).number(2)).answer_instead(&Page::html(404));
    gateway.on(Calls::all().number(4)).answer_after_passing_it_on(&Page::json(524, &json!({ "a": 1 })));
    gateway.on(Calls::of(Route::Health).from(5)).answer_instead(&Page::empty(502));
    let mut client = Client::to(&gateway);
    let expected = [(200, "uptime"), (404, "nginx"), (200, "uptime"), (524, "{\"a\":1}"), (502, ""), (502, "")];
    for (status, body) in expected {
        let (got, text) = client.get("/v1/health").answer().unwrap();
        assert_eq!(got, status);
        assert!(text.contains(body), "{text}");
    }
    assert_eq!(agent.requests(Route::Health).len(), 3, "the fourth was passed on");
    gateway.next(Route::Health).pass();
    assert_eq!(client.get("/v1/health").answer().unwrap().0, 200);
    assert_eq!(client.get("/v1/health").answer().unwrap().0, 502);
    gateway.behave();
    assert_eq!(client.get("/v1/health").answer().unwrap().0, 200);
}

#[test]
fn a_gateway_cuts_an_answer_at_a_given_byte() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Health).number(1)).cut_at(5, Ending::Cut);
    gateway.on(Calls::of(Route::Health).number(2)).cut_at(5, Ending::Reset);
    gateway.on(Calls::of(Route::Health).number(3)).hang_up();
    let rest = |client: &mut Client| {
        let mut bytes = Vec::new();
        client.0.read_to_end(&mut bytes).map(|_| bytes)
    };
    assert_eq!(rest(Client::to(&gateway).get("/v1/health")).unwrap(), b"HTTP/");
    assert_eq!(rest(Client::to(&gateway).get("/v1/health")).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(rest(Client::to(&gateway).get("/v1/health")).unwrap_or_default(), b"");
    assert_eq!(agent.requests(Route::Health).len(), 2);
}

#[test]
fn a_gateway_holds_a_stream_back_until_its_end() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    let path = format!("/v1/sessions/{}/events", run.session);
    gateway.on(Calls::of(Route::Events).number(1)).hold_until_its_end();
    gateway.on(Calls::of(Route::Events).number(2)).hold_body_until_its_end();
    let (mut all, mut body) = (Client::to(&gateway), Client::to(&gateway));
    all.get(&path);
    gateway.wait_for(Route::Events, 1);
    body.get(&path);
    body.wait_for("transfer-encoding");
    agent.wait_for_streams(2);
    let is_silent = |client: &mut Client| {
        client.0.get_mut().set_nonblocking(true).unwrap();
        let silent = client.0.buffer().len() <= 2
            && client.0.get_mut().peek(&mut [0; 8]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        client.0.get_mut().set_nonblocking(false).unwrap();
        silent
    };
    run.text("Held.");
    assert!(is_silent(&mut all) && is_silent(&mut body));
    agent.drop_streams(Ending::Clean);
    for client in [&mut all, &mut body] {
        assert!(client.wait_for("data: ").contains("RunStarted"));
    }
}

#[test]
fn a_gateway_delays_an_answer_or_its_body_or_the_call_itself() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let gates = [
        gateway.on(Calls::of(Route::Health).number(1)).delay(),
        gateway.on(Calls::of(Route::Health).number(2)).delay_body(),
        gateway.on(Calls::of(Route::Health).number(3)).hold_request(),
    ];
    for (index, gate) in gates.into_iter().enumerate() {
        let mut client = Client::to(&gateway);
        client.get("/v1/health");
        gate.wait_until_reached();
        assert_eq!(agent.requests(Route::Health).len(), [1, 2, 2][index]);
        if index == 1 {
            client.wait_for("HTTP/1.1 200");
        }
        gate.open();
        while !client.line().unwrap().is_empty() {}
        client.0.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_gateway_passes_calls_on_to_another_replica() {
    let (agent, replica) = (Agent::start(), Agent::start());
    let gateway = Gateway::to_servers([agent.address(), replica.address()]);
    let session = agent.session();
    let path = format!("/v1/sessions/{session}");
    gateway.on(Calls::of(Route::Session).number(2)).send_to(1);
    let mut client = Client::to(&gateway);
    let mut status = || client.get(&path).answer().unwrap();
    assert_eq!(status().0, 200);
    let (other, body) = status();
    assert_eq!((other, serde_json::from_str::<Value>(&body).unwrap()["code"].clone()), (404, json!("not_found")));
    assert_eq!(status().0, 200);
    gateway.switch_to(1);
    assert_eq!(status().0, 404);
}

#[test]
fn a_gateway_can_go_down_and_up_refuse_and_answer_502() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let status = || Client::to(&gateway).get("/v1/health").answer().map(|(status, _)| status).ok();
    assert_eq!(status(), Some(200));
    gateway.down();
    assert_eq!(status(), None);
    gateway.wait_for_hang_ups(1);
    gateway.up();
    assert_eq!(status(), Some(200));
    gateway.refuse();
    let refused = TcpStream::connect(gateway.url().trim_start_matches("http://")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    gateway.accept();
    assert_eq!(status(), Some(200));
    agent.down();
    assert_eq!(status(), Some(502));
}

#[test]
fn a_gateway_can_be_a_black_hole() {
    let agent = Agent::replica();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::all()).black_hole();
    let output = gateway.sortie(["ping", "--connect-timeout", "1s"]).run().code(1);
    assert!(!output.stderr.is_empty());
    assert!(agent.all_requests().is_empty());
}

#[test]
fn with_any_mix_of_gateway_faults_the_record_is_true() {
    thread::scope(|scope| {
        for seed in 0..36 {
            scope.spawn(move || disturbed::play(seed));
        }
    });
}
