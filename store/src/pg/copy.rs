//! Binary COPY in both directions: rows are encoded from columns straight into the bytes that are sent, and read back
//! without an allocation per row.
//!
//! Format: <https://www.postgresql.org/docs/15/sql-copy.html#id-1.9.3.55.9.4>

use super::types::PG_EPOCH_US;
use crate::{Result, StoreError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use deadpool_postgres::Object;
use fleetscore_schemas::time::Timestamp;
use futures::{SinkExt, StreamExt};
use std::pin::pin;
use tokio_postgres::{CopyOutStream, Transaction};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What is sent at once: large enough to be cheap, small enough to stay in the cache.
const CHUNK_BYTES: usize = 128 << 10;

/// Fields of rows in the binary format.
pub(super) struct Rows {
    buf: BytesMut,
}

impl Rows {
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

/// Runs `COPY … FROM STDIN (FORMAT binary)` with the rows that `put` encodes for each index.
pub(super) async fn copy_in(
    tx: &Transaction<'_>,
    statement: &str,
    indices: std::ops::Range<usize>,
    mut put: impl FnMut(&mut Rows, usize) -> Result<()>,
) -> Result<u64, CopyError> {
    let mut sink = pin!(tx.copy_in::<_, Bytes>(statement).await.map_err(CopyError::Server)?);
    let mut rows = Rows { buf: BytesMut::with_capacity(CHUNK_BYTES + 4096) };
    rows.buf.extend_from_slice(SIGNATURE);
    rows.buf.put_i32(0); // flags
    rows.buf.put_i32(0); // length of the header's extension
    for i in indices {
        put(&mut rows, i).map_err(CopyError::Ours)?;
        if rows.buf.len() >= CHUNK_BYTES {
            let full = rows.buf.split().freeze();
            rows.buf.reserve(CHUNK_BYTES + 4096);
            // After an error of the server the rest is read and dropped; `finish` brings the error.
            if sink.send(full).await.is_err() {
                break;
            }
        }
    }
    rows.buf.put_i16(-1);
    let _ = sink.send(rows.buf.freeze()).await; // as above
    sink.finish().await.map_err(CopyError::Server)
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

/// Rows of a `COPY (SELECT …) TO STDOUT (FORMAT binary)`, with the connection they come from.
pub(super) struct Reader {
    stream: std::pin::Pin<Box<CopyOutStream>>,
    buf: BytesMut,
    /// Where the fields of the present row lie in `buf`; `None` is NULL.
    fields: Vec<Option<std::ops::Range<usize>>>,
    /// Bytes of the present row, dropped when the next one is read.
    used: usize,
    started: bool,
    /// Held until all is read; dropped last. None inside a transaction, which holds it.
    _client: Option<Object>,
}

impl Reader {
    pub(super) async fn new(client: Object, select: &str) -> Result<Self> {
        let stream = client.copy_out(&format!("COPY ({select}) TO STDOUT (FORMAT binary)")).await?;
        Ok(Self::over(stream, Some(client)))
    }

    pub(super) async fn within(tx: &Transaction<'_>, select: &str) -> Result<Self> {
        let stream = tx.copy_out(&format!("COPY ({select}) TO STDOUT (FORMAT binary)")).await?;
        Ok(Self::over(stream, None))
    }

    fn over(stream: CopyOutStream, client: Option<Object>) -> Self {
        Self {
            stream: Box::pin(stream),
            buf: BytesMut::new(),
            fields: Vec::new(),
            used: 0,
            started: false,
            _client: client,
        }
    }

    /// Moves to the next row; false at the end.
    pub(super) async fn next(&mut self) -> Result<bool> {
        self.buf.advance(self.used);
        self.used = 0;
        loop {
            match self.parse()? {
                Parsed::Row(len) => {
                    self.used = len;
                    return Ok(true);
                }
                Parsed::End => return Ok(false),
                Parsed::More => match self.stream.next().await {
                    Some(chunk) => self.buf.extend_from_slice(&chunk?),
                    None => return Ok(false),
                },
            }
        }
    }

    fn parse(&mut self) -> Result<Parsed> {
        if !self.started {
            if self.buf.len() < SIGNATURE.len() + 8 {
                return Ok(Parsed::More);
            }
            if !self.buf.starts_with(SIGNATURE) {
                return Err(StoreError::internal("the answer to a COPY is not in the binary format"));
            }
            self.buf.advance(SIGNATURE.len() + 8);
            self.started = true;
        }
        parse_row(&self.buf, &mut self.fields)
    }

    fn field(&self, i: usize) -> Result<Option<&[u8]>> {
        let range = self.fields.get(i).ok_or_else(|| StoreError::internal("a row of a COPY is too short"))?;
        Ok(range.clone().map(|r| &self.buf[r]))
    }

    fn fixed<const N: usize>(&self, i: usize) -> Result<Option<[u8; N]>> {
        match self.field(i)? {
            None => Ok(None),
            Some(raw) => raw.try_into().map(Some).map_err(StoreError::internal),
        }
    }

    pub(super) fn int2(&self, i: usize) -> Result<Option<i16>> {
        Ok(self.fixed(i)?.map(i16::from_be_bytes))
    }

    pub(super) fn int4(&self, i: usize) -> Result<Option<i32>> {
        Ok(self.fixed(i)?.map(i32::from_be_bytes))
    }

    pub(super) fn int8(&self, i: usize) -> Result<Option<i64>> {
        Ok(self.fixed(i)?.map(i64::from_be_bytes))
    }

    pub(super) fn float8(&self, i: usize) -> Result<Option<f64>> {
        Ok(self.fixed(i)?.map(f64::from_be_bytes))
    }

    pub(super) fn time(&self, i: usize) -> Result<Option<Timestamp>> {
        Ok(self.int8(i)?.map(|us| Timestamp(us.saturating_add(PG_EPOCH_US))))
    }

    pub(super) fn text(&self, i: usize) -> Result<Option<&str>> {
        self.field(i)?.map(|raw| std::str::from_utf8(raw).map_err(StoreError::internal)).transpose()
    }
}

/// The value of a column that is never NULL.
pub(super) fn known<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| StoreError::internal("a column that has no NULLs holds one"))
}

enum Parsed {
    /// A whole row of so many bytes.
    Row(usize),
    End,
    More,
}

fn parse_row(buf: &[u8], fields: &mut Vec<Option<std::ops::Range<usize>>>) -> Result<Parsed> {
    let Some((count, _)) = buf.split_first_chunk::<2>() else { return Ok(Parsed::More) };
    let count = i16::from_be_bytes(*count);
    if count < 0 {
        return Ok(Parsed::End);
    }
    fields.clear();
    let mut at = 2;
    for _ in 0..count {
        let Some((len, _)) = buf[at..].split_first_chunk::<4>() else { return Ok(Parsed::More) };
        at += 4;
        match usize::try_from(i32::from_be_bytes(*len)) {
            Err(_) => fields.push(None),
            Ok(len) if buf.len() - at >= len => {
                fields.push(Some(at..at + len));
                at += len;
            }
            Ok(_) => return Ok(Parsed::More),
        }
    }
    Ok(Parsed::Row(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_cut_anywhere_asks_for_more() {
        let mut rows = Rows { buf: BytesMut::new() };
        rows.row(3);
        rows.int4(7);
        rows.null();
        rows.bytes(b"abc").unwrap();
        let whole = rows.buf.freeze();
        let mut fields = Vec::new();
        for cut in 0..whole.len() {
            assert!(matches!(parse_row(&whole[..cut], &mut fields).unwrap(), Parsed::More), "cut at {cut}");
        }
        assert!(matches!(parse_row(&whole, &mut fields).unwrap(), Parsed::Row(n) if n == whole.len()));
        assert_eq!(fields, [Some(6..10), None, Some(18..21)]);
        assert!(matches!(parse_row(&(-1_i16).to_be_bytes(), &mut fields).unwrap(), Parsed::End));
    }
}
