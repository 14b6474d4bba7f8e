//! What a command costs: run by a small helper process (this binary again), so that the children's rusage is its
//! alone and its peak memory is not that of a fork of the server.

use nix::sys::resource::{UsageWho, getrusage};
use std::error::Error;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument that makes this binary the helper.
pub const HELPER: &str = "--helper";

/// Where a command's stdout goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sink {
    Null,
    /// A pipe that is read as fast as possible.
    Pipe,
}

/// One run of a command. The times are in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// User and system.
    pub cpu: u64,
    pub wall: u64,
    /// In kB.
    pub peak: u64,
    /// Times that it gave up the processor of itself.
    pub waits: u64,
    /// Bytes that came through the pipe.
    pub output: u64,
    /// 1000 for a death by signal.
    pub exit: u64,
}

/// The command, with a clean environment.
pub fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().stdin(Stdio::null());
    command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
    command
}

/// Runs a command so many times, one after the other.
pub fn measure(words: &[String], sink: Sink, times: usize) -> Result<Vec<Sample>, Box<dyn Error>> {
    let helper = Command::new(std::env::current_exe()?)
        .args([HELPER, if sink == Sink::Null { "null" } else { "pipe" }, &times.to_string()])
        .args(words)
        .stderr(Stdio::inherit())
        .output()?;
    let lines = String::from_utf8(helper.stdout)?;
    let samples: Vec<_> = lines.lines().filter_map(Sample::parse).collect();
    if samples.len() == times { Ok(samples) } else { Err(format!("could not run {}", words.join(" ")).into()) }
}

/// The helper: a line for each run.
pub fn help(sink: &str, times: &str, words: &[String]) -> Result<(), Box<dyn Error>> {
    for _ in 0..times.parse::<usize>()? {
        let before = used()?;
        let began = Instant::now();
        let stdout = if sink == "null" { Stdio::null() } else { Stdio::piped() };
        let mut child = command(words).stdout(stdout).stderr(Stdio::null()).spawn()?;
        let mut output = 0;
        if let Some(mut pipe) = child.stdout.take() {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match pipe.read(&mut buffer)? {
                    0 => break,
                    length => output += length,
                }
            }
        }
        let exit = child.wait()?.code().unwrap_or(1000);
        let wall = began.elapsed().as_micros();
        let after = used()?;
        println!("{} {wall} {} {} {output} {exit}", after.0 - before.0, after.1, after.2 - before.2);
    }
    Ok(())
}

/// CPU, peak memory and waits of all children so far.
pub fn used() -> io::Result<(u64, u64, u64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = usage.user_time() + usage.system_time();
    let cpu = Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000).as_micros() as u64;
    Ok((cpu, usage.max_rss() as u64, usage.voluntary_context_switches() as u64))
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [cpu, wall, peak, waits, output, exit] = numbers[..] else { return None };
        Some(Self { cpu, wall, peak, waits, output, exit })
    }
}

/// The value that a share of all others does not exceed: 0.5 is the median.
pub fn quantile<T: Copy + Ord>(values: impl IntoIterator<Item = T>, share: f64) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}

pub fn median<T: Copy + Ord>(values: impl IntoIterator<Item = T>) -> T {
    quantile(values, 0.5)
}
