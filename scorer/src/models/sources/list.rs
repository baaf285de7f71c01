//! Lists of models: one path on each line, or CSV that says what series each is for.

use super::{Listed, Place, Source, file, local_files, object};
use crate::blobs::Blobs;
use crate::models::import::series_name;
use crate::models::{ModelError, Result};
use fleetscore_schemas::SeriesName;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Largest list, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// All files that a list names, in order.
///
/// # Errors
/// The list cannot be read, or a line of it is wrong.
pub(crate) async fn expand_list(list: &str, options: &BTreeMap<String, String>) -> Result<Vec<Listed>> {
    let wrong = |what: String| ModelError::Usage(format!("list `{list}` {what}"));
    let path = Path::new(list.strip_prefix("file://").unwrap_or(list));
    let meta = std::fs::metadata(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(wrong(format!("is not a regular file of at most {MAX_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut folders = Folders { options, known: HashMap::new() };
    let mut listed = Vec::new();
    for (line, path, series) in entries(&text).map_err(wrong)? {
        let at_line = |e: ModelError| match e {
            ModelError::Usage(what) => wrong(format!("line {line}: {what}")),
            e => e,
        };
        if let Some(series) = series {
            let source = folders.one(folder, &path).await.map_err(at_line)?;
            listed.push(Listed { source, series: Some(series) });
        } else if path.contains("://") && !path.starts_with("file://") {
            let source = folders.blob(&path).await.map_err(at_line)?;
            match source {
                Some(source) => listed.push(Listed { source, series: None }),
                None => {
                    let mut found = Vec::new();
                    object::find(&path, options, &mut found).await.map_err(at_line)?;
                    listed.extend(found.into_iter().map(|source| Listed { source, series: None }));
                }
            }
        } else {
            let mut found = Vec::new();
            let path = folder.join(path.strip_prefix("file://").unwrap_or(&path));
            // What does not exist is refused by name, as everything is that cannot be read.
            match std::fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                true => local_files(&path, &mut found).map_err(at_line)?,
                false => found.push(file(&path, true)),
            }
            listed.extend(found.into_iter().map(|source| Listed { source, series: None }));
        }
    }
    if listed.is_empty() {
        return Err(wrong("names no file".into()));
    }
    Ok(listed)
}

type Entry = (u64, String, Option<SeriesName>);

/// The lines of a list with their numbers.
fn entries(text: &str) -> std::result::Result<Vec<Entry>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let header: Vec<&str> = text.lines().next().unwrap_or_default().split(',').map(str::trim).collect();
    let mut sorted = header.clone();
    sorted.sort_unstable();
    if sorted != ["device", "path", "sensor"] {
        let lines = text.lines().enumerate().map(|(i, l)| (i as u64 + 1, l.trim()));
        let lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
        return Ok(lines.map(|(i, l)| (i, l.to_owned(), None)).collect());
    }
    let at = |name: &str| header.iter().position(|h| *h == name).unwrap_or_default();
    let (path, device, sensor) = (at("path"), at("device"), at("sensor"));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut entries = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| format!("is no CSV: {e}"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |i: usize| record.get(i).unwrap_or_default();
        let series = match (field(device), field(sensor)) {
            // Its name, or the file itself, says it.
            ("", "") => None,
            (device, sensor) => Some(series_name(device, sensor).map_err(|e| format!("line {line}: {e}"))?),
        };
        entries.push((line, field(path).to_owned(), series));
    }
    Ok(entries)
}

/// Objects of a folder that are asked for one by one, before all of it is listed.
const ONE_BY_ONE: usize = 16;

/// Folders of blob storage that lists name files in.
struct Folders<'a> {
    options: &'a BTreeMap<String, String>,
    known: HashMap<String, Folder>,
}

struct Folder {
    root: Blobs,
    /// How many objects were asked for.
    asked: usize,
    /// The sizes of all its objects, once they were listed: however many a list names, that happens once.
    sizes: Option<HashMap<String, u64>>,
}

impl Folders<'_> {
    /// The one file of this path or URL.
    async fn one(&mut self, folder: &Path, path: &str) -> Result<Source> {
        if let Some(local) = path.strip_prefix("file://").or_else(|| (!path.contains("://")).then_some(path))
        {
            let path = folder.join(local);
            // What cannot be read is refused by name later; a folder cannot be for one series.
            if std::fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                return Err(ModelError::Usage(format!("`{}` is a folder", path.display())));
            }
            return Ok(file(&path, true));
        }
        self.blob(path).await?.ok_or_else(|| ModelError::Usage(format!("`{path}` does not exist")))
    }

    /// The object of this URL, if it is one.
    async fn blob(&mut self, url: &str) -> Result<Option<Source>> {
        let Some((folder, name)) = url.rsplit_once('/').filter(|(f, n)| !f.ends_with('/') && !n.is_empty())
        else {
            return Ok(None);
        };
        if !self.known.contains_key(folder) {
            let root = Blobs::open(folder, self.options)?;
            self.known.insert(folder.to_owned(), Folder { root, asked: 0, sizes: None });
        }
        let Some(Folder { root, asked, sizes }) = self.known.get_mut(folder) else { return Ok(None) };
        *asked += 1;
        if sizes.is_none() && *asked <= ONE_BY_ONE {
            return Ok(object::one(root, name, url).await?);
        }
        let sizes = match sizes {
            Some(sizes) => sizes,
            None => sizes.insert(root.list_level().await?.into_iter().map(|l| (l.name, l.size)).collect()),
        };
        Ok(sizes.get(name).map(|size| Source {
            path: url.to_owned(),
            file_name: name.to_owned(),
            explicit: true,
            place: Place::Blob(root.clone(), object::location(root, name), *size),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_lines_or_csv() {
        let lines = entries("# mine\na b.pkl\n\n  c,d.pkl \n").unwrap();
        assert_eq!(lines, [(2, "a b.pkl".into(), None), (4, "c,d.pkl".into(), None)]);
        let csv = entries("device,path,sensor\nd,\"a,b\",s\n, c ,\n").unwrap();
        let series = Some(SeriesName::new("d", "s"));
        assert_eq!(csv, [(2, "a,b".into(), series), (3, "c".into(), None)]);
        assert!(
            entries("path,device,sensor\na,d,\n").unwrap_err().contains("line 2: `` is no name of a sensor")
        );
        assert!(entries("path,device,sensor\na,d\n").unwrap_err().contains("CSV"));
        assert_eq!(entries("").unwrap(), []);
    }
}
