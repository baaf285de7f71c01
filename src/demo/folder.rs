//! The demo's folder: made anew only where nothing of anybody's could be lost.

use crate::exit::Fail;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// A file that says that a folder is the demo's own.
const MARKER: &str = ".fleetscore-demo";

/// Makes the folder anew: it must be absent, empty, or carry the demo's marker. The folder is this demo's for as long
/// as the file that is returned stays open: another would clear it from under this one.
///
/// # Errors
/// A user error naming `--data-dir` where it holds something else, or a demo runs in it.
pub(crate) fn prepare(path: &Path) -> Result<File, Fail> {
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
        }
    }
    std::fs::create_dir_all(path).map_err(|e| failed("cannot be made", e))?;
    let written = |e| failed("cannot be written to", e);
    let mut marker = File::options().create(true).append(true).open(path.join(MARKER)).map_err(written)?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Fail::user(format!("a demo runs in the folder `{shown}`; give --data-dir another")));
        }
        Err(TryLockError::Error(e)) => return Err(failed("cannot be locked", e)),
    }
    clear(path).map_err(|e| failed("cannot be cleared", e))?;
    marker.set_len(0).map_err(written)?;
    let text = "Made by `fleetscore demo`, which clears this folder when it starts again.\n";
    marker.write_all(text.as_bytes()).map_err(written)?;
    Ok(marker)
}

/// Empties a folder but for its marker: it is locked, and a crash leaves a folder that is still the demo's.
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::status;

    #[test]
    fn only_its_own_folder_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        drop(prepare(&dir).unwrap());
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

    #[test]
    fn a_folder_is_one_demo_s_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = prepare(root.path()).unwrap();
        let db = root.path().join("fleetscore.db");
        std::fs::write(&db, "x").unwrap();
        let refused = prepare(root.path()).unwrap_err();
        assert!(refused.to_string().contains("a demo runs in the folder"), "{refused}");
        assert_eq!(status(&Err(refused)), 2);
        assert!(db.exists());
        drop(first);
        prepare(root.path()).unwrap();
        assert!(!db.exists());
    }
}
