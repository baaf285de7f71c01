//! Courses of events of the simulation, with DataFusion and with SQLite in the places of what is plain and in memory.

use crate::DataFusionEngine;
use fleetscore_simulation::{Parts, simulate};
use fleetscore_store::SqliteStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// On two threads: each course has one.
fn all_end_well(seeds: u64, parts: impl Fn() -> Parts + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let parts = parts();
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= seeds {
                        return;
                    }
                    assert_eq!(simulate(seed, None, &parts, false).failure, None, "seed {seed}");
                }
            });
        }
    });
}

#[test]
fn courses_of_events_with_datafusion() {
    all_end_well(300, || Parts {
        engine: Box::new(|options| Ok(Arc::new(DataFusionEngine::new(options)?))),
        ..Parts::light()
    });
}

#[test]
fn courses_of_events_with_datafusion_and_sqlite() {
    all_end_well(300, || {
        let folder = tempfile::tempdir().unwrap();
        let files = AtomicU64::new(0);
        Parts {
            engine: Box::new(|options| Ok(Arc::new(DataFusionEngine::new(options)?))),
            store: Box::new(move |_clock| {
                let file = folder.path().join(format!("{}.db", files.fetch_add(1, SeqCst)));
                Arc::new(SqliteStore::open(&file).unwrap())
            }),
        }
    });
}
