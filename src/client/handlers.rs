//! A handler for each command that a device understands.

use std::collections::BTreeMap;
use std::pin::Pin;

use ciborium::Value;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::error::Stopped;
use super::{Client, Event};

/// A command to carry out.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Names it in the answer.
    pub id: String,
    /// What to do.
    pub name: String,
    /// With what.
    pub params: Value,
    /// Seconds until nobody wants the answer any more.
    pub ttl: u64,
}

type Answer = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;
type Handler = Box<dyn Fn(Command) -> Answer + Send + Sync>;

/// What a device does for each command it understands.
///
/// ```no_run
/// use tidegate::client::{Client, Command, Handlers, Options};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let handlers = Handlers::new().on("set-output", |command: Command| async move {
///     let on = command.params.as_bool().ok_or("set-output takes true or false")?;
///     // … switch the relay …
///     Ok(on.into())
/// });
/// let mut options = Options::new("ws://127.0.0.1:7070", "relay-1");
/// options.commands = handlers.names();
/// let client = Client::connect(options).await?;
/// handlers.serve(&client, |event| println!("{event:?}")).await;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Handlers {
    handlers: BTreeMap<String, Handler>,
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl Handlers {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the handler of the commands with this name, in place of one that was there. What it
    /// returns is the result, or what went wrong in words for the person who sent the command.
    #[must_use]
    pub fn on<F, A>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Command) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Value, String>> + Send + 'static,
    {
        self.handlers.insert(name.to_owned(), Box::new(move |command| Box::pin(handler(command))));
        self
    }

    /// The names of the commands, for [`super::Options::commands`].
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.handlers.keys().cloned().collect()
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// What its handler says, or that there is none.
    pub async fn carry_out(&self, command: Command) -> Result<Value, String> {
        match self.handlers.get(&command.name) {
            Some(handler) => handler(command).await,
            None => Err(format!("this device does not know the command {:?}", command.name)),
        }
    }

    /// Carries out and answers the commands that come, several at once where they take time, and
    /// hands every other event to `other`. Ends with the client, and tells why it ended.
    pub async fn serve(&self, client: &Client, mut other: impl FnMut(&Event)) -> Stopped {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                event = client.event() => match event {
                    Ok(Event::Command(command)) => running.push(async {
                        let id = command.id.clone();
                        (id, self.carry_out(command).await)
                    }),
                    Ok(event) => other(&event),
                    Err(stopped) => return stopped,
                },
                Some((id, answer)) = running.next() => client.answer(&id, answer),
            }
        }
    }
}
