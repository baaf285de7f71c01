//! The HTTP client of blob services: a request may take the longer the more it sends, and an answer for as long as it keeps
//! coming.
//!
//! object_store's own bound (30 s, or the option `timeout`) holds for a request and its answer as a whole, so a large object
//! would never get over a slow line: each try would begin again and be broken off at the same place.

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Requests that send less than this have the usual bound.
pub(super) const LARGE: usize = 1 << 20;
/// A large request has so long…
const PATIENCE: Duration = Duration::from_secs(60);
/// …and a second for so many bytes: half a megabit a second, slower than any line that is worth it.
const BYTES_A_SECOND: u64 = 64 << 10;
/// How long an answer may keep silent where the options say nothing.
const USUAL: Duration = Duration::from_secs(30);

/// How long a large request may take.
fn budget(bytes: usize) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(bytes as u64 / BYTES_A_SECOND))
}

/// Makes clients with a bound for each size.
#[derive(Debug, Default)]
pub(super) struct Connector(ReqwestConnector);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let timeout = options.get_config_value(&ClientConfigKey::Timeout);
        let silence = timeout.and_then(|text| humantime::parse_duration(&text).ok()).unwrap_or(USUAL);
        let usual = self.0.connect(options)?;
        let patient = self.0.connect(&options.clone().with_timeout_disabled())?;
        Ok(HttpClient::new(Client { usual, patient, silence }))
    }
}

#[derive(Debug)]
struct Client {
    usual: HttpClient,
    /// Without a bound of its own.
    patient: HttpClient,
    /// How long an answer may keep silent.
    silence: Duration,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let bytes = request.body().content_length();
        if request.method().as_str() == "GET" {
            let (parts, body) = within(self.silence, self.patient.execute(request)).await?.into_parts();
            let body = Talking { body, silence: self.silence, until: None };
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        if bytes < LARGE {
            return self.usual.execute(request).await;
        }
        // With the answer, which is short: nobody else bounds how long it is read.
        let whole = async {
            let (parts, body) = self.patient.execute(request).await?.into_parts();
            Ok(HttpResponse::from_parts(parts, body.bytes().await?.into()))
        };
        within(budget(bytes), whole).await
    }
}

async fn within<T>(
    bound: Duration,
    call: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    match tokio::time::timeout(bound, call).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
    }
}

/// The body of an answer, given up once it has kept silent for too long.
struct Talking {
    body: HttpResponseBody,
    silence: Duration,
    /// Since it was last asked in vain.
    until: Option<Pin<Box<Sleep>>>,
}

impl Body for Talking {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.until = None;
            return Poll::Ready(frame);
        }
        let silence = self.silence;
        match self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence))).as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let silent = std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("the answer has kept silent for {}", humantime::format_duration(silence)),
                );
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, silent))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
