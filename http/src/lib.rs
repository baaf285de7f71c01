//! The HTTP service of a process: `/healthz` and `/readyz`, which an orchestrator asks, and the limits that hold for every
//! connection, whoever has made it.
//!
//! Every answer of a route is JSON, also where there is no such route or method; what is no HTTP is refused by hyper,
//! without a body. A connection ends by itself: see [`Limits`].

mod routes;
mod server;

pub use routes::{Answer, Report, routes};
pub use server::{HttpError, Limits, connection, listen, serve};
