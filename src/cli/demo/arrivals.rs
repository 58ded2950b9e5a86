//! What arrived at the broker from the demo's own devices, counted once each.

use std::collections::HashMap;

use tokio::sync::mpsc;

use super::child::Arrival;

/// Lines of the broker that wait to be counted.
const WAITING: usize = 1024;

/// Counts batches by device and epoch, of the demo's own devices only: others may join in. A number
/// that is not above the last is a duplicate, or out
/// of order where it had been skipped.
#[derive(Debug)]
pub(super) struct Arrivals {
    sender: mpsc::Sender<Arrival>,
    receiver: mpsc::Receiver<Arrival>,
    runs: HashMap<(String, u64), Run>,
    batches: u64,
    duplicates: u64,
    out_of_order: u64,
}

#[derive(Debug, Default)]
struct Run {
    last: u64,
    skipped: Vec<u64>,
}

impl Arrivals {
    /// Empty, and where to send what arrives.
    pub(super) fn new() -> (Self, mpsc::Sender<Arrival>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let arrivals = Self {
            sender: sender.clone(),
            receiver,
            runs: HashMap::new(),
            batches: 0,
            duplicates: 0,
            out_of_order: 0,
        };
        (arrivals, sender)
    }

    /// These are the demo's own devices and their epochs. Nothing of others is counted.
    pub(super) fn expect(&mut self, own: impl Iterator<Item = (String, u64)>) {
        self.runs = own.map(|key| (key, Run::default())).collect();
    }

    /// Where to send what arrives.
    pub(super) fn sender(&self) -> mpsc::Sender<Arrival> {
        self.sender.clone()
    }

    /// Waits for one arrival and counts it. Cancel safe.
    pub(super) async fn take_next(&mut self) {
        // There is always a sender: one's own.
        if let Some(arrival) = self.receiver.recv().await {
            self.count(arrival);
        }
    }

    /// Counts what has arrived and waits for nothing.
    pub(super) fn take_rest(&mut self) {
        while let Ok(arrival) = self.receiver.try_recv() {
            self.count(arrival);
        }
    }

    /// Counts what arrives until `other` is done, so that the broker never waits for the demo.
    pub(super) async fn take_while<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                result = &mut other => return result,
                () = self.take_next() => {}
            }
        }
    }

    /// Batches that arrived, each counted once.
    pub(super) fn batches(&self) -> u64 {
        self.batches
    }

    /// Batches that arrived again.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Batches that arrived after a later one of their device.
    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    fn count(&mut self, arrival: Arrival) {
        let Some(run) = self.runs.get_mut(&(arrival.device, arrival.epoch)) else { return };
        if arrival.seq > run.last {
            run.skipped.extend(run.last + 1..arrival.seq);
            run.last = arrival.seq;
        } else if let Ok(index) = run.skipped.binary_search(&arrival.seq) {
            run.skipped.remove(index);
            self.out_of_order += 1;
        } else {
            self.duplicates += 1;
            return;
        }
        self.batches += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_batch_counts_once_and_disorder_is_seen() {
        let (mut arrivals, sender) = Arrivals::new();
        arrivals.expect(["a", "b"].map(|device| (device.to_owned(), 7)).into_iter());
        for (device, seq) in
            [("visitor", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 2), ("a", 5), ("a", 3), ("a", 3)]
        {
            let arrival = Arrival { device: device.into(), epoch: 7, seq, readings: 1 };
            sender.send(arrival).await.unwrap();
        }
        arrivals.take_while(async {}).await;
        arrivals.take_rest();
        assert_eq!((arrivals.batches(), arrivals.duplicates(), arrivals.out_of_order()), (5, 2, 1));
    }
}
