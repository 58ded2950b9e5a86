//! What happens when a part of the program panics, which is a fault of the program: it is told in the
//! log, wherever that goes, and counted. What goes on and what ends is for whoever runs the part.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use prometheus_client::metrics::counter::Counter;

/// Bytes of a panic's message that are logged: it may quote what a stranger has sent.
const MESSAGE_MAX: usize = 500;

/// From here on every panic of the process is logged as an error, with its place, and counted; also
/// one that is caught. The backtrace is added where `RUST_BACKTRACE` asks for one.
pub fn tell(counter: Counter) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        counter.inc();
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Where the log says nothing, and where it is the log that panics.
        if thread == super::journal::THREAD || !tracing::enabled!(tracing::Level::ERROR) {
            return before(info);
        }
        log(info, thread);
    }));
}

fn log(info: &PanicHookInfo<'_>, thread: &str) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let said = info.payload();
    let said = said
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| said.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        name: "panic",
        place,
        thread,
        panic = beginning(said, MESSAGE_MAX),
        backtrace = backtrace.as_ref().map(tracing::field::display),
        "a part of tidegate has panicked, which is a fault of tidegate; please report this line. \
         Nothing that was acknowledged is lost"
    );
}

/// At most `max` bytes of `text`, cut between characters.
pub(super) fn beginning(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::host::entry::SpanFields;
    use crate::host::tail::{Tail, TailLayer};

    #[test]
    fn a_panic_is_in_the_log_with_its_place_and_counted() {
        let (tail, counter) = (Arc::new(Tail::default()), Counter::default());
        tell(counter.clone());
        let log = tracing_subscriber::registry().with(SpanFields).with(TailLayer(tail.clone()));
        let work = move || tracing::subscriber::with_default(log, || panic!("the {}", "reason"));
        let thread = thread::Builder::new().name("at-work".into()).spawn(work).unwrap();
        thread.join().unwrap_err();
        assert!(counter.get() >= 1, "tests beside this one may panic too");
        let entries = tail.since(0);
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(entry.level, log::Level::Error);
        let field = |name: &str| {
            let field = entry.fields.iter().find(|(known, _)| *known == name);
            field.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!((field("thread"), field("panic")), ("at-work".into(), "the reason".into()));
        assert!(field("place").starts_with("src/host/panics.rs:"), "{}", field("place"));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let text = "ä".repeat(300);
        assert_eq!(beginning(&text, 501).len(), 500);
        assert_eq!(beginning(&text, 500).len(), 500);
        assert_eq!(beginning("ab", 500), "ab");
    }
}
