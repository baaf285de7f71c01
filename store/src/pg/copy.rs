//! Binary COPY into a table: rows are encoded from columns straight into the bytes that are sent.
//!
//! Format: <https://www.postgresql.org/docs/15/sql-copy.html#id-1.9.3.55.9.4>

use super::types::PG_EPOCH_US;
use crate::{Result, StoreError};
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use std::pin::Pin;
use tokio_postgres::{CopyInSink, Transaction};

/// What both directions begin with.
pub(super) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What is sent at once: large enough to be cheap, small enough to stay in the cache.
const CHUNK_BYTES: usize = 128 << 10;

/// Fields of rows in the binary format.
#[derive(Default)]
pub(super) struct Rows {
    buf: BytesMut,
}

impl Rows {
    /// The bytes so far.
    pub(super) fn bytes_so_far(&self) -> &[u8] {
        &self.buf
    }

    /// Takes back what was put behind the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    /// Fields that are encoded already.
    pub(super) fn raw(&mut self, encoded: &[u8]) {
        self.buf.extend_from_slice(encoded);
    }

    /// Begins a row.
    pub(super) fn row(&mut self, fields: i16) {
        self.buf.put_i16(fields);
    }

    pub(super) fn int2(&mut self, v: i16) {
        self.buf.put_i32(2);
        self.buf.put_i16(v);
    }

    pub(super) fn int4(&mut self, v: i32) {
        self.buf.put_i32(4);
        self.buf.put_i32(v);
    }

    pub(super) fn int8(&mut self, v: i64) {
        self.buf.put_i32(8);
        self.buf.put_i64(v);
    }

    pub(super) fn float8(&mut self, v: f64) {
        self.buf.put_i32(8);
        self.buf.put_f64(v);
    }

    pub(super) fn time(&mut self, us: i64) {
        self.int8(us - PG_EPOCH_US);
    }

    /// Text or bytes.
    ///
    /// # Errors
    /// [`StoreError::Internal`] for a field of 2 GiB or more.
    pub(super) fn bytes(&mut self, v: &[u8]) -> Result<()> {
        self.buf.put_i32(i32::try_from(v.len()).map_err(StoreError::internal)?);
        self.buf.extend_from_slice(v);
        Ok(())
    }

    pub(super) fn null(&mut self) {
        self.buf.put_i32(-1);
    }

    pub(super) fn maybe<T>(&mut self, v: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match v {
            Some(v) => put(self, v),
            None => self.null(),
        }
    }

    pub(super) fn maybe_bytes(&mut self, v: Option<&[u8]>) -> Result<()> {
        match v {
            Some(v) => self.bytes(v),
            None => {
                self.null();
                Ok(())
            }
        }
    }
}

/// A `COPY … FROM STDIN (FORMAT binary)` that is under way. Dropped before its end, it is given up by the server too.
pub(super) struct Writer {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    rows: Rows,
}

impl Writer {
    pub(super) async fn new(tx: &Transaction<'_>, statement: &str) -> Result<Self, CopyError> {
        let sink = Box::pin(tx.copy_in::<_, Bytes>(statement).await.map_err(CopyError::Server)?);
        let mut rows = Rows { buf: BytesMut::with_capacity(CHUNK_BYTES + 4096) };
        rows.buf.extend_from_slice(SIGNATURE);
        rows.buf.put_i32(0); // flags
        rows.buf.put_i32(0); // length of the header's extension
        Ok(Self { sink, rows })
    }

    /// Where the next row is put.
    pub(super) fn rows(&mut self) -> &mut Rows {
        &mut self.rows
    }

    /// Sends what was put if that is enough; asked after every row. False where the server has given up:
    /// [`Writer::finish`] brings its error.
    pub(super) async fn flush(&mut self) -> bool {
        if self.rows.buf.len() < CHUNK_BYTES {
            return true;
        }
        let full = self.rows.buf.split().freeze();
        self.rows.buf.reserve(CHUNK_BYTES + 4096);
        self.sink.send(full).await.is_ok()
    }

    /// Sends the rest; how many rows were stored.
    pub(super) async fn finish(mut self) -> Result<u64, CopyError> {
        self.rows.buf.put_i16(-1);
        // After an error of the server the rest is read and dropped; `finish` brings the error.
        let _ = self.sink.send(self.rows.buf.freeze()).await;
        self.sink.as_mut().finish().await.map_err(CopyError::Server)
    }
}

/// Runs `COPY … FROM STDIN (FORMAT binary)` with the rows that `put` encodes for each index.
pub(super) async fn copy_in(
    tx: &Transaction<'_>,
    statement: &str,
    indices: std::ops::Range<usize>,
    mut put: impl FnMut(&mut Rows, usize) -> Result<()>,
) -> Result<u64, CopyError> {
    let mut writer = Writer::new(tx, statement).await?;
    for i in indices {
        put(&mut writer.rows, i).map_err(CopyError::Ours)?;
        if !writer.flush().await {
            break;
        }
    }
    writer.finish().await
}

/// Why a COPY failed.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The server's error, whose SQLSTATE may be looked at.
    Server(tokio_postgres::Error),
    /// A row of ours could not be encoded.
    Ours(StoreError),
}

impl From<CopyError> for StoreError {
    fn from(e: CopyError) -> Self {
        match e {
            CopyError::Server(e) => e.into(),
            CopyError::Ours(e) => e,
        }
    }
}
