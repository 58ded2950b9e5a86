//! `tidegate device`: who may connect.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use super::ConfigFile;
use crate::config::registry::edit::{Changes, Editor};
use crate::config::registry::{Device, Registry, limits};
use crate::config::units::{datetime_from_unix, parse_time};
use crate::config::watch;
use crate::core::ids::DeviceId;
use crate::core::policy::{OwnLimits, Pattern, Permissions};
use crate::host::clock::SystemClock;
use crate::ports::Clock;

/// Arguments of `tidegate device`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register a device and print its token, once: only a hash of it is kept.
    Add {
        /// 1 to 64 letters, digits, '_' or '-', a letter or digit first.
        id: DeviceId,
        /// Names of readings it may publish: * for any run of characters, ? for one. May be
        /// repeated; without it all.
        #[arg(long, value_name = "PATTERN")]
        readings: Vec<Pattern>,
        /// Commands it may be sent. May be repeated; without it all.
        #[arg(long, value_name = "PATTERN")]
        commands: Vec<Pattern>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change what a device may do. What is not named stays as it is.
    Set {
        /// The device.
        id: DeviceId,
        /// Names of readings it may publish, in place of those it might before; '*' for all. May
        /// be repeated.
        #[arg(long, value_name = "PATTERN")]
        readings: Vec<Pattern>,
        /// Commands it may be sent, likewise.
        #[arg(long, value_name = "PATTERN")]
        commands: Vec<Pattern>,
        #[command(flatten)]
        limits: Limits,
    },
    /// List the registered devices.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a device a new token and print it, once.
    Rotate {
        /// The device.
        id: DeviceId,
        /// How long the old token works beside the new one, for example 10m; without it the old
        /// one ends at once and its connection is closed.
        #[arg(long, value_name = "TIME", value_parser = time)]
        overlap: Option<Duration>,
    },
    /// Take a device out; its connection is closed.
    Remove {
        /// The device.
        id: DeviceId,
    },
}

/// How much a device may send; each is a number, or `default` for what the settings say.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Limits {
    /// Batches per second in the long run, more or less than `devices.rate.batches_per_second`;
    /// `default` for that.
    #[arg(long, value_name = "N", value_parser = rate)]
    batches_per_second: Option<Limit>,
    /// Batches that may come at once, more or less than `devices.rate.burst`; `default` for that.
    #[arg(long, value_name = "N", value_parser = burst)]
    burst: Option<Limit>,
    /// Records in a pack, more or less than `devices.max_records`; `default` for that.
    #[arg(long, value_name = "N", value_parser = records)]
    max_records: Option<Limit>,
}

/// A limit, or none of the device's own.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit(Option<f64>);

impl Limits {
    fn changes(self) -> Changes {
        // A number of records is whole and small.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = |number: f64| number as usize;
        Changes {
            batches_per_second: self.batches_per_second.map(|limit| limit.0),
            burst: self.burst.map(|limit| limit.0),
            max_records: self.max_records.map(|limit| limit.0.map(whole)),
            ..Changes::default()
        }
    }

    fn own(self) -> OwnLimits {
        let Changes { batches_per_second, burst, max_records, .. } = self.changes();
        OwnLimits {
            batches_per_second: batches_per_second.flatten(),
            burst: burst.flatten(),
            max_records: max_records.flatten(),
        }
    }
}

/// Changes or lists the registry that the configuration names.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.config.settings()?;
    let registry = settings.devices.registry.clone();
    let noted = |what: String| super::audit(&settings, "device", &what);
    let now = SystemClock::new().unix();
    match args.command {
        Command::Add { id, readings, commands, limits } => {
            let mut editor = Editor::open(&registry)?;
            let permissions = Permissions { readings, commands, own: limits.own() };
            let token = editor.add(&id, &permissions, now)?;
            editor.save()?;
            noted(format!("registered {id}"));
            done(&registry, &format!("{id} is registered"));
            writeln!(std::io::stdout(), "{token}")?;
        }
        Command::Set { id, readings, commands, limits } => {
            let named = |patterns: Vec<Pattern>| (!patterns.is_empty()).then_some(patterns);
            let (readings, commands) = (named(readings), named(commands));
            let changes = Changes { readings, commands, ..limits.changes() };
            if changes.is_empty() {
                bail!("nothing to change: name --readings, --commands or a limit; see --help");
            }
            let mut editor = Editor::open(&registry)?;
            editor.set(&id, &changes)?;
            editor.save()?;
            done(&registry, &format!("{id} is changed"));
        }
        Command::Rotate { id, overlap } => {
            let mut editor = Editor::open(&registry)?;
            let token = editor.rotate(&id, overlap, now)?;
            editor.save()?;
            noted(format!("new token of {id}"));
            done(&registry, &format!("{id} has a new token"));
            writeln!(std::io::stdout(), "{token}")?;
        }
        Command::Remove { id } => {
            let mut editor = Editor::open(&registry)?;
            editor.remove(&id)?;
            editor.save()?;
            noted(format!("removed {id}"));
            done(&registry, &format!("{id} is removed"));
        }
        Command::List { json } => list(&registry, json, now)?,
    }
    Ok(())
}

fn done(registry: &Path, what: &str) {
    let seconds = watch::INTERVAL.as_secs() * 2;
    eprintln!("{what} in {}; a running gateway knows it within {seconds} s", registry.display());
}

fn list(path: &Path, as_json: bool, now: f64) -> anyhow::Result<()> {
    let registry = Registry::load(path)?.unwrap_or_default();
    let mut devices: Vec<_> = registry.iter().collect();
    devices.sort_by_key(|(id, _)| *id);
    let mut stdout = std::io::stdout().lock();
    if as_json {
        let rows: Vec<_> = devices.iter().map(|(id, device)| as_value(id, device)).collect();
        writeln!(stdout, "{:#}", json!(rows))?;
        return Ok(());
    }
    if devices.is_empty() {
        eprintln!(
            "no device is registered in {}; `tidegate device add ID` does it",
            path.display()
        );
        return Ok(());
    }
    let width = devices.iter().map(|(id, _)| id.as_str().len()).max().unwrap_or(0).max(2);
    writeln!(stdout, "{:width$}  {:20}  READINGS  COMMANDS  LIMITS", "ID", "CREATED")?;
    for (id, device) in devices {
        let created = device.created().map_or("-".to_owned(), date);
        let note = match device.previous_expires() {
            _ if !device.has_token() => "  (no token)".to_owned(),
            Some(expires) if now < expires => format!("  (old token until {})", date(expires)),
            _ => String::new(),
        };
        let permissions = device.permissions();
        let (readings, commands) = (row(&permissions.readings), row(&permissions.commands));
        let limits = told(&permissions.own);
        writeln!(
            stdout,
            "{:width$}  {created:20}  {readings:8}  {commands:8}  {limits}{note}",
            id.as_str()
        )?;
    }
    Ok(())
}

fn as_value(id: &DeviceId, device: &Device) -> serde_json::Value {
    let texts = |patterns: &[Pattern]| -> Vec<String> {
        if patterns.is_empty() {
            return vec!["*".to_owned()];
        }
        patterns.iter().map(ToString::to_string).collect()
    };
    json!({
        "id": id.as_str(),
        "created": device.created().map(date),
        "token": device.has_token(),
        "previous_expires": device.previous_expires().map(date),
        "readings": texts(&device.permissions().readings),
        "commands": texts(&device.permissions().commands),
        "batches_per_second": device.permissions().own.batches_per_second,
        "burst": device.permissions().own.burst,
        "max_records": device.permissions().own.max_records,
    })
}

fn row(patterns: &[Pattern]) -> String {
    if patterns.is_empty() {
        return "*".to_owned();
    }
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",")
}

/// The limits of its own, `-` where it has none.
fn told(own: &OwnLimits) -> String {
    let parts: Vec<_> = [
        own.batches_per_second.map(|rate| format!("{rate} batches/s")),
        own.burst.map(|burst| format!("burst {burst}")),
        own.max_records.map(|max| format!("{max} records")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn date(unix: f64) -> String {
    datetime_from_unix(unix).to_string()
}

fn time(text: &str) -> Result<Duration, String> {
    parse_time(text)
        .ok_or_else(|| "write a number and ms, s, m, h or d, for example 10m".to_owned())
}

fn rate(text: &str) -> Result<Limit, String> {
    limit(text, "devices.rate.batches_per_second")
}

fn burst(text: &str) -> Result<Limit, String> {
    limit(text, "devices.rate.burst")
}

fn records(text: &str) -> Result<Limit, String> {
    if text.parse::<usize>().is_err() && text != "default" {
        return Err("write a whole number, or default".to_owned());
    }
    limit(text, "devices.max_records")
}

fn limit(text: &str, setting: &str) -> Result<Limit, String> {
    if text == "default" {
        return Ok(Limit(None));
    }
    let number = text.parse().map_err(|_| "write a number, or default".to_owned())?;
    let checked = limits::check(setting, number);
    checked.map(|number| Limit(Some(number))).map_err(|allowed| format!("allowed: {allowed}"))
}
