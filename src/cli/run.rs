//! `tidegate run`: the daemon.

use crate::app;
use crate::config::Settings;
use crate::host::logging;

/// Arguments of `tidegate run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: super::ConfigFile,
}

/// Runs until a signal ends it.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(&args.config.path)?;
    let logging = logging::init(&settings.log)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let file = args.config.path.clone();
    app::run(settings, logging, move || Settings::load(&file))?;
    Ok(())
}
