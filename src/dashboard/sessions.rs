//! Who is signed in: sessions of browsers, in memory only. A restart ends them all.
//!
//! A session's id is 256 random bits; what is kept is its hash, so that memory that leaks opens
//! nothing.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::registry::Hash;
use crate::config::registry::edit::new_token;
use crate::config::users::{User, Users};

/// Sessions at a time.
const MAX: usize = 1000;
/// Of one user; one more ends the one that was used longest ago.
const MAX_OF_USER: usize = 20;

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Mutex<HashMap<[u8; 32], Arc<Session>>>,
    idle: Duration,
    max: Duration,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Session {
    user: String,
    entry: User,
    started: Instant,
    used: Mutex<Instant>,
    feeds: AtomicUsize,
    end: CancellationToken,
}

/// Keeps a session from being idle while it exists.
#[derive(Debug)]
pub(super) struct InUse(Arc<Session>);

impl Sessions {
    pub(super) fn new(idle: Duration, max: Duration) -> Self {
        Self { all: Mutex::default(), idle, max }
    }

    /// Begins a session; the answer is its id, which is nowhere else. Where there are too many, the
    /// one that was used longest ago ends.
    pub(super) fn open(
        &self,
        user: &str,
        entry: &User,
        now: Instant,
    ) -> io::Result<(String, Arc<Session>)> {
        let id = new_token("")?;
        let session = Arc::new(Session {
            user: user.to_owned(),
            entry: entry.clone(),
            started: now,
            used: Mutex::new(now),
            feeds: AtomicUsize::new(0),
            end: CancellationToken::new(),
        });
        let mut all = self.lock();
        if all.values().filter(|session| session.user == user).count() >= MAX_OF_USER {
            end_oldest(&mut all, |session| session.user == user);
        } else if all.len() >= MAX {
            end_oldest(&mut all, |_| true);
        }
        all.insert(key(&id), Arc::clone(&session));
        Ok((id, session))
    }

    /// The session of that id, if it still holds for its user as it is now; that it is asked for
    /// counts as use.
    pub(super) fn find(&self, id: &str, users: &Users, now: Instant) -> Option<Arc<Session>> {
        let session = self.lock().get(&key(id)).cloned()?;
        if self.left(&session, now).is_zero() || !session.fits(users) {
            return None;
        }
        *session.used() = now;
        Some(session)
    }

    /// Ends one.
    pub(super) fn close(&self, session: &Session) {
        session.end.cancel();
        self.lock().retain(|_, other| !other.end.is_cancelled());
    }

    /// Ends those that are over or whose user has changed; answers whose they were.
    pub(super) fn sweep(&self, users: &Users, now: Instant) -> Vec<String> {
        let mut ended = Vec::new();
        self.lock().retain(|_, session| {
            if session.feeds.load(Ordering::Relaxed) > 0 {
                *session.used() = now;
            }
            let holds = !self.left(session, now).is_zero() && session.fits(users);
            if !holds {
                session.end.cancel();
                ended.push(session.user.clone());
            }
            holds
        });
        ended
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How long a session lasts if it is not used.
    pub(super) fn left(&self, session: &Session, now: Instant) -> Duration {
        let idle = (*session.used() + self.idle).saturating_duration_since(now);
        idle.min((session.started + self.max).saturating_duration_since(now))
    }

    /// How long one lasts at most.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn entry(&self) -> &User {
        &self.entry
    }

    /// Done when it has ended.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Begins a use that lasts.
    pub(super) fn follow(self: &Arc<Self>) -> InUse {
        self.feeds.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(self))
    }

    fn fits(&self, users: &Users) -> bool {
        !self.end.is_cancelled() && users.user(&self.user) == Some(&self.entry)
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.feeds.fetch_sub(1, Ordering::Relaxed);
    }
}

fn key(id: &str) -> [u8; 32] {
    *Hash::of(id).as_bytes()
}

fn end_oldest(all: &mut HashMap<[u8; 32], Arc<Session>>, of: impl Fn(&Session) -> bool) {
    let candidates = all.iter().filter(|(_, session)| of(session));
    let oldest = candidates.min_by_key(|(_, session)| *session.used()).map(|(key, _)| *key);
    if let Some(session) = oldest.and_then(|key| all.remove(&key)) {
        session.end.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::users::password::Password;

    const MINUTE: Duration = Duration::from_secs(60);

    fn users(role: &str) -> Users {
        let password = Password::of_nobody();
        let entry = format!("role = \"{role}\"\npassword = \"{}\"\n", password.as_str());
        let text = format!("[users.anna]\n{entry}[users.bert]\n{entry}");
        Users::parse(&text, Path::new("users.toml")).unwrap()
    }

    fn open(
        sessions: &Sessions,
        users: &Users,
        name: &str,
        now: Instant,
    ) -> (String, Arc<Session>) {
        sessions.open(name, users.user(name).unwrap(), now).unwrap()
    }

    #[test]
    fn a_session_ends_by_idleness_by_age_and_by_signing_out() {
        let sessions = Sessions::new(MINUTE, 3 * MINUTE);
        let (users, start) = (users("viewer"), Instant::now());
        let (id, session) = open(&sessions, &users, "anna", start);
        assert_eq!(id.len(), 43);
        for seconds in [50, 100, 150, 179] {
            assert!(sessions.find(&id, &users, start + Duration::from_secs(seconds)).is_some());
        }
        assert!(sessions.find(&id, &users, start + 3 * MINUTE).is_none());
        assert_eq!(sessions.sweep(&users, start + 3 * MINUTE), ["anna"]);
        assert!(session.end.is_cancelled() && sessions.is_empty());

        let (id, session) = open(&sessions, &users, "anna", start);
        assert!(sessions.find(&id, &users, start + MINUTE).is_none());
        sessions.close(&session);
        assert!(sessions.find(&id, &users, start).is_none() && sessions.is_empty());
        assert!(sessions.find("", &users, start).is_none());
    }

    #[test]
    fn an_open_feed_is_use_but_not_for_ever() {
        let sessions = Sessions::new(MINUTE, 3 * MINUTE);
        let (users, start) = (users("viewer"), Instant::now());
        let (id, session) = open(&sessions, &users, "anna", start);
        let feed = session.follow();
        assert!(sessions.sweep(&users, start + Duration::from_secs(59)).is_empty());
        assert!(sessions.find(&id, &users, start + Duration::from_secs(100)).is_some());
        assert_eq!(sessions.sweep(&users, start + 3 * MINUTE), ["anna"]);
        drop(feed);
    }

    #[test]
    fn another_role_ends_the_sessions_of_before() {
        let sessions = Sessions::new(MINUTE, MINUTE);
        let (before, now) = (users("viewer"), Instant::now());
        let (id, session) = open(&sessions, &before, "anna", now);
        let after = users("operator");
        assert!(sessions.find(&id, &after, now).is_none());
        assert!(!session.end.is_cancelled());
        assert_eq!(sessions.sweep(&after, now), ["anna"]);
        assert!(session.end.is_cancelled());
    }

    #[test]
    fn there_are_only_so_many_and_one_user_does_not_push_out_another() {
        let sessions = Sessions::new(MINUTE, MINUTE);
        let (users, now) = (users("viewer"), Instant::now());
        let (bert, _) = open(&sessions, &users, "bert", now);
        let (first, ended) = open(&sessions, &users, "anna", now);
        for number in 1..=MAX_OF_USER {
            let later = now + Duration::from_millis(u64::try_from(number).unwrap());
            open(&sessions, &users, "anna", later);
        }
        assert!(sessions.find(&first, &users, now).is_none() && ended.end.is_cancelled());
        assert!(sessions.find(&bert, &users, now).is_some());
        assert_eq!(sessions.lock().len(), MAX_OF_USER + 1);
    }
}
