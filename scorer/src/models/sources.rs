//! Where models are imported from: files, folders, the same in blob storage, and lists of them.
//!
//! Nothing that may be a model is passed over in silence: what lies in a folder is read, refused with the reason, or named
//! as skipped because it is plainly something else (`naming::is_other`, hidden files, first bytes of no known format).

mod folder;
mod list;
mod object;

use super::naming;
use super::registry::blocking;
use super::{ModelError, Result};
use crate::blobs::Blobs;
use bytes::Bytes;
use fleetscore_formats::Limits;
use fleetscore_schemas::SeriesName;
pub(crate) use list::expand_list;
use object_store::path::Path as BlobPath;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders below folders that are followed.
const MAX_DEPTH: usize = 32;
/// First bytes that tell a format where the name does not.
const HEAD: usize = 4096;

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
    Blob(Blobs, BlobPath, u64),
    /// Not to be read, and nothing may be left out for that.
    Refused(String),
    /// Plainly something else.
    Skipped(String),
}

/// What is known of a source without reading it, or why it is not read; texts complete a sentence that begins with the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Read,
    Refused(String),
    Skipped(String),
}

type Readable<T> = Result<std::result::Result<T, String>>;

impl Source {
    /// Whether it is to be read at all.
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.place {
            Place::Refused(why) => Verdict::Refused(why.clone()),
            Place::Skipped(why) => Verdict::Skipped(why.clone()),
            _ => Verdict::Read,
        }
    }

    /// Its first bytes, or why they cannot be read.
    ///
    /// # Errors
    /// As for [`Source::read`].
    pub(crate) async fn head(&self) -> Readable<Bytes> {
        match &self.place {
            Place::File(path) => {
                let path = path.clone();
                blocking(move || Ok(regular(&path).and_then(|_| file_bytes(&path, HEAD as u64)))).await
            }
            Place::Blob(root, path, size) => object::head(root, path, *size).await,
            Place::Refused(why) | Place::Skipped(why) => Ok(Err(why.clone())),
        }
    }

    /// How many bytes reading it takes in memory, or why it cannot be read. Files of many models on local disk take none,
    /// large ones in blob storage neither: they are mapped.
    ///
    /// # Errors
    /// As for [`Source::read`].
    pub(crate) async fn held(&self, many: bool) -> Readable<u64> {
        let size = match &self.place {
            Place::File(path) => {
                let path = path.clone();
                blocking(move || Ok(regular(&path))).await?
            }
            Place::Blob(_, _, size) => Ok(*size),
            Place::Refused(why) | Place::Skipped(why) => Err(why.clone()),
        };
        let local = matches!(self.place, Place::File(_));
        Ok(size.and_then(|size| match limit(many) {
            limit if size > limit => Err(too_large(limit)),
            _ if many && (local || size > object::FETCHED) => Ok(0),
            _ => Ok(size),
        }))
    }

    /// Its bytes, or why they cannot be read (which completes a sentence that begins with the path). A file of `many`
    /// models is mapped into memory.
    ///
    /// # Errors
    /// Only what is not the file's own fault: blob storage that cannot be reached.
    pub(crate) async fn read(&self, many: bool) -> Readable<Bytes> {
        let limit = limit(many);
        match &self.place {
            Place::File(path) => {
                let path = path.clone();
                blocking(move || Ok(read_file(&path, limit, many))).await
            }
            Place::Blob(root, path, size) => object::read(root, path, *size, limit, many).await,
            Place::Refused(why) | Place::Skipped(why) => Ok(Err(why.clone())),
        }
    }
}

/// The most bytes that are read of a file.
fn limit(many: bool) -> u64 {
    let limits = Limits::default();
    (if many { limits.max_table_bytes } else { limits.max_bytes }) as u64
}

fn too_large(limit: u64) -> String {
    format!("is larger than {limit} bytes")
}

fn unreadable(e: impl std::fmt::Display) -> String {
    format!("cannot be read: {e}")
}

/// The size of a regular file. Looked at before it is opened: that alone would wait for the other end of a pipe.
fn regular(path: &Path) -> std::result::Result<u64, String> {
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.is_file() { Ok(meta.len()) } else { Err("is not a regular file".into()) }
}

/// At most so many bytes of a file.
fn file_bytes(path: &Path, limit: u64) -> std::result::Result<Bytes, String> {
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes.into())
}

fn read_file(path: &Path, limit: u64, map: bool) -> std::result::Result<Bytes, String> {
    let size = regular(path)?;
    if size > limit {
        return Err(too_large(limit));
    }
    if map && size > 0 {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        return mapped(&file);
    }
    // Some file systems say 0 of files that never end, and files grow.
    match file_bytes(path, limit + 1)? {
        bytes if bytes.len() as u64 > limit => Err(too_large(limit)),
        bytes => Ok(bytes),
    }
}

fn mapped(file: &std::fs::File) -> std::result::Result<Bytes, String> {
    // SAFETY: what is mapped must not change while it is. A file of our own was unlinked when it was made. One that was
    // given to be imported belongs to whoever runs the import, and the documentation says that it must stay as it is
    // until the import has ended; the readers check all they take, and copy each number once. (If it is cut short, the
    // process ends by SIGBUS, as with any mapped file, and nothing was imported.)
    let map = unsafe { memmap2::Mmap::map(file) };
    map.map(Bytes::from_owner).map_err(unreadable)
}

/// All files that these sources name, in order.
///
/// # Errors
/// [`ModelError::Usage`] where a source does not exist or is empty.
pub(crate) async fn expand(sources: &[String], options: &BTreeMap<String, String>) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for source in sources {
        let local = source.strip_prefix("file://").or_else(|| (!source.contains("://")).then_some(source));
        match local {
            Some(path) => local_files(Path::new(path), &mut found)?,
            None => object::find(source, options, &mut found).await?,
        }
    }
    Ok(found)
}

fn local_files(path: &Path, found: &mut Vec<Source>) -> Result<()> {
    let meta = std::fs::metadata(path)
        .map_err(|e| ModelError::Usage(format!("`{}` cannot be read: {e}", path.display())))?;
    if meta.is_dir() {
        found.extend(folder::walk(path)?);
    } else {
        found.push(file(path, true));
    }
    Ok(())
}

fn file(path: &Path, explicit: bool) -> Source {
    let file_name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let text = path.file_name().is_none_or(|n| n.to_str().is_some());
    let place = match text || naming::is_other(&file_name) {
        true => Place::File(path.to_owned()),
        // What it shows is not what it says: its series would get another name, or another file's.
        false => Place::Refused("has a name that is not UTF-8: rename it".into()),
    };
    Source { path: path.display().to_string(), file_name, explicit, place }
}

/// Each file once: where a list or an argument names a file of a folder, that counts, and a file that is named twice for
/// the same series is read once, the second time skipped. One file may be the model of several series.
pub(crate) fn once(listed: Vec<Listed>) -> Vec<Listed> {
    let mut folders = HashMap::new();
    let keys: Vec<Option<String>> = listed.iter().map(|l| key(&l.source, &mut folders)).collect();
    let named: HashSet<&String> = listed
        .iter()
        .zip(&keys)
        .filter(|(l, _)| l.source.explicit)
        .filter_map(|(_, key)| key.as_ref())
        .collect();
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(listed.len());
    for (mut one, key) in listed.into_iter().zip(&keys) {
        if let Some(key) = key {
            if !one.source.explicit && named.contains(key) {
                continue;
            }
            if !seen.insert((key, one.series.clone())) {
                one.source.place = Place::Skipped("is named more than once, and was read once".into());
                one.series = None;
            }
        }
        all.push(one);
    }
    all
}

/// What is the same for the same file, however its path is written.
fn key(source: &Source, folders: &mut HashMap<PathBuf, PathBuf>) -> Option<String> {
    match &source.place {
        Place::File(path) => {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            let real = folders.entry(folder).or_insert_with_key(|folder| {
                let of = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                of.canonicalize().unwrap_or_else(|_| folder.clone())
            });
            Some(real.join(path.file_name()?).display().to_string())
        }
        Place::Blob(root, path, _) => Some(format!("{}\n{path}", root.store)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
