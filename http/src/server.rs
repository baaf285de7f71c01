//! Listening, and what a connection may take of time and memory.
//!
//! axum's own server has no such limits: a client that never ends its headers would keep its connection for ever, and the
//! shutdown of the process waiting.

use axum::Router;
use fleetscore_schemas::codes::{Classify, Domain};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long listening pauses where the process has no more file handles, as axum and hyper do.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait in the listener's queue.
    pub connections: usize,
    /// From the beginning of a request, or the end of the last one, to the end of its headers.
    pub headers_within: Duration,
    /// Bytes of a request line and its headers (431 beyond them), and of what is read ahead.
    pub header_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// All of a connection; then it may end the answer it is at.
    pub connection_lasts: Duration,
    /// How long that may take.
    pub ends_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            headers_within: Duration::from_secs(10),
            header_bytes: 16 << 10,
            headers: 64,
            connection_lasts: Duration::from_secs(60),
            ends_within: Duration::from_secs(5),
        }
    }
}

/// Why there is no HTTP service.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be had.
    #[error("http: `{address}` cannot be listened on: {source}")]
    Listen {
        /// The setting.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Classify for HttpError {
    fn domain(&self) -> Domain {
        Domain::User
    }

    fn is_transient(&self) -> bool {
        false
    }
}

/// Listens on an address; `or_free` gives way to a free port where it is taken.
///
/// # Errors
/// A user error naming `http`.
pub async fn listen(address: &str, or_free: bool) -> Result<TcpListener, HttpError> {
    let refused = |source| HttpError::Listen { address: address.to_owned(), source };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(e) if or_free && e.kind() == ErrorKind::AddrInUse => {
            let host = address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            TcpListener::bind(format!("{host}:0")).await.map_err(refused)
        }
        Err(e) => Err(refused(e)),
    }
}

/// Serves routes until told to stop; connections that are open then end within [`Limits::ends_within`].
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    while let Some(Ok(permit)) = stop.run_until_cancelled(Arc::clone(&free).acquire_owned()).await {
        let Some(stream) = stop.run_until_cancelled(accept(&listener)).await else { break };
        let (routes, stop) = (routes.clone(), stop.clone());
        open.spawn(async move {
            if let Err(e) = connection(stream, routes, limits, stop).await {
                tracing::debug!("http: a connection broke: {e}");
            }
            drop(permit);
        });
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
}

/// The next connection, whatever becomes of those before it.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) => {
                use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
                if !matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
                    tracing::warn!("http: no connection can be taken now: {e}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Serves one connection to its end.
///
/// # Errors
/// What is no HTTP, a client that is gone or too slow: of interest for debugging alone.
pub async fn connection<I>(
    io: I,
    routes: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers_within)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes));
    tokio::pin!(served);
    tokio::select! {
        ended = served.as_mut() => return ended,
        () = stop.cancelled() => {}
        () = sleep(limits.connection_lasts) => {}
    }
    served.as_mut().graceful_shutdown();
    timeout(limits.ends_within, served).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests;
