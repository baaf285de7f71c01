//! Models a second out of Parquet and JSON: `cargo run --release -p fleetscore-formats --example read_speed [MODELS]`.
//!
//! Each has two support vectors, a scaler and three check vectors, which are verified. The peak is the process's own,
//! with the file in memory.

use arrow::array::{ArrayRef, Float64Array, Float64Builder, ListBuilder, RecordBatch, StringArray};
use bytes::Bytes;
use fleetscore_formats::{Limits, open};
use fleetscore_kernel::{Kernel, Model};
use parquet::arrow::ArrowWriter;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 65_536;

fn model(i: usize) -> Model {
    let at = i as f64 * 1e-3;
    Model {
        features: 1,
        mean: vec![10.0 + at],
        scale: vec![1.5],
        kernel: Kernel::Rbf { gamma: 0.5 },
        support_vectors: vec![-1.0 + 0.1 * at.sin(), 1.0],
        dual_coef: vec![0.5, 0.5],
        rho: 0.3,
    }
}

fn batch(range: std::ops::Range<usize>) -> Result<RecordBatch, Box<dyn Error>> {
    let lists = |of: &dyn Fn(&Model) -> Vec<f64>| -> ArrayRef {
        let mut builder = ListBuilder::new(Float64Builder::new());
        for i in range.clone() {
            builder.values().append_slice(&of(&model(i)));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let text = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(range.clone().map(|i| Some(of(i))).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&Model) -> f64| -> ArrayRef {
        Arc::new(range.clone().map(|i| Some(of(&model(i)))).collect::<Float64Array>())
    };
    Ok(RecordBatch::try_from_iter([
        ("device", text(&|i| format!("device-{i:07}"))),
        ("sensor", text(&|_| "temperature".into())),
        ("kernel", text(&|_| "rbf".into())),
        ("gamma", number(&|_| 0.5)),
        ("mean", lists(&|m| m.mean.clone())),
        ("scale", lists(&|m| m.scale.clone())),
        ("support_vectors", lists(&|m| m.support_vectors.clone())),
        ("dual_coef", lists(&|m| m.dual_coef.clone())),
        ("rho", number(&|m| m.rho)),
        ("check_x", lists(&|_| vec![9.0, 10.0, 11.0])),
        ("check_decision", lists(&|m| [9.0, 10.0, 11.0].map(|x| m.decision(&[x])).to_vec())),
    ])?)
}

fn parquet(n: usize) -> Result<Bytes, Box<dyn Error>> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch(0..0)?.schema(), None)?;
    for start in (0..n).step_by(BATCH) {
        writer.write(&batch(start..n.min(start + BATCH))?)?;
    }
    writer.close()?;
    Ok(out.into())
}

fn json(n: usize) -> Result<Bytes, Box<dyn Error>> {
    let mut out = String::new();
    for i in 0..n {
        let m = model(i);
        let decisions = [9.0, 10.0, 11.0].map(|x| m.decision(&[x]));
        writeln!(
            out,
            r#"{{"device":"device-{i:07}","sensor":"temperature","kernel":"rbf","gamma":0.5,"mean":{:?},"scale":{:?},"support_vectors":[[{}],[{}]],"dual_coef":{:?},"rho":{},"check":{{"x":[[9],[10],[11]],"decision":{decisions:?}}}}}"#,
            m.mean, m.scale, m.support_vectors[0], m.support_vectors[1], m.dual_coef, m.rho
        )?;
    }
    Ok(out.into())
}

/// The most memory the process has had, in MiB (Linux).
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

fn main() -> Result<(), Box<dyn Error>> {
    let n: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |n| n.parse())?;
    for (name, file) in [("m.parquet", parquet(n)?), ("m.jsonl", json(n)?)] {
        let (size, before) = (file.len() >> 20, peak().unwrap_or_default());
        let start = Instant::now();
        let mut read = 0;
        for found in open(file, name, &Limits::default())?.1 {
            found?.verify()?;
            read += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{name}: {size} MiB, {read} models in {seconds:.2} s, {:.0} a second; peak {before} MiB before, {} after",
            f64::from(read) / seconds,
            peak().unwrap_or_default()
        );
    }
    Ok(())
}
