//! `tidegate watch`: what a running gateway's devices send, as it comes.

use std::io::Write as _;

use serde_json::Value;

use super::GatewayAddress;
use crate::config::units::datetime_from_unix;
use crate::core::ids::DeviceId;

/// A message larger than this is not from a gateway.
const MESSAGE_MAX: usize = 64 << 20;

/// Shows what comes in: readings, devices that come and go, commands and their ends.
///
/// A line each: time, device, what. A reading that changes more than ten times a second is shown
/// with its newest value. Ends with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this device
    device: Option<String>,
    #[command(flatten)]
    gateway: GatewayAddress,
    /// The gateway's own messages, JSON, one a line
    #[arg(long)]
    json: bool,
}

/// Follows the feed until it ends.
///
/// # Errors
/// When there is no gateway, or it ends.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let filter = match &args.device {
        Some(device) => format!("?device={}", DeviceId::new(device)?),
        None => String::new(),
    };
    let gateway = args.gateway.gateway()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut events = Events::default();
    let mut out = std::io::stdout().lock();
    runtime.block_on(gateway.follow(&format!("/api/v1/events{filter}"), |bytes| {
        events.take(bytes, |message| {
            if args.json {
                writeln!(out, "{message}")?;
            } else {
                for line in lines(&serde_json::from_str(message)?) {
                    writeln!(out, "{line}")?;
                }
            }
            Ok(())
        })?;
        Ok(out.flush()?)
    }))?;
    anyhow::bail!("the gateway has ended the feed")
}

/// Server-sent events, put together from pieces.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
}

impl Events {
    fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.rest.extend_from_slice(bytes);
        anyhow::ensure!(self.rest.len() <= MESSAGE_MAX, "the feed is not a gateway's");
        let mut begin = 0;
        while let Some(length) =
            self.rest.get(begin..).and_then(|rest| rest.windows(2).position(|end| end == b"\n\n"))
        {
            let event = self.rest.get(begin..begin + length).unwrap_or_default();
            begin += length + 2;
            if let Some(data) = event.strip_prefix(b"data: ") {
                each(std::str::from_utf8(data)?)?;
            }
        }
        self.rest.drain(..begin);
        Ok(())
    }
}

/// A message for a person.
fn lines(message: &Value) -> Vec<String> {
    let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let device = text("device");
    match text("type") {
        "readings" => {
            let readings = message.get("readings").and_then(Value::as_array);
            readings.into_iter().flatten().map(|reading| reading_line(device, reading)).collect()
        }
        "device" => {
            let up = message.get("connected").and_then(Value::as_bool).unwrap_or_default();
            let at = message.get(if up { "since" } else { "last_seen" });
            let state = if up { "online" } else { "offline" };
            vec![format!("{} {device} {state}", time(at))]
        }
        "command" => {
            let (id, name, state, error) = (text("id"), text("name"), text("state"), text("error"));
            let error = if error.is_empty() { String::new() } else { format!(": {error}") };
            let at = time(message.get("time"));
            vec![format!("{at} {device} command {id} {name} {state}{error}")]
        }
        _ => Vec::new(),
    }
}

fn reading_line(device: &str, reading: &Value) -> String {
    let name = reading.get("n").and_then(Value::as_str).unwrap_or_default();
    let value = ["v", "vs", "vb", "vd", "s"].iter().find_map(|key| reading.get(key));
    let value = value.map_or(String::new(), Value::to_string);
    let unit = reading.get("u").and_then(Value::as_str).map_or(String::new(), |u| format!(" {u}"));
    format!("{} {device} {name} {value}{unit}", time(reading.get("t")))
}

fn time(unix: Option<&Value>) -> String {
    unix.and_then(Value::as_f64).map_or("-".to_owned(), |unix| datetime_from_unix(unix).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_may_come_in_any_pieces() {
        let feed = b"data: {\"a\":1}\n\ndata: {\"b\":\"\\n\"}\n\n: a comment\n\ndata: 3\n\n";
        for size in 1..feed.len() {
            let (mut events, mut seen) = (Events::default(), Vec::new());
            for piece in feed.chunks(size) {
                events
                    .take(piece, |message| {
                        seen.push(message.to_owned());
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":\"\\n\"}", "3"]);
        }
    }

    #[test]
    fn messages_are_lines_for_people() {
        let readings = json!({
            "type": "readings",
            "device": "kiln-3",
            "readings": [
                { "n": "temperature", "u": "Cel", "v": 21.5, "t": 1_763_800_000.0 },
                { "n": "state", "vs": "hot", "t": 1_763_800_000.0 },
            ],
        });
        assert_eq!(
            lines(&readings),
            [
                "2025-11-22T08:26:40Z kiln-3 temperature 21.5 Cel",
                "2025-11-22T08:26:40Z kiln-3 state \"hot\""
            ]
        );
        let device = json!({
            "type": "device", "device": "kiln-3", "connected": true, "since": 1_763_800_000.0,
        });
        assert_eq!(lines(&device), ["2025-11-22T08:26:40Z kiln-3 online"]);
        let command = json!({
            "type": "command", "device": "kiln-3", "id": "p-1", "name": "identify",
            "state": "failed", "error": "no lamp", "time": 1_763_800_000.0,
        });
        assert_eq!(
            lines(&command),
            ["2025-11-22T08:26:40Z kiln-3 command p-1 identify failed: no lamp"]
        );
        assert!(lines(&json!({ "type": "later" })).is_empty());
    }
}
