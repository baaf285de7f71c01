//! Writes a million small models as shards and opens them again, mapped from disk: seconds and bytes, beside a plain
//! read of the same files.
//!
//! `cargo run --release -p fleetscore-pack --example pack_speed -- [MODELS]`

use bytes::Bytes;
use fleetscore_kernel::{Kernel, Model};
use fleetscore_pack::{Entry, SetFile, Shard, ShardBuilder};
use std::path::{Path, PathBuf};
use std::time::Instant;

const SHARD: u32 = 65_536;

fn entry(series: u32) -> Entry {
    let level = f64::from(series % 1000) / 10.0;
    let model = Model {
        features: 1,
        mean: vec![level],
        scale: vec![1.5],
        kernel: Kernel::Rbf { gamma: 0.5 },
        support_vectors: vec![-1.25 - level / 1e3, 1.25],
        dual_coef: vec![0.5, 0.5],
        rho: 0.3,
    };
    let (device, sensor) = (format!("pump-{:06}", series / 10), format!("sensor-{}", series % 10));
    Entry {
        series,
        model: format!("model_{device}_{sensor}"),
        device,
        sensor,
        // Not computed here: the time is to be that of packing alone.
        normal: Some(vec![(level - 2.0, level + 2.0)]),
        outcome: Ok(model),
        rows: 1440,
    }
}

fn map(path: &Path) -> Bytes {
    let file = std::fs::File::open(path).expect("was written just now");
    // SAFETY: the file is this program's own.
    Bytes::from_owner(unsafe { memmap2::Mmap::map(&file) }.expect("a file can be mapped"))
}

fn open(path: &Path, recorded: &SetFile) -> Shard {
    let bytes = map(path);
    recorded.verify(&bytes).expect("the bytes are those written");
    Shard::open(bytes).expect("the shard is good")
}

fn write(models: u32, folder: &Path) -> Vec<(PathBuf, SetFile)> {
    let starts = (0..models).step_by(SHARD as usize).enumerate();
    let shard = |(i, start): (usize, u32)| {
        let mut builder = ShardBuilder::new(1, "model_{device}_{sensor}");
        for series in start..(start + SHARD).min(models) {
            builder.push(&entry(series)).expect("the entry is good");
        }
        let (rows, bytes) = (builder.len(), builder.finish().expect("the shard is small"));
        let path = folder.join(format!("part-{i:05}.arrow"));
        std::fs::write(&path, &bytes).expect("the disk has room");
        (path, SetFile::of(format!("part-{i:05}"), rows, &bytes))
    };
    starts.map(shard).collect()
}

fn main() {
    let models: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().expect("a folder for the shards");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let begun = Instant::now();
    let files = write(models, folder.path());
    println!(
        "{models} models written in {} shards on one core, {:.2} s",
        files.len(),
        begun.elapsed().as_secs_f64()
    );
    for round in 1..=3 {
        let begun = Instant::now();
        let size: usize = files.iter().map(|(path, _)| std::fs::read(path).expect("is there").len()).sum();
        let read = begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let shards = files.iter().map(|(path, _)| Shard::open(map(path)).expect("the shard is good"));
        let opened: usize = shards.map(|s| s.len()).sum();
        let validated = begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let shards: Vec<Shard> = std::thread::scope(|scope| {
            let files = &files;
            let part = move |part: usize| {
                let mine = files.iter().skip(part).step_by(threads);
                mine.map(|(path, of)| open(path, of)).collect::<Vec<_>>()
            };
            let parts: Vec<_> = (0..threads).map(|i| scope.spawn(move || part(i))).collect();
            parts.into_iter().flat_map(|p| p.join().expect("opens")).collect()
        });
        let all = begun.elapsed().as_secs_f64();
        let memory: usize = shards.iter().map(Shard::memory).sum();
        println!(
            "round {round}: {opened} models in {size} bytes; plain read {read:.3} s; mapped and validated on one core \
             {validated:.3} s; with SHA-256 on {threads} cores {all:.3} s, {:.1} x the read; {:.1} bytes a model",
            all / read,
            memory as f64 / f64::from(models),
        );
    }
}
