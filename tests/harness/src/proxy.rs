//! A TCP proxy on loopback: what stands between two processes can be cut, delayed, stalled and half of it lost.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What a proxy does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Hands it on.
    Pass,
    /// Hands each piece on after so long; no more than 64 KiB are under way in each direction of a connection.
    Delay(Duration),
    /// Connections are accepted, nothing is handed on in either direction. What has been sent is kept.
    Stall,
    /// Nothing is handed on in one direction; what has been sent is kept until the mode changes, or lost if it is cut.
    Half(Direction),
    /// Connections that are open are reset, and so are new ones.
    Cut,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests do not arrive.
    Up,
    /// From the server to the client: requests are carried out, and nobody learns of it.
    Down,
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What has passed a proxy.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    resets: AtomicU64,
}

/// What a proxy has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes handed to the server.
    pub up: u64,
    /// Bytes handed to the client.
    pub down: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections reset by the proxy: cut, or because the other side was.
    pub resets: u64,
}

/// The threads that all proxies share.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("proxy")
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

impl Proxy {
    /// Listens on a free port of loopback, in front of a port of loopback.
    pub fn start(target: u16) -> Self {
        let listener =
            runtime().block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port of loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let (mode, watched) = watch::channel(Mode::Pass);
        let counts = Arc::new(Counts::default());
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
        let accepting = runtime().spawn(accept(listener, target, watched, counts.clone()));
        Self { port, mode, counts, accepting }
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does this from now on, with open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Resets every open connection, and hands new ones on.
    pub fn reset(&self) {
        self.set(Mode::Cut);
        // Each connection looks at the mode as soon as it changes; one that misses this one was not under way.
        std::thread::sleep(Duration::from_millis(50));
        self.set(Mode::Pass);
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let c = &self.counts;
        Traffic { up: of(&c.up), down: of(&c.down), connections: of(&c.connections), resets: of(&c.resets) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::Cut);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file handles, for example: not for ever.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, target, mode.clone(), counts.clone()));
    }
}

/// Ends a connection as a cut does: the other side gets a reset when these are dropped, no orderly end.
fn reset(streams: &[&TcpStream], counts: &Counts) {
    counts.resets.fetch_add(1, Ordering::Relaxed);
    for stream in streams {
        // Only an error where it is closed already.
        let _ = stream.set_zero_linger();
    }
}

/// Waits until a mode lets bytes of this direction pass; how long each of them is held back.
async fn passable(mode: &mut watch::Receiver<Mode>, direction: Direction) -> Option<Duration> {
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Pass => return Some(Duration::ZERO),
            Mode::Delay(by) => return Some(by),
            Mode::Half(dead) if dead != direction => return Some(Duration::ZERO),
            Mode::Cut => return None,
            Mode::Stall | Mode::Half(_) => mode.changed().await.ok()?,
        }
    }
}

async fn cut(mut mode: watch::Receiver<Mode>) {
    // An error: the proxy is gone.
    let _ = mode.wait_for(|m| *m == Mode::Cut).await;
}

async fn serve(mut client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    // No peer sees an answer before requests can arrive: the server is asked only when they may.
    let mut asked = mode.clone();
    let connected = async {
        passable(&mut asked, Direction::Up).await?;
        TcpStream::connect(target).await.ok()
    };
    let server = tokio::select! {
        server = connected => server,
        () = cut(mode.clone()) => None,
    };
    let Some(mut server) = server else { return reset(&[&client], &counts) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let orderly = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async {
            // `None` of either side ends both: the connection is broken.
            tokio::try_join!(
                async {
                    pump(from_client, to_server, mode.clone(), Direction::Up, &counts.up).await.ok_or(())
                },
                async {
                    pump(from_server, to_client, mode.clone(), Direction::Down, &counts.down).await.ok_or(())
                }
            )
        };
        tokio::select! {
            ends = both => ends.is_ok(),
            () = cut(mode.clone()) => false,
        }
    };
    if !orderly {
        reset(&[&client, &server], &counts);
    }
}

/// Hands bytes on until one side ends; an orderly end is handed on too.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
    direction: Direction,
    bytes: &AtomicU64,
) -> Option<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut buffer).await.ok()?;
        let delay = passable(&mut mode, direction).await?;
        if n == 0 {
            to.shutdown().await.ok()?;
            return Some(());
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
            // It may have been stalled meanwhile.
            passable(&mut mode, direction).await?;
        }
        bytes.fetch_add(n as u64, Ordering::Relaxed);
        to.write_all(&buffer[..n]).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream as Plain;

    /// A server that answers each byte with its successor.
    fn server() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut stream, mut byte) = (stream, [0]);
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        byte[0] += 1;
                        stream.write_all(&byte).expect("the proxy listens");
                    }
                });
            }
        });
        port
    }

    fn connect(proxy: &Proxy) -> Plain {
        let stream = Plain::connect(("127.0.0.1", proxy.port())).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    fn ask(stream: &mut Plain, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    fn no_answer(stream: &mut Plain) {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let error = stream.read(&mut [0]).expect_err("nothing comes");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    }

    #[test]
    fn what_is_stalled_is_kept_and_what_is_cut_is_reset() {
        let proxy = Proxy::start(server());
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, 1).expect("an answer"), 2);
        proxy.set(Mode::Stall);
        stream.write_all(&[2]).expect("the kernel takes it");
        no_answer(&mut stream);
        proxy.set(Mode::Delay(Duration::from_millis(1)));
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("it was kept");
        assert_eq!((answer[0], proxy.traffic().up, proxy.traffic().down), (3, 2, 2));
        proxy.set(Mode::Cut);
        let error = stream.read(&mut answer).expect_err("the connection is gone");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut refused = connect(&proxy);
        assert!(ask(&mut refused, 1).is_err());
        assert_eq!(proxy.traffic().resets, 2);
        proxy.set(Mode::Pass);
        assert_eq!(ask(&mut connect(&proxy), 4).expect("an answer"), 5);
    }

    #[test]
    fn requests_arrive_though_no_answer_comes_back() {
        let proxy = Proxy::start(server());
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, 1).expect("an answer"), 2);
        proxy.set(Mode::Half(Direction::Down));
        stream.write_all(&[7]).expect("the kernel takes it");
        no_answer(&mut stream);
        assert_eq!((proxy.traffic().up, proxy.traffic().down), (2, 1));
        proxy.reset();
        assert!(stream.read(&mut [0]).is_err());
        assert_eq!(ask(&mut connect(&proxy), 1).expect("an answer"), 2);
    }

    #[test]
    fn a_server_that_is_gone_is_seen_as_gone() {
        let proxy = Proxy::start(crate::free_port());
        assert!(ask(&mut connect(&proxy), 1).is_err());
    }
}
