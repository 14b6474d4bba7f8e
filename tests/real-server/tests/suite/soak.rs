//! Many runs at once on one server: every one ends, and every one is exact.

use real_server::{Model, RealServer, Reply};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

const RUNS: usize = 200;
const AT_A_TIME: usize = 20;

/// What the model does in the run of this number: six kinds of run, at different paces.
fn reply(number: usize, turn: usize) -> Reply {
    let pace = Duration::from_millis((number * 7 % 40) as u64);
    let (a, b, c) = (&*format!("a{number}"), &*format!("b{number}"), &*format!("c{number}"));
    let calls: &[(&str, &str)] = match (number % 6, turn) {
        (1, 0) => &[(a, "view")],
        (2, 0) => &[(a, "create")],
        (3, 0) => &[(a, "view"), (b, "create"), (c, "view")],
        (4, 0) => &[(a, "create"), (b, "remove")],
        (5, 0 | 1) => &[(a, "view"), (b, "view")],
        _ => &[],
    };
    let text = format!("run {number} says ünï {turn}");
    Reply::text(text).and_calls(calls.iter().copied()).after(pace)
}

/// What such a run prints.
fn expected(number: usize) -> String {
    let turns = match number % 6 {
        0 => 1,
        5 => 3,
        _ => 2,
    };
    (0..turns).map(|turn| format!("run {number} says ünï {turn}\n")).collect()
}

#[test]
fn two_hundred_runs_twenty_at_a_time_are_all_exact() {
    let server = RealServer::start(&Model::answering(|request| {
        let number = request.prompt().parse().expect("a number for a prompt");
        reply(number, request.turns_before())
    }));
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= RUNS {
                        break;
                    }
                    let run = server.sortie(["run", &number.to_string()]).run();
                    run.says(&expected(number));
                }
            });
        }
    });
}
