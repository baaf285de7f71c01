//! Connections: the writer's queue, the readers, and what SQLite's errors mean.

use crate::{Outcome, Result, StoreError};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a statement waits for another process's transaction: longer than any of ours takes.
const BUSY: Duration = Duration::from_secs(10);
/// Connections kept open for the next reader.
const IDLE_READERS: usize = 8;
/// Prepared statements kept by a connection.
const STATEMENTS: usize = 96;

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        let message = e.to_string();
        match e.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::SchemaChanged
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Contended { message },
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted,
            ) => Self::Unavailable { message },
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::NotADatabase
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::AuthorizationForStatementDenied,
            ) => unusable(message),
            _ => Self::internal(message),
        }
    }
}

fn unusable(message: impl std::fmt::Display) -> StoreError {
    StoreError::Setting {
        setting: "store".into(),
        message: format!(
            "the SQLite file cannot be used: {message}; name a file that may be written, on a local disk"
        ),
    }
}

/// Makes the folder of the file.
pub(super) fn create_folder(path: &Path) -> Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder)
            .map_err(|e| unusable(format!("its folder {} cannot be made: {e}", folder.display()))),
        None => Ok(()),
    }
}

/// A connection with the settings that all have in common. The flags leave out `SQLITE_OPEN_URI`: a path is a path.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The one connection that writes, on a thread of its own: transactions queue here instead of meeting as busy errors,
/// and no thread of the runtime ever waits for the disk.
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    pub(super) fn start(path: &Path) -> Result<Self> {
        let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // NORMAL: in WAL mode a commit is not synced, so that a power failure may take back the newest commits, in
        // order and whole; a killed process loses nothing. Positions go back together with the panes that were merged
        // for them, and the readings are read again from Kafka: the loss is time, not data. Fences of publications
        // that go back are raised past what is found in the blobs. What nobody would do again by itself (the model
        // sets) is written with FULL, see `durable`.
        conn.execute_batch(
            "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536; \
             PRAGMA journal_size_limit = 67108864;",
        )?;
        // Reads the header: not a database, no right to read.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    // A job that panics drops its transaction, which rolls back, and its answer; the next one goes on.
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| job(&mut conn)));
                }
            })
            .map_err(|e| StoreError::Unavailable {
                message: format!("no thread for the SQLite writer: {e}"),
            })?;
        Ok(Self { jobs })
    }

    /// Runs `f` on the writer's connection, behind all that was asked before. What is begun is finished, also when the
    /// asker is gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let _ = answer.send(f(conn)); // nobody may be waiting any more
        });
        self.jobs.send(job).map_err(|_| StoreError::internal("the SQLite writer has ended"))?;
        result.await.map_err(|_| StoreError::internal("the SQLite writer panicked"))?
    }

    /// One transaction, committed where `f` succeeds.
    pub(super) async fn commit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |conn| transaction(conn, f, |_| true)).await
    }

    /// One transaction, committed where `f` says [`Outcome::Done`].
    pub(super) async fn fenced(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<Outcome> + Send + 'static,
    ) -> Result<Outcome> {
        self.run(move |conn| transaction(conn, f, |outcome| *outcome == Outcome::Done)).await
    }

    /// One transaction that survives a power failure once this has returned.
    pub(super) async fn durable<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |conn| {
            conn.execute_batch("PRAGMA synchronous = FULL")?;
            let result = transaction(conn, f, |_| true);
            conn.execute_batch("PRAGMA synchronous = NORMAL")?;
            result
        })
        .await
    }
}

/// `BEGIN IMMEDIATE`: a transaction that reads first and writes later would fail where another process wrote meanwhile.
pub(super) fn transaction<T>(
    conn: &mut Connection,
    f: impl FnOnce(&Transaction<'_>) -> Result<T>,
    keep: impl FnOnce(&T) -> bool,
) -> Result<T> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = f(&tx)?;
    if keep(&result) {
        tx.commit()?;
    } else {
        tx.rollback()?;
    }
    Ok(result)
}

/// Connections that read: as many as are asked for at once, a few kept open.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    /// Runs `f` in one snapshot on the blocking pool.
    pub(super) async fn run<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        f: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || readers.snapshot(f));
        task.await.map_err(|e| StoreError::internal(format!("a reader of SQLite ended: {e}")))?
    }

    /// Runs `f` in one snapshot, on this thread.
    pub(super) fn snapshot<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => {
                // Not read-only: a reader must be able to recover the WAL that a killed process left behind.
                let conn = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -16384;")?;
                conn
            }
        };
        // Deferred: the snapshot is taken by the first statement.
        let tx = conn.unchecked_transaction()?;
        let result = f(&tx);
        tx.finish()?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS {
            idle.push(conn);
        }
        result
    }
}
