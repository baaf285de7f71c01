//! Runs the binary under test.

use crate::database::Database;
use crate::process::Process;
use crate::{PATIENCE, Servers};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The binary with the settings of one test.
#[derive(Debug, Clone)]
pub struct Fleetscore {
    binary: PathBuf,
    /// `data_dir`, and where logs go.
    pub folder: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Fleetscore {
    /// Against a store and the shared Kafka, with waiting times that suit a test.
    pub fn new(servers: &Servers, database: &Database, topic: &str) -> Self {
        let folder = servers.folder("data");
        let this = Self {
            binary: servers.binary().to_owned(),
            folder: folder.clone(),
            flags: vec![],
            environment: vec![],
        };
        this.with("--store", &database.setting())
            .with("--data-dir", &folder.display().to_string())
            .with("--blobs", &format!("file://{}", folder.join("blobs").display()))
            .with("--kafka", &servers.kafka().bootstrap)
            .with("--topic", topic)
            .with("--idle-timeout", "2s")
            .with("--checkpoint-interval", "2s")
            .env("FLEETSCORE_KAFKA_PROPERTIES__session.timeout.ms", "6000")
    }

    /// With nothing but a folder to work in, which must exist.
    pub fn bare(binary: &Path, folder: &Path) -> Self {
        Self { binary: binary.to_owned(), folder: folder.to_owned(), flags: vec![], environment: vec![] }
            .with("--data-dir", &folder.display().to_string())
    }

    /// With a flag; a later one replaces an earlier one of the same name.
    pub fn with(mut self, flag: &str, value: &str) -> Self {
        if let Some(i) = self.flags.iter().position(|f| f == flag) {
            self.flags.drain(i..i + 2);
        }
        self.flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// With a variable in the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a configuration file of this content.
    pub fn config(self, toml: &str) -> Self {
        let file = self.folder.join("fleetscore.toml");
        std::fs::write(&file, toml).expect("a file in the test's folder");
        self.with("--config", &file.display().to_string())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // What is meant for a test is no setting; the binary refuses settings that it does not know.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("FLEETSCORE_CHAOS_")) {
                command.env_remove(name);
            }
        }
        command.args(args).args(&self.flags).envs(self.environment.iter().cloned()).current_dir(&self.folder);
        command
    }

    /// Runs a command to its end.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    /// Runs a command that must succeed; its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(
            out.status.success(),
            "fleetscore {} ended with {}:\n{}\n{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a command that must end with this status; its standard error.
    pub fn fail(&self, args: &[&str], status: i32) -> String {
        let out = self.output(args);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "fleetscore {}:\n{err}", args.join(" "));
        err
    }

    /// Starts a service.
    pub fn start(&self, args: &[&str]) -> Service {
        let log = (0..)
            .map(|n| self.folder.join(format!("{}-{n}.log", args[0])))
            .find(|p| !p.exists())
            .expect("a free name");
        Service { process: Process::spawn(self.command(args), &log, libc::SIGTERM) }
    }
}

/// A running `fleetscore` service; stopped when dropped. Its log is printed where the test fails.
#[derive(Debug)]
pub struct Service {
    /// The process.
    pub process: Process,
}

impl Service {
    /// Fails the test if the process has ended.
    pub fn assert_alive(&self) {
        if let Some(status) = self.process.ended() {
            panic!("the service ended with {status}:\n{}", self.process.output());
        }
    }

    /// Asks it to stop by SIGTERM; must end with status 0.
    pub fn stop(&self) {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait(Duration::from_secs(40)).expect("it ends within its shutdown timeout");
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
    }

    /// Kills it.
    pub fn kill(&self) {
        self.process.signal(libc::SIGKILL);
        self.process.wait(PATIENCE).expect("a killed process ends");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.process.output();
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            eprintln!("--- the end of {}", self.process.log.display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
