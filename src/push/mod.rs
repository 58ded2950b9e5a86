//! Readings pushed to time series stores: Influx line protocol over HTTP.
//!
//! Best effort beside the broker: nothing here pushes back on ingestion or has a say in
//! acknowledgements. Each `[[push]]` has a buffer in memory of its own, bounded in bytes; when it is
//! full the oldest readings go, counted and logged. What waits is not written to disk.
//!
//! ```text
//! engine ──Feed──► Queue (bounded) ──► Sender ──► Client ──► server
//!                                        ▲
//!                        lines, gzip, what failed and what then
//! ```
//!
//! All pushes share one thread with a runtime of its own; where there is no `[[push]]`, there is no
//! thread either. Encoding and compression happen there.

mod answer;
mod client;
mod queue;
mod sender;
mod spell;
#[cfg(test)]
mod tests;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use self::queue::Queue;
use self::sender::{Orders, Sender};
use crate::config;
use crate::core::batch::Batch;
use crate::core::ids::DeviceId;
use crate::core::line::Writer;
use crate::metrics::{self, Metrics, PUSH_DROPS};
use crate::ports::{Clock, DeviceFacts, Feed, Health, PushHealth, Refused};

/// Threads that look up names and read files, at most; they end when there is nothing to do.
const BLOCKING_THREADS: usize = 4;

/// A push that panics again and again must not fill the log.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// What pushes need from the rest.
#[derive(Clone)]
pub struct Context {
    /// The gateway's name, a tag of every line.
    pub gateway: String,
    /// Where their state is shown.
    pub health: Arc<Health>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The wall clock, to correct times that were taken before it was set.
    pub clock: Arc<dyn Clock>,
}

/// Why pushes could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The system gave no thread or no event queue.
    #[error("the thread of the pushes cannot be started: {0}")]
    Thread(io::Error),
}

/// Running pushes. Dropping it stops them without a last attempt.
#[derive(Debug)]
pub struct PushHandle {
    queues: Arc<[Arc<Queue>]>,
    orders: watch::Sender<Orders>,
    ended: oneshot::Receiver<()>,
}

/// Where ingestion hands batches over.
struct Intake(Arc<[Arc<Queue>]>);

impl PushHandle {
    /// Where ingestion hands batches over. That costs well under a microsecond and never waits.
    #[must_use]
    pub fn feed(&self) -> Arc<dyn Feed> {
        Arc::new(Intake(Arc::clone(&self.queues)))
    }

    /// Reads secrets and certificates again and tries at once where a wait was under way.
    pub fn reload(&self) {
        self.orders.send_modify(|orders| orders.reloads += 1);
    }

    /// Sends what waits, for `limit` at most, and ends. What is left then is counted and logged.
    pub async fn stop(self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.orders.send_modify(|orders| orders.stop = Some(deadline));
        // The thread keeps the deadline itself; this only guards against one that hangs.
        let _ = tokio::time::timeout(limit + Duration::from_secs(1), self.ended).await;
    }
}

impl Feed for Intake {
    fn readings(&self, batch: &Arc<Batch>) {
        self.0.iter().for_each(|queue| queue.offer(batch));
    }

    fn device_up(&self, _: &DeviceId, _: &DeviceFacts) {}

    fn device_down(&self, _: &DeviceId, _: f64) {}

    fn device_seen(&self, _: &DeviceId, _: f64) {}

    fn device_opened(&self, _: &DeviceId, _: u64, _: u64) {}

    fn irregular(&self, _: &DeviceId, _: u64, _: u64) {}

    fn round_trip(&self, _: &DeviceId, _: f64) {}

    fn refused(&self, _: &DeviceId, _: &Refused<'_>) {}
}

/// Starts the pushes of the configuration; none without any.
///
/// # Errors
/// When there is no thread for them.
pub fn start(pushes: &[config::Push], context: &Context) -> Result<Option<PushHandle>, PushError> {
    if pushes.is_empty() {
        return Ok(None);
    }
    let (orders, obey) = watch::channel(Orders::default());
    let mut senders = Vec::new();
    let mut queues = Vec::new();
    let mut healths = Vec::new();
    for push in pushes {
        let name = push.name.clone();
        let health = Arc::new(PushHealth {
            name: name.clone(),
            url: push.url.text(),
            ..PushHealth::default()
        });
        let metrics = &context.metrics;
        let dropped = PUSH_DROPS.map(|reason| {
            let label = metrics::PushDrop { push: name.clone(), reason };
            metrics.push_dropped.get_or_create_owned(&label)
        });
        let label = metrics::Push { push: name };
        let [overflow, refused, stopped] = dropped;
        let writer = Writer::new(&push.measurement, &context.gateway, push.readings.clone());
        let queue = Arc::new(Queue::new(push, writer, health.clone(), overflow));
        let counters = sender::Counters {
            sent: metrics.push_sent.get_or_create_owned(&label),
            errors: metrics.push_errors.get_or_create_owned(&label),
            refused,
            stopped,
        };
        let clock = context.clock.clone();
        senders.push(Post { push: push.clone(), queue: queue.clone(), clock, counters });
        queues.push(queue);
        healths.push(health);
    }
    context.health.set_pushes(healths);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(PushError::Thread)?;
    let (end, ended) = oneshot::channel();
    let health = context.health.clone();
    std::thread::Builder::new()
        .name("push".to_owned())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(senders, obey))));
            if ended.is_err() {
                health.fail("thread of the pushes");
            }
            // A look-up of a name that hangs holds nobody up.
            runtime.shutdown_background();
            // Nobody may be waiting.
            let _ = end.send(());
        })
        .map_err(PushError::Thread)?;
    Ok(Some(PushHandle { queues: queues.into(), orders, ended }))
}

/// What a sender is made of, and made again of after a panic.
struct Post {
    push: config::Push,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    counters: sender::Counters,
}

impl Post {
    async fn run(self, orders: watch::Receiver<Orders>) {
        loop {
            let (push, queue, clock) = (self.push.clone(), self.queue.clone(), self.clock.clone());
            let sender = Sender::new(push, queue, clock, self.counters.clone());
            let Err(error) = tokio::spawn(sender.run(orders.clone())).await else { return };
            tracing::error!(
                push = self.push.name,
                %error,
                "a push stopped by a panic and begins again; what it was sending is given up"
            );
            tokio::time::sleep(AFTER_PANIC).await;
        }
    }
}

async fn run(senders: Vec<Post>, orders: watch::Receiver<Orders>) {
    let tasks: Vec<_> =
        senders.into_iter().map(|sender| tokio::spawn(sender.run(orders.clone()))).collect();
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a push has failed and sends nothing until a restart");
        }
    }
}
