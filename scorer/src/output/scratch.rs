//! Temporary files: what is published is encoded into one, and put from there, so that no interval lies in memory.

use bytes::Bytes;
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes gathered before they are hashed and written.
const BUFFER: usize = 256 * 1024;

/// An unnamed file that is written once; its SHA-256 is taken on the way. It goes when the last of its bytes is dropped,
/// or the process ends in whatever way.
pub(super) struct Scratch {
    out: BufWriter<Hashed>,
}

struct Hashed {
    file: File,
    sha256: Sha256,
    size: u64,
}

/// A finished file.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// Its bytes, mapped.
    pub(super) bytes: Bytes,
    /// Hex.
    pub(super) sha256: String,
}

impl Scratch {
    /// In this folder, or rather on its file system: the file has no name there.
    pub(super) fn new(folder: &Path) -> std::io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        let hashed = Hashed { file, sha256: Sha256::new(), size: 0 };
        Ok(Self { out: BufWriter::with_capacity(BUFFER, hashed) })
    }

    /// What was written.
    pub(super) fn finish(self) -> std::io::Result<Body> {
        let Hashed { file, sha256, size } = self.out.into_inner().map_err(|e| e.into_error())?;
        let sha256 = sha256.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if size == 0 {
            return Ok(Body { bytes: Bytes::new(), sha256 }); // there is no map of nothing
        }
        // SAFETY: the file has no name, and its only handle is dropped here: nobody changes or truncates it while it is
        // mapped.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Body { bytes: Bytes::from_owner(map), sha256 })
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.sha256.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
