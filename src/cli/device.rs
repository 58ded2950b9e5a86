//! `tidegate device`: who may connect.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::ConfigFile;
use crate::config::registry::edit::Editor;
use crate::config::registry::{Device, Registry};
use crate::config::units::{datetime_from_unix, parse_time};
use crate::config::watch;
use crate::core::ids::DeviceId;
use crate::core::policy::{Pattern, Permissions};
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

/// Changes or lists the registry that the configuration names.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.config.settings()?;
    let registry = settings.devices.registry.clone();
    let noted = |what: String| super::audit(&settings, "device", &what);
    let now = SystemClock::new().unix();
    match args.command {
        Command::Add { id, readings, commands } => {
            let mut editor = Editor::open(&registry)?;
            let token = editor.add(&id, &Permissions { readings, commands }, now)?;
            editor.save()?;
            noted(format!("registered {id}"));
            done(&registry, &format!("{id} is registered"));
            writeln!(std::io::stdout(), "{token}")?;
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
    writeln!(stdout, "{:width$}  {:20}  READINGS  COMMANDS", "ID", "CREATED")?;
    for (id, device) in devices {
        let created = device.created().map_or("-".to_owned(), date);
        let note = match device.previous_expires() {
            _ if !device.has_token() => "  (no token)".to_owned(),
            Some(expires) if now < expires => format!("  (old token until {})", date(expires)),
            _ => String::new(),
        };
        let permissions = device.permissions();
        let (readings, commands) = (row(&permissions.readings), row(&permissions.commands));
        writeln!(stdout, "{:width$}  {created:20}  {readings:8}  {commands}{note}", id.as_str())?;
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
    })
}

fn row(patterns: &[Pattern]) -> String {
    if patterns.is_empty() {
        return "*".to_owned();
    }
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",")
}

fn date(unix: f64) -> String {
    datetime_from_unix(unix).to_string()
}

fn time(text: &str) -> Result<Duration, String> {
    parse_time(text)
        .ok_or_else(|| "write a number and ms, s, m, h or d, for example 10m".to_owned())
}
