//! What `/healthz` and `/readyz` say of this process.

use crate::roles::{Said, Standing};
use fleetscore_http::{Answer, Limits, Report};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer `/readyz`.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Serves until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
) {
    let address = listener.local_addr().map_or_else(|e| e.to_string(), |a: SocketAddr| a.to_string());
    tracing::info!("http://{address}/healthz and /readyz");
    let routes = fleetscore_http::routes(Arc::new(Process(standing)));
    fleetscore_http::serve(listener, routes, Limits::default(), stop).await;
}

struct Process(watch::Receiver<Standing>);

impl Process {
    fn standing(&self) -> Standing {
        self.0.borrow().clone()
    }
}

#[async_trait::async_trait]
impl Report for Process {
    /// Each loop is alive and turns. One that starts waits for others.
    async fn health(&self) -> Answer {
        match self.standing() {
            Standing::Runs(handles) => answer(handles.health()),
            Standing::Waits(what) => Answer { good: true, said: vec![("waiting", what)] },
        }
    }

    /// The store answers, partitions are assigned, nothing is waited for.
    async fn readiness(&self) -> Answer {
        let handles = match self.standing() {
            Standing::Runs(handles) => handles,
            Standing::Waits(what) => return Answer { good: false, said: vec![("waiting", what)] },
        };
        let mut roles = handles.readiness();
        let (good, words) = match tokio::time::timeout(STORE_ANSWERS_WITHIN, handles.store.now()).await {
            Ok(Ok(_)) => (true, "answers".to_owned()),
            Ok(Err(e)) => (false, e.to_string()),
            Err(_) => (false, format!("does not answer within {} s", STORE_ANSWERS_WITHIN.as_secs())),
        };
        roles.push(Said { name: "store", good, words });
        answer(roles)
    }
}

fn answer(roles: Vec<Said>) -> Answer {
    let good = roles.iter().all(|r| r.good);
    Answer { good, said: roles.into_iter().map(|r| (r.name, r.words)).collect() }
}
