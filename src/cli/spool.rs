//! `tidegate spool`: looks into the buffer of a stopped gateway. Nothing in it is changed.

mod export;
mod info;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::ConfigFile;
use super::words::grouped;
use crate::config::Settings;
use crate::host::clock::SystemClock;
use crate::ports::Clock;
use crate::spool::inspect::{Fault, Inspection};

/// Arguments of `tidegate spool`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The gateway's data folder, or a copy of it; without it as the configuration says.
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is in it: positions, batches, readings, devices, damage.
    Info(info::Args),
    /// Write out its batches, oldest first.
    Export(export::Args),
}

/// Opens the spool and does what was asked. 1 where something could not be read, after all that
/// could be was shown.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = match &args.data_dir {
        Some(_) => None,
        None => Some(args.config.settings()?),
    };
    let data_dir = args.data_dir.as_ref().or(settings.as_ref().map(|s| &s.gateway.data_dir));
    let Some(data_dir) = data_dir else { anyhow::bail!("no data folder is known") };
    let inspection = Inspection::open(data_dir, SystemClock::new().moment())?;
    for note in &inspection.notes {
        eprintln!("tidegate: {note}");
    }
    let mut damage = Damage::default();
    for fault in &inspection.faults {
        damage.note(fault);
    }
    match &args.command {
        Command::Info(info) => info::run(info, data_dir, &inspection, &mut damage)?,
        Command::Export(export) => {
            let id = settings.as_ref().map(|settings: &Settings| settings.gateway.id.as_str());
            export::run(export, id, data_dir, &inspection, &mut damage)?;
        }
    }
    Ok(damage.outcome())
}

/// Counts what could not be read, and says each on standard error.
#[derive(Debug, Default)]
struct Damage {
    faults: u64,
    batches: u64,
}

impl Damage {
    fn note(&mut self, fault: &Fault) {
        self.faults += 1;
        self.batches += fault.end - fault.first;
        let (last, folder, reason) = (fault.end - 1, &fault.folder, &fault.reason);
        eprintln!("tidegate: {folder}: positions {} to {last}: {reason}", fault.first);
    }

    fn outcome(&self) -> ExitCode {
        if self.faults == 0 {
            return ExitCode::SUCCESS;
        }
        eprintln!(
            "tidegate: {} at {} could not be read; everything else was",
            super::words::count(self.batches, "position", "positions"),
            if self.faults == 1 { "1 place".into() } else { grouped(self.faults) + " places" },
        );
        ExitCode::FAILURE
    }
}
