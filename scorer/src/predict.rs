//! Scoring rows with models straight from their files: no store, no stream.
//!
//! The models are those [`crate::models::import()`] would take, read by the same rules; a model that cannot be read
//! does not keep the others from scoring.

use crate::models::{DEFAULT_PATTERN, ModelError, Result, ranges_text, read_files};
use crate::plan;
use fleetscore_kernel::{Model, ModelColumns, NO_MODEL, is_anomaly, normal_intervals};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::status::PredictionStatus;
use fleetscore_schemas::window::Feature;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Between device and sensor in a key: names have no control characters.
const SEPARATOR: u8 = 0x1f;

/// Most anomalies of models of several features that are explained, the first ones: as many as of an interval that is scored.
pub const EXPLAINED: usize = plan::EXPLAINED;

/// Which models are read, and how.
#[derive(Debug, Clone)]
pub struct ModelSources {
    /// Files, folders (followed downwards), or blob URLs of either.
    pub paths: Vec<String>,
    /// How file names are made of device and sensor, see [`crate::models::Pattern`].
    pub pattern: String,
    /// What the models take, in order.
    pub features: Vec<Feature>,
}

impl Default for ModelSources {
    fn default() -> Self {
        Self { paths: vec![], pattern: DEFAULT_PATTERN.into(), features: vec![Feature::Mean] }
    }
}

/// Models of files, by series.
#[derive(Debug)]
pub struct ModelFiles {
    /// What the models take, in order.
    features: Vec<Feature>,
    columns: ModelColumns,
    /// Key of a series, see [`write_key`], to its model.
    series: HashMap<Vec<u8>, u32>,
    /// What a model calls normal, in words; worked out when it first calls something else.
    normal: Vec<OnceLock<Option<String>>>,
    /// Models that work.
    pub models: usize,
    /// Paths that gave no model, with the reason; their series' rows become `model_error` where the series is known.
    pub refused: Vec<(String, String)>,
    /// Files in folders whose names are not of the pattern.
    pub skipped: Vec<String>,
}

/// Writes the key by which [`ModelFiles::find`] knows a series in place of what the buffer held.
pub fn write_key(key: &mut Vec<u8>, device: &[u8], sensor: &[u8]) {
    key.clear();
    key.extend_from_slice(device);
    key.push(SEPARATOR);
    key.extend_from_slice(sensor);
}

impl ModelFiles {
    /// Reads the models of all sources.
    ///
    /// # Errors
    /// [`ModelError::Usage`] where a source cannot be listed or no file has a name of the pattern;
    /// [`ModelError::Refused`] where there are files, and none holds a model that works.
    pub async fn load(options: &ModelSources) -> Result<Self> {
        let features = options.features.len();
        if features == 0 {
            return Err(ModelError::Usage("--features: at least one is needed".into()));
        }
        let mut files = Self {
            features: options.features.clone(),
            columns: ModelColumns::new(features),
            series: HashMap::new(),
            normal: vec![],
            models: 0,
            refused: vec![],
            skipped: vec![],
        };
        let mut paths = HashMap::new();
        for file in read_files(&options.paths, &options.pattern, &options.features).await? {
            files.refused.extend(file.refused);
            files.skipped.extend(file.skipped.map(|(path, _)| path));
            for candidate in file.candidates.iter() {
                let place = candidate.place(&file.path);
                files.add(place, &candidate.stored.name, candidate.stored.outcome, &mut paths);
            }
        }
        if files.models == 0 && !files.refused.is_empty() {
            return Err(ModelError::Refused { refused: files.refused, skipped: Vec::new() });
        }
        if files.models == 0 {
            return Err(ModelError::Usage(format!(
                "there is no model: no file with a name like `{}` in {}",
                options.pattern,
                options.paths.join(", ")
            )));
        }
        Ok(files)
    }

    /// Adds what a file gave for a series. Two files for one series leave it without a model that works.
    fn add(
        &mut self,
        path: String,
        series: &SeriesName,
        model: std::result::Result<Model, String>,
        paths: &mut HashMap<u32, String>,
    ) {
        let mut key = Vec::new();
        write_key(&mut key, series.device.as_bytes(), series.sensor.as_bytes());
        if let Some(at) = self.series.get_mut(&key) {
            let other = paths[&*at].clone();
            self.refused.push((path.clone(), format!("is for {series}, and so is {other}")));
            if self.columns.columns().model(*at as usize).is_some() {
                self.refused.push((other.clone(), format!("is for {series}, and so is {path}")));
                self.models -= 1;
                *at = self.columns.push(None).expect("an entry without a model breaks no rule");
                paths.insert(*at, other);
                self.normal.push(OnceLock::new());
            }
            return;
        }
        let pushed = model.and_then(|m| self.columns.push(Some(&m)).map_err(|e| e.to_string()));
        let index = match pushed {
            Ok(index) => {
                self.models += 1;
                index
            }
            Err(reason) => {
                self.refused.push((path.clone(), reason));
                self.columns.push(None).expect("an entry without a model breaks no rule")
            }
        };
        self.normal.push(OnceLock::new());
        paths.insert(index, path);
        self.series.insert(key, index);
    }

    /// The model of a series by its key; [`NO_MODEL`] where there is none.
    #[inline]
    pub fn find(&self, key: &[u8]) -> u32 {
        self.series.get(key).copied().unwrap_or(NO_MODEL)
    }

    /// Decisions of rows, see [`fleetscore_kernel::Columns::decisions`]: `inputs` holds one column for each feature.
    /// Rows of one model are scored together, wherever they stand.
    ///
    /// # Panics
    /// If the lengths differ, or an index is not one of [`ModelFiles::find`].
    pub fn decisions(&self, models: &[u32], inputs: &[Vec<f64>], out: &mut Vec<f64>) {
        let mut order: Vec<u32> = (0..models.len() as u32).collect();
        order.sort_unstable_by_key(|i| (models[*i as usize], *i));
        let sorted: Vec<u32> = order.iter().map(|i| models[*i as usize]).collect();
        let gather = |c: &Vec<f64>| order.iter().map(|i| c[*i as usize]).collect::<Vec<f64>>();
        let gathered: Vec<Vec<f64>> = inputs.iter().map(gather).collect();
        let slices: Vec<&[f64]> = gathered.iter().map(Vec::as_slice).collect();
        let mut decisions = vec![f64::NAN; models.len()];
        self.columns.columns().decisions(&sorted, &slices, &mut decisions);
        out.clear();
        out.resize(models.len(), f64::NAN);
        for (i, d) in order.iter().zip(decisions) {
            out[*i as usize] = d;
        }
    }

    /// What becomes of a row: whether its features are finite numbers, its model, and its decision.
    pub fn status(&self, valid: bool, model: u32, decision: f64) -> PredictionStatus {
        match model {
            _ if !valid => PredictionStatus::InputInvalid,
            NO_MODEL => PredictionStatus::NoModel,
            _ if !decision.is_finite() => PredictionStatus::ModelError,
            _ => PredictionStatus::Scored,
        }
    }

    /// What a model of one feature calls normal, in words; `None` for other models, and where that is not known.
    pub fn normal_range(&self, model: u32) -> Option<&str> {
        let of_model = || {
            let m = self.columns.columns().model(model as usize).filter(|m| m.features == 1)?;
            Some(ranges_text(&normal_intervals(&m)?))
        };
        self.normal.get(model as usize)?.get_or_init(of_model).as_deref()
    }

    /// Whether the models take several features, so that [`ModelFiles::nearest_normal`] explains their anomalies.
    pub fn has_several_features(&self) -> bool {
        self.features.len() > 1
    }

    /// For a row of several features that its model calls an anomaly: the nearest normal value along each, the others
    /// held, as scoring says it. A search of hundreds of decisions: callers ask for at most [`EXPLAINED`].
    pub fn nearest_normal(&self, model: u32, row: &[f64]) -> Option<String> {
        let model = self.columns.columns().model(model as usize)?;
        let mut text = String::new();
        plan::write_nearest(&mut text, &self.features, &model, row).ok()?;
        Some(text)
    }
}

/// The reference's label of a decision: 1 = anomaly.
pub fn label(decision: f64) -> u8 {
    u8::from(is_anomaly(decision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_kernel::Kernel;

    fn bell(at: f64) -> Model {
        Model {
            features: 1,
            mean: vec![],
            scale: vec![],
            kernel: Kernel::Rbf { gamma: 0.25 },
            support_vectors: vec![at, at + 1.0],
            dual_coef: vec![1.0, 0.5],
            rho: 0.5,
        }
    }

    fn files(models: Vec<(&str, &str, std::result::Result<Model, String>)>) -> ModelFiles {
        let mut files = ModelFiles {
            features: vec![Feature::Mean],
            columns: ModelColumns::new(1),
            series: HashMap::new(),
            normal: vec![],
            models: 0,
            refused: vec![],
            skipped: vec![],
        };
        let mut paths = HashMap::new();
        for (i, (device, sensor, model)) in models.into_iter().enumerate() {
            files.add(format!("file-{i}"), &SeriesName::new(device, sensor), model, &mut paths);
        }
        files
    }

    fn find(files: &ModelFiles, device: &str, sensor: &str) -> u32 {
        let mut key = b"what was there".to_vec();
        write_key(&mut key, device.as_bytes(), sensor.as_bytes());
        files.find(&key)
    }

    #[test]
    fn rows_of_all_models_in_any_order_get_their_own_decisions() {
        let models: Vec<Model> = (0..7).map(|i| bell(f64::from(i) * 10.0)).collect();
        let names: Vec<String> = (0..7).map(|i| format!("d{i}")).collect();
        let files = files(names.iter().zip(&models).map(|(n, m)| (n.as_str(), "s", Ok(m.clone()))).collect());
        let rows: Vec<(u32, f64)> = (0..200u32)
            .map(|i| match i * 31 % 8 {
                7 => (find(&files, "d7", "s"), f64::from(i)),
                d => (find(&files, &format!("d{d}"), "s"), f64::from(d) * 10.0 + f64::from(i % 5)),
            })
            .collect();
        let of: Vec<u32> = rows.iter().map(|r| r.0).collect();
        let mut out = vec![1.0; 3];
        files.decisions(&of, &[rows.iter().map(|r| r.1).collect()], &mut out);
        for ((model, x), d) in rows.iter().zip(&out) {
            if *model == NO_MODEL {
                assert!(d.is_nan());
                assert_eq!(files.status(true, *model, *d), PredictionStatus::NoModel);
            } else {
                assert_eq!(d.to_bits(), models[*model as usize].decision(&[*x]).to_bits());
                assert_eq!(files.status(true, *model, *d), PredictionStatus::Scored);
            }
            assert_eq!(files.status(false, *model, *d), PredictionStatus::InputInvalid);
        }
    }

    #[test]
    fn two_files_for_a_series_and_a_refused_one_harm_no_other() {
        let f = files(vec![
            ("a", "x", Ok(bell(0.0))),
            ("a", "y", Err("is no model".into())),
            ("b", "x", Ok(bell(1.0))),
            ("a", "x", Ok(bell(2.0))),
            ("a", "x", Ok(bell(3.0))),
        ]);
        assert_eq!(f.models, 1);
        let refused: Vec<&str> = f.refused.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(refused, ["file-1", "file-3", "file-0", "file-4"]);
        for i in [1, 3] {
            assert!(f.refused[i].1.contains("is for a/x, and so is file-0"), "{:?}", f.refused);
        }
        let of = [find(&f, "a", "x"), find(&f, "a", "y"), find(&f, "b", "x"), find(&f, "b", "y")];
        let mut out = vec![];
        f.decisions(&of, &[vec![1.0; 4]], &mut out);
        let statuses: Vec<_> = of.iter().zip(&out).map(|(m, d)| f.status(true, *m, *d).as_str()).collect();
        assert_eq!(statuses, ["model_error", "model_error", "scored", "no_model"]);
        assert!(f.normal_range(of[2]).is_some_and(|t| t.contains('…')));
        assert_eq!((f.normal_range(of[0]), f.normal_range(of[3])), (None, None));
    }

    #[test]
    fn a_model_for_other_features_is_refused() {
        let two = Model { features: 2, support_vectors: vec![0.0; 4], ..bell(0.0) };
        let f = files(vec![("a", "x", Ok(two))]);
        assert_eq!(f.models, 0);
        assert!(f.refused[0].1.contains("takes 2 features, and 1 are given"), "{:?}", f.refused);
    }
}
