//! Azurite, the Azure Blob emulator.

use crate::process::Process;
use crate::{PATIENCE, free_port, setup_variable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{KeyInit, Mac};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The emulator's well-known account.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its well-known key.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// One server.
#[derive(Debug)]
pub struct Azurite {
    /// The server.
    pub process: Process,
    port: u16,
    folder: PathBuf,
    containers: AtomicU32,
}

/// A server on disk that is down; its data and its port are kept.
#[derive(Debug)]
pub struct Stopped {
    folder: PathBuf,
    port: u16,
    containers: u32,
}

/// What a client of an emulator on this port needs in its environment.
pub fn environment(port: u16) -> Vec<(String, String)> {
    vec![
        ("AZURE_STORAGE_USE_EMULATOR".into(), "true".into()),
        ("AZURITE_BLOB_STORAGE_URL".into(), format!("http://127.0.0.1:{port}")),
    ]
}

impl Stopped {
    /// Starts it again.
    pub fn start(self) -> Azurite {
        Azurite::serve(&self.folder, self.port, Some(self.folder.join("data")), self.containers)
    }
}

impl Azurite {
    /// Starts it in memory.
    pub fn start(folder: &Path) -> Self {
        Self::serve(folder, free_port(), None, 0)
    }

    /// Starts it on disk, so that it can be killed and brought back.
    pub fn start_on_disk(folder: &Path) -> Self {
        Self::serve(folder, free_port(), Some(folder.join("data")), 0)
    }

    /// Stops it; [`Stopped::start`] brings back one that was started on disk. Never by a kill, which would lose blobs that
    /// it has confirmed: it writes its list of blobs only now and then. It ends when its last connection does.
    pub fn stop(self) -> Stopped {
        self.process.signal(libc::SIGTERM);
        self.process.wait(PATIENCE).expect("Azurite ends, once nobody is connected");
        let containers = self.containers.load(Ordering::Relaxed);
        Stopped { folder: self.folder.clone(), port: self.port, containers }
    }

    fn serve(folder: &Path, port: u16, data: Option<PathBuf>, containers: u32) -> Self {
        let mut command = Command::new("node");
        command.arg(setup_variable("FLEETSCORE_TEST_AZURITE"));
        command.args(["--disableTelemetry", "--skipApiVersionCheck"]);
        match data {
            Some(data) => command.arg("--location").arg(data),
            None => command.arg("--inMemoryPersistence"),
        };
        command
            .args(["--blobPort", &port.to_string(), "--queuePort", "0", "--tablePort", "0"])
            .current_dir(folder);
        let process = Process::spawn(command, &folder.join("azurite.log"), libc::SIGTERM);
        process.wait_for_output("Blob service is successfully listening", PATIENCE);
        Self { process, port, folder: folder.to_owned(), containers: AtomicU32::new(containers) }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a client of the emulator needs in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(self.port)
    }

    /// A new container; returns its name. Clients cannot make one through `object_store`, so this signs the request.
    pub fn container(&self) -> String {
        let name = format!("fleet-{}", self.containers.fetch_add(1, Ordering::Relaxed));
        let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        // https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        let to_sign = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        );
        let key = STANDARD.decode(KEY).expect("the well-known key is base64");
        let mut mac =
            hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(to_sign.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let request = format!(
            "PUT /{ACCOUNT}/{name}?restype=container HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nx-ms-date: {date}\r\n\
             x-ms-version: 2021-08-06\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            self.port
        );
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).expect("Azurite listens");
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        name
    }
}
