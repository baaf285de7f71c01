//! How fast fleets are made and judged: `cargo run -p fleetscore-oracle --example fleet_speed`.

use fleetscore_oracle::Edges;
use fleetscore_oracle::expect::{Oracle, Rules};
use fleetscore_oracle::fleet::{Fleet, Shapes};
use std::time::Instant;

fn main() {
    let began = Instant::now();
    let (mut messages, mut readings) = (0u64, 0u64);
    const SEEDS: u64 = 5_000;
    for seed in 0..SEEDS {
        let fleet = Fleet { seed, ..Fleet::default() };
        let mut oracle = Oracle::new(Rules {
            pane_us: fleet.pane_us,
            edges: Edges::Start,
            max_disorder_us: fleet.max_disorder_us,
            allowed_lateness_us: fleet.allowed_lateness_us,
            future_us: 3_000_000_000_000_000,
        });
        for (offset, message) in (0..).zip(fleet.messages()) {
            oracle.take(message.partition, offset, &message);
            messages += 1;
        }
        readings += oracle.windows().values().map(|w| w.count as u64).sum::<u64>();
    }
    let took = began.elapsed().as_secs_f64();
    println!("{SEEDS} fleets judged in {took:.2} s: {messages} messages, {readings} readings");
    for shapes in [Shapes::Single, Shapes::Packed(100), Shapes::Wide] {
        let fleet =
            Fleet { devices: 20_000, sensors: 5, panes: 5, readings_per_pane: 6, shapes, ..Fleet::default() };
        let began = Instant::now();
        let (records, bytes) =
            fleet.messages().fold((0, 0), |(n, bytes), m| (n + m.records.len(), bytes + m.payload.len()));
        let took = began.elapsed().as_secs_f64();
        println!(
            "{shapes:?}: {records} records, {:.0} MB in {took:.2} s: {:.2} million a second",
            bytes as f64 / 1e6,
            records as f64 / took / 1e6
        );
    }
}
