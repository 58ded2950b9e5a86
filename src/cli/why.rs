//! `tidegate why`: why a device is not connected, or why what it sends is not taken, and what to do
//! about it. Asks the running gateway and reads the registry; without a gateway the registry alone
//! has to do.

mod advice;
mod told;

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use self::advice::{Advice, Facts};
use super::GatewayAddress;
use crate::config::registry::{Device, Registry};
use crate::config::units::datetime_from_unix;
use crate::config::{Devices, Settings};
use crate::core::ids::DeviceId;
use crate::core::policy::Permissions;
use crate::host::clock::SystemClock;
use crate::ports::Clock;

/// Devices with a similar id that are named.
const NEAR: usize = 3;

/// Refusals that cannot be put down to a device, by their label in the metrics, and what they mean.
const NAMELESS: [(&str, &str); 4] = [
    (
        "tls",
        "TLS handshakes failed: look at devices.tls.client_ca, at the clock of the device, at the \
             certificates' dates, and whether the device trusts devices.tls.cert",
    ),
    (
        "timeout",
        "connections said nothing useful within devices.hello_timeout: a firewall or proxy \
                 may swallow the rest, or the device speaks plain text where TLS is expected",
    ),
    ("bad-handshake", "requests were no WebSocket handshake with the subprotocol tidegate.v1"),
    ("path", "requests went to another path than /v1/devices/ID"),
];

/// Arguments of `tidegate why`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The device.
    device: DeviceId,
    #[command(flatten)]
    gateway: GatewayAddress,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that is known.
struct Picture {
    device: DeviceId,
    now: f64,
    devices: Devices,
    file: PathBuf,
    /// What the registry file says; the fault where it cannot be read.
    registry: Result<Option<Registry>, String>,
    /// What the gateway says; why it says nothing.
    gateway: Result<Seen, String>,
}

/// What the running gateway knows.
#[derive(Default)]
struct Seen {
    /// Of the device; `None` if it knows of none by that id.
    device: Option<Value>,
    /// The ids of all devices, where it does not know this one.
    others: Vec<String>,
    /// Refusals that no device is known for, by their label.
    nameless: Vec<(&'static str, u64)>,
    /// Refused for their credentials, whoever they were.
    unauthorized: u64,
}

/// Explains.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let settings = args.gateway.config.settings()?;
    let picture = Picture::take(args, &settings);
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{:#}", picture.as_json())?;
    } else {
        write!(stdout, "{}", told::tell(&picture))?;
    }
    Ok(())
}

impl Picture {
    fn take(args: &Args, settings: &Settings) -> Self {
        let file = settings.devices.registry.clone();
        Self {
            registry: Registry::load(&file).map_err(|faults| faults.to_string()),
            gateway: ask(args).map_err(|error| format!("{error:#}")),
            device: args.device.clone(),
            now: SystemClock::new().unix(),
            devices: settings.devices.clone(),
            file,
        }
    }

    fn entry(&self) -> Option<&Device> {
        self.registry.as_ref().ok()?.as_ref()?.get(&self.device)
    }

    fn seen(&self) -> Option<&Value> {
        self.gateway.as_ref().ok()?.device.as_ref()
    }

    fn is_connected(&self) -> bool {
        self.seen().is_some_and(|seen| seen["connected"] == true)
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            device: &self.device,
            auth: self.devices.auth,
            registered: self.entry().is_some(),
            has_token: self.entry().is_some_and(Device::has_token),
            has_registry: !matches!(self.registry, Ok(None)),
        }
    }

    /// What the device may do, the settings' limits where it has none of its own.
    fn permissions(&self) -> Permissions {
        let mut permissions = self.entry().map(|e| e.permissions().clone()).unwrap_or_default();
        let (own, rate) = (&mut permissions.own, self.devices.rate);
        own.batches_per_second = own.batches_per_second.or(Some(rate.batches_per_second));
        own.burst = own.burst.or(Some(rate.burst));
        own.max_records = own.max_records.or(Some(self.devices.max_records));
        permissions
    }

    /// Ids that are like the device's, the likest first; none where the device is known.
    fn near(&self) -> Vec<String> {
        if self.entry().is_some() || self.seen().is_some() {
            return Vec::new();
        }
        let registered = self.registry.iter().flatten().flat_map(Registry::iter);
        let mut ids: Vec<String> = registered.map(|(id, _)| id.to_string()).collect();
        ids.extend(self.gateway.iter().flat_map(|seen| seen.others.iter().cloned()));
        ids.sort();
        ids.dedup();
        let likeness = |id: &str| {
            let folded = |text: &str| text.to_lowercase().replace('_', "-");
            strsim::jaro_winkler(&folded(id), &folded(self.device.as_str()))
        };
        let mut near: Vec<_> =
            ids.into_iter().map(|id| (likeness(&id), id)).filter(|(like, _)| *like > 0.8).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.into_iter().take(NEAR).map(|(_, id)| id).collect()
    }

    /// The refusals with what to do about each, newest first.
    fn refusals(&self) -> Vec<(&Value, Advice)> {
        let list = self.seen().and_then(|seen| seen["refusals"].as_array());
        let facts = self.facts();
        list.into_iter().flatten().map(|refusal| (refusal, advice::of(refusal, &facts))).collect()
    }

    fn as_json(&self) -> Value {
        let permissions = self.permissions();
        let texts = |patterns: &[crate::core::policy::Pattern]| -> Vec<String> {
            if patterns.is_empty() {
                return vec!["*".to_owned()];
            }
            patterns.iter().map(ToString::to_string).collect()
        };
        let entry = self.entry();
        let advised = |advice: &Advice| json!({ "advice": advice.text, "command": advice.command });
        let refusals = self.refusals().into_iter().map(|(refusal, advice)| {
            let mut refusal = refusal.clone();
            if let Some(members) = refusal.as_object_mut() {
                members.insert("advice".into(), advice.text.into());
                members.insert("command".into(), advice.command.into());
            }
            refusal
        });
        let seen = |key: &str| self.seen().map_or(Value::Null, |seen| seen[key].clone());
        json!({
            "device": self.device.as_str(),
            "registered": entry.is_some(),
            "registry": self.file,
            "registry_fault": self.registry.as_ref().err(),
            "token": entry.is_some_and(Device::has_token),
            "created": entry.and_then(Device::created).map(date),
            "previous_expires": entry.and_then(Device::previous_expires).map(date),
            "near": self.near(),
            "gateway_fault": self.gateway.as_ref().err(),
            "connected": self.is_connected(),
            "since": seen("since"),
            "last_seen": seen("last_seen"),
            "address": seen("address"),
            "permissions": {
                "readings": texts(&permissions.readings),
                "commands": texts(&permissions.commands),
                "batches_per_second": permissions.own.batches_per_second,
                "burst": permissions.own.burst,
                "max_records": permissions.own.max_records,
            },
            "refusals": refusals.collect::<Vec<_>>(),
            "findings": self.findings().iter().map(advised).collect::<Vec<_>>(),
        })
    }

    /// What stands in the way, apart from what was refused.
    fn findings(&self) -> Vec<Advice> {
        let mut findings: Vec<Advice> = advice::standing(&self.facts(), &self.near());
        if let Err(fault) = &self.registry {
            findings.push(Advice::text(format!("the registry cannot be read: {fault}")));
        }
        let Ok(seen) = &self.gateway else { return findings };
        if self.is_connected() {
            return findings;
        }
        let never = seen.device.as_ref().is_some_and(|device| device["last_seen"].is_null());
        if never && self.refusals().is_empty() {
            findings.push(Advice::text(format!(
                "it has never reached the gateway as {}: look at its id, its network and whether \
                 it goes to devices.listen, {}",
                self.device, self.devices.listen
            )));
        }
        if seen.unauthorized > 0 && seen.device.is_none() {
            findings.push(Advice::text(format!(
                "{} refused for their credentials since the gateway started; which ids they gave \
                 is kept only for devices that are registered",
                super::words::count(seen.unauthorized, "connection was", "connections were"),
            )));
        }
        for (label, meaning) in NAMELESS {
            let count = seen.nameless.iter().find(|(name, _)| *name == label);
            if let Some((_, count)) = count.filter(|(_, count)| *count > 0) {
                findings.push(Advice::text(format!(
                    "{count} {meaning}. No device's id is known of these; it may be this one"
                )));
            }
        }
        findings
    }
}

fn date(unix: f64) -> String {
    datetime_from_unix(unix).to_string()
}

/// Asks the running gateway.
fn ask(args: &Args) -> anyhow::Result<Seen> {
    let gateway = args.gateway.gateway()?;
    let mut seen = Seen::default();
    let path = format!("/api/v1/devices/{}", args.device);
    if let Some(body) = gateway.find(&path)? {
        seen.device = Some(serde_json::from_slice(&body)?);
    } else {
        let all: Vec<Value> = serde_json::from_slice(&gateway.get("/api/v1/devices")?)?;
        let ids = all.iter().filter_map(|device| device["id"].as_str());
        seen.others = ids.map(str::to_owned).collect();
    }
    let metrics = gateway.get("/metrics")?;
    let metrics = String::from_utf8_lossy(&metrics);
    seen.nameless = NAMELESS.map(|(label, _)| (label, refused(&metrics, label))).to_vec();
    seen.unauthorized = refused(&metrics, "unauthorized");
    Ok(seen)
}

/// How many connections were refused for `reason`.
fn refused(metrics: &str, reason: &str) -> u64 {
    let name = format!("tidegate_connections_refused_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_in_the_metrics() {
        let text = "# HELP x\ntidegate_connections_refused_total{reason=\"tls\"} 7\n\
                    tidegate_connections_refused_total{reason=\"tls-x\"} 9\n";
        assert_eq!((refused(text, "tls"), refused(text, "path")), (7, 0));
    }
}
