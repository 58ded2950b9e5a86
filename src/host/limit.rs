//! How much may be logged of the same: so that one bad device, or one fault that comes again and again,
//! does not drown everything else, or wear out the card that the journal is on.
//!
//! Every place in the program that logs has a budget for each device that it logs about, and one
//! altogether. What is over is withheld and counted, and the count is logged a minute later. It holds from
//! INFO upwards; who asks for DEBUG wants all of it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use compact_str::CompactString;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use super::entry::Fields;
use super::panics::beginning;
use crate::ports::lock;

/// Lines of one place about one device: so many at once, then so many a minute.
const OF_DEVICE: Budget = Budget { at_once: 10.0, per_minute: 5.0 };
/// Lines of one place, altogether.
const OF_PLACE: Budget = Budget { at_once: 100.0, per_minute: 60.0 };
/// Places and devices that are known at a time; where there are more, the place's budget has to do.
const BUCKETS: usize = 1024;
/// How long is counted before it is told.
const WINDOW: Duration = Duration::from_secs(60);
/// Summaries at a time; what is beyond goes into one.
const TOLD: usize = 20;
/// Bytes of a withheld message that are told.
const LIKE: usize = 120;
/// The event that tells, which is never withheld.
const TELLING: &str = "lines-withheld";

#[derive(Debug, Clone, Copy)]
struct Budget {
    at_once: f64,
    per_minute: f64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Limit {
    buckets: Mutex<HashMap<Key, Bucket>>,
}

/// The filter for the layers behind which lines cost something.
#[derive(Debug)]
pub(super) struct Limited(pub(super) Arc<Limit>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Identifier,
    device: Option<CompactString>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    withheld: Option<Withheld>,
}

/// What was withheld since it was last told.
#[derive(Debug, Clone)]
struct Withheld {
    since: Instant,
    count: u64,
    place: String,
    like: String,
}

impl Limit {
    /// Logs how much was withheld, where a minute has passed since it began or `all` is wanted.
    pub(super) fn tell(&self, now: Instant, all: bool) {
        let mut told = Vec::new();
        for (key, bucket) in &mut *lock(&self.buckets) {
            let due = |withheld: &mut Withheld| all || withheld.since + WINDOW <= now;
            if let Some(withheld) = bucket.withheld.take_if(due) {
                told.push((key.device.clone(), withheld));
            }
        }
        // Not under the lock: what is logged here comes back to the filter.
        told.sort_by_key(|(_, withheld)| Reverse(withheld.count));
        let rest: u64 = told.iter().skip(TOLD).map(|(_, withheld)| withheld.count).sum();
        for (device, Withheld { count, place, like, .. }) in told.into_iter().take(TOLD) {
            tracing::warn!(
                name: "lines-withheld",
                device = device.as_deref(),
                count,
                place,
                like,
                "{count} log entries of one kind withheld within a minute"
            );
        }
        if rest > 0 {
            tracing::warn!(name: "lines-withheld", count = rest, "{rest} log entries withheld besides");
        }
    }

    fn admits<S>(&self, event: &Event<'_>, cx: &Context<'_, S>, now: Instant) -> bool
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let meta = event.metadata();
        if *meta.level() > Level::INFO || meta.name() == TELLING {
            return true;
        }
        let device = device_of(event, cx);
        let mut buckets = lock(&self.buckets);
        let place = Key { place: meta.callsite(), device: None };
        if device.is_some() {
            let key = Key { device, ..place.clone() };
            if has_room(&mut buckets, &key, now) {
                let bucket = buckets.entry(key).or_insert_with(|| Bucket::full(OF_DEVICE, now));
                if !bucket.takes(OF_DEVICE, now) {
                    bucket.withhold(event, now);
                    return false;
                }
            }
        }
        // There are as many of these as there are places in the program.
        let bucket = buckets.entry(place).or_insert_with(|| Bucket::full(OF_PLACE, now));
        let takes = bucket.takes(OF_PLACE, now);
        if !takes {
            bucket.withhold(event, now);
        }
        takes
    }
}

/// Whether there is a place for `key`, after those that say nothing any more have gone.
fn has_room(buckets: &mut HashMap<Key, Bucket>, key: &Key, now: Instant) -> bool {
    if buckets.len() < BUCKETS || buckets.contains_key(key) {
        return true;
    }
    buckets.retain(|key, bucket| {
        key.device.is_none() || bucket.withheld.is_some() || !bucket.is_full(OF_DEVICE, now)
    });
    buckets.len() < BUCKETS
}

impl Bucket {
    fn full(budget: Budget, now: Instant) -> Self {
        Self { left: budget.at_once, at: now, withheld: None }
    }

    fn refill(&self, budget: Budget, now: Instant) -> f64 {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        (self.left + minutes * budget.per_minute).min(budget.at_once)
    }

    fn is_full(&self, budget: Budget, now: Instant) -> bool {
        self.refill(budget, now) >= budget.at_once
    }

    fn takes(&mut self, budget: Budget, now: Instant) -> bool {
        self.left = self.refill(budget, now);
        self.at = now;
        let takes = self.left >= 1.0;
        if takes {
            self.left -= 1.0;
        }
        takes
    }

    fn withhold(&mut self, event: &Event<'_>, now: Instant) {
        let withheld = self.withheld.get_or_insert_with(|| {
            let mut message = Wanted { name: "message", value: None };
            event.record(&mut message);
            let like = beginning(message.value.as_deref().unwrap_or_default(), LIKE).to_owned();
            Withheld { since: now, count: 0, place: place_of(event.metadata()), like }
        });
        withheld.count += 1;
    }
}

fn place_of(meta: &Metadata<'_>) -> String {
    match (meta.file(), meta.line()) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => meta.target().to_owned(),
    }
}

/// The event's own field, else that of the innermost span that has one.
fn device_of<S>(event: &Event<'_>, cx: &Context<'_, S>) -> Option<CompactString>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut wanted = Wanted { name: "device", value: None };
    event.record(&mut wanted);
    wanted.value.map(CompactString::from).or_else(|| {
        cx.event_scope(event)?.find_map(|span| {
            let extensions = span.extensions();
            let Fields(fields) = extensions.get::<Fields>()?;
            fields.iter().find(|(name, _)| *name == "device").map(|(_, value)| value.into())
        })
    })
}

/// Looks for one field.
struct Wanted {
    name: &'static str,
    value: Option<String>,
}

impl Visit for Wanted {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.name {
            self.value = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == self.name {
            self.value = Some(format!("{value:?}"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for Limited {
    fn enabled(&self, _meta: &Metadata<'_>, _cx: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, cx: &Context<'_, S>) -> bool {
        self.0.admits(event, cx, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::entry::SpanFields;
    use crate::host::tail::{Entry, Tail, TailLayer};
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    /// What is logged, and then what is told of what was not.
    fn logged(log: impl FnOnce()) -> (Vec<Arc<Entry>>, Vec<Arc<Entry>>) {
        let (tail, limit) = (Arc::new(Tail::default()), Arc::new(Limit::default()));
        let bounded = TailLayer(tail.clone()).with_filter(Limited(limit.clone()));
        let layers = tracing_subscriber::registry().with(SpanFields).with(bounded);
        tracing::subscriber::with_default(layers, || {
            log();
            let logged = tail.since(0);
            limit.tell(Instant::now(), false);
            assert_eq!(tail.newest(), logged.len() as u64, "a minute has not passed");
            limit.tell(Instant::now() + WINDOW, false);
            let told = tail.since(logged.len() as u64);
            limit.tell(Instant::now() + 2 * WINDOW, true);
            assert_eq!(tail.newest(), (logged.len() + told.len()) as u64, "it is told once");
            (logged, told)
        })
    }

    fn of(entry: &Entry, name: &str) -> String {
        let field = entry.fields.iter().find(|(known, _)| *known == name);
        field.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    #[test]
    fn one_bad_device_silences_itself_and_nobody_else() {
        let (logged, told) = logged(|| {
            let complain = |device: &str| tracing::warn!(device, "nonsense from {device}");
            (0..1000).for_each(|_| complain("bad"));
            ["good", "other"].into_iter().for_each(complain);
            tracing::warn!(device = "bad", "something else");
        });
        let of_bad = logged.iter().filter(|entry| entry.device() == Some("bad")).count();
        assert_eq!((of_bad, logged.len()), (11, 13));
        let [summary] = &told[..] else { panic!("{told:?}") };
        assert_eq!((summary.device(), of(summary, "count")), (Some("bad"), "990".into()));
        assert_eq!(of(summary, "like"), "nonsense from bad");
        assert!(of(summary, "place").starts_with("src/host/limit.rs:"), "{summary:?}");
    }

    #[test]
    fn the_device_of_a_span_counts_too() {
        let (logged, told) = logged(|| {
            let span = tracing::info_span!("connection", device = "bad");
            let _entered = span.enter();
            (0..50).for_each(|n| tracing::info!(n, "again"));
        });
        assert_eq!(logged.len(), 10);
        assert_eq!(told[0].device(), Some("bad"));
    }

    #[test]
    fn many_devices_have_one_budget_together_and_the_table_is_bounded() {
        let (logged, told) = logged(|| {
            for n in 0..3 * BUCKETS {
                let device = format!("device-{n}");
                tracing::error!(device, "cannot be served");
            }
        });
        assert_eq!(logged.len(), 100);
        assert_eq!(of(&told[0], "count"), (3 * BUCKETS - 100).to_string());
        assert_eq!((told.len(), told[0].device()), (1, None));
    }

    #[test]
    fn who_asks_for_debug_gets_all_of_it() {
        let (logged, told) = logged(|| (0..500).for_each(|n| tracing::debug!(n, "detail")));
        assert_eq!((logged.len(), told.len()), (500, 0));
    }

    #[test]
    fn a_budget_comes_back_with_time() {
        let began = Instant::now();
        let mut bucket = Bucket::full(OF_DEVICE, began);
        let taken =
            |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.takes(OF_DEVICE, now)).count();
        assert_eq!(taken(&mut bucket, began), 10);
        assert_eq!(taken(&mut bucket, began + WINDOW), 5);
        assert_eq!(taken(&mut bucket, began + 60 * WINDOW), 10);
        assert!(!bucket.is_full(OF_DEVICE, began + 60 * WINDOW));
        assert!(bucket.is_full(OF_DEVICE, began + 63 * WINDOW));
    }
}
