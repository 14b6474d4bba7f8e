//! How `sortie` fares beside `curl -sN` and others on the same streams, in the same run. See README.md.

mod measure;
mod server;
mod stream;

use measure::{Sample, Sink, command, measure, median, quantile, used};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use server::{Gate, Play, Server};
use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use stream::{Framing, Kind, Stream};

const USAGE: &str = "usage: bench [--sortie PATH] [--client NAME=CMD]… [--full] [--rounds N] [--only PART]…
  --sortie PATH      the binary [default: target/release/sortie]
  --client NAME=CMD  another client; its words are parted at spaces, {url} is the server, {events} the event stream
  --full             1 GB streams and a longer silence too
  --quick            10 MB streams and trivial runs alone, as in CI
  --rounds N         rounds for each stream of 10 MB [default: 9]; larger ones take fewer
  --only PART        drain, trivial, latency, idle or many
  --serve STREAM     measure nothing: serve \"10 MB small, large chunks\", say, until ended; for a profiler";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Options {
    sortie: String,
    clients: Vec<(String, String)>,
    full: bool,
    quick: bool,
    rounds: usize,
    only: Vec<String>,
    serve: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [helper, sink, times, words @ ..] if helper == measure::HELPER => {
            measure::help(sink, times, words).map(|()| true)
        }
        arguments => options(arguments).and_then(|options| Bench::new(options)?.run()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options> {
    let sortie = "target/release/sortie".into();
    let mut options = Options {
        sortie,
        clients: Vec::new(),
        full: false,
        quick: false,
        rounds: 9,
        only: Vec::new(),
        serve: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().ok_or(USAGE);
        match argument.as_str() {
            "--sortie" => options.sortie = value()?,
            "--client" => {
                let client = value()?;
                let (name, command) = client.split_once('=').ok_or(USAGE)?;
                options.clients.push((name.into(), command.into()));
            }
            "--full" => options.full = true,
            "--quick" => {
                options.quick = true;
                options.only.extend(["drain", "trivial"].map(String::from));
            }
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--only" => {
                let part = value()?;
                if PARTS.iter().all(|(name, _)| *name != part) {
                    return Err(USAGE.into());
                }
                options.only.push(part);
            }
            "--serve" => options.serve = Some(value()?),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

/// What is measured, in this order.
const PARTS: [(&str, fn(&mut Bench) -> Result<()>); 5] = [
    ("drain", Bench::drain),
    ("trivial", Bench::trivial),
    ("latency", Bench::latency),
    ("idle", Bench::idle),
    ("many", Bench::many),
];

/// A client: its name in the tables, and its command.
type Client = (String, Vec<String>);

struct Bench {
    options: Options,
    server: Server,
    /// For the outputs of many runs and the result files.
    scratch: PathBuf,
    bars: Vec<Bar>,
}

/// What is promised, what was measured, and whether that will do.
struct Bar {
    what: &'static str,
    measured: String,
    met: bool,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let scratch = std::env::temp_dir().join(format!("sortie-bench-{}", std::process::id()));
        let server = Server::start(Play::Silence(Duration::ZERO))?;
        Ok(Self { options, server, scratch, bars: Vec::new() })
    }

    fn run(mut self) -> Result<bool> {
        if let Some(stream) = self.options.serve.clone() {
            return self.serve(&stream);
        }
        fs::create_dir(&self.scratch)?;
        let mut done = Ok(());
        for (name, part) in PARTS {
            if done.is_ok() && (self.options.only.is_empty() || self.options.only.iter().any(|only| only == name)) {
                eprintln!("bench: {name}");
                done = part(&mut self);
            }
        }
        fs::remove_dir_all(&self.scratch)?;
        done?;
        let size = fs::metadata(&self.options.sortie)?.len();
        self.bar("the binary is no larger than 3 MB", format!("{:.2} MB", size as f64 / 1e6), size <= 3_000_000);
        let crates = crates()?;
        self.bar("no more than 75 crates are built for it", crates.to_string(), crates <= 75);
        println!("\n### The bars\n\n| bar | measured | met |\n|---|---|---|");
        for Bar { what, measured, met } in &self.bars {
            println!("| {what} | {measured} | {} |", if *met { "yes" } else { "**no**" });
        }
        Ok(self.bars.iter().all(|bar| bar.met))
    }

    /// Serves the stream of that name, for ever.
    fn serve(&self, name: &str) -> Result<bool> {
        let megabytes: usize = name.split(' ').next().unwrap_or_default().parse()?;
        let kind = if name.contains("small") { Kind::Small } else { Kind::Mixed };
        let framing = if name.contains("large") { Framing::Turn } else { Framing::Event };
        self.server.play(Play::Stream(Arc::new(Stream::new(kind, framing, megabytes * 1_000_000))));
        println!("{}", self.server.url);
        loop {
            std::thread::park();
        }
    }

    fn bar(&mut self, what: &'static str, measured: String, met: bool) {
        self.bars.push(Bar { what, measured, met });
    }

    /// A run of ours, with these flags.
    fn sortie(&self, flags: &[&str]) -> Vec<String> {
        let words = [self.options.sortie.as_str(), "run", "-q", "--server", &self.server.url];
        words.iter().chain(flags).chain(&["do it"]).map(ToString::to_string).collect()
    }

    fn curl(&self) -> Client {
        let words = ["curl", "-sN", "-H", "Last-Event-ID: 0", &self.server.events_url()];
        ("`curl -sN`".into(), words.map(String::from).to_vec())
    }

    fn clients(&self) -> impl Iterator<Item = Client> {
        self.options.clients.iter().map(|(name, command)| {
            let command = command.replace("{url}", &self.server.url).replace("{events}", &self.server.events_url());
            (name.clone(), command.split_whitespace().map(String::from).collect())
        })
    }

    /// Long streams, through and through.
    fn drain(&mut self) -> Result<()> {
        let result_file = self.scratch.join("result.json").display().to_string();
        let text = ("`-o text`".to_owned(), self.sortie(&[]));
        let mut modes = vec![text.clone()];
        for mode in ["final", "json", "stream-json"] {
            modes.push((format!("`-o {mode}`"), self.sortie(&["-o", mode])));
        }
        modes.push(("`-o text --result-file`".into(), self.sortie(&["--result-file", &result_file])));
        modes.extend(self.clients());

        println!("\n### Draining a stream\n");
        println!("| stream | to | client | CPU | × curl | wall | × curl | peak memory |");
        println!("|---|---|---|---:|---:|---:|---:|---:|");
        let mut worst = Worst::default();
        let mut streams = vec![(Kind::Mixed, Framing::Event, 10)];
        if !self.options.quick {
            streams.push((Kind::Mixed, Framing::Event, 100));
            if self.options.full {
                streams.push((Kind::Mixed, Framing::Event, 1000));
            }
            streams.push((Kind::Mixed, Framing::Turn, 100));
            streams.push((Kind::Small, Framing::Event, 100));
            streams.push((Kind::Small, Framing::Turn, 100));
        }
        for (kind, framing, megabytes) in &streams {
            let stream = Arc::new(Stream::new(*kind, *framing, megabytes * 1_000_000));
            self.server.play(Play::Stream(stream.clone()));
            if *megabytes == 10 {
                self.check_text(&stream)?;
            }
            let name = format!(
                "{megabytes} MB {}{}",
                if *kind == Kind::Mixed { "mixed" } else { "small" },
                if *framing == Framing::Turn { ", large chunks" } else { "" },
            );
            let all = (*kind, *framing) == (Kind::Mixed, Framing::Event);
            let clients = if all { &modes[..] } else { &modes[..1] };
            let rounds = match megabytes {
                10 => self.options.rounds,
                100 => self.options.rounds.div_ceil(2),
                _ => self.options.rounds.div_ceil(3),
            };
            let sinks = if all && *megabytes < 1000 { &[Sink::Null, Sink::Pipe][..] } else { &[Sink::Null] };
            for sink in sinks {
                let clients: Vec<_> = [self.curl()].into_iter().chain(clients.iter().cloned()).collect();
                let rows = rounds_of(&clients, *sink, rounds, 1)?;
                let curl = Middle::of(&rows[0]);
                for ((client, words), samples) in clients.iter().zip(&rows) {
                    let middle = Middle::of(samples);
                    let ours = words[0] == self.options.sortie;
                    if ours && middle.exit != 0 {
                        return Err(format!("{client} on {name}: exit {}", middle.exit).into());
                    }
                    if *client == text.0 {
                        worst.note(*framing, &middle, &curl);
                        if *sink == Sink::Pipe && samples.iter().any(|run| run.output != stream.text_len as u64) {
                            return Err(format!("{client} on {name}: not the whole text came").into());
                        }
                    }
                    println!("| {name} | {} | {client} | {} |", sink.name(), middle.cells(&curl));
                }
            }
        }
        let Worst { cpu, merged_cpu, peak } = worst;
        let mut measured = format!("{cpu:.1} × at worst");
        if merged_cpu > 0.0 {
            measured += &format!("; {merged_cpu:.1} × where a proxy makes large chunks of it");
        }
        self.bar("`-o text` takes at most 4 × curl's CPU on a stream as the server sends it", measured, cpu <= 4.0);
        self.bar("`-o text` stays within 6 MiB of memory", format!("{peak:.1} MiB at worst"), peak <= 6.0);
        Ok(())
    }

    /// The text is the agent's, to the byte.
    fn check_text(&self, stream: &Stream) -> Result<()> {
        let run = command(&self.sortie(&[])).output()?;
        if run.status.success() && run.stdout == stream.text().as_bytes() {
            return Ok(());
        }
        Err(format!("sortie run: {}, or not the text that was streamed", run.status).into())
    }

    /// The whole of a run that has little to say (3 requests), against one request of curl's.
    fn trivial(&mut self) -> Result<()> {
        let health = format!("{}/v1/health", self.server.url);
        self.server.play(Play::Stream(Arc::new(Stream::new(Kind::Small, Framing::Event, 0))));
        let curl = ["curl", "-s", &health].map(String::from).to_vec();
        let mut clients = vec![("`curl -s …/v1/health`".into(), curl), ("`sortie run`".into(), self.sortie(&[]))];
        clients.extend(self.clients());
        let rows = rounds_of(&clients, Sink::Null, 10, 20)?;
        println!("\n### From start to exit, 200 times each\n");
        println!(
            "| client | wall, median | × curl | 95 % within | CPU | peak memory |\n|---|---:|---:|---:|---:|---:|"
        );
        let curl = Middle::of(&rows[0]);
        for ((client, _), samples) in clients.iter().zip(&rows) {
            let middle = Middle::of(samples);
            println!(
                "| {client} | {:.1} ms | {:.2} | {:.1} ms | {:.1} ms | {:.1} MiB |",
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
        // On a busy machine the clock measures who has to wait: CI holds what was worked.
        let (what, ours, curl) = match self.options.quick {
            true => ("a trivial run takes no more CPU than a request of curl's", ours.cpu, curl.cpu),
            false => ("a trivial run takes no longer than a request of curl's", ours.wall, curl.wall),
        };
        self.bar(what, format!("{:.1} ms, curl {:.1} ms", ours / 1e3, curl / 1e3), ours <= curl);
        Ok(())
    }

    /// From the moment before a delta is sent until it has come through a pipe.
    fn latency(&mut self) -> Result<()> {
        println!("\n### From the server's socket to the reader of stdout\n");
        println!("| client | pause after each delta | deltas | median | 95 % within |\n|---|---:|---:|---:|---:|");
        let clients: Vec<_> =
            [self.curl(), ("`-o text`".into(), self.sortie(&[]))].into_iter().chain(self.clients()).collect();
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
    fn idle(&mut self) -> Result<()> {
        let seconds = if self.options.full { 30 } else { 10 };
        let clients: Vec<_> =
            [self.curl(), ("`sortie run`".into(), self.sortie(&[]))].into_iter().chain(self.clients()).collect();
        self.server.play(Play::Silence(Duration::ZERO));
        let without = rounds_of(&clients, Sink::Null, 1, 20)?;
        self.server.play(Play::Silence(Duration::from_secs(seconds)));
        println!("\n### Waiting for {seconds} s\n\n| client | CPU | wake-ups |\n|---|---:|---:|");
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

    /// Many runs at once, and as many of curl's, to tell what the machine and this program have to do with it.
    fn many(&mut self) -> Result<()> {
        println!("\n### Many at once, on a stream of 200 kB each\n");
        println!(
            "| client | at once | ended right | wall, each | CPU, each | memory, each (PSS) | peak memory (RSS) |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|");
        let stream = Arc::new(Stream::new(Kind::Mixed, Framing::Event, 200_000));
        let text = stream.text();
        let clients = [(self.curl(), None), (("`-o text`".into(), self.sortie(&[])), Some(text.as_str()))];
        let mut growths = Vec::new();
        let mut all_right = true;
        for ((name, words), text) in &clients {
            let mut crowds = Vec::new();
            for count in [100, 300, 1000] {
                let crowd = self.crowd(words, count, &stream, *text)?;
                let Crowd { right, wall, cpu, pss, peak } = crowd;
                println!(
                    "| {name} | {count} | {right} | {wall:.1} ms | {cpu:.1} ms | {pss:.2} MiB | {peak:.1} MiB |"
                );
                all_right &= text.is_none() || right == count;
                crowds.push(crowd);
            }
            let growth = |cost: fn(&Crowd) -> f64| cost(&crowds[2]) / cost(&crowds[0]);
            growths.push((growth(|crowd| crowd.wall), growth(|crowd| crowd.pss)));
        }
        self.bar("of 1 000 runs at once all end right", if all_right { "yes" } else { "no" }.into(), all_right);
        let [(curls, _), (time, memory)] = growths[..] else { unreachable!("two clients") };
        let measured = format!(
            "each of 1 000 takes {time:.2} × the time (curl: {curls:.2} ×) and {memory:.2} × the memory of each of 100"
        );
        let met = time <= f64::max(1.5, 1.25 * curls) && memory <= 1.1;
        self.bar("time and memory grow with the number of runs, no faster than curl's", measured, met);
        Ok(())
    }

    /// So many at once: all are connected before the first gets an event, and all live until the last has its text.
    fn crowd(&self, words: &[String], count: usize, stream: &Arc<Stream>, text: Option<&str>) -> Result<Crowd> {
        let gates: Arc<[Gate; 2]> = Arc::default();
        self.server.play(Play::Gated(stream.clone(), gates.clone()));
        let before = used()?.0;
        let mut began = Instant::now();
        let path = |n: usize| self.scratch.join(format!("run-{n}"));
        let runs: std::result::Result<Vec<Child>, _> =
            (0..count).map(|n| command(words).stdout(File::create(path(n))?).spawn()).collect();
        let mut runs = runs?;
        let connected = gates[0].gather(count);
        gates[0].open();
        let streamed = gates[1].gather(count);
        if !connected || !streamed {
            eprintln!("bench: not all of {count} got as far as their text's end within two minutes");
        }
        let mut wall = began.elapsed();
        let memory: Vec<_> = runs.iter().map(|run| Memory::of(run.id())).collect();
        began = Instant::now();
        gates[1].open();
        let mut right = 0;
        for (n, run) in runs.iter_mut().enumerate() {
            let ended = run.wait()?.success();
            right += usize::from(
                ended && text.is_none_or(|text| fs::read(path(n)).is_ok_and(|all| all == text.as_bytes())),
            );
            fs::remove_file(path(n))?;
        }
        wall += began.elapsed();
        let each = |all: f64| all / count as f64;
        Ok(Crowd {
            right,
            wall: each(wall.as_secs_f64() * 1e3),
            cpu: each((used()?.0 - before) as f64 / 1e3),
            pss: each(memory.iter().map(|run| run.pss).sum::<u64>() as f64) / 1024.0,
            peak: memory.iter().map(|run| run.peak).max().unwrap_or(0) as f64 / 1024.0,
        })
    }
}

/// What many at once cost, each.
struct Crowd {
    right: usize,
    /// In ms.
    wall: f64,
    cpu: f64,
    /// In MiB.
    pss: f64,
    peak: f64,
}

/// The crates that are built for the binary on this platform, itself among them.
fn crates() -> Result<usize> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let flags = ["--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let tree = Command::new("cargo").args(["tree", "--manifest-path", manifest]).args(flags).output()?;
    if !tree.status.success() {
        return Err(String::from_utf8_lossy(&tree.stderr).into());
    }
    let tree = String::from_utf8(tree.stdout)?;
    let names = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>());
    Ok(names.collect::<BTreeSet<_>>().len())
}

/// Each client in turn, so many times at once, over and over: what else the machine does meets them all alike.
fn rounds_of(clients: &[Client], sink: Sink, rounds: usize, times: usize) -> Result<Vec<Vec<Sample>>> {
    let mut rows = vec![Vec::new(); clients.len()];
    for _ in 0..rounds {
        for (row, (_, words)) in rows.iter_mut().zip(clients) {
            row.extend(measure(words, sink, times)?);
        }
    }
    Ok(rows)
}

/// The medians of some runs; the peak and the exit are the largest.
struct Middle {
    cpu: f64,
    wall: f64,
    waits: f64,
    /// In MiB.
    peak: f64,
    exit: u64,
}

impl Middle {
    fn of(samples: &[Sample]) -> Self {
        let middle = |what: fn(&Sample) -> u64| median(samples.iter().map(what)) as f64;
        let most = |what: fn(&Sample) -> u64| samples.iter().map(what).max().unwrap_or(0);
        Self {
            cpu: middle(|run| run.cpu),
            wall: middle(|run| run.wall),
            waits: middle(|run| run.waits),
            peak: most(|run| run.peak) as f64 / 1024.0,
            exit: most(|run| run.exit),
        }
    }

    fn cells(&self, curl: &Self) -> String {
        if self.exit != 0 {
            return format!("failed, exit {} | | | | ", self.exit);
        }
        format!(
            "{:.0} ms | {:.2} | {:.0} ms | {:.2} | {:.1} MiB",
            self.cpu / 1e3,
            self.cpu / curl.cpu,
            self.wall / 1e3,
            self.wall / curl.wall,
            self.peak,
        )
    }
}

/// The worst of `-o text`.
#[derive(Default)]
struct Worst {
    cpu: f64,
    /// On streams whose events do not come in chunks of their own.
    merged_cpu: f64,
    peak: f64,
}

impl Worst {
    fn note(&mut self, framing: Framing, ours: &Middle, curl: &Middle) {
        let cpu = if framing == Framing::Event { &mut self.cpu } else { &mut self.merged_cpu };
        *cpu = cpu.max(ours.cpu / curl.cpu);
        self.peak = self.peak.max(ours.peak);
    }
}

/// A living process's memory, in kB: its share of what it has in common with others, and its own peak.
struct Memory {
    pss: u64,
    peak: u64,
}

impl Memory {
    fn of(process: u32) -> Self {
        let field = |file: &str, name: &str| {
            let all = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
            let value =
                all.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
            value.unwrap_or(0)
        };
        Self { pss: field("smaps_rollup", "Pss:"), peak: field("status", "VmHWM:") }
    }
}

impl Sink {
    const fn name(self) -> &'static str {
        match self {
            Self::Null => "/dev/null",
            Self::Pipe => "a pipe",
        }
    }
}
