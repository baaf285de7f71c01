//! Files read and judged: each model for itself, several files and many models at once.

use super::series_name;
use crate::models::format::Stored;
use crate::models::naming::Pattern;
use crate::models::registry::blocking;
use crate::models::sources::{Listed, Source};
use crate::models::{ModelError, Result};
use bytes::Bytes;
use fleetscore_formats::{self as formats, Format, Found, Limits, Refused};
use fleetscore_kernel::Model;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::window::Feature;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Files that are read at once.
const READ_AHEAD: usize = 16;
/// Models of one file that are judged in one go.
const CHUNK: usize = 4096;

/// What every model is held against.
#[derive(Clone)]
pub(super) struct Expected {
    pub pattern: Arc<Pattern>,
    pub features: Vec<Feature>,
}

impl Expected {
    pub(super) fn new(pattern: &str, features: &[Feature]) -> Result<Self> {
        let pattern = Pattern::new(pattern).map_err(ModelError::Usage)?;
        Ok(Self { pattern: Arc::new(pattern), features: features.to_vec() })
    }
}

/// A model whose series is known, or why it is refused.
pub(crate) struct Candidate {
    pub stored: Stored,
    /// Its place in a file of many.
    pub entry: Option<u64>,
    pub single_precision: bool,
}

impl Candidate {
    /// Where it stands, in a file of this path.
    pub(crate) fn place(&self, path: &str) -> String {
        self.entry.map_or_else(|| path.to_owned(), |entry| format!("{path}#{entry}"))
    }
}

/// What one file gave.
pub(crate) struct FromFile {
    pub path: String,
    pub format: Option<Format>,
    pub candidates: Vec<Candidate>,
    /// What is refused and for no series: `path` or `path#entry`, and why.
    pub refused: Vec<(String, String)>,
    /// The file itself, if it is passed over.
    pub skipped: Option<(String, String)>,
}

impl FromFile {
    fn new(path: &str) -> Self {
        Self { path: path.to_owned(), format: None, candidates: vec![], refused: vec![], skipped: None }
    }
}

/// Reads all files, in order.
///
/// # Errors
/// Only what is no file's fault.
pub(super) async fn read_all(listed: Vec<Listed>, expected: Expected) -> Result<Vec<FromFile>> {
    // Files of many models are large: one at a time.
    let large = Arc::new(tokio::sync::Semaphore::new(1));
    futures::stream::iter(listed)
        .map(|listed| {
            let (expected, large) = (expected.clone(), large.clone());
            async move {
                let file = File::new(listed, expected);
                let _one = match file.source.holds_many() {
                    true => large.acquire().await.ok(),
                    false => None,
                };
                file.read().await
            }
        })
        .buffered(READ_AHEAD)
        .try_collect()
        .await
}

/// A file about to be read, and what its name and list say.
struct File {
    source: Source,
    expected: Expected,
    /// The series that a list gives, or else the file's name.
    series: Option<SeriesName>,
    listed: bool,
    /// The name of its model.
    stem: String,
}

impl File {
    fn new(listed: Listed, expected: Expected) -> Self {
        let Listed { source, series } = listed;
        let (named, stem) = expected.pattern.split(&source.file_name);
        let (listed, stem) = (series.is_some(), stem.to_owned());
        Self { series: series.or(named), listed, stem, source, expected }
    }

    async fn read(self) -> Result<FromFile> {
        let mut read = FromFile::new(&self.source.path);
        if self.series.is_none() && !self.source.holds_many() {
            let why = format!("has a name that is not of the pattern `{}`", self.expected.pattern);
            if self.source.explicit {
                read.refused.push((read.path.clone(), why));
            } else {
                read.skipped = Some((read.path.clone(), why));
            }
            return Ok(read);
        }
        let bytes = match self.source.read().await? {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.refuse(&mut read, reason);
                return Ok(read);
            }
        };
        let file = Arc::new(self);
        file.clone().models(bytes, &mut read).await?;
        if read.candidates.is_empty() && read.refused.is_empty() && read.skipped.is_none() {
            file.refuse(&mut read, "holds no model".into());
        }
        file.pass_over(&mut read);
        Ok(read)
    }

    /// Refuses the file as a whole.
    fn refuse(&self, read: &mut FromFile, reason: String) {
        match &self.series {
            Some(series) => read.candidates.push(Candidate {
                stored: Stored::new(series.clone(), self.stem.clone(), Err(reason)),
                entry: None,
                single_precision: false,
            }),
            None => read.refused.push((read.path.clone(), reason)),
        }
    }

    /// A file of other things that lies in a folder with models, such as somebody's notes in JSON, is passed over.
    fn pass_over(&self, read: &mut FromFile) {
        if self.series.is_none() && !self.source.explicit && read.candidates.is_empty() {
            let why = read.refused.drain(..).next().map(|(_, why)| why);
            let why = why.unwrap_or_else(|| "names no device and sensor".into());
            read.skipped = Some((read.path.clone(), format!("holds no model of a series: it {why}")));
        }
    }

    /// Its models: one thread takes the file apart, others judge what it finds.
    async fn models(self: Arc<Self>, bytes: Bytes, read: &mut FromFile) -> Result<()> {
        let (send, receive) = mpsc::channel(2);
        let file_name = self.source.file_name.clone();
        let parse = blocking(move || {
            let (format, mut models) = match formats::open(bytes, &file_name, &Limits::default()) {
                Ok(opened) => opened,
                Err(e) => return Ok(Err(e.to_string())),
            };
            loop {
                let chunk: Vec<_> = models.by_ref().take(CHUNK).collect();
                // Nobody listens any more if the import was given up.
                if chunk.is_empty() || send.blocking_send(chunk).is_err() {
                    return Ok(Ok(format));
                }
            }
        });
        let chunks = futures::stream::unfold(receive, |mut receive| async {
            receive.recv().await.map(|chunk| (chunk, receive))
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let judge = chunks
            .map(|chunk: Vec<_>| {
                let file = self.clone();
                blocking(move || Ok(chunk.into_iter().map(|one| file.judge(one)).collect::<Vec<_>>()))
            })
            .buffered(cores)
            .try_for_each(|chunk| {
                for judged in chunk {
                    match judged {
                        Ok(candidate) => read.candidates.push(candidate),
                        Err(refused) => read.refused.push(refused),
                    }
                }
                std::future::ready(Ok(()))
            });
        let (opened, judged) = tokio::join!(parse, judge);
        judged?;
        match opened? {
            Ok(format) => read.format = Some(format),
            Err(reason) => self.refuse(read, reason),
        }
        Ok(())
    }

    /// One model for its series; an error where its series is not known.
    fn judge(
        &self,
        one: std::result::Result<Found, Refused>,
    ) -> std::result::Result<Candidate, (String, String)> {
        let one = one.and_then(|found| found.verify().map(|()| found));
        let (device, sensor, name, entry) = match &one {
            Ok(f) => (&f.device, &f.sensor, &f.name, f.entry),
            Err(r) => (&r.device, &r.sensor, &r.name, r.entry),
        };
        let place = || match entry {
            Some(entry) => format!("{}#{entry}", self.source.path),
            None => self.source.path.clone(),
        };
        let series = match self.series_of(device.as_deref(), sensor.as_deref()) {
            Ok(series) => series,
            // What is wrong with the model says more than that its series is not known.
            Err(why) => return Err((place(), one.err().map_or(why, |r| r.to_string()))),
        };
        let model = match name {
            Some(name) => name.clone(),
            None if entry.is_none() => self.stem.clone(),
            None => self.expected.pattern.name(&series),
        };
        Ok(match one {
            Err(refused) => Candidate {
                stored: Stored::new(series, model, Err(refused.to_string())),
                entry,
                single_precision: false,
            },
            Ok(found) => {
                let outcome = self.fits(&found).map(|()| found.model);
                let stored = stored(series, model, outcome, found.checks, found.rows);
                Candidate { stored, entry, single_precision: found.single_precision }
            }
        })
    }

    fn series_of(
        &self,
        device: Option<&str>,
        sensor: Option<&str>,
    ) -> std::result::Result<SeriesName, String> {
        match (device, sensor, &self.series) {
            (Some(device), Some(sensor), given) => {
                let series = series_name(device, sensor)?;
                match given.as_ref().filter(|given| self.listed && **given != series) {
                    Some(given) => {
                        Err(format!("says that it is for {series}, and the list that it is for {given}"))
                    }
                    None => Ok(series),
                }
            }
            (None, None, Some(given)) => Ok(given.clone()),
            _ => Err(format!(
                "names no device and sensor, and its file's name is not of the pattern `{}`",
                self.expected.pattern
            )),
        }
    }

    /// Whether a model takes the features that the set is given.
    fn fits(&self, found: &Found) -> std::result::Result<(), String> {
        let wanted = &self.expected.features;
        let list = || wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let takes = found.model.features;
        if takes != wanted.len() {
            return Err(format!("takes {takes} features, and {} are given ({})", wanted.len(), list()));
        }
        let Some(names) = &found.features else { return Ok(()) };
        if names.iter().map(String::as_str).eq(wanted.iter().map(|f| f.as_str())) {
            return Ok(());
        }
        // Training data may call its columns anything: only names of ours say which window columns are meant.
        let said_by_us = found.entry.is_some();
        if !said_by_us && names.iter().any(|n| n.parse::<Feature>().is_err()) {
            return Ok(());
        }
        Err(format!("takes the features {}, and {} are given", names.join(", "), list()))
    }
}

/// With the exporter's own check rows where there are some.
fn stored(
    series: SeriesName,
    model: String,
    outcome: std::result::Result<Model, String>,
    checks: Vec<(Vec<f64>, f64)>,
    rows: Option<u64>,
) -> Stored {
    let mut stored = Stored::new(series, model, outcome);
    stored.checks = checks;
    stored.rows = rows.map_or(0, |rows| u32::try_from(rows).unwrap_or(u32::MAX));
    stored
}
