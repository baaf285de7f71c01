//! Where models are imported from: files, folders, and the same in blob storage.

use super::{ModelError, Result};
use crate::blobs::{BlobError, Blobs};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders below folders that are followed.
const MAX_DEPTH: usize = 8;

/// One file that may hold a model.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// As it is shown.
    pub path: String,
    /// Its name without folders.
    pub file_name: String,
    /// Whether it was named itself, not only its folder.
    pub explicit: bool,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Blob(Blobs, String),
}

impl Source {
    /// Its bytes, or why they cannot be read (which completes a sentence that begins with the path).
    ///
    /// # Errors
    /// Only what is not the file's own fault: blob storage that cannot be reached.
    pub(crate) async fn read(&self) -> Result<std::result::Result<Bytes, String>> {
        let limit = crate::pickle::MAX_BYTES as u64;
        match &self.place {
            Place::File(path) => {
                let read = async {
                    let size = tokio::fs::metadata(path).await?.len();
                    if size > limit {
                        return Ok(Err(format!("is larger than {limit} bytes")));
                    }
                    tokio::fs::read(path).await.map(|bytes| Ok(bytes.into()))
                };
                let read: std::io::Result<_> = read.await;
                Ok(read.unwrap_or_else(|e| Err(format!("cannot be read: {e}"))))
            }
            Place::Blob(blobs, name) => match blobs.get(name).await {
                Ok(bytes) => Ok(Ok(bytes)),
                Err(BlobError::NotFound { .. }) => Ok(Err("does not exist any more".into())),
                Err(e) => Err(e.into()),
            },
        }
    }
}

/// All files that these sources name, in order; hidden files in folders are left out.
pub(crate) async fn expand(sources: &[String], options: &BTreeMap<String, String>) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for source in sources {
        let local = source.strip_prefix("file://").or_else(|| (!source.contains("://")).then_some(source));
        match local {
            Some(path) => local_files(Path::new(path), &mut found)?,
            None => blobs(source, options, &mut found).await?,
        }
    }
    Ok(found)
}

fn local_files(path: &Path, found: &mut Vec<Source>) -> Result<()> {
    let refused = |path: &Path, e: std::io::Error| {
        ModelError::Usage(format!("`{}` cannot be read: {e}", path.display()))
    };
    if !std::fs::metadata(path).map_err(|e| refused(path, e))?.is_dir() {
        found.push(file(path, true));
        return Ok(());
    }
    let mut folders = vec![(path.to_owned(), 0)];
    let mut files = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| refused(&folder, e))? {
            let path = entry.map_err(|e| refused(&folder, e))?.path();
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            match std::fs::metadata(&path) {
                _ if hidden => {}
                Ok(meta) if meta.is_dir() && depth < MAX_DEPTH => folders.push((path, depth + 1)),
                Ok(meta) if meta.is_dir() => {}
                // What cannot be looked at is refused by name when it is read.
                _ => files.push(path),
            }
        }
    }
    files.sort();
    found.extend(files.iter().map(|path| file(path, false)));
    Ok(())
}

fn file(path: &Path, explicit: bool) -> Source {
    let file_name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Source { path: path.display().to_string(), file_name, explicit, place: Place::File(path.to_owned()) }
}

async fn blobs(url: &str, options: &BTreeMap<String, String>, found: &mut Vec<Source>) -> Result<()> {
    let named = |e: BlobError| match e {
        // Not the setting `blobs`, but the source that was given.
        BlobError::Setting { message } => ModelError::Usage(format!("source `{url}`: {message}")),
        e => e.into(),
    };
    let root = Blobs::open(url, options).map_err(named)?;
    let source = |root: &Blobs, name: &str, path: String, explicit: bool| Source {
        file_name: name.rsplit('/').next().unwrap_or_default().to_owned(),
        explicit,
        path,
        place: Place::Blob(root.clone(), name.to_owned()),
    };
    let listed = root.list("").await.map_err(named)?;
    if !listed.is_empty() {
        let base = url.trim_end_matches('/');
        let shown = listed.iter().filter(|l| !l.name.rsplit('/').next().unwrap_or_default().starts_with('.'));
        found.extend(shown.map(|l| source(&root, &l.name, format!("{base}/{}", l.name), false)));
        return Ok(());
    }
    // Not a folder: one object.
    let Some((folder, name)) = url.trim_end_matches('/').rsplit_once('/').filter(|(f, _)| !f.ends_with('/'))
    else {
        return Err(ModelError::Usage(format!("source `{url}` is empty")));
    };
    let root = Blobs::open(folder, options).map_err(named)?;
    if !root.list("").await.map_err(named)?.iter().any(|l| l.name == name) {
        return Err(ModelError::Usage(format!("source `{url}` is empty or does not exist")));
    }
    found.push(source(&root, name, url.to_owned(), true));
    Ok(())
}
