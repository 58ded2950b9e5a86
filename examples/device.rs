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
    let handlers = handlers();
    options.commands = handlers.names();
    // `start` does not wait for the gateway: this device measures whether or not it is there.
    let (client, connection) = Client::start(options)?;
    tokio::spawn(connection);

    let measure = async {
        let mut timer = tokio::time::interval(Duration::from_secs_f64(seconds.max(0.001)));
        for step in 0..count {
            timer.tick().await;
            let value = 21.0 + 4.0 * (f64::from(step) / 10.0).sin();
            client.send(&[reading("temperature", "Cel", value, client.now())]).await?;
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

/// What this device can be told: `echo` gives back what it is given, `add` adds numbers.
fn handlers() -> Handlers {
    Handlers::new().on("echo", |command: Command| async move { Ok(command.params) }).on(
        "add",
        |command: Command| async move {
            let numbers = command.params.as_array().ok_or("add takes a list of numbers")?;
            let sum: Option<f64> = numbers.iter().map(Value::as_float).sum();
            Ok(sum.ok_or("add takes numbers with a fraction")?.into())
        },
    )
}

fn say(event: &Event) {
    if !matches!(event, Event::Acked(_)) {
        eprintln!("{event:?}");
    }
}
