//! The composition root: binds everything, wires it, and stops it in order.
//!
//! Order matters at both ends. At the start, everything that can fail fails before the service is
//! reported ready: the spool is opened, the addresses are bound. At the end, devices are sent away
//! first, then the engine settles what it has, then the spool and the uplink close, then the history is
//! saved, and the dashboard goes last, so that it can show all of it.

mod manager;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::config::fault::Faults;
use crate::config::registry::Registry;
use crate::config::watch::{FileWatch, RegistryWatch};
use crate::config::{Auth, Drain, PayloadFormat, Settings, Surroundings};
use crate::core::delivery;
use crate::core::discovery::{Payload, Place};
use crate::core::ids::DeviceId;
use crate::dashboard::{self, DashboardError, DashboardHandle, Fleet, HistoryKeeper, Origins};
use crate::device::{self, ListenError, Listener};
use crate::engine::{self, Engine, Pulse, Shared, Stopped};
use crate::host::audit::Audit;
use crate::host::clock::SystemClock;
use crate::host::logging::Logging;
use crate::host::notify::{self, MoreTime};
use crate::host::panics;
use crate::host::signals::{Signal, Signals};
use crate::host::sockets::{self, SocketError, Sockets};
use crate::host::tls::TlsSlot;
use crate::host::wear::Wear;
use crate::ledger::{self, LedgerError};
use crate::metrics::Metrics;
use crate::ports::{Budget, Clock, CommandAccess, DeviceEvent, Feed, Feeds, Health};
use crate::push::{self, PushError, PushHandle};
use crate::spool::{self, SledSpool, SpoolError};
use crate::uplink::{MqttPublisher, UplinkError};

use manager::Manager;

/// Bursts of connections that wait for the engine at most.
const INBOX: usize = 1024;
/// Of the grace time, what the device connections get to say goodbye.
const GOODBYE: f64 = 0.3;
/// Seconds a batch may wait for the uplink before new ones go to the spool.
const PATIENCE: f64 = 2.0;
/// Bytes of batches read ahead from the spool.
const READ_AHEAD: usize = 1 << 20;
/// Devices that are away whose sequence numbers are remembered.
const IDLE_RUNS: usize = 100_000;
/// How long pushes get to send what waits, as far as the grace time goes.
const LAST_PUSHES: Duration = Duration::from_secs(1);
/// How long the last part of the history gets to be saved.
const LAST_HISTORY: Duration = Duration::from_secs(1);
/// How often it is looked at what was withheld from the log.
const WITHHELD: Duration = Duration::from_secs(10);
/// What stopping takes beyond the grace time at most; the service manager is told of it.
const AFTER_GRACE: Duration = Duration::from_secs(10);
/// How long the dashboard gets to finish its answers.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the gateway did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The registry of devices is not valid.
    #[error("{0}")]
    Configuration(Faults),
    /// The data directory cannot be made.
    #[error(
        "gateway.data_dir: {path} cannot be created: {error}. The disk below it must be there, and \
         this user must be able to write to it; or set another folder"
    )]
    DataDir {
        /// The setting.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The ledger of commands cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What the service manager passes is not what the configuration says.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Devices cannot connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The uplink's settings cannot be used.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The dashboard cannot be served.
    #[error(transparent)]
    Dashboard(#[from] DashboardError),
    /// Readings cannot be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The system refuses something basic.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
    /// A task that must not end has ended.
    #[error("the {0} has failed; what was not acknowledged is still with the devices")]
    Failed(&'static str),
}

/// Runs the gateway until SIGTERM or SIGINT, on `sockets` where they are for it.
///
/// # Errors
/// Whatever keeps it from starting, or from going on.
pub fn run(settings: Settings, sockets: Sockets, logging: &Logging) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::new()?;
        let gateway = Gateway::start(settings, sockets, logging)?;
        gateway.serve(signals, logging).await
    })
}

/// Everything that runs, and what it takes to stop it.
struct Gateway {
    settings: Settings,
    /// The same for the dashboard.
    in_force: watch::Sender<Arc<Settings>>,
    registry: RegistryWatch,
    tls: Option<TlsSlot>,
    listener: JoinHandle<Result<(), ListenError>>,
    stop_listener: oneshot::Sender<()>,
    stop_engine: oneshot::Sender<()>,
    engine: JoinHandle<Stopped>,
    manager: Manager,
    health: Arc<Health>,
    dashboard: DashboardHandle,
    pushes: Option<PushHandle>,
    listening: Arc<AtomicBool>,
    wear: Arc<Wear>,
    history: Option<HistoryKeeper>,
}

/// What nearly everything is given a share of.
struct Base {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    fleet: Arc<Fleet>,
    budget: Arc<Budget>,
    wear: Arc<Wear>,
}

impl Base {
    fn new(settings: &Settings) -> Self {
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new());
        panics::tell(metrics.panics.clone());
        Self {
            metrics,
            health: Arc::new(Health::default()),
            fleet: Arc::new(Fleet::new().with_history(settings.history.max_memory)),
            budget: Arc::new(Budget::new(settings.devices.max_unsettled)),
            wear: Arc::new(Wear::new(clock.clone())),
            clock,
        }
    }

    fn for_devices(
        &self,
        gateway: &str,
        events: mpsc::Sender<DeviceEvent>,
        registry: watch::Receiver<Arc<Registry>>,
        feed: Arc<dyn Feed>,
    ) -> device::Context {
        device::Context {
            gateway: gateway.to_owned(),
            events,
            budget: self.budget.clone(),
            registry,
            feed,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }
}

impl Gateway {
    /// Within the runtime that it is to run on.
    fn start(
        settings: Settings,
        mut sockets: Sockets,
        logging: &Logging,
    ) -> Result<Self, AppError> {
        let more_time = MoreTime::to_start();
        let started = Instant::now();
        let base = Base::new(&settings);
        let listening = Arc::new(AtomicBool::new(false));
        let in_force = watch::Sender::new(Arc::new(settings.clone()));

        let (registry, devices) =
            RegistryWatch::open(&settings.devices.registry).map_err(AppError::Configuration)?;
        let publisher = uplink(&settings, &base)?;
        let listener = listener(&settings, &mut sockets)?;
        let device_address = listener.local_addr()?;
        let tls = listener.tls();
        let (commands, requests) = CommandAccess::new(settings.commands.max_size);
        // Served before the spool is open, so that `/readyz` can say what the start waits for.
        let dashboard = serve_dashboard(
            &settings,
            &mut sockets,
            dashboard::Context {
                gateway: settings.gateway.id.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                fleet: base.fleet.clone(),
                health: base.health.clone(),
                metrics: base.metrics.clone(),
                commands: commands.clone(),
                clock: base.clock.clone(),
                wear: base.wear.clone(),
                started,
                listening: listening.clone(),
                budget: base.budget.clone(),
                log: logging.tail(),
                audit: Arc::new(Audit::open(&settings.gateway.data_dir)?),
                settings: in_force.subscribe(),
                origins: Arc::new(origins(&settings)),
            },
        )?;
        let spool = open_spool(&settings, &base)?;
        let pushes = pushes(&settings, &base)?;
        let feed = feed(&base.fleet, pushes.as_ref());
        let ledger =
            ledger::open(&settings.gateway.data_dir, base.health.clone(), base.clock.clone())?;
        // The spool holds the folder's lock from here on.
        base.wear.keep_in(&settings.gateway.data_dir);
        let history = history(&settings, &base, devices.clone());

        let (events, inbox) = mpsc::channel(INBOX);
        let (pulse, health) = (Arc::new(Pulse::default()), base.health.clone());
        let engine = Engine::new(
            delivery_settings(&settings),
            publisher,
            spool,
            engine::Parts {
                settings: settings.commands.desk(),
                ledger,
                requests,
                permits: permits(&settings, devices.clone()),
                book: commands.book,
                metrics: base.metrics.clone(),
                seed: rand::random(),
            },
            inbox,
            Shared {
                clock: base.clock.clone(),
                budget: base.budget.clone(),
                feed: feed.clone(),
                metrics: base.metrics.clone(),
                health: base.health.clone(),
                pulse: pulse.clone(),
            },
        )
        .announcing(homeassistant(&settings, devices.clone()));
        let grace = settings.gateway.grace;
        let (stop_engine, stop) = oneshot::channel::<()>();
        let engine = tokio::spawn(engine.run(told(stop), grace.mul_f64(1.0 - GOODBYE)));
        let context = base.for_devices(&settings.gateway.id, events, devices.clone(), feed);
        // Ends with the runtime.
        tokio::spawn(show_registered(settings.devices.auth, base.fleet, devices.clone()));
        let (stop_listener, stop) = oneshot::channel::<()>();
        let listener = tokio::spawn(listener.serve(context, told(stop), grace.mul_f64(GOODBYE)));
        listening.store(true, std::sync::atomic::Ordering::Release);
        announce(&settings, device_address, dashboard.local_addr(), &sockets);
        drop(more_time);
        let manager = Manager::ready(base.health, base.metrics, base.clock, pulse);
        Ok(Self {
            settings,
            in_force,
            registry,
            tls,
            listener,
            stop_listener,
            stop_engine,
            engine,
            manager,
            health,
            dashboard,
            pushes,
            listening,
            wear: base.wear,
            history,
        })
    }

    /// Works until told to stop, or until something that must not end has ended.
    async fn serve(mut self, mut signals: Signals, logging: &Logging) -> Result<(), AppError> {
        let mut certificates = FileWatch::new(self.settings.certificate_files());
        let mut withheld = tokio::time::interval(WITHHELD);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => self.reload(logging).await,
                },
                () = self.registry.changed() => {
                    self.registry.reload().await;
                }
                () = certificates.changed() => self.reload_certificates(),
                () = self.manager.work() => {}
                _ = withheld.tick() => logging.tell_withheld(false),
                part = self.health.failed() => return Err(failed(part, None)),
                result = &mut self.engine => return Err(failed("engine", result.err())),
                result = &mut self.listener => {
                    return match result {
                        Ok(Err(error)) => Err(error.into()),
                        result => Err(failed("device listener", result.err())),
                    };
                }
            }
        }
        let stopped = self.stop().await;
        logging.tell_withheld(true);
        stopped
    }

    async fn stop(self) -> Result<(), AppError> {
        tracing::info!("stopping");
        let grace = self.settings.gateway.grace;
        let deadline = Instant::now() + grace;
        notify::stopping("settling what the devices have sent", grace + AFTER_GRACE);
        self.listening.store(false, std::sync::atomic::Ordering::Release);
        drop(self.stop_listener);
        let listener = self.listener.await.map_err(|error| failed("device listener", Some(error)));
        // Not before: the engine settles what the connections hand over to the last.
        drop(self.stop_engine);
        let engine = self.engine.await.map_err(|error| failed("engine", Some(error)));
        if let Some(history) = self.history {
            history.stop(LAST_HISTORY).await;
        }
        self.wear.save();
        if let Some(pushes) = self.pushes {
            let left = deadline.saturating_duration_since(Instant::now());
            pushes.stop(left.min(LAST_PUSHES)).await;
        }
        self.dashboard.stop(LAST_ANSWERS).await;
        listener??;
        match engine? {
            Stopped::Settled => tracing::info!(name: "stopped", "stopped; everything is settled"),
            Stopped::Unsettled => tracing::warn!(
                name: "stopped-unsettled",
                "stopped before everything was settled; the devices still hold what was not \
                 acknowledged. gateway.grace allows more time"
            ),
        }
        Ok(())
    }

    async fn reload(&mut self, logging: &Logging) {
        notify::reloading();
        let file = self.settings.file.clone();
        match Settings::load(&file) {
            Ok(newer) => {
                let changes = self.settings.changes(&newer);
                if let Err(error) = logging.set_level(&newer.log.level) {
                    tracing::error!(%error, "log.level is not changed");
                }
                for key in &changes.after_restart {
                    tracing::warn!(key, "changed in the configuration; needs a restart");
                }
                self.settings.take_over(&newer);
                self.in_force.send_replace(Arc::new(self.settings.clone()));
                tracing::info!(name: "reloaded", file = %file.display(), changed = changes.now.join(", "), "reloaded");
            }
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("{fault}");
                }
                tracing::error!(name: "configuration-refused", "the configuration is not valid; the one before stays in force");
            }
        }
        self.registry.reload().await;
        self.dashboard.reload_users();
        self.reload_certificates();
        if let Some(pushes) = &self.pushes {
            pushes.reload();
        }
        self.manager.reloaded();
    }

    fn reload_certificates(&self) {
        if let Some(slot) = &self.tls {
            reloaded("devices.tls", slot.reload());
        }
        if self.settings.dashboard.tls.is_some() {
            reloaded("dashboard.tls", self.dashboard.reload_certificates());
        }
    }
}

fn open_spool(settings: &Settings, base: &Base) -> Result<SledSpool, AppError> {
    notify::status("opening the spool");
    let path = &settings.gateway.data_dir;
    std::fs::create_dir_all(path)
        .map_err(|error| AppError::DataDir { path: path.clone(), error })?;
    Ok(spool::open(path, &settings.spool, base.health.clone(), base.clock.clone())?)
}

/// What saves the history, unless it is to be kept in memory only.
fn history(
    settings: &Settings,
    base: &Base,
    registry: watch::Receiver<Arc<Registry>>,
) -> Option<HistoryKeeper> {
    if !settings.history.on_disk || settings.history.max_memory == 0 {
        return None;
    }
    let (data_dir, every) = (&settings.gateway.data_dir, settings.history.save_every);
    let auth = settings.devices.auth;
    let wanted = move |device: &DeviceId| {
        let registry = registry.borrow();
        !decides(auth, &registry) || registry.get(device).is_some()
    };
    let (fleet, metrics) = (base.fleet.clone(), base.metrics.clone());
    let clock = base.clock.clone();
    HistoryKeeper::start(data_dir, every, fleet, Box::new(wanted), metrics, clock)
}

fn uplink(settings: &Settings, base: &Base) -> Result<MqttPublisher, UplinkError> {
    let id = &settings.gateway.id;
    let (health, metrics) = (base.health.clone(), base.metrics.clone());
    let clock = base.clock.clone();
    Ok(MqttPublisher::new(&settings.mqtt, id, health, metrics, clock)?.taking_requests())
}

/// Where ingestion shows what happens: to the dashboard, and to the pushes where there are any.
fn feed(fleet: &Arc<Fleet>, pushes: Option<&PushHandle>) -> Arc<dyn Feed> {
    let mut feeds: Vec<Arc<dyn Feed>> = vec![fleet.clone()];
    feeds.extend(pushes.map(PushHandle::feed));
    Feeds::join(feeds)
}

fn pushes(settings: &Settings, base: &Base) -> Result<Option<PushHandle>, PushError> {
    let context = push::Context {
        gateway: settings.gateway.id.clone(),
        health: base.health.clone(),
        metrics: base.metrics.clone(),
        clock: base.clock.clone(),
    };
    push::start(&settings.pushes, &context)
}

fn listener(settings: &Settings, sockets: &mut Sockets) -> Result<Listener, AppError> {
    let settings = &settings.devices;
    let passed = sockets.take(sockets::DEVICES, "devices.listen", settings.listen)?;
    Ok(match passed {
        Some(socket) => Listener::on_socket(socket, settings)?,
        None => Listener::bind(settings)?,
    })
}

fn serve_dashboard(
    settings: &Settings,
    sockets: &mut Sockets,
    context: dashboard::Context,
) -> Result<DashboardHandle, AppError> {
    let settings = &settings.dashboard;
    let passed = sockets.take(sockets::DASHBOARD, "dashboard.listen", settings.listen)?;
    Ok(match passed {
        Some(socket) => dashboard::start_on(socket, settings, context)?,
        None => dashboard::start(settings, context)?,
    })
}

/// Tells the log where everything is.
fn announce(settings: &Settings, devices: SocketAddr, dashboard: SocketAddr, left: &Sockets) {
    for (name, address) in left.left() {
        tracing::warn!(
            name,
            address = address.map(tracing::field::display),
            "a socket that the service manager passes is not used; FileDescriptorName= must be \
             \"devices\" or \"dashboard\", and each only once"
        );
    }
    tracing::info!(
        name: "started",
        gateway = settings.gateway.id,
        version = env!("CARGO_PKG_VERSION"),
        %devices,
        %dashboard,
        broker = format!("{}:{}", settings.mqtt.host, settings.mqtt.port),
        data_dir = %settings.gateway.data_dir.display(),
        "listening"
    );
}

/// What a device may be sent: what its entry in the registry says. Where a device needs none to
/// connect (no credentials, or a certificate without a registry file), it may be sent anything.
fn permits(settings: &Settings, registry: watch::Receiver<Arc<Registry>>) -> engine::Permits {
    let auth = settings.devices.auth;
    Box::new(move |device| {
        let registry = registry.borrow();
        let anyone = !decides(auth, &registry);
        registry.permissions(device).or_else(|| anyone.then(Arc::default))
    })
}

/// Whether only devices of the registry may connect.
fn decides(auth: Auth, registry: &Registry) -> bool {
    match auth {
        Auth::None => false,
        Auth::Token => true,
        Auth::Mtls => registry.has_file(),
    }
}

/// Shows the registry's devices on the dashboard, whether they have connected or not.
async fn show_registered(auth: Auth, fleet: Arc<Fleet>, registry: watch::Receiver<Arc<Registry>>) {
    fleet.follow(registry, |registry| decides(auth, registry)).await;
}

/// What tells Home Assistant about devices and readings, if that is wanted.
fn homeassistant(
    settings: &Settings,
    registry: watch::Receiver<Arc<Registry>>,
) -> Option<engine::HomeAssistant> {
    let mqtt = &settings.mqtt;
    let payload = match mqtt.payload {
        PayloadFormat::Json => Payload::Json,
        PayloadFormat::SenmlJson => Payload::SenmlJson,
        PayloadFormat::Value => Payload::Value,
        // The configuration's check refuses that.
        PayloadFormat::SenmlCbor => return None,
    };
    let place = Place {
        gateway: settings.gateway.id.clone(),
        prefix: mqtt.prefix.clone(),
        homeassistant_prefix: mqtt.homeassistant_prefix.clone(),
        payload,
    };
    mqtt.homeassistant.then(|| engine::HomeAssistant::new(place, registry))
}

/// Done when the sender is used or dropped: both mean stop.
async fn told(stop: oneshot::Receiver<()>) {
    let _ = stop.await;
}

fn reloaded(key: &str, result: Result<(), impl Display>) {
    match result {
        Ok(()) => tracing::info!(key, "certificate read again"),
        Err(error) => {
            tracing::error!(name: "certificate-refused", key, %error, "the certificate before stays in force");
        }
    }
}

/// The names by which a browser in the same network may call this host.
fn origins(settings: &Settings) -> Origins {
    let name = Surroundings::of_host().host_name;
    let own = name.into_iter().flat_map(|name| [format!("{name}.local"), name]);
    let hosts = own.chain(settings.dashboard.allowed_hosts.iter().cloned()).collect();
    Origins::new(hosts, settings.dashboard.allowed_origins.clone())
}

fn failed(what: &'static str, error: Option<JoinError>) -> AppError {
    if let Some(error) = error {
        tracing::error!(name: "part-failed", %error, "the {what} has failed");
    }
    AppError::Failed(what)
}

fn delivery_settings(settings: &Settings) -> delivery::Settings {
    delivery::Settings {
        live_bytes: settings.devices.max_unsettled / 2,
        patience: PATIENCE,
        load_bytes: READ_AHEAD,
        live_first: settings.spool.drain == Drain::LiveFirst,
        drain_rate: f64::from(settings.spool.drain_rate),
        max_idle_runs: IDLE_RUNS,
    }
}
