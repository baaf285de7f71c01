//! What dead processes left in a local blob root: files of puts that never finished.
//!
//! A put is written beside its target as `name#1` and renamed over it, and temporary files lose their names as soon as they
//! have one; a process killed in between leaves the file. Nobody lists or reads it (to the storage such a name is no
//! object's), but it takes room. Services in the cloud have nothing of the kind: an object appears whole.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Younger ones may be somebody's work: no put takes as long as this.
const AGE: Duration = Duration::from_secs(3600);

/// What a file's name says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A put under way, or left.
    Staged,
    /// A temporary file, directly in the root.
    Scratch,
}

/// Whether a file has the name of something temporary: a target's with `#` and digits behind it, or one of ours in the
/// root.
fn kind(name: &str, in_root: bool) -> Option<Kind> {
    // The storage takes names with a `#` and digits alone behind the first one for its own.
    if let Some((target, number)) = name.split_once('#') {
        let staged = !target.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        return staged.then_some(Kind::Staged);
    }
    let random = name.strip_prefix(".tmp")?;
    let scratch = in_root && random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric());
    scratch.then_some(Kind::Scratch)
}

/// Whether nobody works on it any more; with a clock that was set back, nobody knows.
fn left(kind: Option<Kind>, modified: SystemTime, now: SystemTime) -> bool {
    kind.is_some() && now.duration_since(modified).is_ok_and(|age| age > AGE)
}

/// Removes what was left below a local blob root; how many files. Model sets and predictions, however many, cost the
/// reading of their folders alone.
pub(crate) fn sweep(root: &Path, now: SystemTime) -> usize {
    let mut removed = 0;
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let in_root = folder == root;
        // A folder that went meanwhile, or may not be read, has nothing for us.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(of) = entry.file_type() else { continue };
            if of.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let kind = kind(&entry.file_name().to_string_lossy(), in_root);
            if kind.is_none() || !of.is_file() {
                continue;
            }
            let modified = entry.metadata().and_then(|m| m.modified());
            if modified.is_ok_and(|modified| left(kind, modified, now)) {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(e) => {
                        tracing::debug!("`{}` was left and cannot be removed: {e}", entry.path().display())
                    }
                }
            }
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_temporary_and_old_is_left() {
        let hour = 3600;
        // name, in the root, age in seconds, goes
        let cases = [
            ("predictions.csv#1", false, hour + 1, true),
            ("predictions.parquet#17", false, 9 * hour, true),
            ("predictions.csv#1", false, hour, false),
            ("predictions.csv#1", false, 5, false),
            ("_fleetscore.json#2", true, hour + 1, true),
            ("predictions.csv", false, 99 * hour, false),
            ("_SUCCESS.json", false, 99 * hour, false),
            (".publish.lock", false, 99 * hour, false),
            ("part#a1.arrow", false, 99 * hour, false),
            ("part#", false, 99 * hour, false),
            ("part#1#2", false, 99 * hour, false),
            ("#1", false, 99 * hour, false),
            (".tmpAb3x9Z", true, hour + 1, true),
            (".tmpAb3x9Z", true, 60, false),
            (".tmpAb3x9Z", false, 99 * hour, false),
            (".tmp-old", true, 99 * hour, false),
            (".tmpAb3x9Zq", true, 99 * hour, false),
        ];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (name, in_root, age, goes) in cases {
            let modified = now - Duration::from_secs(age);
            assert_eq!(left(kind(name, in_root), modified, now), goes, "{name}, {age} s old");
        }
        let ahead = now + Duration::from_secs(99);
        assert!(!left(Some(Kind::Staged), ahead, now), "a clock that was set back");
    }

    #[test]
    fn a_sweep_takes_what_is_left_in_any_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("predictions/schedule=default/interval=20260101T000000Z");
        std::fs::create_dir_all(&folder).unwrap();
        let keep = [folder.join("predictions.csv"), root.path().join("_fleetscore.json")];
        let gone = [folder.join("predictions.csv#1"), root.path().join(".tmpAb3x9Z")];
        keep.iter().chain(&gone).for_each(|f| std::fs::write(f, "x").unwrap());
        assert_eq!(sweep(root.path(), SystemTime::now()), 0, "too young");
        assert_eq!(sweep(root.path(), SystemTime::now() + Duration::from_secs(3700)), 2);
        assert!(keep.iter().all(|f| f.exists()) && gone.iter().all(|f| !f.exists()));
        assert_eq!(sweep(&root.path().join("not there"), SystemTime::now()), 0);
    }
}
