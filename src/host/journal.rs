//! Log entries for the journal, with every field of an event and of the spans around it as a field
//! of its own.
//!
//! Priorities are those of syslog: ERROR is 3 (err), WARN 4 (warning), INFO 6 (info), DEBUG and TRACE 7
//! (debug). The library's own mapping makes INFO a notice and DEBUG an info, so that `journalctl -p info`
//! would show what is for developers.
//!
//! Sending to the journal takes 15 µs and blocks while journald is stopped, so a thread of its own
//! does it, behind a bounded queue. When that is full, entries are dropped, counted, and the count
//! is logged.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use log::Level;
use log::kv::{self, Key, VisitSource};
use systemd_journal_logger::JournalLog;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::entry::{Entry, Fields};
use super::events;

/// The name of the thread that writes to the journal.
pub(super) const THREAD: &str = "journal";

/// Entries that may wait.
const QUEUE: usize = 1024;

/// How long the end of the process waits for what is still queued.
const FLUSH: Duration = Duration::from_secs(2);

/// The `tracing` layer that hands entries to the thread.
#[derive(Debug)]
pub(super) struct JournalLayer {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// The thread's handle; waits for the queue when dropped.
#[derive(Debug)]
pub(super) struct Journal {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Entry(Box<Entry>),
    /// Answered by dropping it.
    Flush {
        _done: SyncSender<()>,
    },
}

/// Connects to journald and starts the thread.
///
/// # Errors
/// When journald is not there.
pub(super) fn open() -> io::Result<(JournalLayer, Journal)> {
    let log = JournalLog::empty()?.with_syslog_identifier("tidegate".to_owned());
    start(move |record| {
        // Nobody could be told, and the next entry may fare better.
        let _ = log.journal_send(record);
    })
}

fn start(send: impl Fn(&log::Record<'_>) + Send + 'static) -> io::Result<(JournalLayer, Journal)> {
    let (queue, entries) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&dropped);
    std::thread::Builder::new()
        .name(THREAD.to_owned())
        .spawn(move || run(&entries, &counter, send))?;
    let layer = JournalLayer { queue: queue.clone(), dropped: Arc::clone(&dropped) };
    Ok((layer, Journal { queue, dropped }))
}

fn run(entries: &Receiver<Message>, dropped: &AtomicU64, send: impl Fn(&log::Record<'_>)) {
    let mut told = 0;
    for message in entries {
        // A flush is answered by dropping its sender.
        let Message::Entry(entry) = message else { continue };
        entry.send(&send);
        let total = dropped.load(Ordering::Relaxed);
        if total > told {
            let lost = Entry {
                name: "lines-dropped",
                level: Level::Warn,
                target: Cow::Borrowed(module_path!()),
                file: None,
                line: None,
                message: format!("{} log entries dropped: the journal is too slow", total - told),
                fields: Fields(vec![("count", (total - told).to_string())]),
            };
            lost.send(&send);
            told = total;
        }
    }
}

impl Journal {
    /// Entries that did not fit into the queue since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(0);
        let limit = Instant::now() + FLUSH;
        let mut flush = Message::Flush { _done: done };
        while let Err(TrySendError::Full(back)) = self.queue.try_send(flush) {
            if Instant::now() >= limit {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
            flush = back;
        }
        // The answer is that the other end goes.
        let _ = wait.recv_timeout(limit.saturating_duration_since(Instant::now()));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let entry = Box::new(Entry::of(event, &ctx));
        if self.queue.try_send(Message::Entry(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Entry {
    fn send(&self, send: impl Fn(&log::Record<'_>)) {
        let mut record = log::Record::builder();
        record
            .level(priority(self.level))
            .target(&self.target)
            .file_static(self.file)
            .line(self.line)
            .key_values(self);
        send(&record.args(format_args!("{}", self.message)).build());
    }
}

/// The level whose priority, as the library has it, is that of syslog for `level`.
fn priority(level: Level) -> Level {
    match level {
        Level::Error | Level::Warn => level,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

impl kv::Source for Entry {
    /// Each field once, that of the event before those of the spans around it. `MESSAGE_ID` and the
    /// readable name are for the events that have one.
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        if let Some(id) = events::message_id(self.name) {
            visitor.visit_pair(Key::from_str("MESSAGE_ID"), kv::Value::from(id))?;
            visitor.visit_pair(Key::from_str("TIDEGATE_EVENT"), kv::Value::from(self.name))?;
        }
        let fields = &self.fields.0;
        for (index, (name, value)) in fields.iter().enumerate() {
            if !fields.iter().take(index).any(|(known, _)| known == name) {
                visitor.visit_pair(Key::from_str(name), kv::Value::from(value.as_str()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::entry::SpanFields;
    use std::fmt::Write;
    use std::sync::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    type Sent = Arc<Mutex<Vec<String>>>;

    /// Writes records down as `LEVEL target message {fields}`.
    fn note(sent: &Sent) -> impl Fn(&log::Record<'_>) + Send + 'static {
        let sent = Arc::clone(sent);
        move |record| {
            struct Text(String);
            impl<'kvs> VisitSource<'kvs> for Text {
                fn visit_pair(
                    &mut self,
                    key: Key<'kvs>,
                    value: kv::Value<'kvs>,
                ) -> Result<(), kv::Error> {
                    write!(self.0, " {key}={value}").map_err(kv::Error::from)
                }
            }
            let mut text = Text(format!("{} {}", record.level(), record.args()));
            record.key_values().visit(&mut text).unwrap();
            sent.lock().unwrap().push(text.0);
        }
    }

    #[test]
    fn fields_of_the_event_and_of_its_spans_arrive_one_by_one() {
        let sent = Sent::default();
        let (layer, journal) = start(note(&sent)).unwrap();
        let subscriber = tracing_subscriber::registry().with(SpanFields).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span =
                tracing::info_span!("device", device = "kiln-3", late = tracing::field::Empty);
            span.record("late", 1);
            let _entered = span.enter();
            tracing::warn!(seq = 7_u64, reason = %"full", "batch {} refused", 7);
        });
        drop(journal);
        assert_eq!(
            *sent.lock().unwrap(),
            ["WARN batch 7 refused seq=7 reason=full device=kiln-3 late=1"]
        );
    }

    #[test]
    fn an_event_with_a_name_has_its_identifier_and_each_field_is_there_once() {
        let sent = Sent::default();
        let (layer, journal) = start(note(&sent)).unwrap();
        let subscriber = tracing_subscriber::registry().with(SpanFields).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("device", device = "kiln-3", seq = 1);
            let _entered = span.enter();
            tracing::info!(name: "uplink-up", seq = 2, "connected");
        });
        drop(journal);
        let id = events::message_id("uplink-up").unwrap();
        let told =
            format!("DEBUG connected MESSAGE_ID={id} TIDEGATE_EVENT=uplink-up seq=2 device=kiln-3");
        assert_eq!(*sent.lock().unwrap(), [told]);
    }

    #[test]
    fn a_journal_that_hangs_costs_entries_and_they_are_counted() {
        let sent = Sent::default();
        let (gate, held) = sync_channel::<()>(0);
        let write = note(&sent);
        let held = Mutex::new(held);
        let (layer, journal) = start(move |record| {
            // Hangs until the gate's other end goes.
            let _ = held.lock().unwrap().recv();
            write(record);
        })
        .unwrap();
        let surplus = 10;
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            // One more than the queue holds may be in the thread's hands.
            for n in 0..=QUEUE + surplus {
                tracing::info!(n, "entry");
            }
        });
        let dropped = journal.dropped();
        assert!((10..=11).contains(&dropped), "{dropped}");
        drop(gate);
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        let told = format!("WARN {dropped} log entries dropped: the journal is too slow");
        while !sent.lock().unwrap().iter().any(|entry| entry.starts_with(&told)) {
            assert!(std::time::Instant::now() < limit);
            std::thread::yield_now();
        }
        drop(journal);
        let entries = sent.lock().unwrap().iter().filter(|e| e.starts_with("DEBUG")).count();
        assert_eq!(entries as u64 + dropped, QUEUE as u64 + surplus as u64 + 1);
    }
}
