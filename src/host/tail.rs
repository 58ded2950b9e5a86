//! The last entries of the log, kept in memory for the dashboard.
//!
//! What `log.level` lets through goes here as well as to the log's destination. An entry costs one
//! short lock after it has been put into words; where nothing is logged, nothing is done. The memory
//! is bounded by [`ENTRIES`] and [`BYTES`]: the oldest go.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use log::Level;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::entry;
use crate::config::text::without_credentials;
use crate::ports::lock;

/// Entries that are kept at most.
pub const ENTRIES: usize = 1000;
/// Bytes of entries that are kept at most: 1000 usual ones take a third of it.
pub const BYTES: usize = 512 * 1024;
/// Bytes of one entry's message, names and values at most; what is longer is cut and ends in `…`.
pub const ENTRY_BYTES: usize = 2048;
/// Bytes of a message at most, so that fields have their room.
const MESSAGE_BYTES: usize = 1024;
/// What an entry and each of its fields take besides their text, about.
const OVERHEAD: usize = 96;
/// The thread whose entries below `info` are not for [`Entry::is_news`].
const DASHBOARD: &str = "dashboard";

/// One entry as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Grows by one from entry to entry, from 1 on in each run of the gateway.
    pub number: u64,
    /// Unix time in seconds.
    pub time: f64,
    /// How serious it is.
    pub level: Level,
    /// The module it comes from.
    pub target: Cow<'static, str>,
    /// What happened.
    pub message: String,
    /// Every field by its name; names are unique.
    pub fields: Vec<(&'static str, String)>,
    own: bool,
}

/// The last entries of the log.
#[derive(Debug, Default)]
pub struct Tail {
    ring: Mutex<Ring>,
    newest: AtomicU64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

/// The layer that fills a [`Tail`].
#[derive(Debug)]
pub(super) struct TailLayer(pub(super) Arc<Tail>);

impl Tail {
    /// The number of the newest entry, 0 before the first. Takes no lock.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The entries with a higher number than `number` that are still there, oldest first.
    #[must_use]
    pub fn since(&self, number: u64) -> Vec<Arc<Entry>> {
        if self.newest() <= number {
            return Vec::new();
        }
        let ring = lock(&self.ring);
        let first = ring.entries.partition_point(|entry| entry.number <= number);
        ring.entries.range(first..).cloned().collect()
    }

    /// Adds an entry, whose number this gives, and lets the oldest go where there is no room.
    pub fn push(&self, mut entry: Entry) {
        let size = entry.size();
        let mut ring = lock(&self.ring);
        // Under the lock, so that the numbers stand in order.
        entry.number = self.newest.load(Ordering::Relaxed) + 1;
        while ring.entries.len() >= ENTRIES || ring.bytes + size > BYTES {
            let Some(oldest) = ring.entries.pop_front() else { break };
            ring.bytes -= oldest.size();
        }
        ring.bytes += size;
        self.newest.store(entry.number, Ordering::Release);
        ring.entries.push_back(Arc::new(entry));
    }
}

impl Entry {
    /// An entry as it is kept: cut to [`ENTRY_BYTES`], names once, and no credentials of URLs.
    #[must_use]
    pub fn new(
        time: f64,
        level: Level,
        target: Cow<'static, str>,
        message: &str,
        fields: &[(&'static str, String)],
    ) -> Self {
        let message = cut(&without_credentials(message), MESSAGE_BYTES);
        let mut room = ENTRY_BYTES.saturating_sub(message.len() + target.len());
        let mut kept: Vec<(&'static str, String)> = Vec::with_capacity(fields.len());
        // The device comes first: by it entries are chosen.
        let device = fields.iter().filter(|(name, _)| *name == "device");
        for (name, value) in device.chain(fields) {
            if room <= name.len() || kept.iter().any(|(known, _)| known == name) {
                continue;
            }
            let value = cut(&without_credentials(value), room - name.len());
            room = room.saturating_sub(name.len() + value.len());
            kept.push((name, value));
        }
        let own = level > Level::Info && std::thread::current().name() == Some(DASHBOARD);
        Self { number: 0, time, level, target, message, fields: kept, own }
    }

    /// The device it is about, as the field of that name says.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.fields.iter().find(|(name, _)| *name == "device").map(|(_, value)| value.as_str())
    }

    /// Whether viewers may be told of it unasked. What the dashboard notes below `info` while it
    /// serves them would otherwise bring about more of itself.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !self.own
    }

    fn size(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD);
        OVERHEAD + self.target.len() + self.message.len() + fields.sum::<usize>()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TailLayer {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let entry::Entry { level, target, message, fields, .. } = entry::Entry::of(event, &ctx);
        // Before 1970 there is no log worth its time.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.0.push(Entry::new(time, level, target, &message, &fields.0));
    }
}

/// At most `max` bytes of `text` and, where that is less than all, `…` within them.
fn cut(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let most = max.saturating_sub(MARK.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    if end + MARK.len() <= max {
        short.push_str(MARK);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::entry::SpanFields;
    use tracing_subscriber::layer::SubscriberExt;

    fn logged(log: impl FnOnce()) -> Arc<Tail> {
        let tail = Arc::new(Tail::default());
        let layers = tracing_subscriber::registry().with(SpanFields).with(TailLayer(tail.clone()));
        tracing::subscriber::with_default(layers, log);
        tail
    }

    #[test]
    fn every_field_is_kept_by_name_and_the_events_own_wins() {
        let tail = logged(|| {
            let span = tracing::info_span!("s", device = "kiln-3", seq = 1);
            let _entered = span.enter();
            tracing::warn!(seq = 7_u64, reason = %"full", "batch {} refused", 7);
        });
        let entries = tail.since(0);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!(
            (entry.number, entry.level, entry.message.as_str()),
            (1, Level::Warn, "batch 7 refused")
        );
        let fields: Vec<_> = entry.fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(fields, [("device", "kiln-3"), ("seq", "7"), ("reason", "full")]);
        assert_eq!(entry.device(), Some("kiln-3"));
        assert!(entry.time > 1.7e9 && entry.target.contains("tail"));
    }

    #[test]
    fn a_flood_keeps_the_newest_within_both_bounds() {
        let tail = logged(|| (0..3 * ENTRIES).for_each(|n| tracing::info!(n, "short")));
        let entries = tail.since(0);
        assert_eq!(entries.len(), ENTRIES);
        assert_eq!(entries.last().unwrap().number, 3 * ENTRIES as u64);
        assert_eq!(tail.newest(), 3 * ENTRIES as u64);
        assert_eq!(tail.since(tail.newest() - 2).len(), 2);

        let long = "x".repeat(10 * ENTRY_BYTES);
        let tail =
            logged(|| (0..ENTRIES).for_each(|_| tracing::info!(long, other = long, "{long}")));
        let ring = lock(&tail.ring);
        assert!(ring.bytes <= BYTES && ring.entries.len() > 100, "{}", ring.entries.len());
        assert_eq!(ring.bytes, ring.entries.iter().map(|entry| entry.size()).sum::<usize>());
        for entry in &ring.entries {
            let text = entry.size() - OVERHEAD * (1 + entry.fields.len());
            assert!(text <= ENTRY_BYTES, "{text}");
            assert!(entry.message.ends_with('…'));
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcdef", 5), "ab…");
        assert_eq!(cut("äöü", 5), "ä…");
        assert_eq!(cut("äöü", 2), "");
    }

    #[test]
    fn credentials_of_urls_are_left_out() {
        let tail = logged(|| {
            tracing::warn!(url = "https://u:secret@h/x", "cannot reach mqtt://joe:secret@host:1/");
        });
        let text = format!("{:?}", tail.since(0));
        assert!(!text.contains("secret") && text.contains("host:1"), "{text}");
    }

    #[test]
    fn what_the_dashboard_notes_for_developers_is_kept_and_is_no_news() {
        let news = |name: &str| {
            let log = || {
                logged(|| {
                    tracing::debug!("a viewer left");
                    tracing::warn!("out of files");
                })
            };
            let thread = std::thread::Builder::new().name(name.into()).spawn(log).unwrap();
            let entries = thread.join().unwrap().since(0);
            entries.iter().map(|entry| entry.is_news()).collect::<Vec<_>>()
        };
        assert_eq!(news("dashboard"), [false, true]);
        assert_eq!(news("spool"), [true, true]);
    }
}
