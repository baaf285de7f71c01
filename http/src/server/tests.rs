//! Clients that are slow, large, many or deaf.

use super::*;
use crate::{Answer, Report, routes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

struct Fixed(bool);

#[async_trait::async_trait]
impl Report for Fixed {
    async fn health(&self) -> Answer {
        Answer { good: true, said: vec![("waiting", "the \"store\"\n".to_owned())] }
    }

    async fn readiness(&self) -> Answer {
        Answer { good: self.0, said: vec![("store", "answers".to_owned())] }
    }
}

fn app() -> Router {
    routes(Arc::new(Fixed(false)))
}

/// A client's end of a connection that is served.
fn client(buffer: usize) -> (DuplexStream, tokio::task::JoinHandle<Result<(), hyper::Error>>) {
    let (ours, theirs) = duplex(buffer);
    (ours, tokio::spawn(connection(theirs, app(), Limits::default(), CancellationToken::new())))
}

async fn ask(request: &str) -> String {
    let (mut client, _) = client(1 << 20);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn every_answer_of_a_route_is_json() {
    for (request, status, body) in [
        ("GET /healthz", 200, "{\"healthy\":true,\"waiting\":\"the \\\"store\\\"\\n\"}"),
        ("GET /readyz?x=1", 503, "{\"ready\":false,\"store\":\"answers\"}"),
        ("GET /", 404, "{\"error\":\"no such path: there are /healthz and /readyz\"}"),
        ("POST /healthz", 405, "{\"error\":\"no such method here: GET it\"}"),
        ("HEAD /healthz", 200, ""),
    ] {
        let answer = ask(&format!("{request} HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body, "{request}");
        assert!(answer.contains("content-type: application/json\r\n"), "{request}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_never_end_end_the_connection() {
    let limits = Limits::default();
    for begun in ["", "GET /healthz HTT", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
        let (mut client, server) = client(1 << 16);
        client.write_all(begun.as_bytes()).await.unwrap();
        let since = Instant::now();
        let _ = server.await.unwrap();
        assert!(since.elapsed() <= limits.headers_within + Duration::from_secs(1), "{begun:?}");
    }
    // A byte now and then is no reprieve.
    let (mut client, server) = client(1 << 16);
    let since = Instant::now();
    let drip = async {
        while client.write_all(b"a").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (_, ended) = tokio::join!(drip, server);
    let _ = ended.unwrap();
    assert!(since.elapsed() <= limits.headers_within + Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let long = "x".repeat(1 << 20);
    for request in [
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nX: {long}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000)),
    ] {
        let (client, server) = client(1 << 12);
        let (mut reads, mut writes) = tokio::io::split(client);
        let mut answer = String::new();
        let asks = async {
            let _ = writes.write_all(request.as_bytes()).await;
        };
        let (_, _, ended) = tokio::join!(asks, reads.read_to_string(&mut answer), server);
        assert!(ended.unwrap().is_err());
        let status = &answer[..answer.len().min(12)];
        assert!(["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"].contains(&status), "{answer:?}");
    }
    // A body is answered without being waited for.
    let answer = ask("POST /healthz HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_left() {
    let limits = Limits::default();
    let (mut client, server) = client(64);
    let since = Instant::now();
    let asks = async { while client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.is_ok() {} };
    let (_, ended) = tokio::join!(asks, server);
    let _ = ended.unwrap();
    assert!(since.elapsed() <= limits.connection_lasts + limits.ends_within + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn one_that_asks_for_ever_must_connect_again() {
    let (mut client, server) = client(1 << 16);
    let mut buffer = [0; 1024];
    let asks = async {
        let mut answers = 0;
        while client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.is_ok() {
            match client.read(&mut buffer).await {
                Ok(n) if n > 0 => answers += 1,
                _ => break,
            }
            sleep(Duration::from_secs(5)).await;
        }
        answers
    };
    let (answers, ended) = tokio::join!(asks, server);
    ended.unwrap().unwrap();
    assert!((10..=14).contains(&answers), "{answers}");
}

#[tokio::test]
async fn connections_are_counted_and_a_slow_one_does_not_hold_up_the_end() {
    let limits = Limits { connections: 2, ends_within: Duration::from_millis(200), ..Limits::default() };
    let listener = listen("127.0.0.1:0", false).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, app(), limits, stop.clone()));
    let slow = || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
        stream
    };
    let (first, _second) = (slow().await, slow().await);
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let waits = timeout(Duration::from_millis(300), third.read_to_string(&mut answer)).await;
    assert!(waits.is_err(), "two are open, the third waits: {answer}");
    drop(first);
    timeout(Duration::from_secs(20), third.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stop.cancel();
    timeout(Duration::from_secs(20), serving)
        .await
        .expect("a connection that is open does not hold it up")
        .unwrap();
}

#[tokio::test]
async fn a_taken_port_gives_way_where_it_may() {
    let taken = listen("127.0.0.1:0", false).await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = listen(&address, false).await.unwrap_err();
    assert!(
        refused.to_string().starts_with(&format!("http: `{address}` cannot be listened on")),
        "{refused}"
    );
    assert_ne!(listen(&address, true).await.unwrap().local_addr().unwrap().to_string(), address);
}
