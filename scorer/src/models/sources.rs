//! Where models are imported from: files, folders, the same in blob storage, and lists of them.

mod list;

use super::naming;
use super::{ModelError, Result};
use crate::blobs::{self, BlobError, Blobs};
use bytes::Bytes;
use fleetscore_formats::Limits;
use fleetscore_schemas::SeriesName;
pub(crate) use list::expand_list;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

/// Folders below folders that are followed.
const MAX_DEPTH: usize = 8;

/// A file, and the series that a list gives it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub source: Source,
    pub series: Option<SeriesName>,
}

/// One file that may hold models.
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
    /// With the size it was listed with.
    Blob(Blobs, String, u64),
}

impl Source {
    /// Whether by its name it may hold many models.
    pub(crate) fn holds_many(&self) -> bool {
        naming::holds_many(&self.file_name)
    }

    /// The most bytes that are read of it.
    fn limit(&self) -> u64 {
        let limits = Limits::default();
        (if self.holds_many() { limits.max_table_bytes } else { limits.max_bytes }) as u64
    }

    /// Its bytes, or why they cannot be read (which completes a sentence that begins with the path).
    ///
    /// # Errors
    /// Only what is not the file's own fault: blob storage that cannot be reached.
    pub(crate) async fn read(&self) -> Result<std::result::Result<Bytes, String>> {
        let limit = self.limit();
        let too_large = || Err(format!("is larger than {limit} bytes"));
        match &self.place {
            Place::File(path) => {
                let read = async {
                    // Before it is opened: that alone would wait for the other end of a pipe.
                    let meta = tokio::fs::metadata(path).await?;
                    if !meta.is_file() {
                        return Ok(Err("is not a regular file".into()));
                    }
                    if meta.len() > limit {
                        return Ok(too_large());
                    }
                    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
                    tokio::fs::File::open(path).await?.take(limit + 1).read_to_end(&mut bytes).await?;
                    // Some file systems say 0 of files that never end, and files grow.
                    if bytes.len() as u64 > limit { Ok(too_large()) } else { Ok(Ok(bytes.into())) }
                };
                let read: std::io::Result<_> = read.await;
                Ok(read.unwrap_or_else(|e| Err(format!("cannot be read: {e}"))))
            }
            Place::Blob(_, _, size) if *size > limit => Ok(too_large()),
            Place::Blob(blobs, name, _) => match blobs.get(name).await {
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
            None => in_blobs(source, options, &mut found).await?,
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

async fn in_blobs(url: &str, options: &BTreeMap<String, String>, found: &mut Vec<Source>) -> Result<()> {
    let named = |e: BlobError| match e {
        // Not the setting `blobs`, but the source that was given.
        BlobError::Setting { message } => ModelError::Usage(format!("source `{url}`: {message}")),
        e => e.into(),
    };
    let root = Blobs::open(url, options).map_err(named)?;
    let source = |root: &Blobs, l: &blobs::Listed, path: String, explicit: bool| Source {
        file_name: l.name.rsplit('/').next().unwrap_or_default().to_owned(),
        explicit,
        path,
        place: Place::Blob(root.clone(), l.name.clone(), l.size),
    };
    let listed = root.list("").await.map_err(named)?;
    if !listed.is_empty() {
        let base = url.trim_end_matches('/');
        let shown = listed.iter().filter(|l| !l.name.rsplit('/').next().unwrap_or_default().starts_with('.'));
        found.extend(shown.map(|l| source(&root, l, format!("{base}/{}", l.name), false)));
        return Ok(());
    }
    // Not a folder: one object.
    let Some((folder, name)) = url.trim_end_matches('/').rsplit_once('/').filter(|(f, _)| !f.ends_with('/'))
    else {
        return Err(ModelError::Usage(format!("source `{url}` is empty")));
    };
    let root = Blobs::open(folder, options).map_err(named)?;
    let listed = root.list("").await.map_err(named)?;
    let Some(object) = listed.iter().find(|l| l.name == name) else {
        return Err(ModelError::Usage(format!("source `{url}` is empty or does not exist")));
    };
    found.push(source(&root, object, url.to_owned(), true));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[cfg(unix)]
    async fn what_is_no_file_or_has_no_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("/dev/zero", path("a_endless")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("b_pipe")).status().unwrap().success());
        let limit = Limits::default().max_bytes as u64;
        std::fs::File::create(path("c_large")).unwrap().set_len(limit + 1).unwrap();
        std::fs::write(path("target"), b"x").unwrap();
        std::os::unix::fs::symlink(path("target"), path("d_link")).unwrap();
        let sources = [dir.path().display().to_string()];
        let mut why = Vec::new();
        for source in expand(&sources, &BTreeMap::new()).await.unwrap() {
            why.push(source.read().await.unwrap().map(|b| b.len()));
        }
        let no_file = Err("is not a regular file".to_owned());
        let large = Err(format!("is larger than {limit} bytes"));
        assert_eq!(why, [no_file.clone(), no_file, large, Ok(1), Ok(1)]);
    }

    #[tokio::test]
    async fn a_large_blob_is_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let root = Blobs::open(&format!("file://{}", dir.path().display()), &BTreeMap::new()).unwrap();
        // It does not exist: only its listed size can refuse it.
        let place = Place::Blob(root, "x".into(), Limits::default().max_bytes as u64 + 1);
        let source = Source { path: "x".into(), file_name: "x".into(), explicit: true, place };
        assert!(source.read().await.unwrap().unwrap_err().starts_with("is larger than"));
    }
}
