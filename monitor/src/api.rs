//! Answers over HTTP: `/metrics` for Prometheus, `/api/v1/status` for programs, `/healthz` for
//! whoever starts and stops services.
//!
//! It shows what the last poll found and causes none: no request can make the monitor look, or
//! reach a card. There is nothing to write, so there is no body to accept; every limit below is
//! there because a monitor must not be what brings a host down.

use crate::metrics;
use crate::status::{STALE_POLLS, Status};
use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hwshim::clock::{Clock, Instant};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time;

/// Connections at a time. Prometheus keeps one, a person's tools one more.
const CONNECTIONS_MAX: usize = 32;
/// Time to send a request's head, and to stay connected without sending another.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that one connection may last, however busy.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a request's head.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Time to wait after a connection could not be taken, so that running out of descriptors does
/// not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The status of one poll, and when that was.
#[derive(Clone, Debug)]
pub struct Published {
    /// What the poll found.
    pub status: Arc<Status>,
    /// When it began.
    pub at: Instant,
}

/// Where handlers find the latest status.
#[derive(Clone)]
pub struct Source {
    /// The latest poll; `None` before the first.
    pub latest: watch::Receiver<Option<Published>>,
    /// What time it is, to tell whether that is recent.
    pub clock: Arc<dyn Clock>,
    /// Time between polls.
    pub poll_interval: Duration,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}

/// Answers on `listener` until the future is dropped.
///
/// # Errors
///
/// The kernel's, if the listener itself is broken.
pub async fn serve(listener: TcpListener, source: Source) -> io::Result<()> {
    let router = router(source);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            // A connection that fails concerns whoever opened it, and they know.
            let _ = time::timeout(CONNECTION_TIMEOUT, answer(stream, router)).await;
            drop(permit);
        });
    }
}

async fn answer(stream: TcpStream, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/api/v1/status", get(show_status))
        .route("/healthz", get(show_health))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(refuse_body))
        .with_state(source)
}

async fn show_metrics(State(source): State<Source>) -> Result<Response, Refusal> {
    let text = metrics::text(&Arc::new(source.latest_with_age()?));
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusQuery {
    /// Only this card.
    card: Option<String>,
}

async fn show_status(
    State(source): State<Source>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| {
        let why = format!("{}; the only parameter is card=ADDRESS", error.body_text());
        Refusal(StatusCode::BAD_REQUEST, why)
    })?;
    let mut status = source.latest_with_age()?;
    let Some(wanted) = query.card else {
        return Ok(Json(status).into_response());
    };
    status.cards.retain(|card| card.card == wanted);
    status.qat.retain(|it| it.function.card == wanted);
    status.functions.retain(|it| it.function.card == wanted);
    let services = &mut status.services;
    services.retain(|service| service.card.as_ref() == Some(&wanted));
    if status.cards_by_name().next().is_none() {
        let why = format!("no card {wanted} is watched");
        return Err(Refusal(StatusCode::NOT_FOUND, why));
    }
    Ok(Json(status).into_response())
}

/// Ready means that this service sees: not that every card is well.
async fn show_health(State(source): State<Source>) -> Result<Response, Refusal> {
    let age = source.clock.now().since(source.latest()?.at);
    if age > source.poll_interval * STALE_POLLS {
        let why = format!("the last poll was {:.1} s ago", age.as_secs_f64());
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    Ok(Json(serde_json::json!({ "ready": true })).into_response())
}

async fn no_such_page() -> Refusal {
    let why = "there are /metrics, /api/v1/status and /healthz";
    Refusal(StatusCode::NOT_FOUND, why.to_owned())
}

async fn no_such_method() -> Refusal {
    let why = "nothing can be changed here; use GET";
    Refusal(StatusCode::METHOD_NOT_ALLOWED, why.to_owned())
}

async fn refuse_body(request: Request, next: Next) -> Response {
    if has_body(request.headers()) {
        let why = "no request here has a body";
        return Refusal(StatusCode::PAYLOAD_TOO_LARGE, why.to_owned()).into_response();
    }
    next.run(request).await
}

fn has_body(headers: &HeaderMap) -> bool {
    let len = headers.get(header::CONTENT_LENGTH);
    len.is_some_and(|len| len != "0") || headers.contains_key(header::TRANSFER_ENCODING)
}

/// An answer that is no, and why.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        (status, Json(serde_json::json!({ "error": why }))).into_response()
    }
}

impl Source {
    fn latest(&self) -> Result<Published, Refusal> {
        self.latest.borrow().clone().ok_or_else(|| {
            let why = "no poll has ended yet; ask again in a moment";
            Refusal(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
        })
    }

    /// Whoever asks must be able to tell an answer from an old one.
    fn latest_with_age(&self) -> Result<Status, Refusal> {
        let Published { status, at } = self.latest()?;
        Ok(Status {
            age_seconds: Some(self.clock.now().since(at).as_secs_f64()),
            ..Status::clone(&status)
        })
    }
}
