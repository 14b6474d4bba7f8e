//! Runs the published server with a stub model, for `tests/first-run` and for trying sortie by hand.
//!
//! It prints the server's URL and token in the form in which `stakpak up --foreground --show-token` prints them, and
//! runs until its stdin is closed. The model answers each prompt at once; if the prompt asks it to write something, it
//! first proposes to call `create`, which the server's default policy asks about.

use real_server::{Model, RealServer, Reply, TOKEN};

fn main() {
    let model = Model::answering(|request| {
        let wants_to_write = request.prompt().to_lowercase().contains("write");
        match (wants_to_write, request.turns_before()) {
            (false, _) => Reply::text("All disks have room."),
            (true, 0) => Reply::text("I will write the file.").and_calls([("call_1", "create")]),
            (true, _) => Reply::text("The file is in place."),
        }
    });
    let server = RealServer::start(&model);
    println!("  Server      {}", server.url());
    println!("  Auth token  Bearer {TOKEN}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("read stdin to its end");
}
