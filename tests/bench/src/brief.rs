//! Short runs: the whole of one, and its moments.

use crate::measure::{Sink, command, measure, median, quantile};
use crate::server::Play;
use crate::stream::{Framing, Kind, Letters, Stream};
use crate::{Bench, Client, Middle, Result, rounds_of};
use std::io::{self, Read};
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// What a pause before the run's end takes, so that it can be told from the beginning.
const BREATH: Duration = Duration::from_millis(20);

/// Of one run.
struct Moments {
    /// From the start of the process until the first byte of the text.
    first_byte: Duration,
    /// From just before the run's last event is sent until the process is gone.
    end: Duration,
}

impl Bench {
    /// The whole of a run that has little to say (3 requests), against one request of curl's.
    pub fn trivial(&mut self) -> Result<()> {
        self.server.play(Play::Stream(Arc::new(Stream::new(Kind::Small, Letters::All, Framing::Event, 0))));
        let health = format!("{}/v1/health", self.server.url);
        let curl = ["curl", "-s", &health].map(String::from).to_vec();
        let mut clients = self.peers("`sortie run`");
        clients[0] = ("`curl -s …/v1/health`".into(), curl);
        let connections = self.connections(&clients)?;
        // A few at once and often: what else the machine does meets them alike.
        let (rounds, times) = if self.options.quick { (20, 10) } else { (100, 4) };
        let rows = rounds_of(&clients, Sink::Null, rounds, times)?;
        println!("\n#### From start to exit, {} times each\n", rounds * times);
        println!("| client | connections | wall, median | × curl | 95 % within | CPU | peak memory |");
        println!("|---|---:|---:|---:|---:|---:|---:|");
        let curl = Middle::of(&rows[0]);
        for (((client, _), samples), connections) in clients.iter().zip(&rows).zip(&connections) {
            let middle = Middle::of(samples);
            if middle.exit != 0 {
                println!("| {client} | {connections} | failed, exit {} | | | | |", middle.exit);
                continue;
            }
            println!(
                "| {client} | {connections} | {:.2} ms | {:.2} | {:.1} ms | {:.2} ms | {:.1} MB |",
                middle.wall / 1e3,
                middle.wall / curl.wall,
                quantile(samples.iter().map(|run| run.wall), 0.95) as f64 / 1e3,
                middle.cpu / 1e3,
                middle.peak,
            );
        }
        let ours = Middle::of(&rows[1]);
        if ours.exit != 0 {
            return Err(format!("a trivial run: exit {}", ours.exit).into());
        }
        self.bar("a trivial run takes one connection", connections[1].to_string(), connections[1] == 1);
        // On a busy machine the clock measures who has to wait: CI holds what was worked.
        let (what, of): (_, fn(&Middle) -> f64) =
            if self.options.quick { ("CPU", |run| run.cpu) } else { ("time", |run| run.wall) };
        let compared = |theirs: &Middle| format!("{:.2} ms against {:.2} ms", of(&ours) / 1e3, of(theirs) / 1e3);
        let name = format!("a trivial run takes at most 0.45 × the {what} of one request of curl's");
        self.bar(name, compared(&curl), of(&ours) <= 0.45 * of(&curl));
        let first = clients.len() - self.options.clients.len();
        for ((client, _), samples) in clients.iter().zip(&rows).skip(first) {
            let theirs = Middle::of(samples);
            if theirs.exit == 0 {
                let name = format!("a trivial run takes no more {what} than one of {client}");
                self.bar(name, compared(&theirs), of(&ours) <= of(&theirs));
            }
        }
        Ok(())
    }

    /// How many connections a run of each client makes.
    fn connections(&self, clients: &[Client]) -> Result<Vec<usize>> {
        let count = |(_, words): &Client| {
            let before = self.server.counts().0;
            measure(words, Sink::Null, 1)?;
            Ok(self.server.counts().0 - before)
        };
        clients.iter().map(count).collect()
    }

    /// How soon there is text, and how soon after the run's end the process has gone.
    pub fn moments(&mut self) -> Result<()> {
        const ROUNDS: usize = 100;
        let clients = self.peers("`-o text`");
        let mut rows: Vec<Vec<Moments>> = clients.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (row, (_, words)) in rows.iter_mut().zip(&clients) {
                row.extend(self.moments_of(words)?);
            }
        }
        println!("\n#### The first byte and the end, {ROUNDS} times each\n");
        println!("| client | start to first byte of text | 95 % within | run's end to exit | 95 % within |");
        println!("|---|---:|---:|---:|---:|");
        for ((name, _), row) in clients.iter().zip(&rows) {
            if row.len() < ROUNDS {
                println!("| {name} | failed | | | |");
                continue;
            }
            let cells = |what: fn(&Moments) -> Duration| {
                let at = |share| quantile(row.iter().map(what), share).as_secs_f64() * 1e3;
                format!("{:.2} ms | {:.1} ms", at(0.5), at(0.95))
            };
            println!("| {name} | {} | {} |", cells(|run| run.first_byte), cells(|run| run.end));
        }
        Ok(())
    }

    /// `None` where the client failed.
    fn moments_of(&self, words: &[String]) -> Result<Option<Moments>> {
        let (sender, sent) = mpsc::channel();
        self.server.play(Play::Drip(1, BREATH, sender));
        let began = Instant::now();
        let mut child = command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut pipe = child.stdout.take().ok_or("no pipe")?;
        let read = pipe.read(&mut [0; 4096])?;
        let first_byte = began.elapsed();
        io::copy(&mut pipe, &mut io::sink())?;
        let ended_right = child.wait()?.success();
        let over = Instant::now();
        let end = sent.try_iter().last().map(|last| over - last);
        Ok(end.filter(|_| ended_right && read > 0).map(|end| Moments { first_byte, end }))
    }

    /// From the moment before a delta is sent until it has come through a pipe.
    pub fn latency(&mut self) -> Result<()> {
        println!("\n#### From the server's socket to the reader of stdout\n");
        println!("| client | pause after each delta | deltas | median | 95 % within |\n|---|---:|---:|---:|---:|");
        let clients = self.peers("`-o text`");
        for (rounds, count, pause) in [(10, 100, 5), (3, 5, 1000)] {
            let mut rows = vec![Vec::new(); clients.len()];
            for _ in 0..rounds {
                for (row, (_, words)) in rows.iter_mut().zip(&clients) {
                    row.extend(self.delays(words, count, Duration::from_millis(pause))?);
                }
            }
            let all = rounds * count;
            let mut delays = Vec::new();
            for ((name, _), row) in clients.iter().zip(rows) {
                if row.len() < all {
                    println!("| {name} | {pause} ms | {} of {all} came | | |", row.len());
                    continue;
                }
                let (middle, most) = (median(row.iter().copied()), quantile(row, 0.95));
                println!("| {name} | {pause} ms | {all} | {} µs | {} µs |", middle.as_micros(), most.as_micros());
                delays.push((middle, most));
            }
            let [(_, curls), (middle, most), ..] = delays[..] else { return Err("deltas were lost".into()) };
            let (middle_us, most_us) = (middle.as_micros(), most.as_micros());
            let limit = Duration::from_millis(1);
            if pause < 1000 {
                let measured =
                    format!("{middle_us} µs; 95 % within {most_us} µs, curl's within {} µs", curls.as_micros());
                // On a busy machine nobody is quick every time.
                let met = middle <= limit && most <= limit.max(curls * 2);
                self.bar("a delta is on stdout within a millisecond", measured, met);
            } else {
                self.bar("also before a second of silence", format!("{middle_us} µs"), middle <= limit);
            }
        }
        Ok(())
    }

    fn delays(&self, words: &[String], count: usize, pause: Duration) -> Result<Vec<Duration>> {
        let (sender, sent) = mpsc::channel();
        self.server.play(Play::Drip(count, pause, sender));
        let mut child = command(words).stdout(Stdio::piped()).spawn()?;
        let mut pipe = child.stdout.take().ok_or("no pipe")?;
        let mut arrived = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = pipe.read(&mut buffer)?;
            let now = Instant::now();
            arrived.extend(buffer[..length].iter().filter(|byte| **byte == b'@').map(|_| now));
            if length == 0 {
                break;
            }
        }
        child.wait()?;
        Ok(sent.try_iter().zip(arrived).map(|(sent, arrived)| arrived - sent).collect())
    }

    /// What waiting costs: a run with a long silence, less the same run without it.
    pub fn idle(&mut self) -> Result<()> {
        let seconds = if self.options.full { 30 } else { 10 };
        let clients = self.peers("`sortie run`");
        self.server.play(Play::Silence(Duration::ZERO));
        let without = rounds_of(&clients, Sink::Null, 1, 20)?;
        self.server.play(Play::Silence(Duration::from_secs(seconds)));
        println!("\n#### Waiting for {seconds} s\n\n| client | CPU | wake-ups |\n|---|---:|---:|");
        for (n, ((name, words), without)) in clients.iter().zip(&without).enumerate() {
            let with = Middle::of(&measure(words, Sink::Null, 1)?);
            let without = Middle::of(without);
            let cpu = (with.cpu - without.cpu).max(0.0) / (seconds as f64 * 1e6) * 100.0;
            let waits = (with.waits - without.waits).max(0.0) / seconds as f64;
            println!("| {name} | {cpu:.3} % | {waits:.1} a second |");
            if n == 1 {
                self.bar("waiting takes at most 0.1 % of a core", format!("{cpu:.3} %"), cpu <= 0.1);
            }
        }
        Ok(())
    }
}
