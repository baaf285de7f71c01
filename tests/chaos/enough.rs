//! Whether a run that came out well has proved enough: one in which little went wrong, or in which little was done, shows nothing.

use super::Store;

/// A run of at least so many seconds is held to the floors; a shorter one to a part of them, as a busy machine may spend most
/// of it on starting processes.
pub const LONG_S: u64 = 300;
const SHORT_SHARE: f64 = 0.25;

/// What was done and compared in a run.
#[derive(Debug, Clone, Copy)]
pub struct Proved {
    pub store: Store,
    /// How long faults were made.
    pub seconds: u64,
    pub kills: u64,
    pub other_faults: u64,
    /// Processes that woke up beside the new owner of their partitions, and said that they were fenced.
    pub zombies: u64,
    /// Readings in windows, and runs that had succeeded, before the faults ended.
    pub readings_under_faults: u64,
    pub runs_under_faults: u64,
    /// Compared with the oracle in the end.
    pub readings: u64,
    pub windows: u64,
    pub predictions: u64,
}

/// What there is too little of, in words; nothing where the run counts.
pub fn too_little(proved: &Proved) -> Vec<String> {
    let long = proved.seconds >= LONG_S;
    let minutes = proved.seconds as f64 / 60.0;
    let share = if long { 1.0 } else { SHORT_SHARE };
    let floor = |a_minute: f64| ((a_minute * minutes * share) as u64).max(1);
    let mut floors = vec![
        ("kills", proved.kills, floor(10.0)),
        ("other faults", proved.other_faults, floor(5.0)),
        // Fleets say about 11,000 readings a minute, in 1,300 windows of which 1,100 have a model.
        ("readings", proved.readings, floor(5_000.0)),
        ("windows", proved.windows, floor(600.0)),
        ("predictions", proved.predictions, floor(500.0)),
    ];
    if long {
        // A short run may be over before the first checkpoint and the first interval are.
        floors.push(("readings in windows under faults", proved.readings_under_faults, floor(1_000.0)));
        floors.push(("runs that succeeded under faults", proved.runs_under_faults, floor(3.0)));
        if proved.store == Store::Postgres {
            floors.push(("zombies that said that they were fenced", proved.zombies, 1));
        }
    }
    let missed = floors.into_iter().filter(|(_, n, floor)| n < floor);
    missed
        .map(|(what, n, floor)| format!("too little is proved: {n} {what}, at least {floor} are needed"))
        .collect()
}

const GOOD: Proved = Proved {
    store: Store::Postgres,
    seconds: 600,
    kills: 191,
    other_faults: 246,
    zombies: 2,
    readings_under_faults: 100_000,
    runs_under_faults: 186,
    readings: 112_051,
    windows: 13_221,
    predictions: 11_290,
};

/// What is just enough.
const LEAST: Proved = Proved {
    kills: 100,
    other_faults: 50,
    zombies: 1,
    readings_under_faults: 10_000,
    runs_under_faults: 30,
    readings: 50_000,
    windows: 6_000,
    predictions: 5_000,
    ..GOOD
};

/// What is just enough of the form that is part of the end-to-end tests.
const LEAST_SHORT: Proved = Proved {
    seconds: 25,
    kills: 1,
    other_faults: 1,
    zombies: 0,
    readings_under_faults: 0,
    runs_under_faults: 0,
    readings: 520,
    windows: 62,
    predictions: 52,
    ..GOOD
};

/// Runs, and what is missed by them.
pub fn told() {
    let no_faults = Proved { kills: 0, other_faults: 0, ..LEAST_SHORT };
    let at_once = Proved { seconds: 1, readings: 0, windows: 0, predictions: 0, ..LEAST_SHORT };
    let cases: &[(&str, Proved, &[&str])] = &[
        ("a good run", GOOD, &[]),
        ("the least", LEAST, &[]),
        ("a kill less", Proved { kills: 99, ..LEAST }, &["99 kills"]),
        ("a fault less", Proved { other_faults: 49, ..LEAST }, &["49 other faults"]),
        ("half the time", Proved { seconds: 300, kills: 50, other_faults: 25, ..LEAST }, &[]),
        ("twice the time", Proved { seconds: 1200, ..GOOD }, &["191 kills"]),
        ("no zombie", Proved { zombies: 0, ..GOOD }, &["0 zombies"]),
        ("no second process", Proved { zombies: 0, store: Store::Sqlite, ..GOOD }, &[]),
        ("read afterwards", Proved { readings_under_faults: 9_999, ..GOOD }, &["9999 readings in windows"]),
        ("scored afterwards", Proved { runs_under_faults: 29, ..GOOD }, &["29 runs"]),
        ("a small fleet", Proved { readings: 49_999, ..GOOD }, &["49999 readings"]),
        ("few windows", Proved { windows: 5_999, ..GOOD }, &["5999 windows"]),
        ("nothing scored", Proved { predictions: 0, ..GOOD }, &["0 predictions"]),
        ("the least of the short form", LEAST_SHORT, &[]),
        ("no faults", no_faults, &["0 kills", "0 other faults"]),
        ("a short one without scores", Proved { predictions: 0, ..LEAST_SHORT }, &["0 predictions"]),
        ("over at once", at_once, &["0 readings", "0 windows", "0 predictions"]),
    ];
    for (name, proved, missed) in cases {
        let told = too_little(proved);
        let right = told.len() == missed.len()
            && told.iter().zip(*missed).all(|(t, m)| t.starts_with(&format!("too little is proved: {m}")));
        assert!(right, "{name}: {told:?}, not {missed:?}");
    }
}
