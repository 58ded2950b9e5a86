//! Single key presses from a terminal, which is put back as it was in the end.

use std::io::{IsTerminal, Read, stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// The terminal in a mode in which a key is read without Enter and not shown. Ctrl-C still works.
#[derive(Debug)]
pub(super) struct Keys {
    before: Option<Termios>,
    pressed: mpsc::Receiver<u8>,
}

impl Keys {
    /// Reads keys if stdin is a terminal; else none ever come.
    pub(super) fn read() -> std::io::Result<Self> {
        let (sender, pressed) = mpsc::channel(16);
        let mut before = None;
        if stdin().is_terminal() {
            let found = tcgetattr(stdin())?;
            let mut raw = found.clone();
            raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(stdin(), OptionalActions::Now, &raw)?;
            before = Some(found);
            // Blocks in its read until the process ends; nobody waits for it.
            std::thread::Builder::new().name("keys".into()).spawn(move || {
                for key in stdin().lock().bytes().map_while(Result::ok) {
                    if sender.blocking_send(key).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self { before, pressed })
    }

    /// Whether keys can come.
    pub(super) fn available(&self) -> bool {
        self.before.is_some()
    }

    /// The next key; never, where none can come.
    pub(super) async fn next(&mut self) -> u8 {
        match self.pressed.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
