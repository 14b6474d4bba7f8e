//! `sortie ping`: is the server there, and does it take our token?

use crate::support::agent::{Agent, Options, Route};
use crate::support::process::Sortie;
use std::time::Duration;

#[test]
fn ping_exits_0_if_the_token_is_accepted() {
    let agent = Agent::start();
    agent.sortie(["ping"]).run().code(0);
    let requests = agent.all_requests();
    assert!(requests.iter().all(|request| request.method == "GET"), "{requests:#?}");
}

#[test]
fn ping_exits_0_without_a_token_if_none_is_needed() {
    let agent = Agent::with(Options { token: None, ..Options::default() });
    agent.sortie(["ping"]).without_env("SORTIE_TOKEN").run().code(0);
}

#[test]
fn ping_exits_1_if_the_token_is_refused() {
    let agent = Agent::start();
    agent.sortie(["ping"]).env("SORTIE_TOKEN", "wrong").run().code(1).stderr_has("401").stderr_lacks("wrong");
    agent.sortie(["ping"]).without_env("SORTIE_TOKEN").run().code(1).stderr_has("401");
}

#[test]
fn ping_does_not_wait_if_the_token_is_refused() {
    let agent = Agent::start();
    let output = agent.sortie(["ping", "--wait", "20s"]).env("SORTIE_TOKEN", "wrong").run();
    output.code(1).within(Duration::from_secs(10));
}

#[test]
fn ping_exits_1_at_once_without_a_server() {
    let output = Sortie::new(["ping", "--server", "http://127.0.0.1:1"]).run();
    output.code(1).stderr_has("127.0.0.1:1").within(Duration::from_secs(5));
}

#[test]
fn ping_waits_for_a_missing_server_until_the_wait_is_over() {
    let output = Sortie::new(["ping", "--server", "http://127.0.0.1:1", "--wait", "1s"]).run();
    assert!(output.elapsed >= Duration::from_secs(1), "{output:#?}");
    output.code(1).within(Duration::from_secs(10));
}

#[test]
fn ping_exits_0_if_the_server_starts_in_time() {
    let agent = Agent::start();
    agent.down();
    let running = agent.sortie(["ping", "--wait", "25s"]).spawn();
    agent.wait_for_refusals(2);
    agent.up();
    running.wait().code(0);
}

#[test]
fn ping_waits_for_a_server_that_is_not_ready() {
    let agent = Agent::start();
    agent.next(Route::Health).fail(503, "starting");
    agent.next(Route::Config).fail(503, "starting");
    agent.sortie(["ping", "--wait", "25s"]).run().code(0);
}

#[test]
fn ping_exits_1_if_another_program_has_the_port() {
    let agent = Agent::start();
    for route in [Route::Health, Route::Config] {
        agent.every(route).answer(200, &[("content-type", "text/html")], "<html>Welcome</html>");
    }
    agent.sortie(["ping"]).run().code(1);
}
