//! The command line: reads arguments, calls what they name, turns the outcome into an exit code.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed,
//! 2 wrong usage, 78 invalid configuration.

mod check;
mod curves;
#[cfg(feature = "demo")]
mod demo;
mod device;
mod http;
mod run;
mod secret;
mod send;
mod simulate;
mod spool;
mod status;
mod tls;
mod told;
mod user;
mod watch;
mod why;
mod words;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::fault::Faults;
use crate::config::registry::edit::EditError;
use crate::config::{self, Settings, users};
use crate::host::audit::{Audit, Entry};
use crate::host::logging;

/// `EX_CONFIG` of sysexits.h.
const INVALID_CONFIGURATION: u8 = 78;

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = |()| ExitCode::SUCCESS;
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args).map(done),
        Command::Check(args) => check::run(&args).map(done),
        Command::Device(args) => device::run(args).map(done),
        Command::User(args) => user::run(args).map(done),
        Command::Tls(args) => tls::run(args).map(done),
        Command::Status(args) => status::run(&args).map(done),
        Command::Why(args) => why::run(&args).map(done),
        Command::Watch(args) => watch::run(&args).map(done),
        Command::Send(args) => send::run(&args),
        Command::Spool(args) => spool::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "demo")]
        Command::DemoBroker(args) => demo::broker::run(&args),
        #[cfg(feature = "demo")]
        Command::DemoGateway(args) => {
            demo::end_with_parent().and_then(|()| run::run(&args)).map(done)
        }
    };
    outcome.unwrap_or_else(|error| report(&error))
}

/// Every command with its arguments, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as CommandFactory>::command()
}

/// Telemetry gateway: WebSocket devices in, MQTT out, nothing acknowledged ever lost.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Run(run::Args),
    /// Check the configuration and show every fault at once.
    Check(check::Args),
    /// Register devices and manage their tokens.
    Device(device::Args),
    /// Manage who may use the dashboard, and the tokens of programs.
    User(user::Args),
    /// Make certificates for a site without an authority of its own.
    Tls(tls::Args),
    /// Show how a running gateway is doing.
    Status(status::Args),
    /// Explain why a device is not connected or not heard, and what to do about it.
    Why(why::Args),
    /// Show what devices send, as it comes.
    Watch(watch::Args),
    /// Ask a device to do something.
    Send(send::Args),
    /// Look into the buffer of a stopped gateway, damaged or not; changes nothing.
    Spool(spool::Args),
    /// Simulate devices, for trying and for load.
    Simulate(Box<simulate::Args>),
    /// Show everything on this machine: gateway, broker, devices, dashboard.
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// The broker of `demo`, as its child.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoBroker(demo::broker::Args),
    /// The gateway of `demo`, as its child: `run`, but it ends with its parent.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoGateway(run::Args),
}

/// Names the file with the API token.
const TOKEN_FILE: &str = "TIDEGATE_TOKEN_FILE";

/// `--config FILE`
#[derive(Debug, Clone, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", default_value = config::DEFAULT_FILE, global = true)]
    path: PathBuf,
}

impl ConfigFile {
    /// The settings alone: a command that only needs to know where things are works even where it
    /// may not read the private keys.
    fn settings(&self) -> Result<Settings, Faults> {
        Settings::load_unchecked_files(&self.path)
    }
}

/// Which running gateway is meant.
#[derive(Debug, Clone, clap::Args)]
struct GatewayAddress {
    #[command(flatten)]
    config: ConfigFile,
    /// Where the gateway's dashboard listens, for example `http://127.0.0.1:8080`; without it as
    /// the configuration says.
    #[arg(long)]
    url: Option<String>,
    /// The file that holds an API token, where the gateway has users; without it the one that
    /// `TIDEGATE_TOKEN_FILE` names.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl GatewayAddress {
    fn gateway(&self) -> anyhow::Result<http::Gateway> {
        let gateway = match &self.url {
            Some(url) => http::Gateway::at(url),
            None => http::Gateway::of(&self.config.settings()?.dashboard),
        }?;
        let set = || std::env::var_os(TOKEN_FILE).filter(|path| !path.is_empty());
        match self.token_file.clone().or_else(|| set().map(PathBuf::from)) {
            Some(path) => gateway.with_token(&path),
            None => Ok(gateway),
        }
    }
}

/// The token in the first line of `file`.
fn token_in(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let token = text.lines().next().unwrap_or_default().trim();
    ensure!(!token.is_empty(), "{} holds no token", file.display());
    Ok(token.to_owned())
}

/// Notes in the audit log of the gateway with these settings what its operator has done.
fn audit(settings: &Settings, event: &'static str, what: &str) {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = rustix::process::getuid().as_raw();
    let who = user.map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})"));
    let entry = Entry {
        event,
        who: Some(who),
        from: Some("command line".into()),
        what: Some(what.into()),
        outcome: "ok".into(),
        ..Entry::default()
    };
    let folder = &settings.gateway.data_dir;
    if let Err(error) = Audit::append(folder, entry) {
        eprintln!("tidegate: not noted in the audit log in {}: {error}", folder.display());
    }
}

/// Says what went wrong and with which exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(broken_pipe) {
        // Whoever read the output has seen enough.
        return ExitCode::SUCCESS;
    }
    let invalid = error.is::<Faults>()
        || matches!(error.downcast_ref(), Some(EditError::Invalid(_)))
        || matches!(error.downcast_ref(), Some(users::edit::EditError::Invalid(_)));
    // One line for each fault, to be read by people and editors: nothing in front.
    let text =
        if error.is::<Faults>() { error.to_string() } else { format!("tidegate: {error:#}") };
    // To the journal it goes as what it is (`sd-daemon(3)`): an error.
    let priority = if logging::is_read_by_journal() { "<3>" } else { "" };
    for line in text.lines() {
        eprintln!("{priority}{line}");
    }
    if invalid { ExitCode::from(INVALID_CONFIGURATION) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }
}
