//! How a run ends: a pure decision by what it came to and what it may fail of.
//!
//! The thresholds have Azure ML's names and meaning: each is a number that may fail, and −1 ignores all failures. As there,
//! a run of which not one shard was stored has failed whatever is allowed.

use crate::{Rules, RunTotals};
use fleetscore_schemas::status::RunState;

/// The state of a run all of whose shards have ended, and what its row says; `error` is the newest failure of a shard.
pub fn verdict(totals: &RunTotals, rules: &Rules, error: Option<&str>) -> (RunState, Option<String>) {
    let (models, shards) = (totals.counts.model_error, totals.shards_failed);
    let why = rules.why.as_deref().map_or(String::new(), |why| format!("; {why}"));
    let last = error.map_or(String::new(), |e| format!("; the last: {e}"));
    if totals.shards > 0 && shards >= totals.shards {
        let text = match (shards, error) {
            (1, Some(error)) => error.to_owned(),
            _ => format!("all {shards} shards failed{last}"),
        };
        return (RunState::Failed, Some(text));
    }
    let t = &rules.thresholds;
    let broken = if t.error_threshold >= 0 && models > t.error_threshold {
        Some(format!("{models} models failed, more than error_threshold = {}{why}", t.error_threshold))
    } else if t.mini_batch_error_threshold >= 0 && shards > t.mini_batch_error_threshold {
        let limit = t.mini_batch_error_threshold;
        Some(format!("{shards} shards failed, more than mini_batch_error_threshold = {limit}{last}"))
    } else if t.allowed_failed_percent >= 0 && shards * 100 > t.allowed_failed_percent * totals.shards {
        let (of, limit) = (totals.shards, t.allowed_failed_percent);
        Some(format!("{shards} of {of} shards failed, more than allowed_failed_percent = {limit}{last}"))
    } else {
        None
    };
    if broken.is_some() {
        return (RunState::Failed, broken);
    }
    let mut parts = Vec::new();
    if shards > 0 {
        parts.push(format!("{shards} of {} shards failed{last}", totals.shards));
    }
    if models > 0 {
        parts.push(format!("{models} models failed: see status model_error in predictions{why}"));
    }
    match parts.is_empty() {
        true => (RunState::Succeeded, None),
        false => (RunState::Partial, Some(parts.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RunCounts, Thresholds};

    #[test]
    fn thresholds_fail_a_run_and_single_failures_do_not() {
        use RunState::{Failed, Partial, Succeeded};
        // name, models failed, shards failed, shards, error_threshold, mini_batch_error_threshold, percent, state
        #[rustfmt::skip]
        let cases = [
            ("nothing failed", 0, 0, 4, -1, -1, 100, Succeeded),
            ("nothing failed, nothing may", 0, 0, 4, 0, 0, 0, Succeeded),
            ("one model, all failures ignored", 1, 0, 1, -1, -1, 100, Partial),
            ("one model, none may", 1, 0, 1, 0, -1, 100, Failed),
            ("as many models as may", 3, 0, 1, 3, -1, 100, Partial),
            ("one model more than may", 4, 0, 1, 3, -1, 100, Failed),
            ("every model, all failures ignored", 1_000_000, 0, 1, -1, -1, 100, Partial),
            ("one shard, all failures ignored", 0, 1, 4, -1, -1, -1, Partial),
            ("one shard, none may", 0, 1, 4, -1, 0, 100, Failed),
            ("as many shards as may", 0, 2, 4, -1, 2, 100, Partial),
            ("one shard more than may", 0, 3, 4, -1, 2, 100, Failed),
            ("a quarter of the shards, a quarter may", 0, 1, 4, -1, -1, 25, Partial),
            ("half of the shards, a quarter may", 0, 2, 4, -1, -1, 25, Failed),
            ("one of three, a third may (33 %): 33.3 is more", 0, 1, 3, -1, -1, 33, Failed),
            ("one of three, 34 % may", 0, 1, 3, -1, -1, 34, Partial),
            ("no percentage may fail and none did", 5, 0, 4, -1, -1, 0, Partial),
            ("every shard, all failures ignored: nothing was stored", 0, 4, 4, -1, -1, -1, Failed),
            ("the only shard, all failures ignored", 0, 1, 1, -1, -1, 100, Failed),
            ("models within, shards beyond", 1, 1, 4, 5, 0, 100, Failed),
            ("models beyond, shards within", 6, 1, 4, 5, 1, 100, Failed),
            ("a run without shards", 0, 0, 0, 0, 0, 0, Succeeded),
        ];
        for (name, models, failed, shards, items, batches, percent, state) in cases {
            let thresholds = Thresholds {
                error_threshold: items,
                mini_batch_error_threshold: batches,
                allowed_failed_percent: percent,
            };
            let counts = RunCounts { scored: 5, model_error: models, ..RunCounts::default() };
            let totals = RunTotals { counts, shards, shards_failed: failed };
            let rules = Rules { thresholds, why: Some("pinned".into()) };
            let error = (failed > 0).then_some("no answer");
            let (got, text) = verdict(&totals, &rules, error);
            assert_eq!(got, state, "{name}: {text:?}");
            assert_eq!(text.is_some(), models > 0 || failed > 0, "{name}");
            if failed > 0 && models == 0 {
                assert!(text.is_some_and(|t| t.contains("no answer")), "{name}: says what went wrong");
            }
        }
    }
}
