//! `tidegate status`: how a running gateway is doing.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context;
use serde::Deserialize;

use super::GatewayAddress;
use super::words::{about, bytes, count, span};
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
    rates: Option<Rates>,
    #[serde(default)]
    rejected_batches: u64,
    #[serde(default)]
    sequence_gaps: u64,
    commands: Option<Commands>,
}

/// Readings per second.
#[derive(Debug, Deserialize)]
struct Rates {
    #[serde(rename = "in")]
    received: f64,
    #[serde(rename = "out")]
    published: f64,
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
    lasts_s: Option<f64>,
    disk_written_bytes: Option<u64>,
    disk_written_today_bytes: Option<u64>,
    fault: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Commands {
    fault: Option<String>,
    damaged: u64,
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
        line("buffer", self.spool.to_text());
        if let Some(fault) = &self.spool.fault {
            line("fault", fault.clone());
        }
        if let Some(outage) = self.spool.outage() {
            line("outage", outage);
        }
        if let Some(today) = self.spool.disk_written_today_bytes {
            let start = self.spool.disk_written_bytes.unwrap_or_default();
            line("written", format!("{} today, {} since the start", bytes(today), bytes(start)));
        }
        if self.spool.lost_readings > 0 {
            let lost = count(self.spool.lost_readings, "reading", "readings");
            line("lost", format!("{lost} since the start"));
        }
        if let Some(Commands { fault, damaged }) = &self.commands {
            if *damaged > 0 {
                let parts = count(*damaged, "damaged part", "damaged parts");
                line("commands", format!("{parts} of their ledger put aside, see the log"));
            }
            if let Some(fault) = fault {
                line("commands", fault.clone());
            }
        }
        let Devices { connected, known } = self.devices;
        line("devices", format!("{connected} connected, {known} known"));
        if let Some(Rates { received, published }) = self.rates {
            let rate = format!("{received:.1} in, {published:.1} out per second");
            line("readings", rate);
        }
        if let Some(amiss) = self.amiss() {
            line("amiss", amiss);
        }
        text
    }

    /// What was not as it should be with what devices have sent.
    fn amiss(&self) -> Option<String> {
        let (rejected, gaps) = (self.rejected_batches, self.sequence_gaps);
        let rejected =
            (rejected > 0).then(|| format!("{} rejected", count(rejected, "batch", "batches")));
        let gaps = (gaps > 0).then(|| count(gaps, "jump in numbers", "jumps in numbers"));
        let parts: Vec<_> = rejected.into_iter().chain(gaps).collect();
        (!parts.is_empty()).then(|| format!("{} since the start", parts.join(", ")))
    }
}

impl Spool {
    fn to_text(&self) -> String {
        let disk = format!("{} of {}", bytes(self.bytes), bytes(self.max_bytes));
        if self.batches == 0 {
            return format!("empty, {disk}");
        }
        let readings = count(self.readings, "reading", "readings");
        let batches = count(self.batches, "batch", "batches");
        let mut text = format!("{readings} in {batches}, {disk}");
        // Writing to a string cannot fail.
        if let Some(oldest) = self.oldest_age_s {
            let _ = write!(text, ", oldest {}", about(oldest));
        }
        match self.full_in_s {
            Some(seconds) if seconds < 1.0 => text.push_str("; full"),
            Some(seconds) => {
                let _ = write!(text, "; full in about {} at this rate", about(seconds));
            }
            None => {}
        }
        if let Some(seconds) = self.drained_in_s {
            let _ = write!(text, "; empty in about {} at this rate", about(seconds.max(1.0)));
        }
        text
    }

    /// What an outage may last, where the line before does not say it.
    fn outage(&self) -> Option<String> {
        let seconds = self.lasts_s?;
        if self.full_in_s == Some(seconds) {
            return None;
        }
        let lasts = about(seconds);
        Some(format!("one from now on may last about {lasts} before the buffer reaches a limit"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::Gateway;
    use super::*;

    fn text(json: &str) -> String {
        serde_json::from_str::<Status>(json).unwrap().to_text()
    }

    #[test]
    fn a_gateway_at_rest_takes_a_few_lines() {
        let json = r#"{"gateway":"gw-1","version":"0.1.0","uptime_s":11520.5,
            "uplink":{"state":"connected","since":1763800000.0,"last_error":"refused"},
            "spool":{"batches":0,"readings":0,"bytes":0,"max_bytes":536870912,"oldest_age_s":null,
                     "lost_readings":0,"full_in_s":null,"drained_in_s":null,"lasts_s":200000.0,
                     "disk_written_bytes":4096,"disk_written_today_bytes":14680064},
            "devices":{"connected":3,"known":4},"rates":{"in":1234.5,"out":0.04},
            "rejected_batches":2,"sequence_gaps":1,"duplicates":7,"more":1}"#;
        assert_eq!(
            text(json),
            "gateway  gw-1 (tidegate 0.1.0), up 3 h 12 min\n\
             uplink   connected since 2025-11-22T08:26:40Z\n\
             buffer   empty, 0 B of 512 MiB\n\
             outage   one from now on may last about 2 d before the buffer reaches a limit\n\
             written  14.0 MiB today, 4.0 KiB since the start\n\
             devices  3 connected, 4 known\n\
             readings 1234.5 in, 0.0 out per second\n\
             amiss    2 batches rejected, 1 jump in numbers since the start\n"
        );
    }

    #[test]
    fn an_outage_shows_why_and_how_long_there_is_room() {
        let json = r#"{"gateway":"gw-1","version":"0.1.0","uptime_s":61,
            "uplink":{"state":"disconnected","since":1763800000,"last_error":"refused"},
            "spool":{"batches":1204,"readings":12480,"bytes":2048,"max_bytes":1048576,"oldest_age_s":59.9,
                     "lost_readings":5,"full_in_s":90000,"lasts_s":90000,
                     "fault":"no space left on device"},
            "devices":{"connected":0,"known":0}}"#;
        assert_eq!(
            text(json),
            "gateway  gw-1 (tidegate 0.1.0), up 1 min 1 s\n\
             uplink   disconnected since 2025-11-22T08:26:40Z: refused\n\
             buffer   12 480 readings in 1 204 batches, 2.0 KiB of 1.0 MiB, oldest 60 s; full in \
             about 25 h at this rate\n\
             fault    no space left on device\n\
             lost     5 readings since the start\n\
             devices  0 connected, 0 known\n"
        );
    }

    #[test]
    fn what_is_the_matter_with_commands_is_told() {
        let json = r#"{"gateway":"gw-1","version":"0.1.0","uptime_s":1,
            "uplink":{"state":"connected","since":1763800000},
            "spool":{"batches":0,"readings":0,"bytes":0,"max_bytes":1024,"lost_readings":0},
            "devices":{"connected":0,"known":0},
            "commands":{"fault":"no space left on device","damaged":1}}"#;
        let text = text(json);
        assert!(text.contains("\ncommands 1 damaged part of their ledger put aside"), "{text}");
        assert!(text.contains("\ncommands no space left on device\n"), "{text}");
    }

    #[test]
    fn a_full_and_a_draining_buffer_say_so() {
        let spool = |members: &str| {
            let json = format!(
                r#"{{"batches":1,"readings":1,"bytes":0,"max_bytes":1024,"lost_readings":0,{members}}}"#
            );
            serde_json::from_str::<Spool>(&json).unwrap()
        };
        let full = spool(r#""full_in_s":0.0,"lasts_s":0.0"#);
        assert_eq!(full.to_text(), "1 reading in 1 batch, 0 B of 1.0 KiB; full");
        assert_eq!(full.outage(), None);
        let draining = spool(r#""drained_in_s":0.2,"lasts_s":60.0"#);
        assert_eq!(
            draining.to_text(),
            "1 reading in 1 batch, 0 B of 1.0 KiB; empty in about 1 s at this rate"
        );
        assert!(draining.outage().is_some_and(|outage| outage.contains("about 60 s")));
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
