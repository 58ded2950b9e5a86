//! Keeps the users up to date with their file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::Users;
use crate::config::fault::Faults;
use crate::config::watch::FileWatch;

/// A file that is none of users at all could fill the log.
const FAULTS_LOGGED: usize = 20;

/// Reads the file whenever it changes or somebody asks for it.
#[derive(Debug)]
pub struct UsersWatch {
    path: PathBuf,
    files: FileWatch,
    current: watch::Sender<Arc<Users>>,
    asked: Arc<Notify>,
}

impl UsersWatch {
    /// Reads the users. Where there is no file, nobody can sign in until there is one. Within a
    /// tokio runtime with its timer. `asked` says when to read again without a change.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn open(
        path: &Path,
        asked: Arc<Notify>,
    ) -> Result<(Self, watch::Receiver<Arc<Users>>), Faults> {
        // The stamp is older than what is read, so that a change between the two is not missed.
        let files = FileWatch::new([path.to_owned()]);
        let users = Users::load(path)?.unwrap_or_default();
        let (current, receiver) = watch::channel(Arc::new(users));
        Ok((Self { path: path.to_owned(), files, current, asked }, receiver))
    }

    /// Keeps reading, for ever. A file that is gone or broken keeps the users that are in force and
    /// says so in the log.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                () = self.files.changed() => {}
                () = self.asked.notified() => {}
            }
            self.reload().await;
        }
    }

    async fn reload(&self) {
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || Users::load(&path)).await;
        let file = self.path.display();
        match loaded {
            Ok(Ok(Some(users))) => {
                let (count, tokens) = (users.users().count(), users.tokens().count());
                tracing::info!(%file, users = count, tokens, "users read");
                self.current.send_replace(Arc::new(users));
            }
            Ok(Ok(None)) if !self.current.borrow().has_file() => {}
            Ok(Ok(None)) => {
                tracing::error!(name: "users-refused", %file, "the file of users is gone; those known before stay so");
            }
            Ok(Err(faults)) => {
                for fault in faults.iter().take(FAULTS_LOGGED) {
                    tracing::error!("{fault}");
                }
                let faults = faults.len();
                tracing::error!(
                    name: "users-refused",
                    %file,
                    faults,
                    "the file of users is not valid; those of before stay in force"
                );
            }
            Err(error) => {
                tracing::error!(name: "users-refused", %file, %error, "reading the users failed");
            }
        }
    }
}
