//! The demo's folder: made anew only where nothing of anybody's could be lost.

use crate::exit::Fail;
use std::io::ErrorKind;
use std::path::Path;

/// A file that says that a folder is the demo's own.
const MARKER: &str = ".fleetscore-demo";

/// Makes the folder anew: it must be absent, empty, or carry the demo's marker.
///
/// # Errors
/// A user error naming `--data-dir` where it holds something else.
pub(crate) fn prepare(path: &Path) -> Result<(), Fail> {
    let shown = path.display();
    let failed = |what: &str, e: std::io::Error| Fail::user(format!("--data-dir: `{shown}` {what}: {e}"));
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed("cannot be looked at", e)),
        Ok(m) if !m.is_dir() => {
            return Err(Fail::user(format!("--data-dir: `{shown}` is not a folder of its own")));
        }
        Ok(_) => {
            let mut entries = std::fs::read_dir(path).map_err(|e| failed("cannot be read", e))?;
            let empty = entries.next().is_none();
            if !empty && !path.join(MARKER).is_file() {
                return Err(Fail::user(format!(
                    "--data-dir: `{shown}` holds something that is not the demo's: name a folder that is absent or empty"
                )));
            }
            clear(path).map_err(|e| failed("cannot be cleared", e))?;
        }
    }
    std::fs::create_dir_all(path).map_err(|e| failed("cannot be made", e))?;
    let text = "Made by `fleetscore demo`, which clears this folder when it starts again.\n";
    std::fs::write(path.join(MARKER), text).map_err(|e| failed("cannot be written to", e))
}

/// Empties a folder, its marker last: a crash in between leaves a folder that is still the demo's.
fn clear(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    match std::fs::remove_file(path.join(MARKER)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::status;

    #[test]
    fn only_its_own_folder_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        prepare(&dir).unwrap();
        std::fs::write(dir.join("old.db"), "x").unwrap();
        std::fs::create_dir(dir.join("blobs")).unwrap();
        prepare(&dir).unwrap();
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [MARKER]);

        let empty = root.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        prepare(&empty).unwrap();

        let precious = root.path().join("precious");
        std::fs::create_dir(&precious).unwrap();
        std::fs::write(precious.join("thesis.txt"), "x").unwrap();
        let refused = prepare(&precious).unwrap_err();
        assert_eq!(status(&Err(refused)), 2);
        assert!(precious.join("thesis.txt").exists());
        assert!(prepare(&precious.join("thesis.txt")).is_err(), "a file is no folder");
    }
}
