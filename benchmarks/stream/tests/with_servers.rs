//! The benchmark's small form with a broker and a database: what the product commits is counted by SQL and must be all that was
//! sent, or the benchmark fails; its times are only printed.

use std::path::Path;
use std::process::Command;

fn runs(args: &[&str]) {
    let stream = Path::new(env!("CARGO_BIN_EXE_stream"));
    // Built beside it, with the end-to-end tests: `make e2e`.
    let fleetscore = stream.with_file_name(format!("fleetscore{}", std::env::consts::EXE_SUFFIX));
    assert!(fleetscore.exists(), "{} is not built: `cargo build`", fleetscore.display());
    let small = ["--series", "1000,5000", "--readings", "100000", "--packed", "1,100", "--repeats", "1"];
    let status = Command::new(stream)
        .args(args)
        .args(small)
        .env("FLEETSCORE_BIN", fleetscore)
        .status()
        .expect("the binary was built");
    assert!(status.success(), "{args:?} ended with {status}");
}

#[test]
fn kafka() {
    runs(&["kafka"]);
}

#[test]
fn known() {
    runs(&["known"]);
}
