//! One suite of promises that every store passes.
