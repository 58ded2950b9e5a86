//! `tidegate status`: how a running gateway is doing.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context;
use serde::Deserialize;

use super::GatewayAddress;
use crate::config::units::datetime_from_unix;

/// Arguments of `tidegate status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The gateway's own answer, JSON.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let body = args.gateway.gateway()?.get("/api/v1/status")?;
    let strange = "the answer is not a gateway's status";
    let text = if args.json {
        let json: serde_json::Value = serde_json::from_slice(&body).context(strange)?;
        format!("{json:#}\n")
    } else {
        serde_json::from_slice::<Status>(&body).context(strange)?.to_text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// As far as it is shown; more members are ignored.
#[derive(Debug, Deserialize)]
struct Status {
    gateway: String,
    version: String,
    uptime_s: f64,
    uplink: Uplink,
    spool: Spool,
    devices: Devices,
}

#[derive(Debug, Deserialize)]
struct Uplink {
    state: String,
    since: Option<f64>,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Spool {
    batches: u64,
    readings: u64,
    bytes: u64,
    max_bytes: u64,
    oldest_age_s: Option<f64>,
    lost_readings: u64,
    full_in_s: Option<f64>,
    drained_in_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Devices {
    connected: u64,
    known: u64,
}

impl Status {
    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:8} {value}");
        };
        line(
            "gateway",
            format!("{} (tidegate {}), up {}", self.gateway, self.version, span(self.uptime_s)),
        );
        let since = self.uplink.since.filter(|since| *since > 0.0);
        let since = since.map_or(String::new(), |s| format!(" since {}", datetime_from_unix(s)));
        let error = self.uplink.last_error.as_ref().filter(|_| self.uplink.state != "connected");
        let error = error.map_or(String::new(), |error| format!(": {error}"));
        line("uplink", format!("{}{since}{error}", self.uplink.state));
        line("spool", self.spool.to_text());
        if self.spool.lost_readings > 0 {
            line("lost", format!("{} readings since the start", self.spool.lost_readings));
        }
        let Devices { connected, known } = self.devices;
        line("devices", format!("{connected} connected, {known} known"));
        text
    }
}

impl Spool {
    fn to_text(&self) -> String {
        let disk = format!("{} of {}", bytes(self.bytes), bytes(self.max_bytes));
        if self.batches == 0 {
            return format!("empty, {disk}");
        }
        let mut text = format!("{} batches, {} readings, {disk}", self.batches, self.readings);
        for (label, seconds) in [
            ("oldest", self.oldest_age_s),
            ("full in", self.full_in_s),
            ("drained in", self.drained_in_s),
        ] {
            if let Some(seconds) = seconds {
                // Writing to a string cannot fail.
                let _ = write!(text, ", {label} {}", span(seconds));
            }
        }
        text
    }
}

/// A time to one or two units: `3 h 12 min`.
fn span(seconds: f64) -> String {
    // Saturates; fractions of a second and the sign do not matter here.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::super::http::Gateway;
    use super::*;

    fn text(json: &str) -> String {
        serde_json::from_str::<Status>(json).unwrap().to_text()
    }

    #[test]
    fn a_gateway_at_rest_takes_four_lines() {
        let json = r#"{"gateway":"gw-1","version":"0.1.0","uptime_s":11520.5,
            "uplink":{"state":"connected","since":1763800000.0,"last_error":"refused"},
            "spool":{"batches":0,"readings":0,"bytes":0,"max_bytes":536870912,"oldest_age_s":null,
                     "lost_readings":0,"full_in_s":null,"drained_in_s":null},
            "devices":{"connected":3,"known":4},"more":1}"#;
        assert_eq!(
            text(json),
            "gateway  gw-1 (tidegate 0.1.0), up 3 h 12 min\n\
             uplink   connected since 2025-11-22T08:26:40Z\n\
             spool    empty, 0 B of 512.0 MiB\n\
             devices  3 connected, 4 known\n"
        );
    }

    #[test]
    fn an_outage_shows_why_and_how_long_there_is_room() {
        let json = r#"{"gateway":"gw-1","version":"0.1.0","uptime_s":61,
            "uplink":{"state":"disconnected","since":1763800000,"last_error":"refused"},
            "spool":{"batches":7,"readings":70,"bytes":2048,"max_bytes":1048576,"oldest_age_s":59.9,
                     "lost_readings":5,"full_in_s":90000},
            "devices":{"connected":0,"known":0}}"#;
        assert_eq!(
            text(json),
            "gateway  gw-1 (tidegate 0.1.0), up 1 min 1 s\n\
             uplink   disconnected since 2025-11-22T08:26:40Z: refused\n\
             spool    7 batches, 70 readings, 2.0 KiB of 1.0 MiB, oldest 59 s, full in 1 d 1 h\n\
             lost     5 readings since the start\n\
             devices  0 connected, 0 known\n"
        );
    }

    #[test]
    fn a_url_names_a_host_and_perhaps_a_port() {
        assert_eq!(Gateway::at("http://gw:81/").unwrap().authority(), "gw:81");
        assert_eq!(Gateway::at("http://[::1]").unwrap().authority(), "[::1]:80");
        for bad in ["", "gw", "gw:80", "https://gw", "http://", "/x"] {
            assert!(Gateway::at(bad).is_err(), "{bad:?}");
        }
    }
}
