//! What a long training leaves behind as it goes: one immutable object for each chunk of series that is done, so that
//! the same command goes on where a killed one ended.
//!
//! ```text
//! models/training/<job>/job.json                     what it is, and the range of windows it began with
//! models/training/<job>/<id>-chunk-00000000.parquet  the first chunk: series by series a model, or why there is none
//! ```
//!
//! `<job>` is a digest of everything that decides the result: options, source, store, version of the program. `<id>`
//! is that of one beginning: a training that begins anew takes another one, so that nothing an earlier one leaves, or
//! still writes, is ever read by it. Chunks follow each other in the order of the source; each says behind which series
//! it begins and with which it ends.
//!
//! **Two at once.** Whoever opens a job writes itself into `job.json` and goes on with it; who was there before finds
//! that out when it keeps its next chunk, and ends with an error. So a killed training is gone on with at once (nobody
//! waits for a lease), and of two at the same time one makes the set, unless the other one begins in the moment in which
//! the set is added (then both do), or both begin in the same moment (each may take the job from the other: the same
//! command, given again, makes the set).
//!
//! **Leftovers.** Objects of other beginnings and chunks that cannot be read go when a job is opened, all of a job when
//! its set is there, and what nobody went on with for [`ABANDONED_US`] when the next long training begins.

use super::TrainOptions;
use super::chunk::Chunk;
use super::fits::Fit;
use crate::blobs::{BlobError, Blobs};
use crate::models::registry::blocking;
use crate::models::{ModelError, Result};
use bytes::Bytes;
use fleetscore_schemas::time::{Interval, Timestamp};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Version of the layout.
const FORMAT: u32 = 3;
/// The object that describes a job.
const DESCRIPTION: &str = "job.json";
/// Where all jobs are.
pub(super) const ROOT: &str = "models/training";
/// A job without a fixed range is not gone on with after so long: the windows of its time are not the newest any more.
const MAX_AGE_US: i64 = 24 * 3600 * 1_000_000;
/// What was not written to for so long is nobody's.
const ABANDONED_US: i64 = 7 * 24 * 3600 * 1_000_000;

/// What `job.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    format: u32,
    /// This beginning.
    id: String,
    /// The process that works on it.
    owner: String,
    /// Everything that decides the result, see [`what`].
    what: String,
    began_us: i64,
    /// Start and end in microseconds, where windows of a store are trained on.
    range_us: Option<(i64, i64)>,
}

/// A training that can be gone on with.
#[derive(Debug)]
pub(super) struct Job {
    blobs: Blobs,
    folder: String,
    about: About,
    /// Finished chunks.
    chunks: usize,
    /// The last series of the last chunk.
    last: Option<u64>,
    /// Series with a model or a failure in these chunks.
    pub(super) fits: u64,
    /// Those of them without a model.
    pub(super) failed: u64,
}

/// Everything that decides what a training gives, as text.
pub(super) fn what(options: &TrainOptions, source: &str, store: &str) -> String {
    let o = options;
    format!(
        "{FORMAT} {} {store} {source:?} {:?} {:?} {} {:?} {} {:?} {} {} {} {} {} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        o.from,
        o.to,
        o.window_us,
        o.features,
        o.nu.to_bits(),
        o.gamma,
        o.tolerance.to_bits(),
        o.max_iterations,
        o.min_rows,
        o.max_rows,
        o.standardise,
        o.sampling,
        o.series.as_ref().map(regex::Regex::as_str),
    )
}

impl Job {
    /// Finds the job and what of it is done, or begins it; from here on it is ours.
    pub(super) async fn open(
        blobs: &Blobs,
        what: String,
        now: Timestamp,
        range: Option<Interval>,
        restart: bool,
    ) -> Result<Self> {
        let digest: String = Sha256::digest(&what)[..8].iter().map(|b| format!("{b:02x}")).collect();
        let range_us = range.map(|r| (r.start.0, r.end.0));
        let (id, owner) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let about = About { format: FORMAT, id, owner, what, began_us: now.0, range_us };
        let folder = format!("{ROOT}/{digest}");
        let mut job = Self { blobs: blobs.clone(), folder, about, chunks: 0, last: None, fits: 0, failed: 0 };
        let found = blobs.get_opt(&job.description()).await?;
        let same = |found: &About| found.what == job.about.what && fresh(found, &job.about);
        let earlier = found.as_ref().and_then(|b| serde_json::from_slice(b).ok()).filter(same);
        let goes_on = earlier.is_some() && !restart;
        if let Some(earlier) = earlier.filter(|_| !restart) {
            let About { id, began_us, range_us, .. } = earlier;
            job.about = About { id, began_us, range_us, ..job.about };
        }
        let bytes: Bytes =
            serde_json::to_vec(&job.about).map_err(|e| ModelError::Internal(e.to_string()))?.into();
        if found.is_some() {
            let path = blobs.path(&job.description());
            blobs.store.put(&path, bytes.into()).await.map_err(|e| blobs.error(&job.description(), e))?;
        } else if !blobs.put_create(&job.description(), bytes).await? {
            return Err(at_once()); // somebody was faster
        }
        if let Err(e) = job.sweep(now).await {
            tracing::warn!("what earlier trainings left could not be removed: {e}");
        }
        if goes_on {
            job.count().await?;
        }
        Ok(job)
    }

    /// When it began, by the store's clock.
    pub(super) fn began(&self) -> Timestamp {
        Timestamp(self.about.began_us)
    }

    /// The windows it is about, which stay the same when newer ones arrive.
    pub(super) fn range(&self) -> Option<Interval> {
        self.about.range_us.map(|(s, e)| Interval { start: Timestamp(s), end: Timestamp(e) })
    }

    /// Removes what is of other beginnings of this job, and other jobs that nobody goes on with.
    async fn sweep(&self, now: Timestamp) -> Result<()> {
        let (root, ours) = (self.blobs.path(ROOT), self.blobs.path(&self.folder));
        let all: Vec<ObjectMeta> =
            self.blobs.store.list(Some(&root)).try_collect().await.map_err(|e| self.blobs.error(ROOT, e))?;
        let mut others: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
        for object in all {
            if !object.location.prefix_matches(&ours) {
                let folder = object.location.prefix_match(&root).and_then(|mut parts| parts.next());
                let folder = folder.map(|f| f.as_ref().to_owned()).unwrap_or_default();
                others.entry(folder).or_default().push(object);
            } else if !self.is_ours(&object.location) {
                self.delete(&object.location).await?;
            }
        }
        let long_ago =
            |o: &ObjectMeta| now.0.saturating_sub(o.last_modified.timestamp_micros()) > ABANDONED_US;
        for object in others.into_values().filter(|all| all.iter().all(long_ago)).flatten() {
            self.delete(&object.location).await?;
        }
        Ok(())
    }

    /// Whether an object of this job's folder is the description, or a chunk of this beginning.
    fn is_ours(&self, path: &Path) -> bool {
        path.filename().is_some_and(|name| name == DESCRIPTION || name.starts_with(&self.about.id))
    }

    async fn delete(&self, path: &Path) -> Result<()> {
        match self.blobs.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.blobs.error(path.as_ref(), e).into()),
        }
    }

    /// Looks at the chunks that are there; what is behind one that cannot be read is of no use.
    async fn count(&mut self) -> Result<()> {
        let mut useless = false;
        for object in self.blobs.list(&self.folder).await? {
            if object.name == self.description() {
                continue;
            }
            if !useless && object.name == self.object(self.chunks) {
                match self.read(self.chunks).await?.filter(|c| c.after == self.last) {
                    Some(chunk) => {
                        self.took(&chunk);
                        continue;
                    }
                    None => useless = true,
                }
            }
            self.delete(&self.blobs.path(&object.name)).await?;
        }
        Ok(())
    }

    fn took(&mut self, chunk: &Chunk) {
        self.chunks += 1;
        self.last = Some(chunk.upto);
        self.fits += chunk.fits.len() as u64;
        self.failed += chunk.fits.iter().filter(|f| f.outcome.is_err()).count() as u64;
    }

    /// The last series that is done with, by its place in the source's order.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Finished chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether it is still ours: nobody has gone on with it, begun it anew or ended it.
    pub(super) async fn is_held(&self) -> Result<bool> {
        let found = self.blobs.get_opt(&self.description()).await?;
        let found: Option<About> = found.and_then(|b| serde_json::from_slice(&b).ok());
        Ok(found.is_some_and(|f| f.id == self.about.id && f.owner == self.about.owner))
    }

    /// As [`Job::is_held`].
    ///
    /// # Errors
    /// [`ModelError::Failed`] where it is not.
    pub(super) async fn confirm(&self) -> Result<()> {
        if self.is_held().await? { Ok(()) } else { Err(at_once()) }
    }

    /// Keeps the next chunk: the fits of all series behind the last one, up to this one.
    ///
    /// # Errors
    /// [`ModelError::Failed`] where the job is not ours any more.
    pub(super) async fn keep(&mut self, fits: Vec<Fit>, upto: u64) -> Result<()> {
        let chunk = Arc::new(Chunk { after: self.last, upto, fits });
        let encoding = chunk.clone();
        let bytes =
            blocking(move || encoding.encode().map_err(|e| ModelError::Internal(e.to_string()))).await?;
        self.confirm().await?;
        match self.blobs.put_immutable(&self.object(self.chunks), bytes).await {
            // Whoever had the job before us was just putting it: the same options make the same chunk.
            Err(BlobError::Exists { .. }) if self.is_held().await? => {
                let there = self.read(self.chunks).await?;
                if there.is_none_or(|c| (c.after, c.upto) != (chunk.after, chunk.upto)) {
                    return Err(ModelError::Failed(
                        "another training with the same options was at the same series at this moment: the same \
                         command goes on from there"
                            .into(),
                    ));
                }
            }
            Err(BlobError::Exists { .. }) => return Err(at_once()),
            put => put?,
        }
        self.took(&chunk);
        Ok(())
    }

    /// The fits of one finished chunk.
    ///
    /// # Errors
    /// [`ModelError::Failed`] where it is gone or cannot be read any more.
    pub(super) async fn fits(&self, chunk: usize) -> Result<Vec<Fit>> {
        let object = self.object(chunk);
        let Some(bytes) = self.blobs.get_opt(&object).await? else {
            // Whoever had the job before us has ended, and was just removing it as we took it over.
            self.remove().await?;
            return Err(at_once());
        };
        match blocking(move || Ok(Chunk::decode(bytes))).await? {
            Ok(chunk) => Ok(chunk.fits),
            Err(e) => {
                self.confirm().await?;
                let what = format!("`{object}` was damaged meanwhile ({e}): the same command makes it again");
                Err(ModelError::Failed(what))
            }
        }
    }

    /// Removes all that was kept; where somebody else has the job, it is left to them.
    pub(super) async fn remove(&self) -> Result<()> {
        if !self.is_held().await? {
            return Ok(());
        }
        // Without the description, chunks belong to nothing: a kill from here on leaves none that is gone on with.
        self.delete(&self.blobs.path(&self.description())).await?;
        for chunk in 0..self.chunks {
            self.delete(&self.blobs.path(&self.object(chunk))).await?;
        }
        Ok(())
    }

    fn description(&self) -> String {
        format!("{}/{DESCRIPTION}", self.folder)
    }

    fn object(&self, chunk: usize) -> String {
        format!("{}/{}-chunk-{chunk:08}.parquet", self.folder, self.about.id)
    }

    /// `None` where it is missing or cannot be read.
    async fn read(&self, chunk: usize) -> Result<Option<Chunk>> {
        let object = self.object(chunk);
        let Some(bytes) = self.blobs.get_opt(&object).await? else { return Ok(None) };
        match blocking(move || Ok(Chunk::decode(bytes))).await? {
            Ok(chunk) => Ok(Some(chunk)),
            Err(e) => {
                tracing::warn!("`{object}` of an earlier training cannot be read and is made again: {e}");
                Ok(None)
            }
        }
    }
}

fn fresh(found: &About, now: &About) -> bool {
    found.range_us == now.range_us || now.began_us.saturating_sub(found.began_us) < MAX_AGE_US
}

fn at_once() -> ModelError {
    ModelError::Failed(
        "another training with the same options goes on with what this one has done, or has just ended: see \
         `fleetscore models list`"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::train::{Gamma, Sampling};
    use fleetscore_schemas::SeriesName;
    use fleetscore_schemas::window::Feature;
    use object_store::memory::InMemory;

    fn blobs() -> Blobs {
        Blobs::on(Arc::new(InMemory::new()), Path::default())
    }

    fn now() -> Timestamp {
        Timestamp::from(chrono::Utc::now())
    }

    async fn open(blobs: &Blobs, what: &str, end: i64, restart: bool) -> Result<Job> {
        let range = Interval { start: Timestamp(0), end: Timestamp(end) };
        Job::open(blobs, what.into(), now(), Some(range), restart).await
    }

    /// Fits of these series that say who made them.
    fn fits(keys: std::ops::Range<u64>, by: &str) -> Vec<Fit> {
        let fit = |key| Fit {
            key,
            name: SeriesName::new(key.to_string(), "s"),
            seen: 1,
            rows: 1,
            outcome: Err(by.to_owned()),
        };
        keys.map(fit).collect()
    }

    async fn makers(job: &Job) -> Vec<String> {
        let mut all = Vec::new();
        for chunk in 0..job.chunks() {
            all.extend(job.fits(chunk).await.unwrap().into_iter().filter_map(|f| f.outcome.err()));
        }
        all
    }

    fn told<T: std::fmt::Debug>(result: Result<T>) -> bool {
        matches!(result, Err(ModelError::Failed(text)) if text.contains("another training"))
    }

    #[tokio::test]
    async fn whoever_comes_later_goes_on_and_the_earlier_one_is_told() {
        let blobs = blobs();
        let mut first = open(&blobs, "x", 10, false).await.unwrap();
        first.keep(fits(0..2, "first"), 1).await.unwrap();
        let mut second = open(&blobs, "x", 20, false).await.unwrap();
        assert_eq!((second.last(), second.fits, second.failed), (Some(1), 2, 2));
        assert_eq!(second.range().unwrap().end.0, 10, "the windows it began with");
        assert!(told(first.confirm().await));
        assert!(told(first.keep(fits(2..4, "first"), 3).await));
        second.keep(fits(2..4, "second"), 3).await.unwrap();
        // The end of the earlier one takes nothing from the later one.
        first.remove().await.unwrap();
        assert_eq!(makers(&second).await, ["first", "first", "second", "second"]);
        second.remove().await.unwrap();
        assert!(told(second.confirm().await));
        assert_eq!(blobs.list("").await.unwrap(), []);
    }

    #[tokio::test]
    async fn nothing_of_another_beginning_enters_a_set() {
        let blobs = blobs();
        let mut old = open(&blobs, "x", 10, false).await.unwrap();
        old.keep(fits(0..2, "old"), 1).await.unwrap();
        let mut new = open(&blobs, "x", 20, true).await.unwrap();
        assert_eq!((new.last(), new.range().unwrap().end.0), (None, 20));
        new.keep(fits(0..2, "new"), 1).await.unwrap();
        // The old one looked before that, and writes behind what the new one has done.
        let late = Chunk { after: Some(1), upto: 3, fits: fits(2..4, "old") };
        let object = old.object(1);
        assert!(blobs.put_create(&object, late.encode().unwrap()).await.unwrap());
        let mut again = open(&blobs, "x", 30, false).await.unwrap();
        assert_eq!((again.last(), makers(&again).await), (Some(1), vec!["new".to_owned(); 2]));
        assert!(blobs.list(ROOT).await.unwrap().iter().all(|o| o.name != object), "it is cleared away");
        again.keep(fits(2..4, "new"), 3).await.unwrap();
        again.remove().await.unwrap();
        assert_eq!(blobs.list("").await.unwrap(), []);
    }

    #[tokio::test]
    async fn chunks_without_a_description_and_of_an_old_layout_are_in_nobodys_way() {
        let blobs = blobs();
        let job = open(&blobs, "x", 10, false).await.unwrap();
        let (folder, chunk) = (job.folder.clone(), Chunk { after: None, upto: 1, fits: fits(0..2, "old") });
        for name in ["chunk-00000.parquet", "5-chunk-00000.parquet"] {
            let bytes = chunk.encode().unwrap();
            assert!(blobs.put_create(&format!("{folder}/{name}"), bytes).await.unwrap());
        }
        for description in [None, Some("{\"format\":1,\"began_us\":0,\"range_us\":[0,10]}"), Some("junk")] {
            let path = blobs.path(&job.description());
            match description {
                None => blobs.store.delete(&path).await.unwrap(),
                Some(text) => drop(blobs.store.put(&path, text.into()).await.unwrap()),
            }
            let mut job = open(&blobs, "x", 10, false).await.unwrap();
            assert_eq!(job.last(), None, "{description:?}");
            job.keep(fits(0..1, "new"), 0).await.unwrap();
            assert_eq!(makers(&job).await, ["new"]);
            assert_eq!(blobs.list(ROOT).await.unwrap().len(), 2, "its description and its chunk");
        }
    }

    #[tokio::test]
    async fn what_nobody_goes_on_with_is_removed_after_a_week() {
        let blobs = blobs();
        let mut other = open(&blobs, "other", 10, false).await.unwrap();
        other.keep(fits(0..2, "other"), 1).await.unwrap();
        for (days, left) in [(6, 3), (8, 1)] {
            let later = now().plus_us(days * 24 * 3600 * 1_000_000);
            let job = Job::open(&blobs, format!("{days}"), later, None, false).await.unwrap();
            assert_eq!(blobs.list(ROOT).await.unwrap().len(), left, "after {days} days");
            job.remove().await.unwrap();
        }
        assert!(told(other.confirm().await));
    }

    #[tokio::test]
    async fn an_open_range_is_gone_on_with_for_a_day_and_a_fixed_one_longer() {
        for (end, hours, goes_on) in [(20, 23, true), (20, 25, false), (10, 1_000, true)] {
            let blobs = blobs();
            let mut job = open(&blobs, "x", 10, false).await.unwrap();
            job.keep(fits(0..2, "x"), 1).await.unwrap();
            let range = Interval { start: Timestamp(0), end: Timestamp(end) };
            let later = now().plus_us(hours * 3600 * 1_000_000);
            let job = Job::open(&blobs, "x".into(), later, Some(range), false).await.unwrap();
            assert_eq!(job.last().is_some(), goes_on, "{end} after {hours} hours");
        }
    }

    #[test]
    fn everything_that_decides_makes_another_job() {
        let one = TrainOptions::new(60_000_000);
        let random = |seed| TrainOptions { sampling: Sampling::Random { seed }, ..one.clone() };
        let series = |text: &str| TrainOptions { series: regex::Regex::new(text).ok(), ..one.clone() };
        let others = [
            TrainOptions { from: Some(Timestamp(1)), ..one.clone() },
            TrainOptions { to: Some(Timestamp(1)), ..one.clone() },
            TrainOptions { window_us: 120_000_000, ..one.clone() },
            TrainOptions { features: vec![Feature::Max], ..one.clone() },
            TrainOptions { features: vec![Feature::Mean, Feature::Max], ..one.clone() },
            TrainOptions { nu: 0.02, ..one.clone() },
            TrainOptions { gamma: Gamma::Auto, ..one.clone() },
            TrainOptions { gamma: Gamma::Value(1.0), ..one.clone() },
            TrainOptions { tolerance: 1e-4, ..one.clone() },
            TrainOptions { max_iterations: 7, ..one.clone() },
            TrainOptions { min_rows: 21, ..one.clone() },
            TrainOptions { max_rows: 999, ..one.clone() },
            TrainOptions { standardise: false, ..one.clone() },
            random(0),
            random(1),
            series("a"),
            series("b"),
        ];
        let mut all: Vec<String> = others.iter().map(|o| what(o, "windows", "store")).collect();
        all.extend([
            what(&one, "windows", "store"),
            what(&one, "a file", "store"),
            what(&one, "windows", "s"),
        ]);
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        // What does not decide is none of it.
        let same = TrainOptions {
            parallelism: 7,
            memory: 1,
            chunk: 3,
            restart: true,
            activate: false,
            ..one.clone()
        };
        assert_eq!(what(&same, "windows", "store"), what(&one, "windows", "store"));
    }
}
