//! `tidegate spool info`.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::Damage;
use crate::cli::words::{bytes, count, grouped};
use crate::config::units::datetime_from_unix;
use crate::core::batch::{Batch, Loss};
use crate::core::ids::{DeviceId, Position};
use crate::spool::inspect::{Fault, Folder, Inspection};

/// Epochs shown for each device, the newest; memory must not grow with the spool.
const EPOCHS: usize = 8;
/// Faults listed in the JSON; all of them are counted and on standard error.
const FAULTS: usize = 1000;

/// Records of losses listed in the text; all of them are in the JSON.
const LOSSES: usize = 20;

/// Arguments of `tidegate spool info`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Reads all of it and prints what it found.
pub(super) fn run(
    args: &Args,
    data_dir: &Path,
    inspection: &Inspection,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    let mut report = Report {
        data_dir: data_dir.display().to_string(),
        head: inspection.head,
        next: inspection.next,
        losses: inspection.losses.iter().map(LossRow::new).collect(),
        ..Report::default()
    };
    report.damage.extend(inspection.faults.iter().map(FaultRow::new));
    for folder in &inspection.generations {
        let row = read(folder, inspection, &mut report.damage, damage, |batch| {
            let name = batch.device.as_str();
            if !report.devices.contains_key(name) {
                report.devices.insert(name.into(), DeviceRow::default());
            }
            if let Some(row) = report.devices.get_mut(name) {
                row.add(batch);
            }
        });
        report.add(row);
    }
    // What is readable in there has been published: it is not part of the sums, nor its damage new.
    for folder in &inspection.aside {
        let row = read(folder, inspection, &mut Vec::new(), &mut Damage::default(), |_| {});
        report.aside.push(row);
    }
    report.unreadable = damage.batches;
    report.damage.truncate(FAULTS);
    let text =
        if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn read(
    folder: &Folder,
    inspection: &Inspection,
    faults: &mut Vec<FaultRow>,
    damage: &mut Damage,
    mut each: impl FnMut(&Batch),
) -> FolderRow {
    let aside = inspection.aside.contains(folder);
    let read = inspection.read(
        folder,
        |_, batch| {
            each(&batch);
            Ok::<(), Infallible>(())
        },
        |fault| {
            if aside {
                return;
            }
            damage.note(&fault);
            if faults.len() < FAULTS {
                faults.push(FaultRow::new(&fault));
            }
        },
    );
    let Ok(facts) = read;
    FolderRow {
        folder: folder.name.clone(),
        first: folder.first,
        end: facts.end,
        batches: facts.batches,
        readings: facts.readings,
        bytes: facts.bytes,
        unreadable: facts.missing,
        oldest: facts.oldest,
        newest: facts.newest,
    }
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    data_dir: String,
    head: Position,
    next: Position,
    batches: u64,
    readings: u64,
    bytes: u64,
    oldest: Option<f64>,
    newest: Option<f64>,
    unreadable: u64,
    generations: Vec<FolderRow>,
    devices: BTreeMap<String, DeviceRow>,
    damage: Vec<FaultRow>,
    aside: Vec<FolderRow>,
    /// Records that the broker has not acknowledged.
    losses: Vec<LossRow>,
}

#[derive(Debug, Serialize)]
struct FolderRow {
    folder: String,
    first: Position,
    end: Position,
    batches: u64,
    readings: u64,
    bytes: u64,
    unreadable: u64,
    oldest: Option<f64>,
    newest: Option<f64>,
}

#[derive(Debug, Serialize)]
struct FaultRow {
    folder: String,
    first: Position,
    end: Position,
    reason: String,
}

/// As it will be published, and how many batches that are.
#[derive(Debug, Serialize)]
struct LossRow {
    device: Option<String>,
    epoch: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    batches: u64,
    readings: u64,
    reason: &'static str,
    time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct DeviceRow {
    batches: u64,
    readings: u64,
    /// The newest ones, in the order of their first batches.
    epochs: VecDeque<EpochRow>,
    /// How many more there are.
    earlier_epochs: u64,
}

#[derive(Debug, Serialize)]
struct EpochRow {
    epoch: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    batches: u64,
    readings: u64,
}

impl FaultRow {
    fn new(fault: &Fault) -> Self {
        Self {
            folder: fault.folder.clone(),
            first: fault.first,
            end: fault.end,
            reason: fault.reason.clone(),
        }
    }
}

impl LossRow {
    fn new(loss: &Loss) -> Self {
        Self {
            device: loss.device.as_ref().map(DeviceId::to_string),
            epoch: loss.epoch,
            first_seq: loss.first_seq,
            last_seq: loss.last_seq,
            batches: loss.batches,
            readings: loss.readings,
            reason: loss.reason.as_str(),
            time: loss.time,
            detail: loss.detail.clone(),
        }
    }

    fn to_text(&self) -> String {
        let readings = count(self.readings, "reading", "readings");
        let batches = count(self.batches, "batch", "batches");
        let mut text = format!("{}: {readings} in {batches}", self.reason);
        if let Some(device) = &self.device {
            text.extend([" of ", device, ", epoch ", &self.epoch.to_string()]);
        }
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            text.extend([" seq ", &first.to_string(), " to ", &last.to_string()]);
        }
        text.extend(self.detail.iter().flat_map(|detail| ["; ", detail]));
        text
    }
}

impl DeviceRow {
    fn add(&mut self, batch: &Batch) {
        let readings = batch.readings.len() as u64;
        self.batches += 1;
        self.readings += readings;
        if !self.epochs.iter().any(|row| row.epoch == batch.epoch) {
            if self.epochs.len() == EPOCHS {
                self.epochs.pop_front();
                self.earlier_epochs += 1;
            }
            self.epochs.push_back(EpochRow {
                epoch: batch.epoch,
                first_seq: batch.seq,
                last_seq: batch.seq,
                batches: 0,
                readings: 0,
            });
        }
        let Some(row) = self.epochs.iter_mut().find(|row| row.epoch == batch.epoch) else { return };
        row.batches += 1;
        row.readings += readings;
        row.first_seq = [row.first_seq, batch.seq].into_iter().flatten().min();
        row.last_seq = row.last_seq.max(batch.seq);
    }

    fn epochs_text(&self) -> String {
        let mut parts = Vec::new();
        if self.earlier_epochs > 0 {
            parts.push(format!("{} earlier epochs", grouped(self.earlier_epochs)));
        }
        parts.extend(self.epochs.iter().map(|row| match (row.first_seq, row.last_seq) {
            (Some(first), Some(last)) => format!("epoch {} seq {first} to {last}", row.epoch),
            _ => format!("epoch {} without numbers", row.epoch),
        }));
        parts.join("; ")
    }
}

impl Report {
    fn add(&mut self, row: FolderRow) {
        self.batches += row.batches;
        self.readings += row.readings;
        self.bytes += row.bytes;
        self.oldest = [self.oldest, row.oldest].into_iter().flatten().min_by(f64::total_cmp);
        self.newest = [self.newest, row.newest].into_iter().flatten().max_by(f64::total_cmp);
        self.generations.push(row);
    }

    fn to_text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{name:10} {value}"));
        line("data", self.data_dir.clone());
        let batches = count(self.batches, "batch", "batches");
        let readings = count(self.readings, "reading", "readings");
        line("waiting", format!("{readings} in {batches}, {} on the disk", bytes(self.bytes)));
        if self.head < self.next {
            line("positions", format!("{} to {}", self.head, self.next - 1));
        }
        if let (Some(oldest), Some(newest)) = (self.oldest, self.newest) {
            let (oldest, newest) = (datetime_from_unix(oldest), datetime_from_unix(newest));
            line("received", format!("{oldest} to {newest}"));
        }
        if self.unreadable > 0 {
            let lost = count(self.unreadable, "position", "positions");
            line("damaged", format!("{lost} cannot be read"));
        }
        for (title, rows) in [("generation", &self.generations), ("kept aside", &self.aside)] {
            for row in rows {
                line(title, row.to_text());
            }
        }
        for (device, row) in &self.devices {
            let batches = count(row.batches, "batch", "batches");
            let readings = count(row.readings, "reading", "readings");
            line("device", format!("{device}: {readings} in {batches}; {}", row.epochs_text()));
        }
        if !self.losses.is_empty() {
            let sum = |of: fn(&LossRow) -> u64| self.losses.iter().map(of).sum::<u64>();
            let batches = count(sum(|row| row.batches), "batch", "batches");
            let readings = count(sum(|row| row.readings), "reading", "readings");
            let records = count(self.losses.len() as u64, "record", "records");
            line("lost", format!("{readings} in {batches}; {records} to be published"));
        }
        for row in self.losses.iter().take(LOSSES) {
            line("loss", row.to_text());
        }
        if let Some(more) = self.losses.len().checked_sub(LOSSES).filter(|more| *more > 0) {
            line("loss", format!("and {more} more records, see --json"));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl FolderRow {
    fn to_text(&self) -> String {
        let last = self.end.saturating_sub(1).max(self.first);
        let batches = count(self.batches, "batch", "batches");
        let mut text = format!(
            "{}: positions {} to {last}, {batches}, {}",
            self.folder,
            self.first,
            bytes(self.bytes)
        );
        if self.unreadable > 0 {
            text.extend([", ", &grouped(self.unreadable), " cannot be read"]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::DeviceId;

    fn batch(epoch: u64, seq: Option<u64>) -> Batch {
        let device = DeviceId::new("a").unwrap();
        Batch {
            device,
            epoch,
            seq,
            received: 1.0,
            base: crate::core::clock::Base::default(),
            shift: 0.0,
            readings: Vec::new(),
        }
    }

    #[test]
    fn a_device_with_ever_new_epochs_takes_no_more_memory() {
        let mut row = DeviceRow::default();
        for epoch in 0..1000 {
            row.add(&batch(epoch, Some(1)));
            row.add(&batch(epoch, Some(2)));
        }
        assert_eq!((row.batches, row.epochs.len(), row.earlier_epochs), (2000, EPOCHS, 992));
        assert!(row.epochs_text().starts_with("992 earlier epochs; epoch 992 seq 1 to 2; "));
    }

    #[test]
    fn many_records_of_losses_are_summed_up_and_the_first_are_listed() {
        let loss = |seq| LossRow {
            device: (seq > 1).then(|| "kiln-1".into()),
            epoch: 7,
            first_seq: (seq > 1).then_some(seq),
            last_seq: (seq > 1).then_some(seq),
            batches: 1,
            readings: 1000,
            reason: "evicted-size",
            time: 1.0,
            detail: (seq == 1).then(|| "several joined".into()),
        };
        let text = Report { losses: (1..=23).map(loss).collect(), ..Report::default() }.to_text();
        let sum = "lost       23 000 readings in 23 batches; 23 records to be published\n";
        assert!(text.contains(sum), "{text}");
        let first = "loss       evicted-size: 1 000 readings in 1 batch; several joined\n";
        assert!(text.contains(first), "{text}");
        let second =
            "loss       evicted-size: 1 000 readings in 1 batch of kiln-1, epoch 7 seq 2 to 2\n";
        assert!(text.contains(second), "{text}");
        assert!(text.ends_with("loss       and 3 more records, see --json\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("loss ")).count(), LOSSES + 1);
    }

    #[test]
    fn batches_without_numbers_say_so() {
        let mut row = DeviceRow::default();
        row.add(&batch(7, None));
        assert_eq!(row.epochs_text(), "epoch 7 without numbers");
        row.add(&batch(7, Some(3)));
        assert_eq!(row.epochs_text(), "epoch 7 seq 3 to 3");
    }
}
