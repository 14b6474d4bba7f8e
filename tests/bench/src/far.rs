//! A server that is far away, and a run that is over.

use crate::measure::{Sink, command, quantile};
use crate::past::Past;
use crate::remote;
use crate::server::Play;
use crate::stream::{Framing, Kind, Letters, SESSION, Stream};
use crate::{Bench, Client, Middle, Result, name_of, rounds_of};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// What the relay adds, each way.
const DELAY: Duration = Duration::from_millis(25);
/// The most that an attach to a run of 250 turns may take.
const MOST_REQUESTS: usize = 10;
const MOST_TIME: Duration = Duration::from_secs(3);

impl Bench {
    /// A trivial run over https, with 50 ms from a request to its answer.
    pub fn https(&mut self) -> Result<()> {
        let trivial = Play::Stream(Arc::new(Stream::new(Kind::Small, Letters::All, Framing::Event, 0)));
        let (server, authority) = remote::server(trivial)?;
        let near = server.url.trim_start_matches("https://").parse()?;
        let url = &format!("https://{}", remote::relay(near, DELAY)?);
        let file = self.scratch.join("authority.pem");
        fs::write(&file, authority)?;
        let health = ["curl", "-s", &format!("{url}/v1/health")].map(String::from).to_vec();
        let ours = self.run_by(&self.options.sortie, url, &[]);
        let first = [("`curl -s …/v1/health`".into(), health), ("`sortie run`".into(), ours)];
        let mut clients: Vec<Client> =
            first.into_iter().chain(self.others(url, &[])).chain(self.clients(url)).collect();
        for (_, words) in &mut clients {
            words.splice(..0, ["env".into(), format!("SSL_CERT_FILE={}", file.display())]);
        }
        let rounds = if self.options.quick { 2 } else { 20 };
        println!("\n#### https, 25 ms away, {rounds} times each\n");
        println!(
            "| client | connections | wall, median | × curl | 95 % within | CPU |\n|---|---:|---:|---:|---:|---:|"
        );
        let mut rows = vec![(0, Vec::new()); clients.len()];
        for _ in 0..rounds {
            for ((connections, samples), client) in rows.iter_mut().zip(&clients) {
                let before = server.counts().0;
                samples.extend(rounds_of(std::slice::from_ref(client), Sink::Null, 1, 1)?.concat());
                *connections = server.counts().0 - before;
            }
        }
        let curl = Middle::of(&rows[0].1);
        for ((client, _), (connections, samples)) in clients.iter().zip(&rows) {
            let middle = Middle::of(samples);
            if middle.exit != 0 {
                println!("| {client} | {connections} | failed, exit {} | | | |", middle.exit);
                continue;
            }
            println!(
                "| {client} | {connections} | {:.0} ms | {:.2} | {:.0} ms | {:.1} ms |",
                middle.wall / 1e3,
                middle.wall / curl.wall,
                quantile(samples.iter().map(|run| run.wall), 0.95) as f64 / 1e3,
                middle.cpu / 1e3,
            );
        }
        let exit = Middle::of(&rows[1].1).exit;
        if exit != 0 {
            return Err(format!("a trivial run over https: exit {exit}").into());
        }
        let connections = rows[1].0;
        self.bar("one over https, too", connections.to_string(), connections == 1);
        Ok(())
    }

    /// Attaching to a run that is over, and most of whose events are gone: its text is in the session's messages.
    pub fn attach(&mut self) -> Result<()> {
        println!("\n#### Attaching to a run whose events are gone\n");
        println!(
            "| turns | messages | client | requests | wall | CPU | peak memory |\n|---:|---:|---|---:|---:|---:|---:|"
        );
        for turns in [250, 2500] {
            let past = Arc::new(Past::new(turns));
            self.server.play(Play::Past(past.clone()));
            let binaries = [&self.options.sortie].into_iter().chain(&self.options.against);
            for (n, binary) in binaries.cloned().enumerate().collect::<Vec<_>>() {
                let words = [&binary, "attach", "-q", "--server", &self.server.url, SESSION].map(String::from);
                let before = self.server.counts().1;
                let run = command(&words).output()?;
                let requests = self.server.counts().1 - before;
                let whole = run.status.success() && run.stdout == past.text.as_bytes();
                let client = ("attach".into(), words.to_vec());
                let middle =
                    Middle::of(&rounds_of(&[client], Sink::Pipe, if self.options.quick { 1 } else { 3 }, 1)?[0]);
                println!(
                    "| {turns} | {} | `{} attach` | {requests}{} | {:.0} ms | {:.1} ms | {:.1} MB |",
                    past.messages(),
                    if n == 0 { "sortie" } else { name_of(&binary) },
                    if whole { "" } else { ", and not the whole text" },
                    middle.wall / 1e3,
                    middle.cpu / 1e3,
                    middle.peak,
                );
                if n > 0 {
                    continue;
                }
                let measured = format!("{requests} requests, {:.2} s", middle.wall / 1e6);
                let quick = whole && middle.wall <= MOST_TIME.as_micros() as f64;
                if turns == 250 {
                    let what = "attach to a run of 250 turns brings all text, in at most 10 requests and 3 s";
                    self.bar(what, measured, quick && requests <= MOST_REQUESTS);
                } else {
                    self.bar("attach to one of 5 000 messages brings it in 3 s, too", measured, quick);
                }
            }
        }
        Ok(())
    }
}
