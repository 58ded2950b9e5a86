//! The log: plain lines on standard error, or entries of the journal with a field for every field
//! of the event (`journalctl -u tidegate DEVICE=kiln-3`).
//!
//! Levels mean what an operator must do. ERROR: act, data was lost or will be. WARN: look into it
//! soon. INFO: something changed that is worth knowing later. DEBUG and TRACE: for developers.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

use super::entry::SpanFields;
use super::journal::{self, Journal};
use super::limit::{Limit, Limited};
use super::tail::{Tail, TailLayer};
use crate::config::{Log, LogTarget};

type Destination = Box<dyn Layer<Registry> + Send + Sync>;

/// The running log. What is still on its way to the journal is written when this is dropped.
#[derive(Debug)]
pub struct Logging {
    level: reload::Handle<Targets, Registry>,
    journal: Option<Journal>,
    tail: Arc<Tail>,
    limit: Arc<Limit>,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is not one. The configuration's check finds it first.
    #[error("the log level {0:?} cannot be used")]
    Level(String),
    /// Another log is set up in this process.
    #[error("a log is set up already")]
    Twice,
}

/// Sets up the log of the process, also for libraries that use the `log` crate. When the journal
/// is asked for and not there, lines go to standard error.
///
/// # Errors
/// When there is one already.
pub fn init(log: &Log) -> Result<Logging, LoggingError> {
    let (filter, level) = reload::Layer::new(targets(&log.level)?);
    let wanted = match log.target {
        LogTarget::Auto => is_read_by_journal(),
        LogTarget::Journal => true,
        LogTarget::Stderr => false,
    };
    let (destination, journal, failed): (Destination, _, _) = match wanted.then(journal::open) {
        Some(Ok((layer, journal))) => (Box::new(layer), Some(journal), None),
        Some(Err(error)) => (lines(), None, Some(error)),
        None => (lines(), None, None),
    };
    let tail = Arc::new(Tail::default());
    let limit = Arc::new(Limit::default());
    let bounded = destination.and_then(TailLayer(Arc::clone(&tail)));
    let layers = SpanFields.and_then(bounded.with_filter(Limited(Arc::clone(&limit))));
    let subscriber = tracing_subscriber::registry().with(layers.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
    tracing_log::LogTracer::init().map_err(|_| LoggingError::Twice)?;
    log::set_max_level(most_verbose(&log.level));
    if let Some(error) = failed {
        tracing::warn!(%error, "the journal cannot be reached; logging to standard error");
    }
    Ok(Logging { level, journal, tail, limit })
}

/// Whether standard error is connected to the journal, as systemd does it for services.
#[must_use]
pub fn is_read_by_journal() -> bool {
    systemd_journal_logger::connected_to_journal()
}

impl Logging {
    /// Changes the level of the running log.
    ///
    /// # Errors
    /// When it is not one.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        let targets = targets(level)?;
        // It fails only when the log is gone, and then there is nothing to change.
        let _ = self.level.reload(targets);
        log::set_max_level(most_verbose(level));
        Ok(())
    }

    /// Logs what was withheld since the last call, as far as it is time; `all` of it in the end. To be
    /// called every few seconds.
    pub fn tell_withheld(&self, all: bool) {
        self.limit.tell(Instant::now(), all);
    }

    /// The last entries.
    #[must_use]
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.tail)
    }

    /// How many entries were dropped since the start because the journal was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::dropped)
    }
}

/// Plain lines on standard error: colours on a terminal alone, no time where the journal that
/// stands behind it adds its own.
fn lines() -> Destination {
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_target(true);
    if is_read_by_journal() {
        Box::new(lines.with_writer(Prioritised).with_level(false).without_time())
    } else {
        Box::new(lines.with_writer(std::io::stderr))
    }
}

/// Standard error that ends in a journal: each line begins with its priority (`sd-daemon(3)`).
struct Prioritised;

impl<'a> MakeWriter<'a> for Prioritised {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { priority: syslog_priority(*meta.level()) }
    }
}

fn syslog_priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Writes one entry, which arrives whole.
struct Line {
    priority: u8,
}

impl Write for Line {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let mut out = io::stderr().lock();
        // An entry of several lines is several for the journal.
        for line in text.lines() {
            writeln!(out, "<{}>{line}", self.priority)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn targets(level: &str) -> Result<Targets, LoggingError> {
    level.parse().map_err(|_| LoggingError::Level(level.to_owned()))
}

/// The most verbose of the levels: what libraries that use the `log` crate check first, so that
/// their traces cost next to nothing.
fn most_verbose(level: &str) -> log::LevelFilter {
    let levels = level.split(',').map(|part| part.rsplit('=').next().unwrap_or_default());
    levels.filter_map(|level| level.parse().ok()).max().unwrap_or(log::LevelFilter::Off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_verbose_level_counts_for_libraries() {
        assert_eq!(most_verbose("info"), log::LevelFilter::Info);
        assert_eq!(most_verbose("warn,sled=debug"), log::LevelFilter::Debug);
        assert_eq!(most_verbose("off"), log::LevelFilter::Off);
    }

    #[test]
    fn every_level_that_the_configuration_allows_can_be_used() {
        for level in ["off", "error", "warn,tidegate=trace", "info,tidegate::uplink=debug"] {
            assert_eq!((crate::config::text::LOG_LEVEL.check)(level), Ok(()));
            targets(level).unwrap();
        }
    }
}
