//! Requests to the dashboard as bytes on a connection: HTTP, queries, commands in JSON.
#![no_main]

#[allow(dead_code, unused_imports, reason = "shared with tests that use all of it")]
#[path = "../../tests/dashboard/support.rs"]
mod support;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use tidegate::core::command::Request;
use tidegate::dashboard::Fleet;
use tidegate::dashboard::fuzzing::Server;

const MAX_COMMAND: usize = 8 * 1024;

thread_local! {
    static SERVER: OnceCell<Server> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    // Read as a body alone, too, since few inputs get as far as that over HTTP.
    if let Err(bad) = Request::parse(bytes, MAX_COMMAND) {
        assert!(!bad.reason.is_empty(), "refused without a word");
    }
    SERVER.with(|server| {
        let server = server.get_or_init(|| Server::new(support::context(Fleet::new())));
        let answer = server.answer(bytes);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer:.200}");
        assert!(!answer.contains("HTTP/1.1 500 "), "{answer:.400}");
    });
});
