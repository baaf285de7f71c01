//! Between PostgreSQL's types and ours.

use crate::{Result, StoreError};
use bytes::{BufMut, BytesMut};
use fleetscore_schemas::time::Timestamp;
use std::borrow::Cow;
use std::error::Error;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub(super) const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// A `timestamptz` without the detour over a calendar: both sides count microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Us(pub(super) i64);

impl From<Timestamp> for Us {
    fn from(t: Timestamp) -> Self {
        Self(t.0)
    }
}

impl From<Us> for Timestamp {
    fn from(t: Us) -> Self {
        Self(t.0)
    }
}

impl ToSql for Us {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0 - PG_EPOCH_US);
        Ok(IsNull::No)
    }
    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Us {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        // ±infinity are the ends of i64: they stay there.
        Ok(Self(i64::from_be_bytes(raw.try_into()?).saturating_add(PG_EPOCH_US)))
    }
    accepts!(TIMESTAMPTZ);
}

/// Where a row lies in its table: block and position, as they travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tid(pub(super) [u8; 6]);

impl ToSql for Tid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }
    accepts!(TID);
    to_sql_checked!();
}

/// A time for a parameter that may be NULL.
pub(super) fn us(t: Option<Timestamp>) -> Option<Us> {
    t.map(Us::from)
}

/// A `timestamptz` literal, for statements that take no parameters.
pub(super) fn literal(t: Timestamp) -> String {
    format!("'{}'::timestamptz", t.to_rfc3339())
}

/// Text that PostgreSQL accepts: it cannot store a NUL, which foreign payloads and error messages may hold.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A series id as it is stored: `series_data` never gives out one beyond `integer`.
pub(super) fn series_id(id: u32) -> Result<i32> {
    i32::try_from(id).map_err(|_| StoreError::internal(format!("there is no series {id}")))
}

/// Reads columns without a panic.
pub(super) trait RowExt {
    /// The value of column `i`.
    fn at<'a, T: FromSql<'a>>(&'a self, i: usize) -> Result<T>;
    /// The time in column `i`.
    fn time(&self, i: usize) -> Result<Timestamp>;
    /// The time in column `i`, if it has one.
    fn maybe_time(&self, i: usize) -> Result<Option<Timestamp>>;
}

impl RowExt for Row {
    fn at<'a, T: FromSql<'a>>(&'a self, i: usize) -> Result<T> {
        self.try_get(i).map_err(StoreError::internal)
    }

    fn time(&self, i: usize) -> Result<Timestamp> {
        Ok(self.at::<Us>(i)?.into())
    }

    fn maybe_time(&self, i: usize) -> Result<Option<Timestamp>> {
        Ok(self.at::<Option<Us>>(i)?.map(Timestamp::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_as_microseconds() {
        for us in [0, PG_EPOCH_US, 1_535_497_205_000_001, Timestamp::END_EVENT.0] {
            let mut out = BytesMut::new();
            Us(us).to_sql(&Type::TIMESTAMPTZ, &mut out).unwrap();
            assert_eq!(Us::from_sql(&Type::TIMESTAMPTZ, &out).unwrap(), Us(us));
        }
        assert_eq!(Us::from_sql(&Type::TIMESTAMPTZ, &i64::MAX.to_be_bytes()).unwrap(), Us(i64::MAX));
    }

    #[test]
    fn a_nul_is_replaced() {
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
        assert!(matches!(clean("ab"), Cow::Borrowed("ab")));
    }
}
