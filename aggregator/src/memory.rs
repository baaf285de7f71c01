//! How the C library's allocator keeps the memory that readings pass through.
//!
//! On other systems nothing is changed, nor what the environment says something of (`MALLOC_…_`, `GLIBC_TUNABLES`).

/// Pools that glibc may keep. What is read from Kafka goes through threads in turn, each of which has allocated its share of
/// the bounds at one time or another; with a pool for each thread, the default, what one of them has freed is of no use to
/// the next, and a process comes to hold half as much again as it ever uses at once. One pool would be enough for that, but
/// single messages are allocated by one thread and freed by another, a million times a second (`docs/performance.md`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const POOLS: libc::c_int = 2;
/// The most that glibc comes to by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MOST_KEPT: usize = 64 << 20;
/// Larger blocks are mapped by themselves: the most that glibc comes to by itself, where pointers have 64 bits.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 32 << 20;

/// Has all threads share a few pools. Before the first thread.
pub fn share_pools() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set(libc::M_ARENA_MAX, POOLS, "MALLOC_ARENA_MAX", "malloc.arena_max");
}

/// Has each pool keep what is free at its end, up to a quarter of what may be taken between two checkpoints.
///
/// Each batch, each compaction and each checkpoint frees what the next one takes. By default most of it is given back at
/// once, and each page that is taken again is a fault of the processor, which costs more than what is done with the page.
pub fn keep_freed(checkpoint_bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let bytes = (checkpoint_bytes / 4).min(MOST_KEPT) as libc::c_int; // 64 MiB fit
        set(libc::M_TRIM_THRESHOLD, bytes, "MALLOC_TRIM_THRESHOLD_", "malloc.trim_threshold");
        // Once one of them is set, glibc adjusts neither of them any more.
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
        // SAFETY: the call takes no pointer and changes a number of the allocator's. Threads that read it meanwhile find the
        // old or the new one, and go well with either.
        unsafe { libc::mallopt(what, value) };
    }
}
