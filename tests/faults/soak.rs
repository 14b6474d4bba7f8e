//! The soak: runs at random that meet faults at random, fifty at a time. All are exact, and neither a process nor a
//! descriptor is left over.
//!
//! A hundred of them by default; a thousand by
//!
//! ```sh
//! SORTIE_SOAK=1000 cargo test --test faults soak
//! ```
//!
//! `SORTIE_SEED` names the first seed. One that failed is played again, alone, by
//! `SORTIE_SEED=… cargo test --test faults random_schedules`.

use crate::seeds;
use crate::support::story;
use crate::support::watched::Watched;
use std::process::Command;
use std::time::Duration;

const AT_A_TIME: usize = 50;
const INSIDE: &str = "SORTIE_SOAK_INSIDE";

#[test]
fn soak() {
    if std::env::var_os(INSIDE).is_some() {
        return play_all(seeds::number("SORTIE_SEED", 1000), seeds::number("SORTIE_SOAK", 100));
    }
    // A process of its own: in this one the other tests open and close descriptors too.
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let output = command.args(["--exact", "soak::soak", "--nocapture"]).env(INSIDE, "1").output();
    let output = output.expect("start the soak");
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{error}");
}

fn play_all(first: u64, count: u64) {
    // What is opened once and kept is open after that.
    story::play(first);
    let before = descriptors();
    seeds::play(first, count, AT_A_TIME, story::play);
    // The threads that read the last outputs may be about to close them.
    let never = Watched::new(());
    let settled = (0..500).any(|_| {
        never.wait(Duration::from_millis(20), |()| None::<()>);
        descriptors() <= before && processes().is_empty()
    });
    assert!(settled, "{before} descriptors, then {}; left over: {:?}", descriptors(), processes());
}

#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our descriptors").count()
}

/// The processes that the stories have started and that are still there, zombies included.
#[cfg(target_os = "linux")]
fn processes() -> Vec<String> {
    let mark = format!("SORTIE_STORY={}\0", std::process::id());
    let us = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("the processes").filter_map(Result::ok);
    let of_ours = entries.map(|entry| entry.path()).filter(|path| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default();
        parent.trim() == us || environment.windows(mark.len()).any(|part| part == mark.as_bytes())
    });
    of_ours.map(|path| path.display().to_string()).collect()
}

#[cfg(not(target_os = "linux"))]
fn descriptors() -> usize {
    0
}

#[cfg(not(target_os = "linux"))]
fn processes() -> Vec<String> {
    Vec::new()
}
