//! Mergeable partial aggregates over columns.
