//! Asks a running monitor over HTTP.
//!
//! One request on one connection, with a deadline and a limit to what is taken in. It speaks to
//! loopback without encryption and is no client for anything else; that is why it is built on the
//! HTTP library the server uses anyway and not on another.

use crate::status::Status;
use crate::text::clean;
use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time;

/// Time for everything.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer: 256 cards with much to say.
const ANSWER_LEN_MAX: usize = 8 * 1024 * 1024;

/// A monitor could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is none.
    #[error("{url:?} is not a URL such as http://127.0.0.1:9180")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// Nobody listens there.
    #[error(
        "no monitor answers at {address}: {source}; start one with `cardmon run`, or give its address with --url"
    )]
    NotRunning {
        /// Where it was looked for.
        address: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Something listens there and does not answer in time.
    #[error("{address} did not answer in {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// Where it was asked.
        address: String,
    },
    /// The monitor says no.
    #[error("the monitor at {address} answered {status}: {why}")]
    Refused {
        /// Where it was asked.
        address: String,
        /// The HTTP status.
        status: StatusCode,
        /// Its words.
        why: String,
    },
    /// What answers is no monitor, or one of another version.
    #[error("what answers at {address} is not a monitor that this program understands: {why}")]
    NotAMonitor {
        /// Where it was asked.
        address: String,
        /// What is wrong.
        why: String,
    },
}

/// Asks the monitor at `url` how things are; `http://` need not be said.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn status(url: &str) -> Result<Status, ClientError> {
    let with_scheme = match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    };
    let uri: Uri = with_scheme.parse().map_err(|_| bad_url(url))?;
    let host = uri.host().ok_or_else(|| bad_url(url))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad_url(url));
    }
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let answer = time::timeout(TIMEOUT, ask(&address, "/api/v1/status"));
    let (status, body) = answer.await.map_err(|_| ClientError::TimedOut {
        address: address.clone(),
    })??;
    if status != StatusCode::OK {
        return Err(ClientError::Refused {
            address,
            status,
            why: error_of(&body),
        });
    }
    // What is not understood is quoted.
    serde_json::from_slice(&body).map_err(|error| ClientError::NotAMonitor {
        address,
        why: clean(&error.to_string()),
    })
}

async fn ask(address: &str, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
    let not_running = |source| ClientError::NotRunning {
        address: address.to_owned(),
        source,
    };
    let not_a_monitor = |why: String| ClientError::NotAMonitor {
        address: address.to_owned(),
        why,
    };
    let stream = TcpStream::connect(address).await.map_err(not_running)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| not_a_monitor(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| not_a_monitor(error.to_string()))?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| not_a_monitor(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect();
    let body = body
        .await
        .map_err(|error| not_a_monitor(error.to_string()))?;
    connection.abort();
    Ok((status, body.to_bytes()))
}

/// The words of a refusal, whoever wrote it.
fn error_of(body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|answer| Some(answer.get("error")?.as_str()?.to_owned()))
        .map_or_else(|| "no reason given".to_owned(), |why| clean(&why))
}

fn bad_url(url: &str) -> ClientError {
    ClientError::BadUrl {
        url: url.to_owned(),
    }
}
