//! The task of one push: gathers, sends, and decides what to do when that fails.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::{Kind, Trouble, Verdict};
use super::client::{Client, ClientError};
use super::queue::{Entry, Queue, total_lines};
use super::spell::Spells;
use crate::config::Push;
use crate::core::backoff::Backoff;
use crate::core::batch::Batch;
use crate::ports::{Clock, lock};

/// Bytes of batches in one request at most, whatever `push.batch_size` says: long texts.
const REQUEST_WEIGHT: usize = 2 << 20;
/// Requests shorter than this are not worth compressing.
const GZIP_MIN: usize = 512;
/// Between attempts where the server is away or overloaded.
const QUICK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between attempts where somebody has to do something.
const SLOW: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));

/// What the rest of the gateway wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    /// Grows with every wish to read files again.
    pub(super) reloads: u64,
    /// Stop, and be done by then.
    pub(super) stop: Option<Instant>,
}

/// What is counted besides overflows.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) sent: Counter,
    pub(super) errors: Counter,
    pub(super) refused: Counter,
    pub(super) stopped: Counter,
}

/// See the module's documentation.
pub(super) struct Sender {
    push: Arc<Push>,
    queue: Arc<Queue>,
    client: Client,
    clock: Arc<dyn Clock>,
    counters: Counters,
    quick: Backoff,
    slow: Backoff,
    spells: Spells,
    /// Taken from the queue, neither settled nor put back yet; in order.
    open: Vec<Entry>,
    /// Batches in a request: less than all where the server found one too large.
    max_batches: usize,
}

/// Why a wait was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Time,
    Orders,
}

/// A server that is there has said about a request: taken, or why not.
type Judged = Result<(), String>;

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            self.give_up();
        }
    }
}

impl Sender {
    pub(super) fn new(
        push: Push,
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
        counters: Counters,
    ) -> Self {
        let push = Arc::new(push);
        Self {
            client: Client::new(Arc::clone(&push)),
            push,
            queue,
            clock,
            counters,
            quick: Backoff::new(QUICK.0, QUICK.1),
            slow: Backoff::new(SLOW.0, SLOW.1),
            spells: Spells::default(),
            open: Vec::new(),
            max_batches: usize::MAX,
        }
    }

    /// Works until told to stop, then sends what is left as far as that goes.
    pub(super) async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut reloads = 0;
        let mut again = false;
        // An error: whoever gives orders is gone.
        while orders.has_changed().is_ok() {
            let Orders { reloads: wished, stop } = *orders.borrow_and_update();
            if stop.is_some() {
                break;
            }
            if std::mem::replace(&mut reloads, wished) != wished {
                self.client.forget();
            }
            if !again && self.gather(&mut orders).await == Wake::Orders {
                continue;
            }
            self.take();
            let trouble = tokio::select! {
                result = self.deliver() => result.err(),
                () = past_stop(orders.clone()) => None,
            };
            self.put_back();
            again = trouble.is_some();
            if let Some(trouble) = trouble {
                let wait = self.note_trouble(trouble);
                self.sleep(Instant::now() + wait, &mut orders).await;
            }
        }
        let deadline = orders.borrow().stop.unwrap_or_else(Instant::now);
        let _ = tokio::time::timeout_at(deadline, self.flush()).await;
        self.put_back();
        self.report_rest();
    }

    /// Waits until there is something to send, then until there is a full request or the time is up.
    async fn gather(&mut self, orders: &mut watch::Receiver<Orders>) -> Wake {
        let mut due = None;
        loop {
            self.note_overflow();
            if self.queue.is_ready() {
                return Wake::Time;
            }
            // The last request was taken, and there is room again.
            self.spells.drained(&self.push.name);
            if due.is_none() && self.queue.lines() > 0 {
                due = Some(Instant::now() + self.push.interval);
            }
            tokio::select! {
                () = at(due) => return Wake::Time,
                () = self.queue.news() => {}
                _ = orders.changed() => return Wake::Orders,
            }
        }
    }

    /// Waits until `due`, or until something is ordered.
    async fn sleep(&mut self, due: Instant, orders: &mut watch::Receiver<Orders>) {
        loop {
            self.note_overflow();
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.queue.news() => {}
                _ = orders.changed() => {
                    // For the loop outside to see.
                    orders.mark_changed();
                    return;
                }
            }
        }
    }

    /// Sends everything that waits, until it is done or something fails.
    async fn flush(&mut self) {
        loop {
            self.take();
            if self.open.is_empty() {
                return;
            }
            if let Err(trouble) = self.deliver().await {
                self.note_trouble(trouble);
                return;
            }
            self.put_back();
        }
    }

    fn take(&mut self) {
        self.open = self.queue.take(self.push.batch_size, REQUEST_WEIGHT, self.max_batches);
    }

    fn put_back(&mut self) {
        if !self.open.is_empty() {
            self.queue.put_back(std::mem::take(&mut self.open));
        }
    }

    /// Sends what is open. What is settled, taken or given up, is not open any more. A refused request is
    /// halved as long as one of its halves is taken, so that one bad batch costs itself only and a
    /// server that takes nothing is asked three times.
    async fn deliver(&mut self) -> Result<(), Trouble> {
        if self.open.is_empty() {
            return Ok(());
        }
        let mut suspects = 0..self.open.len();
        let Err(mut reason) = self.send(suspects.clone()).await? else {
            self.accept(suspects);
            return Ok(());
        };
        while suspects.len() > 1 && self.max_batches >= suspects.len() {
            let middle = suspects.start + suspects.len() / 2;
            let (first, second) = (suspects.start..middle, middle..suspects.end);
            let judged_first = self.send(first.clone()).await?;
            let judged_second = self.send(second.clone()).await?;
            // The later ones first: the places of the others stay what they are.
            let bad_second = judged_second.map(|()| self.accept(second.clone())).err();
            let bad_first = judged_first.map(|()| self.accept(first.clone())).err();
            match (bad_first, bad_second) {
                (None, None) => return Ok(()),
                (Some(why), None) => (suspects, reason) = (first, why),
                (None, Some(why)) => {
                    // They have moved up.
                    (suspects, reason) = (first.start..first.start + second.len(), why);
                }
                (Some(_), Some(_)) => break,
            }
        }
        if self.max_batches >= suspects.len() || suspects.len() == 1 {
            self.refuse(suspects, &reason);
        }
        Ok(())
    }

    /// Sends one request with some of what is open.
    async fn send(&mut self, part: Range<usize>) -> Result<Judged, Trouble> {
        let count = part.len();
        let (body, gzip) = self.body(self.open.get(part).unwrap_or_default());
        let verdict = match self.client.post(body, gzip).await {
            Ok(answer) => answer.verdict(),
            Err(error) => Verdict::Later(trouble(&error)),
        };
        if verdict != Verdict::Accepted {
            self.counters.errors.inc();
        }
        match verdict {
            Verdict::Later(trouble) => {
                // Files may be what is wrong, and may be right when it is tried again.
                if trouble.kind != Kind::Server {
                    self.client.forget();
                }
                Err(trouble)
            }
            Verdict::Accepted => {
                self.note_answer(None);
                Ok(Ok(()))
            }
            Verdict::Refused(reason) => {
                self.note_answer(Some(&reason));
                Ok(Err(reason))
            }
            Verdict::TooLarge(reason) => {
                self.note_answer(Some(&reason));
                self.max_batches = (count / 2).max(1);
                tracing::info!(
                    push = self.push.name,
                    batches = self.max_batches,
                    reason,
                    "requests are made smaller for this server"
                );
                Ok(Err(reason))
            }
        }
    }

    /// The lines, and whether they are compressed.
    fn body(&self, entries: &[Entry]) -> (Bytes, bool) {
        let mut lines = BytesMut::with_capacity(96 * total_lines(entries));
        let base = self.clock.moment().base;
        for Entry { batch, .. } in entries {
            match batch.base.correction(batch.received, &base) {
                None => self.queue.writer().write(batch, &mut lines),
                Some(shift) => {
                    // The clock was set after it came.
                    let mut corrected = Batch::clone(batch);
                    corrected.correct(shift);
                    self.queue.writer().write(&corrected, &mut lines);
                }
            }
        }
        if !self.push.gzip || lines.len() < GZIP_MIN {
            return (lines.freeze(), false);
        }
        // Fast: telemetry is so repetitive that the best level saves little more.
        let space = Vec::with_capacity(lines.len() / 8);
        let mut encoder = GzEncoder::new(space, Compression::fast());
        // Writing to memory does not fail.
        match encoder.write_all(&lines).and_then(|()| encoder.finish()) {
            Ok(short) => (short.into(), true),
            Err(_) => (lines.freeze(), false),
        }
    }

    fn accept(&mut self, part: Range<usize>) {
        let taken: Vec<_> = self.open.drain(part).collect();
        let lines = self.queue.settle(&taken);
        self.counters.sent.inc_by(lines);
        self.queue.health().sent.fetch_add(lines, Ordering::Relaxed);
    }

    fn refuse(&mut self, part: Range<usize>, reason: &str) {
        let taken: Vec<_> = self.open.drain(part).collect();
        let lines = self.queue.settle(&taken);
        self.counters.refused.inc_by(lines);
        self.queue.health().dropped.fetch_add(lines, Ordering::Relaxed);
        self.spells.refused(&self.push.name, lines, reason);
    }

    /// For one that ends with something open, by a panic: it may be what the panic was about.
    fn give_up(&mut self) {
        let taken = std::mem::take(&mut self.open);
        let lines = self.queue.settle(&taken);
        self.counters.refused.inc_by(lines);
        self.queue.health().dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// The server is there; `error`: why it did not take the request.
    fn note_answer(&mut self, error: Option<&str>) {
        self.quick.reset();
        self.slow.reset();
        self.spells.answered(&self.push.name);
        let mut state = lock(&self.queue.health().state);
        state.retrying = false;
        if let Some(error) = error {
            state.last_error = Some(error.to_owned());
        }
    }

    /// The answer is how long to wait.
    fn note_trouble(&mut self, trouble: Trouble) -> Duration {
        self.spells.trouble(&self.push.name, &trouble);
        let backoff = if trouble.kind.is_slow() { &mut self.slow } else { &mut self.quick };
        let wait = backoff.next_wait(rand::random());
        let mut state = lock(&self.queue.health().state);
        state.retrying = true;
        state.last_error = Some(trouble.reason);
        trouble.wait.map_or(wait, |asked| asked.max(wait))
    }

    fn note_overflow(&mut self) {
        let dropped = self.queue.take_dropped();
        self.spells.overflowed(&self.push.name, dropped);
    }

    fn report_rest(&mut self) {
        self.note_overflow();
        self.spells.drained(&self.push.name);
        let left = self.queue.lines() as u64;
        if left > 0 {
            self.counters.stopped.inc_by(left);
            self.queue.health().dropped.fetch_add(left, Ordering::Relaxed);
            tracing::warn!(
                push = self.push.name,
                readings = left,
                "stopped before these were pushed, and they are not kept (the broker gets them all \
                 the same)"
            );
        }
    }
}

fn trouble(error: &ClientError) -> Trouble {
    let kind = match error {
        ClientError::Secret { .. } => Kind::Secret,
        ClientError::Authority(_) | ClientError::NoAuthority(_) | ClientError::ServerName(_) => {
            Kind::Setting
        }
        _ => Kind::Server,
    };
    Trouble { kind, reason: error.to_string(), wait: None }
}

/// Never comes back without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Comes back when the gateway is to be stopped and the time for that is over, or when it does not
/// wait for that.
async fn past_stop(mut orders: watch::Receiver<Orders>) {
    loop {
        let stop = orders.borrow_and_update().stop;
        if let Some(deadline) = stop {
            return sleep_until(deadline).await;
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}
