//! The one binary: command line, configuration, wiring of the roles, demo.
//!
//! | module | decides |
//! | --- | --- |
//! | `cli` | the commands and their flags, one file for each |
//! | `connect` | how servers that do not answer are waited for |
//! | `roles` | which services a process runs, and how it ends |
//! | `http` | what `/healthz` and `/readyz` say |
//! | `send` | from files and the simulator to messages |
//! | `demo` | everything in one process |
//! | `exit` | the status of the process |
//! | `memory` | how many pools the allocator may spread memory over |

mod cli;
mod connect;
mod demo;
mod exit;
mod http;
mod input;
mod logging;
mod output;
mod roles;
mod send;
mod signals;
mod wire;

/// Parses the command line, does what it asks, and gives the status of the process.
pub fn main() -> std::process::ExitCode {
    fleetscore_aggregator::memory::share_pools();
    cli::main()
}
