//! Files that a command reads, and standard input in the place of one.

use crate::exit::Fail;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Opens the file that a flag names; `-` is standard input.
///
/// # Errors
/// [`unreadable`].
pub(crate) fn open(flag: &str, path: &Path) -> Result<Box<dyn Read + Send>, Fail> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(File::open(path).map_err(|e| unreadable(flag, path, &e))?))
}

/// All of it.
///
/// # Errors
/// [`unreadable`].
pub(crate) fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    open(flag, path)?.read_to_end(&mut bytes).map_err(|e| unreadable(flag, path, &e))?;
    Ok(bytes)
}

/// A user error naming flag and file.
fn unreadable(flag: &str, path: &Path, e: &std::io::Error) -> Fail {
    Fail::user(format!("{flag}: `{}` cannot be read: {e}", path.display()))
}
