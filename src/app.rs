//! Composition root.

use crate::config::Settings;
use crate::config::fault::Faults;
use crate::host::logging::Logging;

/// Why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {}

/// Runs the gateway until a signal stops it.
///
/// # Errors
/// When it cannot start.
pub fn run(
    settings: Settings,
    logging: Logging,
    reload: impl Fn() -> Result<Settings, Faults> + Send + 'static,
) -> Result<(), RunError> {
    drop((settings, logging, reload));
    Ok(())
}
