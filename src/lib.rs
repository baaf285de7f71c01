//! The one binary: command line, configuration, wiring of the roles, demo. `main` only delegates.

mod config;
mod exit;
