//! Files read and judged: each model for itself, several files and many models at once.

use super::budget::Budget;
use super::series_name;
use crate::models::format::{Models, Stored};
use crate::models::naming::{self, Pattern};
use crate::models::registry::blocking;
use crate::models::sources::{self, Listed, Source, Verdict};
use crate::models::{ModelError, Result};
use bytes::Bytes;
use fleetscore_formats::{self as formats, Format, Found, Limits, Refused};
use fleetscore_kernel::Model;
use fleetscore_pack::MAX_NAME;
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::window::Feature;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Files that are looked at at once.
const READ_AHEAD: usize = 16;
/// Models of one file that are judged in one go…
const CHUNK: usize = 4096;
/// …and their numbers.
const CHUNK_NUMBERS: usize = 1 << 18;
/// Refused entries of one file that are for no series and are told one by one; more are counted.
const TOLD: usize = 1000;

/// What every model is held against.
#[derive(Clone)]
pub(super) struct Expected {
    pub pattern: Arc<Pattern>,
    pub features: Vec<Feature>,
    /// The most models that are read.
    pub max_models: usize,
}

impl Expected {
    pub(super) fn new(pattern: &str, features: &[Feature], max_models: usize) -> Result<Self> {
        let pattern = Pattern::new(pattern).map_err(ModelError::Usage)?;
        Ok(Self { pattern: Arc::new(pattern), features: features.to_vec(), max_models })
    }

    pub(super) fn too_many(&self) -> ModelError {
        ModelError::Usage(format!(
            "setting `max_series`: the models are more than the {} series that are allowed",
            self.max_models
        ))
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

/// Models whose series are known, or why they are refused: as columns, a fifth of what they take one by one.
#[derive(Default)]
pub(crate) struct Candidates {
    pub models: Models,
    /// Place in a file of many (0: it is the file's only one), and whether it came as float32.
    pub places: Vec<(u32, bool)>,
}

impl Candidates {
    pub(super) fn push(&mut self, one: Candidate) {
        let entry = one.entry.map_or(0, |entry| u32::try_from(entry).unwrap_or(u32::MAX));
        self.places.push((entry, one.single_precision));
        self.models.push(one.stored);
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, i: usize) -> Candidate {
        let (entry, single_precision) = self.places[i];
        let entry = (entry > 0).then_some(u64::from(entry));
        Candidate { stored: self.models.stored(i), entry, single_precision }
    }

    /// One by one, in the order of the file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Candidate> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// What one file gave.
pub(crate) struct FromFile {
    pub path: String,
    pub format: Option<Format>,
    pub candidates: Candidates,
    /// What is refused and for no series: `path` or `path#entry`, and why.
    pub refused: Vec<(String, String)>,
    /// How many more entries are.
    untold: usize,
    /// The file itself, if it is passed over.
    pub skipped: Option<(String, String)>,
}

impl FromFile {
    fn new(path: &str) -> Self {
        let candidates = Candidates::default();
        Self { path: path.to_owned(), format: None, candidates, refused: vec![], untold: 0, skipped: None }
    }

    fn refuse(&mut self, place: String, why: String) {
        match self.refused.len() < TOLD {
            true => self.refused.push((place, why)),
            false => self.untold += 1,
        }
    }
}

/// Reads all files; they are handed on in order.
///
/// # Errors
/// Only what is no file's fault.
pub(super) async fn read_all(
    listed: Vec<Listed>,
    expected: Expected,
    mut to: impl FnMut(FromFile) -> Result<()>,
) -> Result<()> {
    let budget = Arc::new(Budget::default());
    futures::stream::iter(sources::once(listed))
        .map(|listed| {
            let (expected, budget) = (expected.clone(), budget.clone());
            async move { File::new(listed, expected).read(&budget).await }
        })
        .buffered(READ_AHEAD)
        .try_for_each(|file| std::future::ready(to(file)))
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
    /// Whether it may hold many models: by its name, or by its first bytes.
    many: bool,
}

impl File {
    fn new(listed: Listed, expected: Expected) -> Self {
        let Listed { source, series } = listed;
        let (named, stem) = expected.pattern.split(&source.file_name);
        // A name that is not what it shows, and that of a folder, say nothing.
        let named = named.filter(|_| source.verdict() == Verdict::Read);
        let (listed, stem) = (series.is_some(), stem.to_owned());
        let many = naming::holds_many(&source.file_name);
        Self { series: series.or(named), listed, stem, many, source, expected }
    }

    async fn read(mut self, budget: &Budget) -> Result<FromFile> {
        let mut read = FromFile::new(&self.source.path);
        match self.verdict().await? {
            Verdict::Read => {}
            Verdict::Refused(why) => {
                self.refuse(&mut read, why);
                return Ok(read);
            }
            Verdict::Skipped(why) => {
                read.skipped = Some((read.path, why));
                read.path = self.source.path;
                return Ok(read);
            }
        }
        // Files of many models are large, and taken apart by all cores: one at a time.
        let _one = budget.many(self.many).await;
        let bytes = match self.source.held(self.many).await? {
            Ok(size) => {
                let held = budget.held(size).await;
                self.source.read(self.many).await?.map(|bytes| (bytes, held))
            }
            Err(why) => Err(why),
        };
        let (bytes, _held) = match bytes {
            Ok(bytes) => bytes,
            Err(why) => {
                self.refuse(&mut read, why);
                return Ok(read);
            }
        };
        let _work = budget.work(formats::memory(&bytes, &self.source.file_name, &Limits::default())).await;
        let file = Arc::new(self);
        file.clone().models(bytes, &mut read).await?;
        if read.candidates.len() == 0 && read.refused.is_empty() {
            file.refuse(&mut read, "holds no model".into());
        }
        if read.untold > 0 {
            let why = format!("holds {} more entries that are refused", read.untold);
            read.refused.push((read.path.clone(), why));
        }
        Ok(read)
    }

    /// Whether the file is read. What lies in a folder and is plainly something else is skipped; what its name or its
    /// first bytes call a model must have a series, or be able to name it.
    async fn verdict(&mut self) -> Result<Verdict> {
        let verdict = self.source.verdict();
        let name = self.source.file_name.as_str();
        if verdict == Verdict::Read && !self.source.explicit && naming::is_other(name) {
            // `model_1_1.sha256` beside `model_1_1` is of the pattern by accident, unless it is a model after all.
            let beside = match self.series {
                None => true,
                Some(_) => self.source.head().await?.is_ok_and(|head| formats::recognise(&head).is_none()),
            };
            if beside {
                return Ok(Verdict::Skipped("is no file of models by its name".into()));
            }
        }
        if verdict != Verdict::Read || self.series.is_some() || self.many {
            return Ok(verdict);
        }
        let head = match self.source.head().await? {
            Ok(head) => head,
            Err(why) => return Ok(Verdict::Refused(why)),
        };
        let found = formats::recognise(&head);
        if found.is_some_and(Format::holds_many) {
            self.many = true;
            return Ok(Verdict::Read);
        }
        let why = format!("has a name that is not of the pattern `{}`", self.expected.pattern);
        let known = self.source.explicit || naming::is_known(name) || found.is_some();
        Ok(match (known, found) {
            (false, _) => Verdict::Skipped(format!("{why}, and begins as no file of models does")),
            (true, None) => Verdict::Refused(why),
            (true, Some(format)) => Verdict::Refused(format!(
                "{why}, and it is {format}: rename it, or name its series in a list"
            )),
        })
    }

    /// Refuses the file as a whole.
    fn refuse(&self, read: &mut FromFile, reason: String) {
        match &self.series {
            Some(series) => read.candidates.push(Candidate {
                stored: Stored::new(series.clone(), self.stem.clone(), Err(reason)),
                entry: None,
                single_precision: false,
            }),
            None => read.refuse(read.path.clone(), reason),
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
                let chunk = chunk(&mut models);
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
                        Err((place, why)) => read.refuse(place, why),
                    }
                }
                let fits = read.candidates.len() <= self.expected.max_models;
                std::future::ready(if fits { Ok(()) } else { Err(self.expected.too_many()) })
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
        if model.len() > MAX_NAME || model.chars().any(char::is_control) {
            let why = format!(
                "has a name of {} bytes, or with control characters: at most {MAX_NAME} are allowed, and none",
                model.len()
            );
            let stored = Stored::new(series.clone(), self.expected.pattern.name(&series), Err(why));
            return Ok(Candidate { stored, entry, single_precision: false });
        }
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

/// The next models that are judged in one go.
fn chunk(models: &mut formats::Models) -> Vec<std::result::Result<Found, Refused>> {
    let (mut chunk, mut numbers) = (Vec::new(), 0);
    while chunk.len() < CHUNK && numbers < CHUNK_NUMBERS {
        let Some(one) = models.next() else { break };
        if let Ok(found) = &one {
            let f = found.model.features;
            numbers += found.model.dual_coef.len() * (f + 1) + found.checks.len() * (f + 8);
        }
        chunk.push(one);
    }
    chunk
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
