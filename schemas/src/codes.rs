//! Stable codes of dead letters, and the class of an error. A code is never reused for something else.

/// Why a record was not counted. The name is stored in `dead_letters.code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeadLetterCode {
    /// The message has no payload (a Kafka tombstone).
    Tombstone,
    /// The payload is empty or white space alone.
    Empty,
    /// The payload is not UTF-8.
    NotUtf8,
    /// Not JSON, or JSON that breaks off.
    Syntax,
    /// Nested deeper than the decoder follows.
    TooDeep,
    /// A record is not an object, or a field has the wrong type.
    WrongType,
    /// A required field is absent.
    MissingField,
    /// A key occurs twice in one object, or both `value` and `values` are there.
    DuplicateKey,
    /// A device or sensor breaks the rules: 1–256 bytes, no control characters, string or integer.
    BadName,
    /// The value is not a finite JSON number with |v| ≤ 1e100.
    BadValue,
    /// The time cannot be read: no zone, no such date, not a number of the configured unit.
    BadTime,
    /// The event time lies outside 2000..2100.
    TsRange,
    /// The event time is further ahead of the clock than `max_future_skew`.
    FutureSkew,
    /// Older than `allowed_lateness`, or below the floor of retention.
    TooLate,
    /// The row filter or the value expression failed for this reading, or gave NULL or an inadmissible value.
    Expression,
    /// One series more than `max_series`.
    SeriesLimit,
    /// The message is larger than the decoder accepts.
    TooLarge,
}

impl DeadLetterCode {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Tombstone,
        Self::Empty,
        Self::NotUtf8,
        Self::Syntax,
        Self::TooDeep,
        Self::WrongType,
        Self::MissingField,
        Self::DuplicateKey,
        Self::BadName,
        Self::BadValue,
        Self::BadTime,
        Self::TsRange,
        Self::FutureSkew,
        Self::TooLate,
        Self::Expression,
        Self::SeriesLimit,
        Self::TooLarge,
    ];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Empty => "empty",
            Self::NotUtf8 => "not_utf8",
            Self::Syntax => "syntax",
            Self::TooDeep => "too_deep",
            Self::WrongType => "wrong_type",
            Self::MissingField => "missing_field",
            Self::DuplicateKey => "duplicate_key",
            Self::BadName => "bad_name",
            Self::BadValue => "bad_value",
            Self::BadTime => "bad_time",
            Self::TsRange => "ts_range",
            Self::FutureSkew => "future_skew",
            Self::TooLate => "too_late",
            Self::Expression => "expression",
            Self::SeriesLimit => "series_limit",
            Self::TooLarge => "too_large",
        }
    }
}

impl std::fmt::Display for DeadLetterCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// A setting, a file or a right that the user can change: the process stops with status 2.
    User,
    /// A server or a network: it is waited for.
    External,
    /// Ours: reported, with what is needed to find it.
    Internal,
}

/// What every error of fleetscore can say of itself.
pub trait Classify {
    /// Whose fault it is.
    fn domain(&self) -> Domain;
    /// Whether the same call may succeed later without a person's help.
    fn is_transient(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = DeadLetterCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), DeadLetterCode::ALL.len());
    }
}
