//! `tidegate run`: the daemon.

use crate::app::{self, AppError};
use crate::config::Settings;
use crate::host::sockets::Sockets;
use crate::host::{self, logging};

/// Arguments of `tidegate run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: super::ConfigFile,
}

/// Runs until a signal ends it.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    host::only_for_us();
    // First of all: it changes the environment, which is for a process without threads.
    let sockets = Sockets::passed()?;
    let settings = Settings::load(&args.config.path)?;
    let logging = logging::init(&settings.log)?;
    app::run(settings, sockets, &logging).map_err(|error| match error {
        AppError::Configuration(faults) => faults.into(),
        error => error.into(),
    })
}
