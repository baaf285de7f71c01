//! How the C library's allocator keeps the memory that readings pass through.
//!
//! On other systems, and where the environment says something else (`MALLOC_…`, `GLIBC_TUNABLES`), nothing is changed.

/// Pools that glibc may keep. What is read from Kafka goes through threads in turn, each of which has allocated its share of
/// the bounds at one time or another; with a pool for each thread, the default, what one of them has freed is of no use to
/// the next, and a process comes to hold half as much again as it ever uses at once. One pool would be enough for that, but
/// single messages are allocated by one thread and freed by another, a million times a second (`docs/performance.md`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const POOLS: libc::c_int = 2;
/// Larger blocks are mapped by themselves: glibc's own bound.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 32 << 20;

/// Has all threads share a few pools. Before the first thread.
pub fn share_pools() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set(libc::M_ARENA_MAX, POOLS, "MALLOC_ARENA_MAX", "malloc.arena_max");
}

/// What is freed at the end of a pool is given back to the system from so many bytes on: a quarter of what may be taken
/// between two checkpoints.
///
/// Each batch, each compaction and each checkpoint frees what the next one takes. By default all of it is given back at
/// once, and each page that is taken again is a fault of the processor, which costs more than what is done with the page.
pub fn keep_freed(checkpoint_bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let bytes = libc::c_int::try_from(checkpoint_bytes / 4).unwrap_or(libc::c_int::MAX);
        set(libc::M_TRIM_THRESHOLD, bytes, "MALLOC_TRIM_THRESHOLD_", "malloc.trim_threshold");
        // Saying the one ends that glibc finds out both by itself.
        set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES, "MALLOC_MMAP_THRESHOLD_", "malloc.mmap_threshold");
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = checkpoint_bytes;
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(what: libc::c_int, value: libc::c_int, variable: &str, tunable: &str) {
    let said = std::env::var_os(variable).is_some()
        || std::env::var("GLIBC_TUNABLES").is_ok_and(|all| all.contains(tunable));
    if !said {
        // SAFETY: the call changes a number of the allocator's, under its own lock, and takes no pointer.
        unsafe { libc::mallopt(what, value) };
    }
}
