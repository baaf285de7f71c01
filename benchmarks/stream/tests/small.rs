//! The benchmark's small form: what it decodes and groups is counted and must be all that was made; its times are only printed.

use std::process::Command;

fn runs(args: &[&str]) {
    let status =
        Command::new(env!("CARGO_BIN_EXE_stream")).args(args).status().expect("the binary was built");
    assert!(status.success(), "{args:?} ended with {status}");
}

#[test]
fn decode() {
    runs(&["decode", "--series", "1000,5000", "--readings", "50000", "--packed", "1,100", "--repeats", "1"]);
}

#[test]
fn panes() {
    let small = ["--series", "1000,5000", "--readings", "100000", "--packed", "1,100", "--repeats", "1"];
    runs(&[&["panes", "--checkpoint-mib", "1"], &small[..]].concat());
}
