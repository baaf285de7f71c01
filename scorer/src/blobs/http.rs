//! The HTTP client of blob services: a request may take the longer the more it sends.
//!
//! object_store's own bound (30 s, or the option `timeout`) holds for a request as a whole, so a large object would never get
//! over a slow line: each try would begin again and be broken off at the same place.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use std::time::Duration;

/// Requests that send less than this have the usual bound.
pub(super) const LARGE: usize = 1 << 20;
/// A large request has so long…
const PATIENCE: Duration = Duration::from_secs(60);
/// …and a second for so many bytes: half a megabit a second, slower than any line that is worth it.
const BYTES_A_SECOND: u64 = 64 << 10;

/// How long a large request may take.
fn budget(bytes: usize) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(bytes as u64 / BYTES_A_SECOND))
}

/// Makes clients with a bound for each size.
#[derive(Debug, Default)]
pub(super) struct Connector(ReqwestConnector);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let usual = self.0.connect(options)?;
        let patient = self.0.connect(&options.clone().with_timeout_disabled())?;
        Ok(HttpClient::new(Client { usual, patient }))
    }
}

#[derive(Debug)]
struct Client {
    usual: HttpClient,
    /// Without a bound of its own.
    patient: HttpClient,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let bytes = request.body().content_length();
        if bytes < LARGE {
            return self.usual.execute(request).await;
        }
        // With the answer, which is short: nobody else bounds how long it is read.
        let whole = async {
            let (parts, body) = self.patient.execute(request).await?.into_parts();
            Ok(HttpResponse::from_parts(parts, body.bytes().await?.into()))
        };
        match tokio::time::timeout(budget(bytes), whole).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_grows_with_what_is_sent() {
        assert_eq!(budget(LARGE), Duration::from_secs(76));
        assert_eq!(budget(130 << 20), Duration::from_secs(60 + 2080));
        assert!(budget(usize::MAX) > budget(130 << 20));
    }
}
