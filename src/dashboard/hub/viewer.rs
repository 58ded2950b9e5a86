//! One connection to the feed. It keeps no queue, only the number of the last tick it has sent: one
//! that keeps pace sends the shared texts, one that was still busy gets the newest value of
//! everything that changed since. So a slow viewer costs neither memory nor anyone else's time.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Hub, Tick};
use crate::dashboard::list::DeviceList;
use crate::dashboard::log;
use crate::dashboard::render::{self, Filter};
use crate::dashboard::slot::Slot;

/// One connection to the feed.
#[derive(Debug)]
pub(in crate::dashboard) struct Viewer {
    hub: Arc<Hub>,
    filter: Filter,
    /// The last tick whose news have been taken.
    cursor: u64,
    /// The changes of commands up to there.
    commands: u64,
    /// The newest entry of the log up to there.
    log: u64,
    ticks: watch::Receiver<Arc<Tick>>,
    pending: Pending,
}

/// What is still to be sent of the news taken last.
#[derive(Debug)]
enum Pending {
    Nothing,
    Snapshot {
        list: DeviceList,
        begun: bool,
    },
    Shared {
        tick: Arc<Tick>,
        next: usize,
        status: bool,
    },
    Own {
        slots: std::vec::IntoIter<Arc<Slot>>,
        since: u64,
        texts: Vec<String>,
        status: Option<Utf8Bytes>,
    },
}

/// A message of the feed or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dashboard) enum Piece {
    Whole(Utf8Bytes),
    First(Bytes),
    Middle(Bytes),
    Last(Bytes),
}

impl Viewer {
    /// One that is about to get the snapshot.
    pub(super) fn new(hub: Arc<Hub>, filter: Filter) -> Self {
        let ticks = hub.ticks.subscribe();
        let pending = Pending::Nothing;
        let mut viewer = Self { hub, filter, cursor: 0, commands: 0, log: 0, ticks, pending };
        viewer.start_over();
        viewer
    }

    /// Waits for news; false when there will be none any more. Cancel safe.
    pub(in crate::dashboard) async fn changed(&mut self) -> bool {
        if self.ticks.changed().await.is_err() {
            return false;
        }
        self.take();
        true
    }

    /// The next piece to send, until there is none for now.
    pub(in crate::dashboard) fn next(&mut self) -> Option<Piece> {
        match &mut self.pending {
            Pending::Nothing => None,
            Pending::Snapshot { list, begun } => {
                let first = !std::mem::replace(begun, true);
                let mut bytes = if first { self.hub.snapshot_head() } else { Vec::new() };
                let last = list.append_piece(&self.filter, &mut bytes);
                if last {
                    bytes.push(b'}');
                    self.pending = Pending::Nothing;
                }
                Some(match (first, last) {
                    (true, true) => Piece::Whole(String::from_utf8(bytes).ok()?.into()),
                    (true, false) => Piece::First(bytes.into()),
                    (false, false) => Piece::Middle(bytes.into()),
                    (false, true) => Piece::Last(bytes.into()),
                })
            }
            Pending::Shared { tick, next, status } => {
                while let Some(message) = tick.messages.get(*next) {
                    *next += 1;
                    if let Some(text) = message.wanted(&self.filter) {
                        return Some(Piece::Whole(text.clone()));
                    }
                }
                let message = std::mem::take(status).then(|| tick.status.clone());
                self.finish(message)
            }
            Pending::Own { slots, since, texts, status } => loop {
                if let Some(text) = texts.pop() {
                    return Some(Piece::Whole(text.into()));
                }
                let Some(slot) = slots.next() else {
                    let message = status.take();
                    return self.finish(message);
                };
                if self.filter.wants_device(&slot.id) {
                    texts.extend(render::changes(&slot, *since, &self.filter));
                    texts.reverse();
                }
            },
        }
    }

    fn finish(&mut self, status: Option<Utf8Bytes>) -> Option<Piece> {
        self.pending = Pending::Nothing;
        status.map(Piece::Whole)
    }

    /// Takes what is new since the last time.
    fn take(&mut self) {
        let tick = Arc::clone(&self.ticks.borrow_and_update());
        let since = std::mem::replace(&mut self.cursor, tick.version);
        let commands = std::mem::replace(&mut self.commands, tick.commands);
        let logged = std::mem::replace(&mut self.log, tick.log);
        let status = tick.status_version > since;
        let keeps_pace = since + 1 == tick.version;
        self.pending = if since >= tick.version {
            Pending::Nothing
        } else if keeps_pace && self.filter.takes_any_name() {
            Pending::Shared { tick, next: 0, status }
        } else if keeps_pace || tick.removal_version <= since {
            let slots =
                if keeps_pace { tick.changed.clone() } else { self.hub.context.fleet.slots() };
            let status = status.then(|| tick.status.clone());
            let news = self.hub.context.commands.book.news(commands);
            let wanted = news.records.iter().rev().filter(|r| self.filter.wants_device(&r.device));
            let entries = self.hub.context.log.since(logged);
            let entries = entries.into_iter().filter(|entry| entry.number <= tick.log).collect();
            let mut texts: Vec<_> =
                log::messages(entries, &self.filter).map(|(_, _, text)| text).collect();
            // Taken from the end.
            texts.reverse();
            texts.extend(wanted.map(|record| render::command(record)));
            Pending::Own { slots: slots.into_iter(), since, texts, status }
        } else {
            // A removed device is in no list any more; only a new snapshot can tell.
            return self.start_over();
        };
    }

    fn start_over(&mut self) {
        let tick = Arc::clone(&self.ticks.borrow_and_update());
        (self.cursor, self.commands, self.log) = (tick.version, tick.commands, tick.log);
        let list = DeviceList::new(&self.hub.context, &self.filter);
        self.pending = Pending::Snapshot { list, begun: false };
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::Value as Json;

    use super::*;
    use crate::core::batch::{Batch, Reading, Value};
    use crate::core::clock::Base;
    use crate::core::ids::DeviceId;
    use crate::dashboard::{Context, Fleet, Limits};
    use crate::ports::{Clock, CommandAccess, DeviceFacts, Feed};

    struct Stopped;

    impl Clock for Stopped {
        fn unix(&self) -> f64 {
            1_763_800_000.0
        }
    }

    fn settings() -> watch::Receiver<Arc<crate::config::Settings>> {
        let host = crate::config::Surroundings::default();
        let text = "gateway.id = \"gw-1\"";
        let settings = crate::config::Settings::parse(text, "t.toml".as_ref(), &host).unwrap();
        watch::Sender::new(Arc::new(settings)).subscribe()
    }

    fn hub(limits: Limits) -> Arc<Hub> {
        Hub::new(Context {
            gateway: "gw-1".into(),
            version: "1".into(),
            fleet: Arc::new(Fleet::with_limits(limits)),
            health: Arc::default(),
            metrics: Arc::default(),
            commands: CommandAccess::new(1024).0,
            clock: Arc::new(Stopped),
            wear: Arc::new(crate::host::wear::Wear::new(Arc::new(Stopped))),
            started: Instant::now(),
            listening: Arc::default(),
            budget: Arc::new(crate::ports::Budget::new(1024)),
            audit: Arc::default(),
            log: Arc::default(),
            settings: settings(),
            origins: Arc::default(),
        })
    }

    /// Ticks without a due status.
    struct Ticker {
        scratch: Vec<Arc<Slot>>,
    }

    impl Ticker {
        fn tick(&mut self, hub: &Hub) {
            let mut last = Some((tokio::time::Instant::now(), hub.urgent()));
            hub.tick(&mut self.scratch, &mut last);
        }
    }

    fn up(hub: &Hub, device: &str) {
        let device = DeviceId::new(device).unwrap();
        hub.context.fleet.device_up(&device, &DeviceFacts::default());
    }

    fn send(hub: &Hub, device: &str, value: f64) {
        let reading = Reading {
            name: "x".into(),
            unit: None,
            value: Some(Value::Number(value)),
            sum: None,
            time: value,
            update_time: None,
            relative: false,
        };
        let device = DeviceId::new(device).unwrap();
        let readings = vec![reading];
        let batch = Batch {
            device,
            epoch: 1,
            seq: None,
            received: value,
            base: Base::default(),
            shift: 0.0,
            readings,
        };
        hub.context.fleet.readings(&Arc::new(batch));
    }

    /// Everything the viewer has to send now.
    fn drain(viewer: &mut Viewer) -> Vec<Json> {
        let mut parts = Vec::new();
        let mut messages = Vec::new();
        while let Some(piece) = viewer.next() {
            match piece {
                Piece::Whole(text) => messages.push(text.to_string()),
                Piece::First(bytes) | Piece::Middle(bytes) => parts.extend_from_slice(&bytes),
                Piece::Last(bytes) => {
                    parts.extend_from_slice(&bytes);
                    messages.push(String::from_utf8(std::mem::take(&mut parts)).unwrap());
                }
            }
        }
        messages.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn news(viewer: &mut Viewer) -> Vec<Json> {
        viewer.take();
        drain(viewer)
    }

    #[test]
    fn a_viewer_too_many_is_not_let_in_until_one_leaves() {
        let hub = hub(Limits::default());
        let first = hub.enter(Filter::default(), 2).unwrap();
        let second = hub.enter(Filter::default(), 2);
        assert!(second.is_some());
        assert!(hub.enter(Filter::default(), 2).is_none());
        drop(first);
        assert_eq!(hub.context.metrics.viewers.get(), 1);
        assert!(hub.enter(Filter::default(), 2).is_some());
    }

    #[test]
    fn viewers_that_keep_pace_share_one_text() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewers: Vec<_> =
            (0..2).map(|_| hub.enter(Filter::default(), 9).unwrap()).collect();
        for viewer in &mut viewers {
            assert_eq!(drain(viewer).len(), 1);
        }
        send(&hub, "a", 1.0);
        ticker.tick(&hub);
        let texts: Vec<_> = viewers
            .iter_mut()
            .map(|viewer| {
                viewer.take();
                let Some(Piece::Whole(text)) = viewer.next() else { panic!("no message") };
                text.as_ptr()
            })
            .collect();
        assert_eq!(texts[0], texts[1]);
    }

    #[test]
    fn a_viewer_that_missed_ticks_gets_each_newest_value_once() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        for device in ["a", "b", "c"] {
            up(&hub, device);
        }
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        drain(&mut viewer);
        for round in 1..=20_u32 {
            send(&hub, "a", f64::from(round));
            if round == 7 {
                send(&hub, "b", 7.0);
            }
            ticker.tick(&hub);
        }
        let messages = news(&mut viewer);
        let told: Vec<_> = messages
            .iter()
            .map(|m| (m["device"].as_str().unwrap(), m["readings"][0]["v"].as_f64().unwrap()))
            .collect();
        assert_eq!(told, [("a", 20.0), ("b", 7.0)]);
        assert!(news(&mut viewer).is_empty());
    }

    #[test]
    fn a_viewer_that_missed_a_removal_starts_over() {
        let hub = hub(Limits { devices: 1, ..Limits::default() });
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        drain(&mut viewer);
        hub.context.fleet.device_down(&DeviceId::new("a").unwrap(), 1.0);
        up(&hub, "b");
        ticker.tick(&hub);
        send(&hub, "b", 1.0);
        ticker.tick(&hub);
        let messages = news(&mut viewer);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0]["type"], "snapshot");
        assert_eq!(messages[0]["devices"][0]["id"], "b");
    }

    #[test]
    fn a_change_between_entering_and_the_first_tick_is_not_missed() {
        let hub = hub(Limits::default());
        let mut ticker = Ticker { scratch: Vec::new() };
        up(&hub, "a");
        let mut viewer = hub.enter(Filter::default(), 9).unwrap();
        let snapshot = drain(&mut viewer);
        assert_eq!(snapshot[0]["devices"][0]["readings"], serde_json::json!({}));
        send(&hub, "a", 3.0);
        ticker.tick(&hub);
        assert_eq!(news(&mut viewer)[0]["readings"][0]["v"], 3.0);
    }
}
