//! Many runs at once.

use crate::measure::{command, used};
use crate::server::{Gate, Play};
use crate::stream::{Framing, Kind, Letters, Stream};
use crate::{Bench, Result};
use std::fs::{self, File};
use std::process::Child;
use std::sync::Arc;
use std::time::Instant;

impl Bench {
    /// Many runs at once, and as many of curl's, to tell what the machine and this program have to do with it.
    pub fn many(&mut self) -> Result<()> {
        println!("\n#### Many at once, on a stream of 200 kB each\n");
        println!(
            "| client | at once | ended right | wall, each | CPU, each | memory, each (PSS) | peak memory (RSS) |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|");
        let stream = Arc::new(Stream::new(Kind::Mixed, Letters::All, Framing::Event, 200_000));
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
