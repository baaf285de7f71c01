//! The manifest: what a set consists of, and what was known of it when it was made.

use crate::error::{PackError, damaged};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Version of the layout of a set: [`Manifest::format`].
pub const SET_FORMAT: u32 = 3;

/// A manifest has at most so many bytes; that of a million small models has about 10,000.
pub const MAX_MANIFEST: usize = 16 << 20;

/// What a set consists of. Written last, so that nobody sees a set before it is whole.
///
/// It has the checksums of all files, and the set's row in SQL has that of its own bytes ([`Manifest::checksum`]): so that
/// one covers everything that is said of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SET_FORMAT`] it was written with.
    pub format: u32,
    /// Version of the set.
    pub version: i64,
    /// `import` or `train`.
    pub origin: String,
    /// Who made it.
    pub created_by: String,
    /// When, RFC 3339 by the store's clock.
    pub created_at: String,
    /// The input columns of its models, in order.
    pub features: Vec<String>,
    /// How its models are named where a name is not stored: with `{device}` and `{sensor}`.
    pub pattern: String,
    /// Number of usable models.
    pub models: u64,
    /// Number of entries that were refused.
    pub refused: u64,
    /// Start and end of the windows it was trained on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<(String, String)>,
    /// Number of rows that its models were trained on, all together, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_rows: Option<u64>,
    /// The shards, ascending by series.
    pub parts: Vec<Part>,
}

/// One shard of a set, with its check vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The shard's file.
    #[serde(flatten)]
    pub file: SetFile,
    /// Its first and its last series.
    pub series: (u32, u32),
    /// The file of its check vectors, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<SetFile>,
}

/// A file in a set's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetFile {
    /// Its name.
    pub name: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl SetFile {
    /// What is to be said of these bytes.
    pub fn of(name: String, rows: usize, bytes: &[u8]) -> Self {
        Self { name, rows: rows as u64, bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }

    /// Whether these are the bytes.
    ///
    /// # Errors
    /// [`PackError::Damaged`] says what differs.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), PackError> {
        let Self { name, bytes: wanted, sha256: recorded, .. } = self;
        if bytes.len() as u64 != *wanted {
            return damaged(format!("{name} has {} bytes, recorded are {wanted}", bytes.len()));
        }
        let found = sha256(bytes);
        if found != *recorded {
            return damaged(format!("the checksum of {name} is {found}, recorded is {recorded}"));
        }
        Ok(())
    }
}

impl Manifest {
    /// SHA-256 of a manifest's bytes as they are stored, hex.
    pub fn checksum(bytes: &[u8]) -> String {
        sha256(bytes)
    }

    /// Reads a manifest and checks that it fits together: its version, the files' names (which have no path in them),
    /// series that ascend from part to part, numbers of rows. Whether these are the bytes that were written,
    /// [`Manifest::checksum`] tells.
    ///
    /// # Errors
    /// [`PackError::Newer`] for that of a later version, [`PackError::Older`] for one that is not read any more, else
    /// [`PackError::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PackError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        if bytes.len() > MAX_MANIFEST {
            return damaged(format!(
                "the manifest has {} bytes, at most {MAX_MANIFEST} are read",
                bytes.len()
            ));
        }
        let unreadable = |e: serde_json::Error| PackError::Damaged(format!("the manifest: {e}"));
        let Head { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > SET_FORMAT {
            return Err(PackError::Newer { found: format, known: SET_FORMAT });
        }
        if format < SET_FORMAT {
            return Err(PackError::Older { found: format, known: SET_FORMAT });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), PackError> {
        let mut names = HashSet::new();
        for file in self.parts.iter().flat_map(|p| std::iter::once(&p.file).chain(&p.checks)) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let name = &file.name;
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) || !names.insert(name) {
                return damaged(format!("the manifest: a file is named `{name}`, or two are"));
            }
        }
        let ascend = |w: &[Part]| w[0].series.1 < w[1].series.0;
        if !self.parts.windows(2).all(ascend) || self.parts.iter().any(|p| p.series.0 > p.series.1) {
            return damaged("the manifest: the series of its parts do not ascend");
        }
        let rows = self.parts.iter().try_fold(0_u64, |sum, p| sum.checked_add(p.file.rows));
        if rows.is_none() || rows != self.models.checked_add(self.refused) {
            return damaged("the manifest: its parts have not as many rows as it has models and refusals");
        }
        Ok(())
    }
}

/// SHA-256, hex.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
