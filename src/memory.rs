//! How the C library's allocator spreads memory over threads.

/// Pools that glibc may keep. What is read from Kafka goes through threads in turn, each of which has allocated its share of
/// the bounds at one time or another; with a pool for each thread, the default, what one of them has freed is of no use to
/// the next, and a process comes to hold half as much again as it ever uses at once. One pool would be enough for that, but
/// single messages are allocated by one thread and freed by another, a million times a second (`docs/performance.md`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const POOLS: libc::c_int = 2;

/// Has all threads share a few pools, unless the environment says how many (`MALLOC_ARENA_MAX`, or `GLIBC_TUNABLES`).
/// Before the first thread.
pub(crate) fn share_pools() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none()
        && !std::env::var("GLIBC_TUNABLES").is_ok_and(|t| t.contains("malloc.arena_max"))
    {
        // SAFETY: the call changes a number of the allocator's, under its own lock, and takes no pointer.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, POOLS) };
    }
}
