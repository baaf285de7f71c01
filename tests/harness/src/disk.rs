//! A small disk that can be filled: a tmpfs of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a folder, which is made. `Err` says why that is not allowed here: only root may, and not in
    /// every container.
    pub fn mount(folder: &Path, megabytes: u32) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let size = format!("size={megabytes}m,mode=0755");
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "fleetscore-small-disk"])
            .arg(folder)
            .output()
            .map_err(|e| format!("mount: {e}"))?;
        if out.status.success() {
            Ok(Self { folder: folder.to_owned() })
        } else {
            Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.ballast());
        let file = file.expect("a file of our own");
        // In smaller and smaller pieces, until not a page is left; what others free meanwhile is taken as well.
        let mut piece: i64 = 16 << 20;
        while piece >= 4096 {
            let end = file.metadata().map_or(0, |m| m.len()) as i64;
            // SAFETY: the handle is open; nothing but its file is changed.
            if unsafe { libc::posix_fallocate(file.as_raw_fd(), end, piece) } != 0 {
                piece /= 2;
            }
        }
    }

    /// Gives the room back.
    pub fn empty(&self) {
        let gone = std::fs::remove_file(self.ballast());
        assert!(
            gone.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::NotFound, |()| true),
            "{gone:?}"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that was killed may still have its files open for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = match SmallDisk::mount(&folder.path().join("disk"), 8) {
            Ok(disk) => disk,
            Err(why) => return eprintln!("left out: {why}"),
        };
        let file = disk.folder().join("data");
        for _ in 0..2 {
            disk.fill();
            let error = std::fs::write(&file, [0; 8192]).expect_err("there is no room");
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            disk.empty();
            std::fs::write(&file, [0; 1 << 20]).expect("there is room");
            std::fs::remove_file(&file).expect("it is there");
        }
    }
}
