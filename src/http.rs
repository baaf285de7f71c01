//! `/healthz` and `/readyz`: what an orchestrator asks, answered in words.

use crate::exit::Fail;
use crate::roles::Standing;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer `/readyz`.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Listens on an address; `or_free` gives way to a free port where it is taken.
///
/// # Errors
/// A user error naming `http`.
pub(crate) async fn listen(address: &str, or_free: bool) -> Result<TcpListener, Fail> {
    let refused = |e: std::io::Error| Fail::user(format!("http: `{address}` cannot be listened on: {e}"));
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(e) if or_free && e.kind() == std::io::ErrorKind::AddrInUse => {
            let host = address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            TcpListener::bind(format!("{host}:0")).await.map_err(refused)
        }
        Err(e) => Err(refused(e)),
    }
}

/// Serves until told to stop.
///
/// # Errors
/// Where the listener breaks.
pub(crate) async fn serve(
    listener: TcpListener,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
) -> Result<(), Fail> {
    let address = listener.local_addr().map_or_else(|e| e.to_string(), |a: SocketAddr| a.to_string());
    tracing::info!("http://{address}/healthz and /readyz");
    let app =
        Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(standing);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|e| Fail::work(format!("http: {e}")))
}

/// Whether restarting the process could help: each loop is alive and turns. One that starts waits for others.
async fn healthz(State(standing): State<watch::Receiver<Standing>>) -> (StatusCode, Json<Value>) {
    let now = standing.borrow().clone();
    let handles = match now {
        Standing::Runs(handles) => handles,
        Standing::Waits(what) => return answer(true, "healthy", vec![("waiting", json!(what))]),
    };
    let roles = handles.health();
    answer(roles.iter().all(|r| r.good), "healthy", roles.iter().map(|r| (r.name, json!(r.words))).collect())
}

/// Whether it does its work: the store answers, partitions are assigned, nothing is waited for.
async fn readyz(State(standing): State<watch::Receiver<Standing>>) -> (StatusCode, Json<Value>) {
    let now = standing.borrow().clone();
    let handles = match now {
        Standing::Runs(handles) => handles,
        Standing::Waits(what) => return answer(false, "ready", vec![("waiting", json!(what))]),
    };
    let mut roles = handles.readiness();
    let store = match tokio::time::timeout(STORE_ANSWERS_WITHIN, handles.store.now()).await {
        Ok(Ok(_)) => Ok("answers".to_owned()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("does not answer within {} s", STORE_ANSWERS_WITHIN.as_secs())),
    };
    let (good, words) = match store {
        Ok(words) => (true, words),
        Err(words) => (false, words),
    };
    roles.push(crate::roles::Said { name: "store", good, words });
    answer(roles.iter().all(|r| r.good), "ready", roles.iter().map(|r| (r.name, json!(r.words))).collect())
}

fn answer(good: bool, what: &'static str, said: Vec<(&'static str, Value)>) -> (StatusCode, Json<Value>) {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = serde_json::Map::new();
    body.insert(what.to_owned(), json!(good));
    body.extend(said.into_iter().map(|(name, words)| (name.to_owned(), words)));
    (status, Json(Value::Object(body)))
}
