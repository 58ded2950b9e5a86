//! What waits to be pushed: batches as they came, bounded in bytes. Ingestion adds, the sender takes.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use crate::config;
use crate::core::batch::Batch;
use crate::core::line::Writer;
use crate::core::policy::Pattern;
use crate::ports::{PushHealth, lock};

/// Bytes that a batch in the queue costs beyond [`Batch::weight`]: its place here, the counts of its
/// `Arc`, and what the allocator adds to its two pieces of memory.
const OVERHEAD: usize = size_of::<Entry>() + 16 + 2 * 16;

/// One batch that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) batch: Arc<Batch>,
    /// How many lines it makes; never 0.
    pub(super) lines: usize,
    weight: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Queue {
    devices: Vec<Pattern>,
    writer: Writer,
    /// Bytes, those of a request under way included.
    max_weight: usize,
    /// Lines that make a full request.
    full: usize,
    inner: Mutex<Inner>,
    news: Notify,
    health: Arc<PushHealth>,
    overflow: Counter,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Entry>,
    /// Of what waits.
    lines: usize,
    /// Of what waits and of what was taken and is not settled.
    weight: usize,
    /// Lines that went because there was no room, since [`Queue::take_dropped`].
    dropped: u64,
    /// The sender was woken for a loss since it last took something. Only once: waking it for each
    /// batch that goes would cost more than all the rest.
    told: bool,
}

impl Queue {
    pub(super) fn new(
        push: &config::Push,
        writer: Writer,
        health: Arc<PushHealth>,
        overflow: Counter,
    ) -> Self {
        Self {
            devices: push.devices.clone(),
            writer,
            max_weight: push.max_buffer,
            full: push.batch_size,
            inner: Mutex::default(),
            news: Notify::new(),
            health,
            overflow,
        }
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn health(&self) -> &PushHealth {
        &self.health
    }

    /// Ingestion: adds a batch, unless nothing of it is wanted. Where there is no room the oldest go.
    pub(super) fn offer(&self, batch: &Arc<Batch>) {
        let device = batch.device.as_str();
        if !self.devices.is_empty() && !self.devices.iter().any(|known| known.matches(device)) {
            return;
        }
        let lines = self.writer.count(batch);
        if lines == 0 {
            return;
        }
        let weight = batch.weight() + OVERHEAD;
        let entry = Entry { batch: Arc::clone(batch), lines, weight };
        self.health.queued.fetch_add(lines as u64, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        let (was_empty, was_ready) = (inner.lines == 0, self.ready(&inner));
        inner.lines += lines;
        inner.weight += weight;
        inner.waiting.push_back(entry);
        let first_loss = self.trim(&mut inner) && !std::mem::replace(&mut inner.told, true);
        let filled = !was_ready && self.ready(&inner);
        drop(inner);
        // Rare, because waking another thread costs more than all of the above.
        if was_empty || filled || first_loss {
            self.news.notify_one();
        }
    }

    /// Sender: waits until there is something after there was nothing, enough for a full request, or
    /// the first loss since it took something. May come back for nothing. Cancel safe.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Sender: whether there is enough for a request that need not wait for more.
    pub(super) fn is_ready(&self) -> bool {
        self.ready(&lock(&self.inner))
    }

    /// Sender: lines that wait.
    pub(super) fn lines(&self) -> usize {
        lock(&self.inner).lines
    }

    /// Sender: the oldest batches, up to the limits but at least one. They count as waiting until they
    /// are settled or put back.
    pub(super) fn take(&self, max_lines: usize, max_weight: usize, max: usize) -> Vec<Entry> {
        let mut inner = lock(&self.inner);
        let (mut lines, mut weight, mut count) = (0, 0, 0);
        for entry in inner.waiting.iter().take(max.max(1)) {
            lines += entry.lines;
            weight += entry.weight;
            if count > 0 && (lines > max_lines || weight > max_weight) {
                break;
            }
            count += 1;
        }
        let taken: Vec<_> = inner.waiting.drain(..count).collect();
        inner.lines -= total_lines(&taken);
        inner.told = false;
        taken
    }

    /// Sender: what was taken is done with, sent or not. Returns how many lines it was.
    pub(super) fn settle(&self, taken: &[Entry]) -> u64 {
        let lines = total_lines(taken) as u64;
        lock(&self.inner).weight -= taken.iter().map(|entry| entry.weight).sum::<usize>();
        self.health.queued.fetch_sub(lines, Ordering::Relaxed);
        lines
    }

    /// Sender: what was taken goes back to the front.
    pub(super) fn put_back(&self, taken: Vec<Entry>) {
        let mut inner = lock(&self.inner);
        inner.lines += total_lines(&taken);
        for entry in taken.into_iter().rev() {
            inner.waiting.push_front(entry);
        }
        self.trim(&mut inner);
    }

    /// Sender: how many lines went since it last asked because there was no room.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut lock(&self.inner).dropped)
    }

    /// Half of the buffer must be enough: the other half is for what comes during the request.
    fn ready(&self, inner: &Inner) -> bool {
        inner.lines >= self.full || inner.weight >= self.max_weight / 2
    }

    /// Gives up the oldest until the rest fits. Returns whether anything went.
    fn trim(&self, inner: &mut Inner) -> bool {
        let mut dropped = 0;
        while inner.weight > self.max_weight {
            // What is under way is not here.
            let Some(oldest) = inner.waiting.pop_front() else { break };
            inner.weight -= oldest.weight;
            inner.lines -= oldest.lines;
            dropped += oldest.lines as u64;
        }
        if dropped > 0 {
            inner.dropped += dropped;
            self.health.queued.fetch_sub(dropped, Ordering::Relaxed);
            self.health.dropped.fetch_add(dropped, Ordering::Relaxed);
            self.overflow.inc_by(dropped);
        }
        dropped > 0
    }
}

pub(super) fn total_lines(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.lines).sum()
}
