//! What the fuzz targets share: an allocator that counts, and the bound every reader must keep.

pub mod config;
pub mod http;
pub mod readings;
pub mod replay;

use fleetscore_formats::Limits;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Allocations of any kind that do not depend on the input: tables, messages, buffers of decoders.
pub const ALWAYS: usize = 1 << 20;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn grown(by: usize) {
    let now = NOW.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may both exist for a moment.
        grown(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `f`, which at no moment may have allocated more than `multiple` times the input and `always` bytes.
///
/// # Panics
/// If it has.
pub fn bounded<T>(input: usize, multiple: usize, always: usize, f: impl FnOnce() -> T) -> T {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    let limit = input * multiple + always;
    assert!(peak <= limit, "{peak} bytes were allocated for an input of {input}, and {limit} are allowed");
    result
}

/// libFuzzer's crate ends the process at every panic. One that is caught, as the Parquet library's are, must not: others
/// still end it, as they reach libFuzzer.
fn let_panics_be_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| eprintln!("{info}"))));
}

/// Reads all models of a file under a name of the format, one after the other; each must be valid and decide.
pub fn models(data: &[u8], file_name: &str, multiple: usize, always: usize) {
    if data.starts_with(b"PAR1") && !file_name.ends_with(".parquet") {
        return; // the target `parquet_models` is about those
    }
    let_panics_be_caught();
    let input = bytes::Bytes::copy_from_slice(data);
    bounded(data.len(), multiple, always, || {
        let Ok((_, models)) = fleetscore_formats::open(input, file_name, &Limits::default()) else { return };
        for found in models.flatten() {
            found.model.validate().expect("what is read is valid");
            let _ = found.verify();
            let _ = found.model.decision(&vec![0.5; found.model.features]);
        }
    });
}
