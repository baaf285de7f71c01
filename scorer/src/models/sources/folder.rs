//! Folders of the local disk, followed downwards.

use super::{MAX_DEPTH, Place, Source, file, unreadable};
use crate::models::{ModelError, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// All files below a folder, by path. What is hidden is skipped; a folder that cannot be read, is too deep or was read
/// already (links may lead in circles) is refused.
///
/// # Errors
/// [`ModelError::Usage`] where the folder itself cannot be read, or nothing is in it.
pub(super) fn walk(root: &Path) -> Result<Vec<Source>> {
    let mut walk =
        Walk { folders: vec![(root.to_owned(), 0)], links: vec![], seen: HashSet::new(), found: vec![] };
    // Links last: the folder itself is the one that is read, whatever leads to it.
    while let Some((folder, depth)) = walk.folders.pop().or_else(|| walk.links.pop()) {
        if let Err(why) = walk.enter(&folder, depth) {
            if depth == 0 {
                return Err(ModelError::Usage(format!("`{}` {why}", folder.display())));
            }
            walk.found.push((folder, Some(Place::Refused(why))));
        }
    }
    if walk.found.is_empty() {
        return Err(ModelError::Usage(format!("`{}` is an empty folder", root.display())));
    }
    walk.found.sort_by(|a, b| a.0.cmp(&b.0));
    let source = |(path, place): (PathBuf, Option<Place>)| {
        let source = file(&path, false);
        Source { place: place.unwrap_or(source.place), ..source }
    };
    Ok(walk.found.into_iter().map(source).collect())
}

struct Walk {
    folders: Vec<(PathBuf, usize)>,
    links: Vec<(PathBuf, usize)>,
    /// Where those that were read really are.
    seen: HashSet<PathBuf>,
    found: Vec<(PathBuf, Option<Place>)>,
}

impl Walk {
    fn enter(&mut self, folder: &Path, depth: usize) -> std::result::Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("lies deeper than {MAX_DEPTH} folders: name it as a source itself"));
        }
        let real = folder.canonicalize().map_err(unreadable)?;
        if self.seen.contains(&real) {
            return Err(format!("leads to `{}`, which is read already: remove the link", real.display()));
        }
        self.seen.insert(real);
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.found.push((path, Some(Place::Skipped("is hidden".into()))));
                continue;
            }
            let kind = entry.file_type().ok();
            let link = kind.is_none_or(|k| k.is_symlink());
            // What cannot be looked at is refused by name when it is read.
            let is_folder = match link {
                true => std::fs::metadata(&path).is_ok_and(|meta| meta.is_dir()),
                false => kind.is_some_and(|k| k.is_dir()),
            };
            match is_folder {
                true if link => self.links.push((path, depth + 1)),
                true => self.folders.push((path, depth + 1)),
                false => self.found.push((path, None)),
            }
        }
        Ok(())
    }
}
