//! `tidegate send`: ask a device to do something.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::GatewayAddress;
use crate::config::units::parse_time;
use crate::core::command::State;
use crate::core::ids::DeviceId;

/// Asks a device, through a running gateway, to do something.
///
/// Without --wait prints the command's id, by which its result can be told. With --wait prints what
/// the device answered, as JSON; the exit code is 0 when the device did it, else 1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which device
    device: String,
    /// What to do, for example identify
    name: String,
    /// With what
    #[arg(value_name = "JSON", value_parser = parameters)]
    params: Option<Value>,
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Wait for the result: seconds, or a time such as 2m
    #[arg(long, value_name = "TIME", value_parser = time)]
    wait: Option<Duration>,
    /// For how long the command is wanted [default: as the gateway's configuration says]
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// An id of your own: sent again with the same one, it is not done twice
    #[arg(long)]
    id: Option<String>,
    /// Write it to a connection once at most, for what must not be done twice
    #[arg(long)]
    no_redeliver: bool,
    /// Print the whole command as the gateway keeps it, JSON
    #[arg(long)]
    json: bool,
}

/// Asks, and prints the answer.
///
/// # Errors
/// When there is no gateway, or it does not take the command.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let device = DeviceId::new(&args.device)?;
    let request = json!({
        "name": args.name,
        "params": args.params,
        "id": args.id,
        "ttl": args.ttl.map(|ttl| ttl.as_secs_f64()),
        "redeliver": !args.no_redeliver,
    });
    let wait = args.wait.unwrap_or_default();
    let path = format!("/api/v1/devices/{device}/commands?wait={}", wait.as_secs_f64());
    let body = args.gateway.gateway()?.post(&path, request.to_string().into_bytes(), wait)?;
    let command: Value =
        serde_json::from_slice(&body).context("the answer is not a command's record")?;
    let member = |name: &str| command.get(name).and_then(Value::as_str).unwrap_or_default();
    let state = member("state");
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{command:#}")?;
    } else if args.wait.is_none() {
        writeln!(out, "{}", member("id"))?;
    } else if let Some(value) = command.get("value").filter(|_| state == State::Done.as_str()) {
        writeln!(out, "{value}")?;
    }
    let done = state == State::Done.as_str();
    let under_way = [State::Queued, State::Delivered].iter().any(|known| known.as_str() == state);
    if !done {
        let (id, error) = (member("id"), member("error"));
        let error = match error {
            "" if under_way && args.wait.is_some() => format!(
                " after {} s: the device is away, busy or silent. It stays wanted until its ttl is \
                 over; `tidegate watch {}` shows its end",
                wait.as_secs_f64(),
                args.device
            ),
            "" => String::new(),
            error => format!(": {error}"),
        };
        eprintln!("tidegate: command {id} to {} is {state}{error}", args.device);
    }
    let good = done || (under_way && args.wait.is_none());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parameters(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("{error}; a text needs its quotes, as in '\"on\"'"))
}

fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .or_else(|| parse_time(text))
        .ok_or_else(|| format!("{text:?} is not a time such as 5, 20s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_be_bare_seconds() {
        assert_eq!(time("5"), Ok(Duration::from_secs(5)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "-1", "soon", "1y"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_json() {
        assert_eq!(parameters("{\"on\":true}"), Ok(json!({ "on": true })));
        assert!(parameters("on").unwrap_err().contains("quotes"));
    }
}
