//! What must hold for whatever bytes a client sends: [`check`].
//!
//! An input is a letter for how the process stands, and then the bytes of a connection. The clock is tokio's, paused: all
//! timeouts pass in no time.

use fleetscore_http::{Answer, Limits, Report, connection, routes};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes allocated for each of the input: the shortest request has 16 bytes and an answer of 200.
const ALLOCATED: usize = 64;

/// What the client's side holds; the server waits where it is full.
const PIPE: usize = 4096;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of one thread")
});

struct Process(u8);

#[async_trait::async_trait]
impl Report for Process {
    async fn health(&self) -> Answer {
        Answer { good: self.0 & 1 == 0, said: vec![("waiting", "the store at \"postgres://me:***@h\"\r\n\u{0}".to_owned())] }
    }

    async fn readiness(&self) -> Answer {
        tokio::time::sleep(Duration::from_secs(u64::from(self.0 & 7))).await;
        Answer { good: self.0 & 2 == 0, said: vec![("store", "does not answer within 3 s".to_owned()), ("kafka", String::new())] }
    }
}

/// All that is to hold for one input.
pub fn check(data: &[u8]) {
    let [state, sent @ ..] = data else { return };
    let limits = Limits::default();
    LazyLock::force(&RUNTIME);
    let mut answers = Vec::new();
    crate::bounded(data.len(), ALLOCATED, crate::ALWAYS, || {
        RUNTIME.block_on(async {
            let (ours, theirs) = duplex(PIPE);
            let (mut reads, mut writes) = split(ours);
            let served = connection(theirs, routes(Arc::new(Process(*state))), limits, CancellationToken::new());
            let since = Instant::now();
            let talk = async {
                let asks = async {
                    let _ = writes.write_all(sent).await;
                    if state & 8 != 0 {
                        let _ = writes.shutdown().await;
                    }
                };
                let _ = tokio::join!(asks, reads.read_to_end(&mut answers), served);
            };
            // Whatever is sent, the connection ends.
            let within = limits.connection_lasts + limits.ends_within + Duration::from_secs(1);
            timeout(within, talk).await.unwrap_or_else(|_| panic!("open after {:?}", since.elapsed()));
        });
    });
    answers_are_http(&answers, sent);
}

/// What comes back is answers of HTTP, one after the other, the last perhaps cut off by the end of the connection. Those
/// of routes are JSON; what is no HTTP is refused without a body.
fn answers_are_http(mut answers: &[u8], sent: &[u8]) {
    while !answers.is_empty() {
        let Some(end) = answers.windows(4).position(|w| w == b"\r\n\r\n") else { return };
        let head = std::str::from_utf8(&answers[..end]).expect("headers are text");
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("HTTP/1.1 ") || first.starts_with("HTTP/1.0 "), "{first}");
        let status: u16 = first.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{first}"));
        let (mut length, mut json) = (None, false);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no header"));
            match name {
                "content-length" => length = value.parse::<usize>().ok(),
                "content-type" => json = value == "application/json",
                _ => assert!(["allow", "connection", "date"].contains(&name), "{line}"),
            }
        }
        answers = &answers[end + 4..];
        if status == 100 {
            continue;
        }
        let length = length.unwrap_or_else(|| panic!("no length: {head}"));
        if !json {
            assert!([400, 414, 431, 505].contains(&status) && length == 0, "{head}");
            continue;
        }
        assert!([200, 404, 405, 503].contains(&status), "{head}");
        // To HEAD there is the length alone.
        let deaf = answers.is_empty() || answers.starts_with(b"HTTP/1.");
        if deaf && sent.windows(5).any(|w| w == b"HEAD ") {
            continue;
        }
        let Some(body) = answers.get(..length) else { return };
        let body: serde_json::Value = serde_json::from_slice(body).expect("a body is JSON");
        assert!(body.is_object(), "{body}");
        answers = &answers[length..];
    }
}
