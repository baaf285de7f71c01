//! `/healthz` and `/readyz`: what an orchestrator asks, answered in words.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What is said to a question: yes or no, and how each part of the process stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Yes (200) or no (503).
    pub good: bool,
    /// Parts by name, with their state in words.
    pub said: Vec<(&'static str, String)>,
}

/// What a process knows of itself.
#[async_trait::async_trait]
pub trait Report: Send + Sync + 'static {
    /// Whether its loops turn: where they do not, a restart may help.
    async fn health(&self) -> Answer;

    /// Whether it does its work, and else what it waits for.
    async fn readiness(&self) -> Answer;
}

/// The routes over a report.
pub fn routes(report: Arc<dyn Report>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| refused(StatusCode::NOT_FOUND, "no such path: there are /healthz and /readyz"))
        .method_not_allowed_fallback(|| {
            refused(StatusCode::METHOD_NOT_ALLOWED, "no such method here: GET it")
        })
        .with_state(report)
}

async fn healthz(State(report): State<Arc<dyn Report>>) -> (StatusCode, Json<Value>) {
    body("healthy", report.health().await)
}

async fn readyz(State(report): State<Arc<dyn Report>>) -> (StatusCode, Json<Value>) {
    body("ready", report.readiness().await)
}

fn body(what: &'static str, answer: Answer) -> (StatusCode, Json<Value>) {
    let status = if answer.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = Map::new();
    body.insert(what.to_owned(), json!(answer.good));
    body.extend(answer.said.into_iter().map(|(name, words)| (name.to_owned(), json!(words))));
    (status, Json(Value::Object(body)))
}

async fn refused(status: StatusCode, why: &'static str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error": why })))
}
