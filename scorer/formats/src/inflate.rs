//! Compressed joblib files: zlib and gzip streams, unpacked no further than a model can be.

use crate::detect::{detect, is_deflated};
use crate::{Format, FormatError, Limits};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use std::io::Read;

/// Small files may be as repetitive as they like.
const ALWAYS: usize = 1 << 20;

/// The stream in a compressed file; `None` where it is not compressed.
///
/// # Errors
/// It is damaged, or unpacks to more than [`Limits::max_inflation`] allows.
pub(crate) fn unpacked(bytes: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>, FormatError> {
    if !is_deflated(bytes) {
        return Ok(None);
    }
    let limit = most(bytes.len(), limits);
    let mut unpacked = Vec::new();
    let read = if bytes.starts_with(b"\x1f\x8b") {
        MultiGzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut unpacked)
    } else {
        ZlibDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut unpacked)
    };
    if let Err(e) = read {
        return Err(FormatError::Inflate(e.to_string()));
    }
    if unpacked.len() > limit {
        return Err(FormatError::Bomb { limit, packed: bytes.len() });
    }
    match detect(&unpacked, "") {
        Ok(Format::Pickle | Format::Joblib) if !is_deflated(&unpacked) => Ok(Some(unpacked)),
        Ok(Format::Onnx) => Err(FormatError::Packed { kind: "ONNX" }),
        Ok(Format::Json) => Err(FormatError::Packed { kind: "JSON" }),
        Ok(Format::Parquet) => Err(FormatError::Packed { kind: "Parquet" }),
        Ok(_) => Err(FormatError::Packed { kind: "more than once" }),
        Err(other) => Err(other),
    }
}

/// The most bytes that a file of this size unpacks to.
pub(crate) fn most(packed: usize, limits: &Limits) -> usize {
    packed.saturating_mul(limits.max_inflation).max(ALWAYS).min(limits.max_bytes)
}

/// What a compressed file begins with, as far as its own first bytes tell.
pub(crate) fn first_bytes(head: &[u8]) -> Vec<u8> {
    let mut first = Vec::new();
    // That the head ends in the middle is no matter: what came out before stays.
    let _ = match head.starts_with(b"\x1f\x8b") {
        true => MultiGzDecoder::new(head).take(64).read_to_end(&mut first),
        false => ZlibDecoder::new(head).take(64).read_to_end(&mut first),
    };
    first
}
