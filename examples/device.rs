//! A device in Rust, on the reference client.
//!
//! ```text
//! cargo run --example device -- ws://127.0.0.1:7070 kiln-3 TOKEN COUNT [SECONDS_BETWEEN]
//! ```
//!
//! Keeps what is not acknowledged and sends it again after a reconnect. Ends with 0 once COUNT
//! batches are acknowledged.

use std::error::Error;
use std::time::Duration;

use ciborium::Value;
use tokio::sync::watch;

use tidegate::client::{Client, Command, Event, Handlers, Options, reading};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, device, token, count, rest @ ..] = arguments.as_slice() else {
        return Err("usage: device URL DEVICE TOKEN COUNT [SECONDS_BETWEEN]".into());
    };
    let count: u32 = count.parse()?;
    let seconds: f64 = rest.first().map_or(Ok(1.0), |text| text.parse())?;

    let mut options = Options::new(url, device);
    options.token = Some(token.clone());
    options.model = Some("device.rs".into());
    let (interval, paced) = watch::channel(Duration::from_secs_f64(seconds.max(0.001)));
    let handlers = handlers(interval);
    options.commands = handlers.names();
    // `start` does not wait for the gateway: this device measures whether or not it is there.
    let (client, connection) = Client::start(options)?;
    tokio::spawn(connection);

    let measure = async {
        for step in 0..count {
            let value = 21.0 + 4.0 * (f64::from(step) / 10.0).sin();
            client.send(&[reading("temperature", "Cel", value, client.now())]).await?;
            let seconds = *paced.borrow();
            tokio::time::sleep(seconds).await;
        }
        client.settled().await;
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::select! {
        result = measure => result?,
        stopped = handlers.serve(&client, say) => return Err(stopped.into()),
    }
    client.close(Duration::from_secs(1)).await;
    println!("{count} batches acknowledged");
    Ok(())
}

/// What this device can be told: who it is, and how often to measure. The client sees to it that each
/// command is carried out once and its answer kept until it is sent.
fn handlers(interval: watch::Sender<Duration>) -> Handlers {
    Handlers::new()
        .on("identify", |_: Command| async { Ok(map([("model", "device.rs".into())])) })
        .on("set-interval", move |command: Command| {
            let answer = seconds(&command.params).map(|seconds| {
                let before = interval.send_replace(Duration::from_secs_f64(seconds));
                map([("seconds", seconds.into()), ("before", before.as_secs_f64().into())])
            });
            async { answer }
        })
}

/// `{"seconds": NUMBER}`; a number without a fraction comes as an integer.
fn seconds(params: &Value) -> Result<f64, String> {
    let members = params.as_map().map(Vec::as_slice).unwrap_or_default();
    let named = members.iter().find(|(key, _)| key.as_text() == Some("seconds"));
    let (_, value) = named.ok_or("the parameters need a member \"seconds\"")?;
    let whole = || value.as_integer().and_then(|number| u32::try_from(number).ok()).map(f64::from);
    let seconds = value.as_float().or_else(whole).filter(|s| (0.01..=3600.0).contains(s));
    seconds.ok_or_else(|| "\"seconds\" must be a number from 0.01 to 3600".into())
}

fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Map(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn say(event: &Event) {
    if !matches!(event, Event::Acked(_)) {
        eprintln!("{event:?}");
    }
}
