//! Binary COPY out of a query: rows are read where they lie in what the server sent, without an allocation per row.
//!
//! Format: <https://www.postgresql.org/docs/15/sql-copy.html#id-1.9.3.55.9.4>

use super::copy::SIGNATURE;
use super::types::PG_EPOCH_US;
use crate::{Result, StoreError};
use bytes::{Buf, Bytes, BytesMut};
use deadpool_postgres::Object;
use fleetscore_schemas::time::Timestamp;
use futures::StreamExt;
use tokio_postgres::{CopyOutStream, Transaction};

/// The bytes of a row whose fields all have their usual widths and no NULL among them.
#[derive(Debug)]
pub(super) struct Shape {
    len: usize,
    fields: i16,
    /// Where the length of each field lies, and what it is.
    lengths: Vec<(usize, [u8; 4])>,
}

impl Shape {
    /// Of fields with these widths in bytes.
    pub(super) fn of(widths: &[u8]) -> Self {
        let mut at = 2;
        let lengths = widths.iter().map(|width| {
            let length = (at, i32::from(*width).to_be_bytes());
            at += 4 + usize::from(*width);
            length
        });
        let lengths = lengths.collect();
        Self { len: at, fields: widths.len() as i16, lengths }
    }

    /// Where the value of a field lies in its row.
    pub(super) fn offset(&self, field: usize) -> usize {
        self.lengths[field].0 + 4
    }

    fn fits(&self, data: &[u8]) -> bool {
        data.len() >= self.len
            && data.starts_with(&self.fields.to_be_bytes())
            && self.lengths.iter().all(|(at, length)| data[*at..].starts_with(length))
    }
}

/// What a reader has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A row of the shape that was asked for: [`Reader::row`] has its bytes, its fields were not looked for.
    Shaped,
    /// Any other row, with its fields.
    Row,
    /// The end.
    End,
}

/// Rows of a `COPY (SELECT …) TO STDOUT (FORMAT binary)`, with the connection they come from.
pub(super) struct Reader {
    stream: std::pin::Pin<Box<CopyOutStream>>,
    /// What was sent and not passed yet; begins with the present row.
    data: Bytes,
    /// Where the fields of the present row lie; `None` is NULL.
    fields: Vec<Option<std::ops::Range<usize>>>,
    /// Bytes of the present row.
    used: usize,
    started: bool,
    /// Held until all is read; dropped last.
    source: Source,
}

/// Where the rows of a reader come from.
enum Source {
    /// Of a transaction that somebody else holds.
    Transaction,
    /// Of a statement by itself.
    Connection(#[expect(dead_code, reason = "held until all is read")] Object),
    /// Of a snapshot that was looked at before.
    Snapshot(Snapshot),
}

/// A transaction that reads and sees the store as it was at its first statement. Dropped before its end, its connection
/// is closed instead of going back to the pool in the middle of it.
pub(super) struct Snapshot(Option<Object>);

impl Snapshot {
    pub(super) async fn begin(client: Object) -> Result<Self> {
        let snapshot = Self(Some(client));
        snapshot.client()?.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(snapshot)
    }

    pub(super) fn client(&self) -> Result<&Object> {
        self.0.as_ref().ok_or_else(|| StoreError::internal("a snapshot was read after its end"))
    }

    pub(super) async fn end(mut self) -> Result<()> {
        self.client()?.batch_execute("COMMIT").await?;
        drop(self.0.take());
        Ok(())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl Reader {
    pub(super) async fn new(client: Object, select: &str) -> Result<Self> {
        let stream = client.copy_out(&copy(select)).await?;
        Ok(Self::over(stream, Source::Connection(client)))
    }

    pub(super) async fn within(tx: &Transaction<'_>, select: &str) -> Result<Self> {
        let stream = tx.copy_out(&copy(select)).await?;
        Ok(Self::over(stream, Source::Transaction))
    }

    pub(super) async fn of_snapshot(snapshot: Snapshot, select: &str) -> Result<Self> {
        let stream = snapshot.client()?.copy_out(&copy(select)).await?;
        Ok(Self::over(stream, Source::Snapshot(snapshot)))
    }

    fn over(stream: CopyOutStream, source: Source) -> Self {
        Self {
            stream: Box::pin(stream),
            data: Bytes::new(),
            fields: Vec::new(),
            used: 0,
            started: false,
            source,
        }
    }

    /// Gives the connection back, all being read.
    pub(super) async fn end(self) -> Result<()> {
        let Self { mut stream, source, .. } = self;
        // The server's last word on the COPY.
        while stream.next().await.transpose()?.is_some() {}
        drop(stream);
        match source {
            Source::Snapshot(snapshot) => snapshot.end().await,
            Source::Transaction | Source::Connection(_) => Ok(()),
        }
    }

    /// Moves to the next row; false at the end.
    pub(super) async fn next(&mut self) -> Result<bool> {
        Ok(self.step(None).await? == Step::Row)
    }

    /// Moves to the next row, which most often has this shape.
    pub(super) async fn step(&mut self, shape: Option<&Shape>) -> Result<Step> {
        self.data.advance(self.used);
        self.used = 0;
        loop {
            if let Some(shape) = shape.filter(|s| self.started && s.fits(&self.data)) {
                self.used = shape.len;
                return Ok(Step::Shaped);
            }
            match self.parse()? {
                Parsed::Row(len) => {
                    self.used = len;
                    return Ok(Step::Row);
                }
                Parsed::End => return Ok(Step::End),
                Parsed::More => match self.stream.next().await {
                    Some(chunk) => self.more(chunk?),
                    None => return Ok(Step::End),
                },
            }
        }
    }

    /// The server sends whole rows: what is left of the data is nothing as a rule.
    fn more(&mut self, chunk: Bytes) {
        if self.data.is_empty() {
            self.data = chunk;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.data.len() + chunk.len());
        joined.extend_from_slice(&self.data);
        joined.extend_from_slice(&chunk);
        self.data = joined.freeze();
    }

    fn parse(&mut self) -> Result<Parsed> {
        if !self.started {
            if self.data.len() < SIGNATURE.len() + 8 {
                return Ok(Parsed::More);
            }
            if !self.data.starts_with(SIGNATURE) {
                return Err(StoreError::internal("the answer to a COPY is not in the binary format"));
            }
            self.data.advance(SIGNATURE.len() + 8);
            self.started = true;
        }
        parse_row(&self.data, &mut self.fields)
    }

    /// The bytes of the present row, the number of its fields first.
    pub(super) fn row(&self) -> &[u8] {
        &self.data[..self.used]
    }

    fn field(&self, i: usize) -> Result<Option<&[u8]>> {
        let range = self.fields.get(i).ok_or_else(|| StoreError::internal("a row of a COPY is too short"))?;
        Ok(range.clone().map(|r| &self.data[r]))
    }

    /// The bytes of a field of a fixed width.
    pub(super) fn bytes<const N: usize>(&self, i: usize) -> Result<Option<[u8; N]>> {
        match self.field(i)? {
            None => Ok(None),
            Some(raw) => raw.try_into().map(Some).map_err(StoreError::internal),
        }
    }

    pub(super) fn int2(&self, i: usize) -> Result<Option<i16>> {
        Ok(self.bytes(i)?.map(i16::from_be_bytes))
    }

    pub(super) fn int4(&self, i: usize) -> Result<Option<i32>> {
        Ok(self.bytes(i)?.map(i32::from_be_bytes))
    }

    pub(super) fn int8(&self, i: usize) -> Result<Option<i64>> {
        Ok(self.bytes(i)?.map(i64::from_be_bytes))
    }

    pub(super) fn float8(&self, i: usize) -> Result<Option<f64>> {
        Ok(self.bytes(i)?.map(f64::from_be_bytes))
    }

    pub(super) fn time(&self, i: usize) -> Result<Option<Timestamp>> {
        Ok(self.int8(i)?.map(|us| Timestamp(us.saturating_add(PG_EPOCH_US))))
    }

    pub(super) fn text(&self, i: usize) -> Result<Option<&str>> {
        self.field(i)?.map(|raw| std::str::from_utf8(raw).map_err(StoreError::internal)).transpose()
    }
}

fn copy(select: &str) -> String {
    format!("COPY ({select}) TO STDOUT (FORMAT binary)")
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
    use super::super::copy::Rows;
    use super::*;

    #[test]
    fn a_row_cut_anywhere_asks_for_more() {
        let mut rows = Rows::default();
        rows.row(3);
        rows.int4(7);
        rows.null();
        rows.bytes(b"abc").unwrap();
        let whole = Bytes::copy_from_slice(rows.bytes_so_far());
        let mut fields = Vec::new();
        for cut in 0..whole.len() {
            assert!(matches!(parse_row(&whole[..cut], &mut fields).unwrap(), Parsed::More), "cut at {cut}");
        }
        assert!(matches!(parse_row(&whole, &mut fields).unwrap(), Parsed::Row(n) if n == whole.len()));
        assert_eq!(fields, [Some(6..10), None, Some(18..21)]);
        assert!(matches!(parse_row(&(-1_i16).to_be_bytes(), &mut fields).unwrap(), Parsed::End));
    }

    #[test]
    fn a_shape_fits_rows_of_its_widths_alone() {
        let shape = Shape::of(&[4, 8]);
        let row = |wide: bool, null: bool| {
            let mut rows = Rows::default();
            rows.row(2);
            rows.int4(7);
            match (wide, null) {
                (_, true) => rows.null(),
                (true, _) => rows.bytes(&[0; 9]).unwrap(),
                (false, _) => rows.int8(-9),
            }
            rows.bytes_so_far().to_vec()
        };
        let fit = row(false, false);
        assert!(shape.fits(&fit) && shape.fits(&[fit.clone(), fit.clone()].concat()));
        assert_eq!(fit[shape.offset(1)..][..8], (-9_i64).to_be_bytes());
        assert!((0..fit.len()).all(|cut| !shape.fits(&fit[..cut])));
        assert!(!shape.fits(&row(true, false)) && !shape.fits(&row(false, true)));
        assert!(!Shape::of(&[4]).fits(&fit) && !shape.fits(&(-1_i16).to_be_bytes()));
    }
}
