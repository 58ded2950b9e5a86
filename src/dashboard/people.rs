//! Who asks, and what they may: users with sessions, programs with tokens, and, where the
//! configuration names no users, anyone.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, timeout};

use super::commands::Peer;
use super::http::Refusal;
use super::origin::{Origins, check_origin};
use super::sessions::{InUse, Session, Sessions};
use super::slowdown::Slowdown;
use crate::config;
use crate::config::users::password::Password;
use crate::config::users::{Role, Token, User, Users};
use crate::config::{Proxies, ProxyHeader};
use crate::core::proxy;
use crate::host::audit::{Audit, Entry};
use crate::ports::Clock;

/// Sign-ins at a time, the one that is hashed included.
const WAITING: usize = 16;
/// How long one may wait for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How often sessions are looked at for their end.
const SWEEP: Duration = Duration::from_secs(1);
/// The longest sleep until a token expires, so that a clock that is set is noticed.
const NAP: Duration = Duration::from_secs(60);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a route wants of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: it tells nothing that needs guarding, or judges by itself.
    Nothing,
    /// At least this role.
    Role(Role),
}

/// Who asks, from where.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) who: Who,
    /// The browser's, if a trusted proxy tells it.
    pub(super) address: IpAddr,
    /// Whether the browser came over TLS.
    pub(super) secure: bool,
}

#[derive(Clone)]
pub(super) enum Who {
    /// There are no users: whoever reaches the dashboard is in.
    Anyone,
    /// A person who is signed in.
    Person(Arc<Session>),
    /// A program with a token.
    Program(Program),
    /// Nobody that is known, with what they showed.
    Stranger(Shown),
}

/// What a stranger showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// A session that is over, or none of ours.
    Session,
    /// A token that opens nothing.
    Token,
}

#[derive(Clone)]
pub(super) struct Program {
    name: String,
    entry: Token,
    users: watch::Receiver<Arc<Users>>,
    clock: Arc<dyn Clock>,
}

/// Who may use the dashboard.
pub(super) struct People {
    users: Option<watch::Receiver<Arc<Users>>>,
    sessions: Sessions,
    slowdown: Mutex<Slowdown>,
    /// One at a time: each takes 19 MiB.
    hashing: Arc<Semaphore>,
    places: Arc<Semaphore>,
    nobody: Password,
    clock: Arc<dyn Clock>,
    audit: Arc<Audit>,
    tls: bool,
    loopback: bool,
    proxies: Proxies,
    /// Pages of other origins that may ask.
    origins: Origins,
}

/// Why nobody is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// The user or the password is wrong.
    Wrong,
    /// Too many wrong ones; wait so long.
    Slowed(Duration),
    /// Too many at once.
    Busy,
}

impl People {
    pub(super) fn new(
        settings: &config::Dashboard,
        users: Option<watch::Receiver<Arc<Users>>>,
        clock: Arc<dyn Clock>,
        audit: Arc<Audit>,
    ) -> Self {
        Self {
            users,
            sessions: Sessions::new(settings.session_idle, settings.session_max),
            slowdown: Mutex::default(),
            hashing: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(WAITING)),
            nobody: Password::of_nobody(),
            clock,
            audit,
            tls: settings.tls.is_some(),
            loopback: settings.listen.ip().is_loopback(),
            origins: Origins::new(Vec::new(), settings.allowed_origins.clone()),
            proxies: settings.proxies.clone(),
        }
    }

    /// Ends sessions that are over, or whose user is not as before, at once; for ever.
    pub(super) async fn run(&self) {
        let Some(mut users) = self.users.clone() else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = users.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                _ = ticks.tick() => if self.sessions.is_empty() {
                    continue;
                },
            }
            let now = users.borrow_and_update().clone();
            for user in self.sessions.sweep(&now, Instant::now()) {
                let outcome = match now.user(&user) {
                    Some(_) => "ended: over, or the user was changed",
                    None => "ended: the user was removed",
                };
                self.audit.note(Entry {
                    event: "session",
                    who: Some(user),
                    outcome: outcome.into(),
                    ..Entry::default()
                });
            }
        }
    }

    /// Whether there is a login at all.
    pub(super) fn has_login(&self) -> bool {
        self.users.is_some()
    }

    pub(super) fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The name of the cookie that holds a session's id. The prefix keeps other hosts of the domain
    /// and pages without TLS from setting it (RFC 6265bis section 4.1.3.2).
    pub(super) fn cookie(caller: &Caller) -> &'static str {
        if caller.secure { "__Host-tidegate" } else { "tidegate" }
    }

    /// Refuses what comes in the clear over a network from others than the proxies that are trusted.
    pub(super) fn check_way(&self, request: &Request) -> Result<(), Refusal> {
        let Some(peer) = peer(request).filter(|_| self.has_login() && !self.tls && !self.loopback)
        else {
            return Ok(());
        };
        if peer.is_loopback() || self.is_proxy(peer) {
            return Ok(());
        }
        let error = "without TLS only the proxies of dashboard.trusted_proxies are answered here: \
            use the proxy's https:// address";
        Err(Refusal::new(StatusCode::FORBIDDEN, error))
    }

    /// Finds out who asks.
    pub(super) fn caller(&self, request: &Request) -> Caller {
        let headers = request.headers();
        // Without a connection's address there is nobody to trust.
        let peer = peer(request).unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let proxy = self.is_proxy(peer);
        let mut caller = Caller {
            who: Who::Anyone,
            address: if proxy { self.forwarded(headers).unwrap_or(peer) } else { peer },
            secure: self.tls
                || proxy
                    && last_of(headers, &FORWARDED_PROTO)
                        .is_some_and(|proto| proto.eq_ignore_ascii_case("https")),
        };
        caller.who = self.who(headers, &caller);
        caller
    }

    fn who(&self, headers: &HeaderMap, caller: &Caller) -> Who {
        let Some(users) = &self.users else { return Who::Anyone };
        let current = users.borrow().clone();
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(bearer);
            return match token.and_then(|token| current.holder(token, self.clock.unix())) {
                Some((name, entry)) => Who::Program(Program {
                    name: name.to_owned(),
                    entry: entry.clone(),
                    users: users.clone(),
                    clock: Arc::clone(&self.clock),
                }),
                None => Who::Stranger(Shown::Token),
            };
        }
        let Some(id) = cookie(headers, Self::cookie(caller)) else {
            return Who::Stranger(Shown::Nothing);
        };
        match self.sessions.find(id, &current, Instant::now()) {
            Some(session) => Who::Person(session),
            None => Who::Stranger(Shown::Session),
        }
    }

    /// The browser's address, if there is a whole list up to there.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        proxy::forwarded(lines, |address| self.proxies.list(address)).ok()
    }

    /// Whether `peer` is a proxy that tells of its client in each request.
    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.tell_by(ProxyHeader::XForwardedFor, peer)
    }

    /// Whether the caller may ask for what needs `needs`.
    pub(super) fn check(
        &self,
        caller: &Caller,
        needs: Needs,
        request: &Request,
    ) -> Result<(), Refusal> {
        let headers = request.headers();
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if changes {
            check_origin(headers, &self.origins)?;
        }
        // A page that came without TLS may be anybody's, unless the operator wants it.
        let origin = headers.get(header::ORIGIN);
        let plain = origin.is_some_and(|origin| origin.as_bytes().starts_with(b"http://"));
        if self.tls && plain && !self.origins.lists(origin) {
            return Err(Refusal::foreign_origin());
        }
        // What a form of any page can send is not taken with the cookie that the browser adds, nor
        // to get one.
        let by_cookie = matches!(caller.who, Who::Person(_)) || needs == Needs::Nothing;
        if *request.method() == Method::POST && self.has_login() && by_cookie && !is_json(headers) {
            let error = "the request needs Content-Type: application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        let Needs::Role(needed) = needs else { return Ok(()) };
        match &caller.who {
            Who::Anyone => Ok(()),
            Who::Stranger(shown) => {
                let error = match shown {
                    Shown::Nothing => "sign in, or show an API token as Authorization: Bearer",
                    Shown::Session => "the session is over: sign in again",
                    Shown::Token => "the token opens nothing: it is unknown, removed or expired",
                };
                Err(Refusal::new(StatusCode::UNAUTHORIZED, error).needing(needed))
            }
            known if known.role() < Some(needed) => {
                let error = format!(
                    "this needs the role {needed}, and {} is {}",
                    known.name().unwrap_or_default(),
                    known.role().map_or("nothing", Role::as_str),
                );
                Err(Refusal::new(StatusCode::FORBIDDEN, error).needing(needed))
            }
            _ => Ok(()),
        }
    }

    /// Notes a refusal in the audit log. Who shows nothing, or a session that is over, has tried
    /// nothing either: every page that was left open would be in it.
    pub(super) fn note_refusal(&self, caller: &Caller, what: String, status: StatusCode) {
        let harmless = matches!(caller.who, Who::Stranger(Shown::Nothing | Shown::Session))
            && status == StatusCode::UNAUTHORIZED;
        if harmless || !self.has_login() {
            return;
        }
        let outcome = format!("refused with {}", status.as_u16());
        self.audit.note_refusal(caller.entry("denied", Some(what), outcome));
    }

    /// Judges a password and begins a session.
    pub(super) async fn sign_in(
        &self,
        user: &str,
        password: String,
        caller: &Caller,
    ) -> Result<(String, Arc<Session>), Turned> {
        let users = self.users.as_ref().ok_or(Turned::Wrong)?;
        let address = caller.address;
        self.slowdown().attempt(user, address, Instant::now()).map_err(Turned::Slowed)?;
        let entry = users.borrow().user(user).cloned();
        let hash = entry.as_ref().map_or(&self.nobody, User::password).clone();
        let Some(right) = self.judge(hash, password).await else {
            self.slowdown().undone(user, address);
            return Err(Turned::Busy);
        };
        // As it is now: hashing takes its time.
        let Some(entry) = entry.filter(|entry| right && users.borrow().user(user) == Some(entry))
        else {
            return Err(Turned::Wrong);
        };
        self.slowdown().succeeded(user, address);
        self.sessions.open(user, &entry, Instant::now()).map_err(|error| {
            tracing::error!(%error, "nobody can sign in: there are no random bytes");
            Turned::Busy
        })
    }

    /// `None` when it could not be judged.
    async fn judge(&self, hash: Password, password: String) -> Option<bool> {
        let _place = self.places.try_acquire().ok()?;
        let turn = timeout(TURN, Arc::clone(&self.hashing).acquire_owned()).await.ok()?.ok()?;
        let judged = tokio::task::spawn_blocking(move || {
            let right = hash.is(&password);
            // With the thread, not with who waits: a caller that hangs up frees no memory.
            drop(turn);
            right
        });
        judged.await.ok()
    }

    fn slowdown(&self) -> MutexGuard<'_, Slowdown> {
        self.slowdown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the session ends if it is not used: Unix time in seconds.
    pub(super) fn expires(&self, session: &Session) -> f64 {
        let left = self.sessions.left(session, Instant::now());
        (self.clock.unix() + left.as_secs_f64()).round()
    }

    /// Whether the name is a user's; others are not repeated in logs: it may be a password that was
    /// typed into the wrong field.
    pub(super) fn knows(&self, user: &str) -> bool {
        self.users.as_ref().is_some_and(|users| users.borrow().user(user).is_some())
    }
}

impl Caller {
    /// An entry of the audit log about it.
    pub(super) fn entry(
        &self,
        event: &'static str,
        what: Option<String>,
        outcome: String,
    ) -> Entry {
        Entry {
            event,
            who: self.who.name().map(str::to_owned),
            role: self.who.role().map(Role::as_str),
            from: Some(self.address.to_string()),
            what,
            outcome,
            ..Entry::default()
        }
    }
}

impl Who {
    /// The user's or token's name.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Person(session) => Some(session.user()),
            Self::Program(program) => Some(&program.name),
            Self::Anyone | Self::Stranger(_) => None,
        }
    }

    /// Its role; none where there are no users.
    pub(super) fn role(&self) -> Option<Role> {
        match self {
            Self::Person(session) => Some(session.entry().role()),
            Self::Program(program) => Some(program.entry.role()),
            Self::Anyone | Self::Stranger(_) => None,
        }
    }

    /// Whether it may do what `role` may.
    pub(super) fn is_at_least(&self, role: Role) -> bool {
        matches!(self, Self::Anyone) || self.role() >= Some(role)
    }

    /// Keeps its session in use while the answer exists.
    pub(super) fn follow(&self) -> Option<InUse> {
        match self {
            Self::Person(session) => Some(session.follow()),
            _ => None,
        }
    }

    /// Done when it may not see anything any more. Cancel safe.
    pub(super) async fn ended(&mut self) {
        match self {
            Self::Person(session) => session.ended().await,
            Self::Program(program) => program.ended().await,
            Self::Anyone | Self::Stranger(_) => std::future::pending().await,
        }
    }
}

impl Program {
    /// Until when the token works: Unix time in seconds.
    pub(super) fn expires(&self) -> Option<f64> {
        self.entry.expires()
    }

    async fn ended(&mut self) {
        loop {
            let now = self.clock.unix();
            let same = self.users.borrow_and_update().token(&self.name) == Some(&self.entry);
            if !same || !self.entry.holds(now) {
                return;
            }
            let left = self.entry.expires().map_or(NAP, |expires| {
                Duration::try_from_secs_f64(expires - now).unwrap_or_default().min(NAP)
            });
            tokio::select! {
                changed = self.users.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip().to_canonical())
}

/// The last of a list that proxies add to at its end.
fn last_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let last = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next().map(str::trim)
}

/// The token of an Authorization header (RFC 6750 section 2.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The first cookie of that name (RFC 6265 section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use axum::http::HeaderValue;

    use super::*;
    use crate::host::clock::SystemClock;

    fn people(proxies: &[&str]) -> People {
        let settings = config::Dashboard {
            listen: "10.0.0.1:80".parse().unwrap(),
            tls: None,
            users: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            session_idle: Duration::from_secs(60),
            session_max: Duration::from_secs(60),
            proxies: Proxies {
                trusted: proxies.iter().map(|ip| config::text::network(ip).unwrap()).collect(),
                header: ProxyHeader::XForwardedFor,
            },
        };
        let users = watch::channel(Arc::new(Users::default())).1;
        People::new(&settings, Some(users), Arc::new(SystemClock::new()), Arc::default())
    }

    fn request(peer: &str, headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        request
    }

    #[test]
    fn only_a_trusted_proxy_says_where_a_browser_is_and_whether_it_came_over_tls() {
        let people = people(&["10.0.0.9", "10.0.0.8"]);
        let told =
            [("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.8"), ("x-forwarded-proto", "https")];
        let caller = people.caller(&request("10.0.0.9:1", &told));
        assert_eq!((caller.address.to_string().as_str(), caller.secure), ("1.2.3.4", true));
        let caller = people.caller(&request("10.0.0.7:1", &told));
        assert_eq!((caller.address.to_string().as_str(), caller.secure), ("10.0.0.7", false));
        let nonsense = [("x-forwarded-for", "1.2.3.4, x"), ("x-forwarded-proto", "https, http")];
        let caller = people.caller(&request("10.0.0.9:1", &nonsense));
        assert_eq!((caller.address.to_string().as_str(), caller.secure), ("10.0.0.9", false));
        assert!(people.check_way(&request("10.0.0.9:1", &[])).is_ok());
        assert!(people.check_way(&request("127.0.0.1:1", &[])).is_ok());
        assert!(people.check_way(&request("10.0.0.7:1", &[])).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_when_it_expires_and_at_once_when_it_is_removed() {
        /// That of tokio, which the test winds.
        struct Wound(tokio::time::Instant);
        impl Clock for Wound {
            fn unix(&self) -> f64 {
                1_763_800_000.0 + self.0.elapsed().as_secs_f64()
            }
        }
        let file = std::path::Path::new("users.toml");
        let text = format!(
            "[tokens.p]\nrole = \"viewer\"\ntoken = \"{}\"\nexpires = 2025-11-22T08:36:40Z\n",
            crate::config::registry::Hash::of("tga_x")
        );
        let users = Users::parse(&text, file).unwrap();
        let entry = users.token("p").unwrap().clone();
        let (sender, users) = watch::channel(Arc::new(users));
        let start = tokio::time::Instant::now();
        let clock: Arc<dyn Clock> = Arc::new(Wound(start));
        let mut program = Program { name: "p".into(), entry, users, clock };
        let mut other = program.clone();
        program.ended().await;
        assert_eq!(start.elapsed().as_secs(), 600);

        other.clock = Arc::new(Wound(tokio::time::Instant::now()));
        let end = tokio::spawn(async move { other.ended().await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!end.is_finished());
        sender.send_replace(Arc::new(Users::parse("", file).unwrap()));
        end.await.unwrap();
        assert!(start.elapsed().as_secs() < 602);
    }

    #[test]
    fn credentials_are_found_where_they_belong() {
        assert_eq!(bearer("Bearer x"), Some("x"));
        assert_eq!(bearer("bearer  x "), Some("x"));
        assert_eq!((bearer("Basic x"), bearer("x")), (None, None));
        let request = request("10.0.0.1:1", &[("cookie", "a=1; tidegate=x=y"), ("cookie", "b=2")]);
        assert_eq!(cookie(request.headers(), "tidegate"), Some("x=y"));
        assert_eq!(cookie(request.headers(), "b"), Some("2"));
        assert_eq!(cookie(request.headers(), "tide"), None);
    }
}
