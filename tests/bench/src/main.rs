//! How `sortie` fares beside `curl -sN` and others on the same streams, in the same run. See README.md.

mod brief;
mod drain;
mod far;
mod many;
mod measure;
mod past;
mod remote;
mod server;
mod stream;

use measure::{Sample, Sink, measure, median};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use server::{Play, Server};
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use stream::{Framing, Kind, Letters, SESSION, Stream};

const USAGE: &str = "usage: bench [--sortie PATH] [--against PATH]… [--client NAME=CMD]… [--static PATH]
             [--full | --quick] [--rounds N] [--only PART]…
  --sortie PATH      the binary [default: target/release/sortie]
  --against PATH     another sortie, an older one say, that is measured with it and has no bars
  --client NAME=CMD  another client; its words are parted at spaces, {url} is the server, {events} the event stream
  --static PATH      the static binary, for its size
  --full             1 GB streams and a longer silence too
  --quick            10 MB streams and what is soon measured, as in CI
  --rounds N         rounds for each stream [default: 11]; those of 1 GB take half
  --only PART        drain, ascii, trivial, moments, latency, https, attach, idle or many
  --serve STREAM     measure nothing: serve \"10 MB small, large chunks\", say, until ended; for a profiler";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Options {
    sortie: String,
    against: Vec<String>,
    clients: Vec<(String, String)>,
    linked: Option<String>,
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
    let mut options = Options {
        sortie: "target/release/sortie".into(),
        against: Vec::new(),
        clients: Vec::new(),
        linked: None,
        full: false,
        quick: false,
        rounds: 11,
        only: Vec::new(),
        serve: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().ok_or(USAGE);
        match argument.as_str() {
            "--sortie" => options.sortie = value()?,
            "--against" => options.against.push(value()?),
            "--client" => {
                let client = value()?;
                let (name, command) = client.split_once('=').ok_or(USAGE)?;
                options.clients.push((name.into(), command.into()));
            }
            "--static" => options.linked = Some(value()?),
            "--full" => options.full = true,
            "--quick" => {
                options.quick = true;
                options.only.extend(["drain", "trivial", "https", "attach"].map(String::from));
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
const PARTS: [(&str, fn(&mut Bench) -> Result<()>); 9] = [
    ("drain", Bench::drain),
    ("ascii", Bench::ascii),
    ("trivial", Bench::trivial),
    ("moments", Bench::moments),
    ("latency", Bench::latency),
    ("https", Bench::https),
    ("attach", Bench::attach),
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
    what: String,
    measured: String,
    met: bool,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let scratch = std::env::temp_dir().join(format!("sortie-bench-{}", std::process::id()));
        let server = Server::start(Play::Silence(Duration::ZERO), None)?;
        Ok(Self { options, server, scratch, bars: Vec::new() })
    }

    fn run(mut self) -> Result<bool> {
        if let Some(stream) = self.options.serve.clone() {
            return self.serve(&stream);
        }
        fs::create_dir(&self.scratch)?;
        self.install()?;
        let mut done = Ok(());
        for (name, part) in PARTS {
            if done.is_ok() && (self.options.only.is_empty() || self.options.only.iter().any(|only| only == name)) {
                eprintln!("bench: {name}");
                done = part(&mut self);
            }
        }
        done = done.and_then(|()| self.sizes());
        fs::remove_dir_all(&self.scratch)?;
        done?;
        println!("\n#### The bars\n\n| bar | measured | met |\n|---|---|---|");
        for Bar { what, measured, met } in &self.bars {
            println!("| {what} | {measured} | {} |", if *met { "yes" } else { "**no**" });
        }
        Ok(self.bars.iter().all(|bar| bar.met))
    }

    /// Copies the binaries, as an installation does. The linker writes a file in small pieces, and the system then maps
    /// its pages one by one: each start takes a tenth longer.
    fn install(&mut self) -> Result<()> {
        let Options { sortie, against, clients, .. } = &mut self.options;
        let is_path =
            |command: &&mut String| command.split(' ').next().is_some_and(|program| program.contains('/'));
        let commands = clients.iter_mut().map(|(_, command)| command).filter(is_path);
        for (number, command) in [sortie].into_iter().chain(against).chain(commands).enumerate() {
            let (program, rest) = command.split_once(' ').unwrap_or((command, ""));
            let folder = self.scratch.join(number.to_string());
            fs::create_dir(&folder)?;
            let copy = folder.join(name_of(program));
            fs::write(&copy, fs::read(program)?)?;
            fs::set_permissions(&copy, fs::metadata(program)?.permissions())?;
            *command = format!("{} {rest}", copy.display()).trim_end().to_owned();
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<()> {
        let size = fs::metadata(&self.options.sortie)?.len();
        let megabytes = |size: u64| format!("{:.2} MB", size as f64 / 1e6);
        self.bar("the binary is no larger than 3.2 MB", megabytes(size), size <= 3_200_000);
        if let Some(linked) = &self.options.linked {
            let size = fs::metadata(linked)?.len();
            self.bar("the static one is no larger than 4.2 MB", megabytes(size), size <= 4_200_000);
        }
        let crates = crates()?;
        self.bar("no more than 75 crates are built for it", crates.to_string(), crates <= 75);
        Ok(())
    }

    /// Serves the stream of that name, for ever.
    fn serve(&self, name: &str) -> Result<bool> {
        let megabytes: usize = name.split(' ').next().unwrap_or_default().parse()?;
        let kind = if name.contains("small") { Kind::Small } else { Kind::Mixed };
        let letters = if name.contains("ascii") { Letters::Ascii } else { Letters::All };
        let framing = if name.contains("large") { Framing::Turn } else { Framing::Event };
        self.server.play(Play::Stream(Arc::new(Stream::new(kind, letters, framing, megabytes * 1_000_000))));
        println!("{}", self.server.url);
        loop {
            std::thread::park();
        }
    }

    fn bar(&mut self, what: impl Into<String>, measured: String, met: bool) {
        self.bars.push(Bar { what: what.into(), measured, met });
    }

    /// A run of ours, with these flags.
    fn sortie(&self, flags: &[&str]) -> Vec<String> {
        self.run_by(&self.options.sortie, &self.server.url, flags)
    }

    fn run_by(&self, binary: &str, url: &str, flags: &[&str]) -> Vec<String> {
        [&[binary, "run", "-q", "--server", url], flags, &["do it"]]
            .concat()
            .into_iter()
            .map(String::from)
            .collect()
    }

    /// The same run by the other binaries.
    fn others(&self, url: &str, flags: &[&str]) -> impl Iterator<Item = Client> {
        self.options.against.iter().map(move |binary| {
            let name = [&[name_of(binary)], flags].concat().join(" ");
            (format!("`{name}`"), self.run_by(binary, url, flags))
        })
    }

    fn curl(&self) -> Client {
        let words = ["curl", "-sN", "-H", "Last-Event-ID: 0", &self.server.events_url()];
        ("`curl -sN`".into(), words.map(String::from).to_vec())
    }

    /// The other clients, at this server.
    fn clients(&self, url: &str) -> impl Iterator<Item = Client> {
        let events = format!("{url}/v1/sessions/{SESSION}/events");
        self.options.clients.iter().map(move |(name, command)| {
            let command = command.replace("{url}", url).replace("{events}", &events);
            (name.clone(), command.split_whitespace().map(String::from).collect())
        })
    }

    /// curl, a run of ours under that name, and all others.
    fn peers(&self, ours: &str) -> Vec<Client> {
        let url = &self.server.url;
        let first = [self.curl(), (ours.to_owned(), self.sortie(&[]))];
        first.into_iter().chain(self.others(url, &[])).chain(self.clients(url)).collect()
    }
}

/// The last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
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
    /// In MB.
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
            peak: most(|run| run.peak) as f64 * 1024.0 / 1e6,
            exit: most(|run| run.exit),
        }
    }

    fn cells(&self, curl: &Self) -> String {
        if self.exit != 0 {
            return format!("failed, exit {} | | | | ", self.exit);
        }
        format!(
            "{:.0} ms | {:.2} | {:.0} ms | {:.2} | {:.1} MB",
            self.cpu / 1e3,
            self.cpu / curl.cpu,
            self.wall / 1e3,
            self.wall / curl.wall,
            self.peak,
        )
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
