//! `tidegate spool export`.
//!
//! `jsonl` is one line for each batch: the very JSON that the broker would have got (see
//! [`payload`]), with `"spooled":true`. `cbor` is a CBOR sequence (RFC 8742): for each batch an
//! array `[device: tstr, epoch: uint, seq: uint / null, received: float64, pack]`, the pack being
//! the resolved SenML CBOR pack (RFC 8428 section 6), and `clock_shift: float64` after it where times
//! were corrected.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::BytesMut;

use super::Damage;
use crate::cli::words::count;
use crate::core::batch::Batch;
use crate::core::ids::DeviceId;
use crate::core::payload;
use crate::spool::inspect::Inspection;

/// What stands for the gateway where no configuration names it.
const UNKNOWN: &str = "unknown";

/// Arguments of `tidegate spool export`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// jsonl: a line of JSON for each batch, as the broker gets it; cbor: a CBOR sequence.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Only the batches of this device. May be repeated.
    #[arg(long, value_name = "ID")]
    device: Vec<DeviceId>,
    /// Where to; must not exist yet. Without it standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also what can be read of the folders that were kept aside as damaged; it has been published
    /// already.
    #[arg(long)]
    damaged: bool,
    /// What stands as "gateway" in the JSON; without it as the configuration says, or "unknown"
    /// with --data-dir.
    #[arg(long, value_name = "ID")]
    gateway: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Jsonl,
    Cbor,
}

/// Writes out batch after batch, with the memory of one chunk.
pub(super) fn run(
    args: &Args,
    id: Option<&str>,
    data_dir: &Path,
    inspection: &Inspection,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    let gateway = args.gateway.as_deref().or(id).unwrap_or(UNKNOWN);
    let (mut out, file) = match &args.output {
        Some(path) => {
            let file = create(path, data_dir)?;
            (Box::new(BufWriter::new(file.try_clone()?)) as Box<dyn Write>, Some((path, file)))
        }
        None => (Box::new(BufWriter::new(io::stdout().lock())) as Box<dyn Write>, None),
    };
    let mut line = BytesMut::new();
    let (mut batches, mut readings) = (0, 0);
    let aside = inspection.aside.iter().filter(|_| args.damaged);
    for folder in aside.chain(&inspection.generations) {
        let write = |_, batch: Batch| -> io::Result<()> {
            if !args.device.is_empty() && !args.device.contains(&batch.device) {
                return Ok(());
            }
            line.clear();
            match args.format {
                Format::Jsonl => {
                    payload::write_json(&mut line, gateway, &batch, true);
                    line.extend_from_slice(b"\n");
                }
                Format::Cbor => write_cbor(&mut line, &batch)?,
            }
            batches += 1;
            readings += batch.readings.len() as u64;
            out.write_all(&line)
        };
        inspection.read(folder, write, |fault| damage.note(&fault))?;
    }
    out.flush()?;
    if let Some((path, file)) = file {
        file.sync_all().with_context(|| path.display().to_string())?;
    }
    let (batches, readings) =
        (count(batches, "batch", "batches"), count(readings, "reading", "readings"));
    eprintln!("tidegate: {readings} in {batches} exported");
    Ok(())
}

/// Makes the file to write to. An existing one is left alone, and so is the spool.
fn create(path: &Path, data_dir: &Path) -> anyhow::Result<File> {
    let name = || path.display().to_string();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize().with_context(name)?;
    let spool = data_dir.join("spool").canonicalize();
    anyhow::ensure!(
        !spool.is_ok_and(|spool| parent.starts_with(spool)),
        "{}: nothing is written into the spool itself; choose another folder",
        name()
    );
    // Devices and pipes are there already, and written to.
    let special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let mut options = File::options();
    options.write(true).create_new(!special);
    options.open(path).with_context(name)
}

fn write_cbor(out: &mut BytesMut, batch: &Batch) -> io::Result<()> {
    use ciborium::Value;
    let corrected = batch.shift.abs() > 0.0;
    // An array of five or six items (RFC 8949 section 3); the pack is there as bytes already.
    out.extend_from_slice(&[if corrected { 0x86 } else { 0x85 }]);
    let items = [
        Value::Text(batch.device.as_str().into()),
        batch.epoch.into(),
        batch.seq.map_or(Value::Null, Value::from),
    ];
    let mut bytes = Vec::new();
    for item in items {
        ciborium::into_writer(&item, &mut bytes).map_err(io::Error::other)?;
    }
    out.extend_from_slice(&bytes);
    put_float(out, batch.received);
    payload::write_senml_cbor(out, &batch.readings);
    if corrected {
        put_float(out, batch.shift);
    }
    Ok(())
}

/// Always eight bytes wide, so that a reader need not know the narrower floats.
fn put_float(out: &mut BytesMut, float: f64) {
    out.extend_from_slice(&[0xfb]);
    out.extend_from_slice(&float.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use ciborium::Value;

    use super::*;
    use crate::core::batch::{Reading, Value as Measured};

    #[test]
    fn a_batch_in_cbor_is_one_array() {
        let reading = Reading {
            name: "t".into(),
            unit: Some("Cel".into()),
            value: Some(Measured::Number(21.5)),
            sum: None,
            time: 1.0,
            update_time: None,
            relative: false,
        };
        for seq in [Some(u64::MAX), None] {
            let device = DeviceId::new("kiln-3").unwrap();
            let readings = vec![reading.clone()];
            let batch = Batch {
                device,
                epoch: 7,
                seq,
                received: 2.5,
                base: crate::core::clock::Base::default(),
                shift: 0.0,
                readings,
            };
            let mut bytes = BytesMut::new();
            write_cbor(&mut bytes, &batch).unwrap();
            let mut rest = &bytes[..];
            let value: Value = ciborium::from_reader(&mut rest).unwrap();
            assert!(rest.is_empty());
            let items = value.into_array().unwrap();
            assert_eq!(items[0].as_text(), Some("kiln-3"));
            assert_eq!(items[1], Value::from(7));
            assert_eq!(items[2], seq.map_or(Value::Null, Value::from));
            assert_eq!(items[3], Value::Float(2.5));
            assert_eq!(items[4].as_array().unwrap().len(), 1);
            assert_eq!(items.len(), 5);
            let mut corrected = BytesMut::new();
            write_cbor(&mut corrected, &Batch { shift: -1.5, ..batch }).unwrap();
            let value: Value = ciborium::from_reader(&corrected[..]).unwrap();
            let items = value.into_array().unwrap();
            assert_eq!((items.len(), &items[5]), (6, &Value::Float(-1.5)));
        }
    }

    #[test]
    fn an_existing_file_and_the_spool_itself_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let file = dir.path().join("out");
        create(&file, dir.path()).unwrap();
        assert!(create(&file, dir.path()).is_err());
        assert!(create(&spool.join("out"), dir.path()).is_err());
        assert!(create(Path::new("/dev/null"), dir.path()).is_ok());
    }
}
