//! What is asked for and answered at once: probes, metrics, status, devices.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

use super::http::{Refusal, body, json};
use super::hub::Hub;
use super::list::DeviceList;
use super::render::{self, Filter};
use super::slot::Slot;
use crate::host::machine::Process;
use crate::metrics::{self, HISTORY_REFUSALS, Reason};
use crate::ports::UplinkState;

/// 200 while the process works.
pub(super) async fn healthz() -> Response<Body> {
    #[derive(Serialize)]
    struct Alive {
        status: &'static str,
    }
    json(&Alive { status: "ok" })
}

/// 200 when devices can connect and what they send can be kept; else 503 and why. A ledger of commands
/// that cannot be written is told and does not make it 503: readings flow all the same.
pub(super) async fn readyz(State(hub): State<Arc<Hub>>) -> Result<Response<Body>, Refusal> {
    #[derive(Serialize)]
    struct Ready {
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        commands: Option<String>,
    }
    let unready = |why: &str| Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why));
    let context = hub.context();
    if !context.listening.load(Ordering::Acquire) {
        return unready("not listening for devices: starting or stopping");
    }
    let spool = context.health.spool();
    // First, because it says more: a spool that has failed for good is not open either.
    if let Some(fault) = &spool.fault {
        return unready(fault);
    }
    if !spool.open {
        return unready("the spool is not open");
    }
    Ok(json(&Ready { status: "ready", commands: context.health.ledger().fault }))
}

/// The counters: as `OpenMetrics` to who asks for it, else in the older Prometheus text format.
pub(super) async fn metrics(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response<Body> {
    let context = hub.context();
    let metrics = &context.metrics;
    let spool = context.health.spool();
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.spool_batches.set(gauge(spool.batches));
    metrics.spool_bytes.set(gauge(spool.bytes));
    metrics.spool_max_bytes.set(gauge(spool.max_bytes));
    metrics.spool_room.set(spool.room.map_or(f64::NAN, |room| room as f64));
    metrics.spool_stalled.set(i64::from(spool.fault.is_some()));
    let age = spool.oldest.map_or(0.0, |oldest| (context.clock.unix() - oldest).max(0.0));
    metrics.spool_oldest.set(age);
    for push in context.health.pushes() {
        let label = metrics::Push { push: push.name.clone() };
        let queued = gauge(push.queued.load(Ordering::Relaxed));
        context.metrics.push_queued.get_or_create(&label).set(queued);
    }
    let up = context.health.uplink().state == UplinkState::Connected;
    metrics.uplink_up.set(i64::from(up));
    // There is no number for "unknown", and 0 would be a lie: comparisons with NaN are false.
    let known = |seconds: Option<f64>| seconds.unwrap_or(f64::NAN);
    let forecast = hub.forecast();
    metrics.spool_full.set(known(forecast.full_in));
    metrics.spool_drained.set(known(forecast.drained_in));
    metrics.spool_lasts.set(known(forecast.lasts));
    let written = context.wear.written();
    metrics.disk_written_today.set(known(written.map(|written| written.today as f64)));
    if let Some(written) = written {
        let before = metrics.disk_written.get();
        metrics.disk_written.inc_by(written.since_start.saturating_sub(before));
    }
    let ledger = context.health.ledger();
    metrics.ledger_stalled.set(i64::from(ledger.fault.is_some()));
    metrics.ledger_damaged.inc_by(ledger.damaged.saturating_sub(metrics.ledger_damaged.get()));
    metrics.start_time.set(context.clock.unix() - context.started.elapsed().as_secs_f64());
    metrics.cpu_seconds.inc_by((Process::cpu_seconds() - metrics.cpu_seconds.get()).max(0.0));
    metrics.resident.set(Process::own().resident.map_or(f64::NAN, |bytes| bytes as f64));
    let memory = context.fleet.memory();
    metrics.history_series.set(gauge(memory.series() as u64));
    metrics.history_bytes.set(gauge(memory.used() as u64));
    for (index, reason) in HISTORY_REFUSALS.into_iter().enumerate() {
        let counter = metrics.history_refused.get_or_create(&Reason { reason });
        counter.inc_by(memory.refused(index).saturating_sub(counter.get()));
    }
    let modern = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|a| a.contains("application/openmetrics-text")));
    if modern {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        body(kind, metrics.text().into())
    } else {
        body("text/plain; version=0.0.4; charset=utf-8", metrics.classic_text().into())
    }
}

/// The gateway's state.
pub(super) async fn status(State(hub): State<Arc<Hub>>) -> Response<Body> {
    json(&hub.status())
}

/// The machine, the process, the limits and the configuration.
pub(super) async fn gateway(State(hub): State<Arc<Hub>>) -> Response<Body> {
    body("application/json", hub.gateway().into())
}

/// All devices, sent as they are rendered.
pub(super) async fn devices(State(hub): State<Arc<Hub>>) -> Response<Body> {
    let list = DeviceList::new(hub.context(), &Filter::default());
    let pieces = stream::unfold(Some(list), |list| async move {
        let mut list = list?;
        let mut bytes = Vec::new();
        let done = list.append_piece(&Filter::default(), &mut bytes);
        let piece = Ok::<_, std::convert::Infallible>(Bytes::from(bytes));
        Some((piece, (!done).then_some(list)))
    });
    body("application/json", Body::from_stream(pieces))
}

/// One device.
pub(super) async fn device(
    State(hub): State<Arc<Hub>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Refusal> {
    let slot = slot(&hub, path)?;
    let mut document = Vec::new();
    render::device_in_full(&slot, &mut document);
    Ok(body("application/json", document.into()))
}

/// What is known of the device that the path names.
///
/// # Errors
/// 404 where nothing is.
pub(super) fn slot(
    hub: &Hub,
    path: Result<Path<String>, PathRejection>,
) -> Result<Arc<Slot>, Refusal> {
    // What is not even UTF-8 is no device's id either.
    let device = path.map_or_else(|_| String::new(), |Path(device)| device);
    hub.context().fleet.slot(&device).ok_or_else(|| {
        let device: String = device.chars().take(80).collect();
        let error = format!(
            "no device {device:?} is in the registry or has connected since the gateway started"
        );
        Refusal::new(StatusCode::NOT_FOUND, error)
    })
}
