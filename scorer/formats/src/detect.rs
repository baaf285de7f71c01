//! Which format a file is of: by its first bytes, and by its name where they leave it open.

use crate::FormatError;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// What `pickle.dump` writes.
    Pickle,
    /// What `joblib.dump` writes, plain or compressed with zlib or gzip.
    Joblib,
    /// What `skl2onnx` writes.
    Onnx,
    /// Plain numbers: one model, an array of models, or one model after the other (lines).
    Json,
    /// Plain numbers, one row a model.
    Parquet,
}

impl Format {
    /// Whether files of it may hold more than one model.
    pub fn holds_many(self) -> bool {
        matches!(self, Self::Json | Self::Parquet)
    }

    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pickle => "pickle",
            Self::Joblib => "joblib",
            Self::Onnx => "onnx",
            Self::Json => "json",
            Self::Parquet => "parquet",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// First bytes of the other files that people give, with what they are.
const OTHERS: [(&[u8], &str); 8] = [
    (b"BZh", "compressed (bzip2)"),
    (b"\xfd7zXZ", "compressed (xz)"),
    (b"]\x00\x00", "compressed (lzma)"),
    (b"\x04\x22\x4d\x18", "compressed (lz4)"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstandard)"),
    (b"ZF0x", "compressed by a joblib before 0.10"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x93NUMPY", "a NumPy array file"),
];

/// The format of a file.
///
/// # Errors
/// [`FormatError::Other`] names a kind of file that is known and not read. What is nothing known is taken for a pickle:
/// its reader says where it stops being one.
pub fn detect(bytes: &[u8], file_name: &str) -> Result<Format, FormatError> {
    if let Some((_, kind)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(FormatError::Other { kind });
    }
    if bytes.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if is_deflated(bytes) {
        return Ok(Format::Joblib);
    }
    let name = file_name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
    let first = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start().first();
    Ok(match first {
        // No opcode of pickles has these.
        Some(b'{' | b'[') => Format::Json,
        _ if ends(&[".json", ".jsonl", ".ndjson"]) => Format::Json,
        _ if ends(&[".parquet"]) => Format::Parquet,
        _ if ends(&[".onnx"]) => Format::Onnx,
        // The key of `ir_version`, which exporters write first; no opcode of pickles is 8 either.
        _ if bytes.first() == Some(&0x08) => Format::Onnx,
        _ if ends(&[".joblib"]) || mentions_joblib(bytes) => Format::Joblib,
        _ => Format::Pickle,
    })
}

/// The format that the first bytes of a file say for sure, whatever its name: 4096 of them are enough. Of compressed files
/// those that are compressed pickles, of JSON what has a model's fields.
pub fn recognise(head: &[u8]) -> Option<Format> {
    if head.starts_with(b"PAR1") {
        return Some(Format::Parquet);
    }
    if is_deflated(head) {
        return is_pickle(&crate::inflate::first_bytes(head)).then_some(Format::Joblib);
    }
    if is_pickle(head) {
        return Some(if mentions_joblib(head) { Format::Joblib } else { Format::Pickle });
    }
    // `ir_version`, and the key of a field of text or of the graph.
    if let [0x08, 1..=63, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42, ..] = head {
        return Some(Format::Onnx);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let has = |name: &[u8]| text.windows(name.len()).any(|w| w == name);
    let json = matches!(text.first(), Some(b'{' | b'['));
    (json && (has(b"\"support_vectors\"") || has(b"\"dual_coef\""))).then_some(Format::Json)
}

/// How a pickle of a model begins: with its protocol, or with a class.
fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
        || [&b"ccopy_reg\n"[..], b"csklearn.", b"cjoblib."].iter().any(|start| head.starts_with(start))
}

/// Whether it is a gzip or zlib stream.
pub(crate) fn is_deflated(bytes: &[u8]) -> bool {
    const MAGIC: [&[u8]; 5] = [b"\x1f\x8b", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"];
    MAGIC.iter().any(|magic| bytes.starts_with(magic))
}

/// Only for counts in reports: both are read alike. The wrapper's class is named before the first array.
fn mentions_joblib(bytes: &[u8]) -> bool {
    let name = b"joblib.numpy_pickle";
    bytes[..bytes.len().min(4096)].windows(name.len()).any(|w| w == name)
}
