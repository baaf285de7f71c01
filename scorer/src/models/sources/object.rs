//! Objects of blob storage, under the rules of folders.

use super::{BlobPath, HEAD, MAX_DEPTH, Place, Readable, Source, mapped, too_large, unreadable};
use crate::blobs::{self, BlobError, Blobs};
use crate::models::registry::blocking;
use crate::models::{ModelError, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tokio::io::AsyncWriteExt;

/// A file of many models that is larger is fetched into a file, which is mapped.
pub(super) const FETCHED: u64 = 8 << 20;

/// All objects below this URL, or the one that it names.
///
/// # Errors
/// [`ModelError::Usage`] where there is none; blob storage that fails.
pub(super) async fn find(
    url: &str,
    options: &BTreeMap<String, String>,
    found: &mut Vec<Source>,
) -> Result<()> {
    let named = |e: BlobError| match e {
        // Not the setting `blobs`, but the source that was given.
        BlobError::Setting { message } => ModelError::Usage(format!("source `{url}`: {message}")),
        e => e.into(),
    };
    let root = Blobs::open(url, options).map_err(named)?;
    let below = below(&root, url).await.map_err(named)?;
    if !below.is_empty() {
        found.extend(below);
        return Ok(());
    }
    // Not a folder: one object.
    let Some((folder, name)) = url.trim_end_matches('/').rsplit_once('/').filter(|(f, _)| !f.ends_with('/'))
    else {
        return Err(ModelError::Usage(format!("source `{url}` is empty")));
    };
    let root = Blobs::open(folder, options).map_err(named)?;
    match one(&root, name, url).await.map_err(named)? {
        Some(source) => found.push(source),
        None => return Err(ModelError::Usage(format!("source `{url}` is empty or does not exist"))),
    }
    Ok(())
}

/// The object of this name, if there is one.
pub(super) async fn one(root: &Blobs, name: &str, url: &str) -> crate::blobs::Result<Option<Source>> {
    // As the service has it: a name is not encoded again.
    let place = location(root, name);
    match root.store.head(&place).await.map_err(|e| root.error(name, e)) {
        Ok(meta) => Ok(Some(Source {
            path: url.to_owned(),
            file_name: name.to_owned(),
            explicit: true,
            place: Place::Blob(root.clone(), place, meta.size),
        })),
        Err(BlobError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Where the object of a listed name is. Joining would encode characters that the name already has as they are.
pub(super) fn location(root: &Blobs, name: &str) -> BlobPath {
    let prefix = root.prefix.as_ref();
    let whole = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    BlobPath::parse(&whole).unwrap_or_else(|_| root.path(name))
}

/// All objects of a root, by name.
pub(super) async fn below(root: &Blobs, url: &str) -> crate::blobs::Result<Vec<Source>> {
    let base = url.trim_end_matches('/');
    let listed = root.list("").await?;
    let folders: HashSet<&str> = listed.iter().filter_map(|l| Some(l.name.rsplit_once('/')?.0)).collect();
    let mut hidden = BTreeSet::new();
    let mut found = Vec::with_capacity(listed.len());
    for object in &listed {
        let place = match verdict(object, &folders) {
            Ok(()) => Place::Blob(root.clone(), location(root, &object.name), object.size),
            Err((name, place)) => {
                // One line for all that a hidden folder has.
                if hidden.insert(name) {
                    found.push(source(base, name, place));
                }
                continue;
            }
        };
        found.push(source(base, &object.name, place));
    }
    Ok(found)
}

fn source(base: &str, name: &str, place: Place) -> Source {
    let file_name = name.rsplit('/').next().unwrap_or_default().to_owned();
    Source { path: format!("{base}/{name}"), file_name, explicit: false, place }
}

/// Why an object is not read, and under what name this is said.
fn verdict<'a>(
    object: &'a blobs::Listed,
    folders: &HashSet<&str>,
) -> std::result::Result<(), (&'a str, Place)> {
    let name = object.name.as_str();
    let mut end = 0;
    for part in name.split('/') {
        end += part.len();
        if part.starts_with('.') {
            return Err((&name[..end], Place::Skipped("is hidden".into())));
        }
        end += 1;
    }
    if name.matches('/').count() > MAX_DEPTH {
        let why = format!("lies deeper than {MAX_DEPTH} folders: name its folder as a source itself");
        return Err((name, Place::Refused(why)));
    }
    // Storage with real folders lists them as objects.
    if object.size == 0 && folders.contains(name) {
        return Err((name, Place::Skipped("is the mark of a folder".into())));
    }
    Ok(())
}

/// Whose fault it is that an object cannot be read.
fn judged<T>(result: std::result::Result<T, BlobError>) -> Readable<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(BlobError::NotFound { .. }) => Ok(Err("does not exist any more".into())),
        Err(BlobError::Setting { message }) => Ok(Err(unreadable(message))),
        Err(e) => Err(e.into()),
    }
}

pub(super) async fn head(root: &Blobs, path: &BlobPath, size: u64) -> Readable<Bytes> {
    if size == 0 {
        return Ok(Ok(Bytes::new()));
    }
    let head = root.store.get_range(path, 0..size.min(HEAD as u64)).await;
    judged(head.map_err(|e| root.error(path.as_ref(), e)))
}

pub(super) async fn read(
    root: &Blobs,
    path: &BlobPath,
    size: u64,
    limit: u64,
    many: bool,
) -> Readable<Bytes> {
    if size > limit {
        return Ok(Err(too_large(limit)));
    }
    let failed = |e| root.error(path.as_ref(), e);
    let object = match judged(root.store.get(path).await.map_err(failed))? {
        Ok(object) => object,
        Err(why) => return Ok(Err(why)),
    };
    // It may have grown since it was listed.
    let now = object.meta.size;
    if now > limit || (now > size && !many) {
        return Ok(Err(if now > limit {
            too_large(limit)
        } else {
            "was changed while it was imported".into()
        }));
    }
    if !many || now <= FETCHED {
        return judged(object.bytes().await.map_err(failed));
    }
    let io =
        |e: std::io::Error| ModelError::Usage(format!("a temporary file cannot be written (TMPDIR): {e}"));
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(io)?);
    let mut parts = object.into_stream();
    loop {
        match judged(parts.try_next().await.map_err(failed))? {
            Ok(Some(part)) => file.write_all(&part).await.map_err(io)?,
            Ok(None) => break,
            Err(why) => return Ok(Err(why)),
        }
    }
    file.flush().await.map_err(io)?;
    let file = file.into_std().await;
    blocking(move || Ok(mapped(&file))).await
}
