//! One core, and the time it spends.

use fleetscore_harness::process::cpu_time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Keeps all threads of this process that begin from now on, and this one, to one core. False where the system does not
/// know of such a thing.
pub(crate) fn only_one() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a set of cores is plain bits, for which zeroes are a value; the call reads it and writes nothing.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
        }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Time of the processor from when it is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timer {
    cpu: Duration,
}

impl Timer {
    pub(crate) fn start() -> Self {
        Self { cpu: process_cpu() }
    }

    /// Of all threads of this process. Where others use the cores too, wall time says more of them than of the work.
    pub(crate) fn took(self) -> Duration {
        process_cpu().saturating_sub(self.cpu)
    }
}

/// Runs a piece of work.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let timer = Timer::start();
    let done = work();
    (done, timer.took())
}

/// Time of the processor that a process has had; none of one that is gone.
pub(crate) fn cpu_of(pid: impl std::fmt::Display) -> Duration {
    cpu_time(pid).unwrap_or_default()
}

/// The same of each kind of a process's threads, by their names without numbers.
pub(crate) fn cpu_of_threads(pid: u32) -> BTreeMap<String, Duration> {
    let mut all = BTreeMap::new();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let id = thread.file_name().to_string_lossy().into_owned();
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        *all.entry(name).or_default() += cpu_of(format!("{pid}/task/{id}"));
    }
    all
}

/// A process and all that it is the parent of.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    [pid].into_iter().chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// Time of the processor that these have had.
pub(crate) fn cpu_of_family(pid: u32) -> Duration {
    family(pid).into_iter().map(cpu_of).sum()
}

/// Time of the processor that this process has had, in all threads.
pub(crate) fn process_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
