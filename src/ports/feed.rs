//! From the engine and the listener to the dashboards.

use std::sync::Arc;

use crate::core::batch::Batch;
use crate::core::ids::DeviceId;

/// Where the engine and the listener show what happens. Never blocks for long, never pushes back.
pub trait Feed: Send + Sync {
    /// A new batch was accepted (not a duplicate).
    fn readings(&self, batch: &Arc<Batch>);
    /// A device said HELLO.
    fn device_up(&self, device: &DeviceId, facts: &DeviceFacts);
    /// Its connection ended. A connection that was replaced is not reported.
    fn device_down(&self, device: &DeviceId, time: f64);
    /// Something arrived from the device, READINGS or not.
    fn device_seen(&self, device: &DeviceId, time: f64);
    /// WELCOME was said: the device's run of numbers is `epoch`, of which `acked` is settled.
    fn device_opened(&self, device: &DeviceId, epoch: u64, acked: u64);
    /// What of the device's last batches was not as it should be: jumps in their numbers, and
    /// numbers that had been received before.
    fn irregular(&self, device: &DeviceId, gaps: u64, duplicates: u64);
    /// The device answered a ping after so many seconds.
    fn round_trip(&self, device: &DeviceId, seconds: f64);
    /// Something of the device was refused. Who asks need not have proved to be the device, nor
    /// need there be a device of this id.
    fn refused(&self, device: &DeviceId, refused: &Refused<'_>);
}

/// What was refused, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused<'a> {
    /// What it was.
    pub kind: RefusedKind,
    /// The code of REJECT, the status of the answer to the handshake, or the code of the Close
    /// frame: they do not overlap.
    pub code: u64,
    /// The rule that refused it, for the operator.
    pub reason: &'a str,
    /// When: Unix time in seconds.
    pub time: f64,
}

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedKind {
    /// A batch, with REJECT.
    Batch,
    /// A connection, at the handshake or later with a Close frame.
    Connection,
    /// Nothing, it is read more slowly than it sends: over its rate. The code is 429.
    Rate,
}

/// Several feeds as one.
pub struct Feeds(Vec<Arc<dyn Feed>>);

impl Feeds {
    /// The feed that shows everything to all of `feeds`, in this order. A single one is taken as it
    /// is, so that nothing is added to its cost.
    #[must_use]
    pub fn join(mut feeds: Vec<Arc<dyn Feed>>) -> Arc<dyn Feed> {
        match feeds.pop() {
            Some(only) if feeds.is_empty() => only,
            last => {
                feeds.extend(last);
                Arc::new(Self(feeds))
            }
        }
    }
}

impl Feed for Feeds {
    fn readings(&self, batch: &Arc<Batch>) {
        self.0.iter().for_each(|feed| feed.readings(batch));
    }

    fn device_up(&self, device: &DeviceId, facts: &DeviceFacts) {
        self.0.iter().for_each(|feed| feed.device_up(device, facts));
    }

    fn device_down(&self, device: &DeviceId, time: f64) {
        self.0.iter().for_each(|feed| feed.device_down(device, time));
    }

    fn device_seen(&self, device: &DeviceId, time: f64) {
        self.0.iter().for_each(|feed| feed.device_seen(device, time));
    }

    fn device_opened(&self, device: &DeviceId, epoch: u64, acked: u64) {
        self.0.iter().for_each(|feed| feed.device_opened(device, epoch, acked));
    }

    fn irregular(&self, device: &DeviceId, gaps: u64, duplicates: u64) {
        self.0.iter().for_each(|feed| feed.irregular(device, gaps, duplicates));
    }

    fn round_trip(&self, device: &DeviceId, seconds: f64) {
        self.0.iter().for_each(|feed| feed.round_trip(device, seconds));
    }

    fn refused(&self, device: &DeviceId, refused: &Refused<'_>) {
        self.0.iter().for_each(|feed| feed.refused(device, refused));
    }
}

/// What is known of a connected device besides its readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceFacts {
    /// When it connected: Unix time in seconds.
    pub since: f64,
    /// From HELLO.
    pub model: Option<String>,
    /// From HELLO.
    pub firmware: Option<String>,
    /// The commands it announced in HELLO.
    pub commands: Vec<String>,
    /// The peer's address.
    pub address: String,
}
