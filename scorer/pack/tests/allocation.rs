//! What opening a shard allocates, counted: for good bytes next to nothing, for hostile ones what is promised.

use bytes::Bytes;
use fleetscore_kernel::{Kernel, Model};
use fleetscore_pack::{Entry, Shard, ShardBuilder};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes allocated at most at one time while a shard is opened and dropped.
fn peak(bytes: Bytes) -> (usize, bool) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let good = Shard::open(bytes).is_ok();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), good)
}

/// The only test of this program: another thread's allocations would count.
#[test]
fn opening_allocates_what_is_promised() {
    let mut builder = ShardBuilder::new(1, "model_{device}_{sensor}");
    for series in 0..2000_u32 {
        let model = Model {
            features: 1,
            mean: vec![],
            scale: vec![],
            kernel: Kernel::Rbf { gamma: 0.5 },
            support_vectors: (0..20).map(f64::from).collect(),
            dual_coef: vec![0.05; 20],
            rho: 0.1,
        };
        let (device, sensor) = (format!("d{series}"), "s".to_owned());
        let model_name = format!("model_{device}_{sensor}");
        let normal = Some(vec![(0.0, 19.0)]);
        builder
            .push(&Entry { series, device, sensor, model: model_name, outcome: Ok(model), normal, rows: 0 })
            .unwrap();
    }
    let good = builder.finish().unwrap();
    let size = good.len();
    let aligned = |mut bytes: Vec<u8>| -> Bytes {
        // As a map of a file is: at an aligned address.
        let offset = bytes.as_ptr().align_offset(8);
        assert!(offset == 0, "the system's allocator aligns large blocks");
        bytes.shrink_to_fit();
        bytes.into()
    };
    let (bytes, opened) = peak(aligned(good.to_vec()));
    assert!(opened && bytes < 16 << 10, "{bytes} bytes for a good shard of {size}");
    let mut odd = vec![0_u8; 1];
    odd.extend_from_slice(&good);
    let (bytes, opened) = peak(Bytes::from(odd).slice(1..));
    assert!(opened && (size..size + (17 << 10)).contains(&bytes), "{bytes} bytes for an unaligned one");

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut refused = 0;
    for round in 0..2000 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + next() % 4 {
            // The metadata lies at the beginning and the end.
            let at = match round % 3 {
                0 => next() as usize % size,
                1 => next() as usize % 4096,
                _ => size - 1 - next() as usize % 4096,
            };
            bytes[at] = [0xff, 0x7f, 0x80, 0x00, next() as u8][next() as usize % 5];
        }
        let (allocated, opened) = peak(aligned(bytes));
        refused += usize::from(!opened);
        assert!(allocated <= 2 * size + (16 << 10), "{allocated} bytes for {size}");
    }
    assert!(refused > 200, "{refused} were refused");
}
