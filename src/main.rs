//! The one binary: parses nothing, decides nothing.

fn main() -> std::process::ExitCode {
    fleetscore::main()
}
